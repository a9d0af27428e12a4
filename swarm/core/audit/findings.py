"""What is wrong with a log, in words, and where."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from swarm.subjects import item_id

#: What kind of rule is broken.
Rule = Literal[
    "missing",  # a log, an entry or a record is not there
    "undecodable",  # an entry of ours cannot be read: the shard stays closed
    "foreign",  # an entry that is no link of the chain; every fold skips it
    "chain",  # epochs, owners, batches, the log's time, its incarnation
    "event",  # an event that may not happen to the item as it is
    "holder",  # a claim of an item that is held, or its end by another claim
    "counters",  # a mark, or the end of the log: numbers that do not add up
    "needs",  # a mark that lets go of what is needed still
    "copy",  # an item was stated again, but not as it was
    "fold",  # the swarm's own fold breaks, or says something else
    "repeated",  # a command was carried out, or a key used, twice
    "edge",  # an outcome that a dependent in another shard will never hear of
    "record",  # the finished record of an archived item
    "map",  # the shared state does not go with the logs
]

#: Findings told in full; what is beyond is counted.
KEPT_MAX = 1000


class Finding(Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong."""

    rule: Rule
    what: str
    log: str
    #: Sequence of the entry; 0: not about one entry.
    seq: int = 0
    #: Work item id; "": not about one item.
    item: str = ""

    def __str__(self) -> str:
        where = self.log
        if self.seq:
            where += f" entry {self.seq}"
        if self.item:
            where += f" item {self.item}"
        return f"{where}: {self.what} [{self.rule}]"


class Findings:
    """Collects the findings about one shard's log.  `at` is the entry being looked at."""

    def __init__(self, log: str, shard: int) -> None:
        self._log = log
        self._shard = shard
        self.at = 0
        self.found: list[Finding] = []
        #: Beyond `KEPT_MAX`.
        self.more = 0
        self._known: set[Finding] = set()

    def __len__(self) -> int:
        return len(self.found) + self.more

    def add(self, rule: Rule, what: str, number: int = 0, seq: int | None = None) -> None:
        """Something is wrong with entry `seq` (default: `at`), about item `number`."""
        assert what, "a finding says what is wrong"
        name = item_id(self._shard, number) if number else ""
        finding = Finding(rule, what, self._log, self.at if seq is None else seq, name)
        if finding in self._known:
            return  # read once more after the log was purged under the reader
        if len(self.found) >= KEPT_MAX:
            self.more += 1
            return
        self._known.add(finding)
        self.found.append(finding)
