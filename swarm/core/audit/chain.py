"""The chain of envelopes, followed by rules of its own.

What a reader of the swarm skips as foreign (`swarm.core.envelope`) is told apart here: an
entry that was never ours, one whose fence should have stopped it, and one that names as
its previous an entry which cannot be read, which means that acknowledged work is skipped.
"""

from __future__ import annotations

from swarm.core.audit.findings import Findings
from swarm.core.envelope import WAY_OUT
from swarm.messages import LogEntry, Opened


class Chain:
    """Where the chain has got to."""

    def __init__(self, findings: Findings, first_seq: int) -> None:
        assert first_seq > 0, "sequences begin with 1"
        self._findings = findings
        self._first_seq = first_seq
        #: The link before: None until there is one.
        self.last: LogEntry | None = None
        self.last_seq = 0
        self.began_with: LogEntry | None = None
        #: Every owner's nonce and the sequence that it began with.
        self.owners: dict[str, int] = {}
        self.foreign = 0
        self.entries = 0
        #: Sequences of foreign entries since the last link that were never ours.
        self._strangers: set[int] = set()

    def take(self, seq: int, entry: LogEntry | None) -> bool:
        """Whether the entry (None: not ours) is the next link."""
        assert seq > self.last_seq, "entries come in order"
        if entry is None:
            self.foreign += 1
            self._strangers.add(seq)
            self._findings.add("foreign", "it was not written by a swarm; every reader skips it")
            return False
        why = self._why_not(entry)
        if why:
            self.foreign += 1
            self._report(entry, why)
            return False
        self._follow(seq, entry)
        self._strangers.clear()
        self.entries += 1
        return True

    def _report(self, entry: LogEntry, why: str) -> None:
        known = self.last is None or entry.incarnation == self.last.incarnation
        if known and entry.previous in self._strangers:
            self._findings.add(
                "chain",
                f"it follows entry {entry.previous}, which is damaged beyond recognition: the "
                f"shard stays closed; {WAY_OUT}",
            )
        else:
            self._findings.add("foreign", f"no link of the chain, every reader skips it: {why}")

    def _why_not(self, entry: LogEntry) -> str:
        """Why this entry is not the next link; "" when it is."""
        last = self.last
        opens = bool(entry.events) and isinstance(entry.events[0], Opened)
        if last is None:
            if self._first_seq > 1:
                # Nothing is known of what came before; it must have come before, though.
                late = entry.previous >= self._first_seq
                return f"its previous is {entry.previous}, which is not purged" if late else ""
            if not opens:
                return "nobody had opened the log"
            if (entry.epoch, entry.batch, entry.previous) != (1, 0, 0):
                return f"the log begins with epoch {entry.epoch}, batch {entry.batch}"
            return ""
        if entry.incarnation != last.incarnation:
            return f"incarnation {entry.incarnation} in a log of incarnation {last.incarnation}"
        if entry.previous != self.last_seq:
            return f"its previous is {entry.previous}, not {self.last_seq}"
        if opens:
            if (entry.epoch, entry.batch) != (last.epoch + 1, 0):
                return f"it opens epoch {entry.epoch}, batch {entry.batch} after {last.epoch}"
            return ""
        expected = (last.epoch, last.owner, last.batch + 1)
        found = (entry.epoch, entry.owner, entry.batch)
        if found != expected:
            return f"(epoch, owner, batch) is {found}, not {expected}"
        return ""

    def _follow(self, seq: int, entry: LogEntry) -> None:
        """Take the link; check what a fold does not look at."""
        last = self.last
        opened = [event for event in entry.events if isinstance(event, Opened)]
        if opened and len(entry.events) > 1:
            self._findings.add("chain", "`opened` is not alone in its entry")
        if opened and entry.owner in self.owners:
            before = self.owners[entry.owner]
            self._findings.add("chain", f"owner {entry.owner} opened before, by entry {before}")
        if last is not None and entry.now < last.now:
            back_s = last.now - entry.now
            self._findings.add("chain", f"the log's time goes back by {back_s:.6f} s")
        if last is not None and entry.map_version < last.map_version:
            self._findings.add(
                "map", f"map version {entry.map_version} after {last.map_version} was adopted"
            )
        self.owners.setdefault(entry.owner, seq)
        self.last, self.last_seq = entry, seq
        self.began_with = self.began_with or entry
