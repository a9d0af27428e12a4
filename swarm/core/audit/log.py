"""The audit of one shard's log: chain, ledger, and the swarm's own fold beside them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from swarm.core.audit.archive import ArchivedItem, content_of
from swarm.core.audit.chain import Chain
from swarm.core.audit.findings import Findings
from swarm.core.audit.ledger import Ledger
from swarm.core.audit.lives import unlike
from swarm.core.envelope import Link, LogPosition, decode_entry
from swarm.core.ids import command_order
from swarm.core.shard import Shard, ShardRules
from swarm.errors import Undecodable
from swarm.messages import ENDED, Accepted, Archived, Copied, Item, LogEntry, Marked, Taken

#: What a fold raises at an entry that breaks its rules.
BREAKS = (AssertionError, LookupError, TypeError, ValueError, msgspec.MsgspecError)

_read_item = msgspec.json.Decoder(Item).decode


class LogAudit:
    """Takes the entries of a log from `first_seq` on, without a hole."""

    def __init__(
        self,
        log: str,
        number: int,
        rules: ShardRules,
        first_seq: int,
        findings: Findings | None = None,
    ) -> None:
        self.log = log
        self.number = number
        self.first_seq = first_seq
        self.findings = Findings(log, number) if findings is None else findings
        self.chain = Chain(self.findings, first_seq)
        self.ledger = Ledger(self.findings, first_seq, rules.dedupe_window_s, rules.dedupe_count)
        #: The swarm's own fold; None once it has broken.
        self.shard: Shard | None = Shard(number, rules, first_seq)
        self._position = LogPosition.before(log, first_seq)
        #: Last sequence looked at.
        self.at = first_seq - 1
        #: Nothing behind this entry can be judged; 0: all can.
        self.broken_at = 0
        #: Items archived by this log, to be looked up in the records.
        self.archived: dict[int, ArchivedItem] = {}
        #: Marks by sequence that need less than the whole log.
        self.marks: dict[int, int] = {}

    @property
    def complete(self) -> bool:
        """Whether all that was before the log's beginning is known."""
        return self.ledger.complete

    def refold_from(self) -> int:
        """A later entry from which a fold must give the same state; 0: there is none.

        Where the latest mark lets one begin; if that is the log's beginning, where the
        oldest statement is that is of use now.
        """
        oldest = self.ledger.oldest_statement()
        latest = max(self.marks.values(), default=oldest or 0)
        return latest if latest > self.first_seq else 0

    def take(self, seq: int, data: bytes) -> bool:
        """Look at the entry; False when nothing behind it can be judged."""
        assert seq == self.at + 1, "entries come without a hole"
        assert not self.broken_at, "nothing behind can be judged"
        self.at = self.findings.at = seq
        try:
            entry = decode_entry(self.log, seq, data)
        except Undecodable as error:
            self.findings.add("undecodable", str(error).partition(": ")[2])
            self.broken_at = seq
            return False
        linked = self.chain.take(seq, entry)
        self._second_opinion(seq, entry, linked)
        if not linked or entry is None:
            return not self.broken_at
        try:
            self.ledger.take(seq, entry)
        except msgspec.MsgspecError as error:
            self.findings.add("undecodable", f"an item in it cannot be decoded: {error}")
            self.broken_at = seq
            return False
        for event in entry.events:
            if isinstance(event, Marked) and event.needs > self.first_seq:
                self.marks[seq] = event.needs
        return True

    def finish(self) -> None:
        """All entries were taken: check what holds at the end."""
        self.findings.at = 0
        self.ledger.check_totals()
        if self.shard is not None and not self.broken_at:
            self._compare(self.shard)

    # --- the swarm's own fold -----------------------------------------------------------

    def _second_opinion(self, seq: int, entry: LogEntry | None, linked: bool) -> None:
        shard = self.shard
        if shard is None:
            return
        try:
            link = self._position.advance(seq, entry)
            if (link is Link.OURS) != linked:
                self.findings.add("fold", f"readers take it for {link.value}")
            if link is Link.OURS and entry is not None:
                self._fold(shard, seq, entry)
        except Undecodable:
            # An entry before this one is damaged: the chain has told.
            self.shard, self.broken_at = None, seq
        except BREAKS as error:
            self.findings.add("fold", f"every reader stops here, the shard stays closed: {error}")
            self.shard = None

    def _fold(self, shard: Shard, seq: int, entry: LogEntry) -> None:
        shard.seq = seq
        for event in entry.events:
            if isinstance(event, Copied):
                self._check_copies(shard, event)
            elif isinstance(event, Archived):
                self._note_archived(shard, event, seq, entry.now)
            shard.apply(event, entry.now, entry.owner)

    def _check_copies(self, shard: Shard, event: Copied) -> None:
        """A copy must say exactly what the fold from the beginning says."""
        for number, raw in zip(event.n, event.items, strict=True):
            mine = shard.items.get(number)
            if mine is None:
                continue
            copy = _read_item(raw)
            copy.seq = mine.seq
            if copy != mine:
                fields = [
                    name
                    for name in Item.__struct_fields__
                    if getattr(copy, name) != getattr(mine, name)
                ]
                what = f"stated again, not as it is by its events; different: {', '.join(fields)}"
                self.findings.add("copy", what, number)

    def _note_archived(self, shard: Shard, event: Archived, seq: int, now: float) -> None:
        for number in event.n:
            item = shard.items.get(number)
            content = content_of(item) if item is not None else 0
            self.archived[number] = ArchivedItem(seq, now, content)

    def _compare(self, shard: Shard) -> None:
        """At the end, the two folds must say the same."""
        ledger, add = self.ledger, self.findings.add
        for number, life in ledger.lives.items():
            item = shard.items.get(number)
            why = "the swarm's own fold does not have it" if item is None else unlike(life, item)
            if why:
                add("fold", why, number)
        for number in shard.items.keys() - ledger.lives.keys():
            add("fold", "only the swarm's own fold has it", number)
        if shard.complete != ledger.complete:
            add("fold", "the two folds differ in whether the log is whole")
        if not ledger.complete:
            return
        pairs = [("items submitted", shard.submitted, ledger.submitted)]
        pairs += [(f"archived {s}", shard.archived[s], ledger.archived[s]) for s in ENDED]
        for what, theirs, ours in pairs:
            if theirs != ours:
                add("counters", f"{what}: {theirs} by the swarm's own fold, {ours} by the audit's")
        off = shard.conservation()
        if off:
            add("counters", f"conservation is off by {off}")
        try:
            shard.validate()
        except BREAKS as error:
            add("fold", f"the state breaks an invariant: {error}")


class Refold:
    """The swarm's own fold from a later entry on, as by a reader of a log purged below it."""

    def __init__(self, log: str, number: int, rules: ShardRules, first_seq: int) -> None:
        self.shard = Shard(number, rules, first_seq)
        self._position = LogPosition.before(log, first_seq)
        #: Why it cannot go on.
        self.broken = ""

    @property
    def at(self) -> int:
        """Last sequence folded."""
        return self._position.at

    def take(self, seq: int, data: bytes) -> bool:
        """Fold the entry; False when that is not possible."""
        try:
            entry = decode_entry(self._position.log, seq, data)
            link = self._position.advance(seq, entry)
            assert link is not Link.GAP, "entries come without a hole"
            if link is Link.OURS and entry is not None:
                self.shard.seq = seq
                for event in entry.events:
                    self.shard.apply(event, entry.now, entry.owner)
        except (Undecodable, *BREAKS) as error:
            self.broken = f"entry {seq}: {error}"
            return False
        return True

    def compare(self, audit: LogAudit) -> None:
        """Hold the state against the one folded from the log's beginning."""
        whole, part = audit.shard, self.shard
        assert whole is not None, "the fold from the beginning has come to the end"
        assert self.at == audit.at, "two states of one moment"
        first = f"folded from entry {part.first_seq} on"

        def differ(what: str, number: int = 0) -> None:
            audit.findings.add("fold", f"{first}, {what}", number, seq=0)

        for number in whole.items.keys() | part.items.keys():
            one, other = whole.items.get(number), part.items.get(number)
            if one is None or other is None:
                differ("it is missing" if other is None else "it is there still", number)
                continue
            if msgspec.structs.replace(other, seq=one.seq) != one:
                differ("it is not the same item", number)
        for name in ("held", "blocked", "untold"):
            if getattr(whole, name) != getattr(part, name):
                differ(f"`{name}` is not the same")
        if not part.complete:
            return  # no mark lets a reader begin here: counters and answers are behind
        for name in ("submitted", "next_number", "ended", "archived"):
            if getattr(whole, name) != getattr(part, name):
                differ(f"`{name}` is {getattr(part, name)}, not {getattr(whole, name)}")
        _compare_answers(whole, part, differ)
        try:
            part.validate()
        except BREAKS as error:
            differ(f"the state breaks an invariant: {error}")


def _compare_answers(whole: Shard, part: Shard, differ: Callable[[str], None]) -> None:
    """What must be remembered is; an id up to the horizon may be forgotten: it is too old."""
    for command_id in whole.commands:
        answer = part.commands.get(command_id)
        if answer is None and command_order(command_id) > part.commands.horizon:
            differ(f"the answer to command {command_id} is not remembered")
        elif answer is not None and not _same(whole.commands.get(command_id), answer):
            differ(f"the answer to command {command_id} is another one")
    for shard in (whole, part):
        shard.keys.forget(shard.now)
    for key in whole.keys:
        keyed = part.keys.get(key)
        if keyed is None and len(whole.keys) < whole.rules.dedupe_count:
            differ(f"the key {key!r} is not remembered")
        elif keyed is not None and keyed != whole.keys.get(key):
            differ(f"the key {key!r} belongs to another item")


def _same(whole: Accepted | Taken | None, part: Accepted | Taken) -> bool:
    """Whether two folds remember the same answer.

    Not every event about an item tells the fence that it had, which a fold that does not
    know the item yet cannot tell either.
    """
    if isinstance(whole, Taken) and isinstance(part, Taken):
        same = (whole.number, whole.kind) == (part.number, part.kind)
        return same and part.fence in (0, whole.fence)
    return whole == part
