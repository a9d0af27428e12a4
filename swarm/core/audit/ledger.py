"""An auditor's ledger of one log: every item's life, counters, marks and what they need."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from swarm.core.audit import lives
from swarm.core.audit.findings import Findings
from swarm.core.audit.lives import OVER, Life
from swarm.core.audit.memory import AnswerBook
from swarm.messages import (
    STATUSES,
    Archived,
    Claimed,
    Copied,
    Due,
    Event,
    Item,
    LogEntry,
    Marked,
    Opened,
    Remembered,
    Status,
    Submitted,
    Told,
)

_read_item = msgspec.json.Decoder(Item).decode


class Totals(Struct):
    """How much was looked at."""

    events: int = 0
    #: Events about items of which nothing is known, before the log's beginning was.
    passed_by: int = 0
    copies: int = 0
    marks: int = 0
    claims: int = 0


class Ledger:
    """See the module's docstring."""

    def __init__(
        self, findings: Findings, first_seq: int, window_s: float, answers_max: int
    ) -> None:
        self._findings = findings
        self._first_seq = first_seq
        #: Whether all that was before the log's beginning is known again.
        self.complete = first_seq <= 1
        #: Sequence of the mark that said so.
        self.complete_at = 0
        self.lives: dict[int, Life] = {}
        self.by_status: dict[Status, int] = dict.fromkeys(STATUSES, 0)
        self.next_number = 1
        self.submitted = 0
        #: Items archived, by how they had ended; of these, what this log says: the entry.
        self.archived: dict[Status, int] = dict.fromkeys(sorted(OVER), 0)
        self.archived_by: dict[int, int] = {}
        #: Outcomes that dependents have logged: (item here, dependent) -> how it ended.
        self.told: dict[tuple[int, str], str] = {}
        self.totals = Totals()
        #: The latest mark, and its sequence.
        self.mark: Marked | None = None
        self.mark_seq = 0
        self._commands = AnswerBook(window_s, answers_max)
        self._keys = AnswerBook(window_s, answers_max)
        #: Live statements by entry: how many items it stated last.
        self._statements: dict[int, int] = {}
        self._stated: deque[int] = deque()

    def take(self, seq: int, entry: LogEntry) -> None:
        """The events of the next link of the chain."""
        assert seq > 0, "sequences begin with 1"
        for event in entry.events:
            self.totals.events += 1
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event, seq, entry)
            else:
                self._of_item(event, seq, entry)
        self._commands.forget(entry.now)
        self._keys.forget(entry.now)

    def walk(self) -> dict[Status, int]:
        """Items by status, counted one by one."""
        counts: dict[Status, int] = dict.fromkeys(STATUSES, 0)
        for life in self.lives.values():
            counts[life.status] += 1
        return counts

    def oldest_statement(self) -> int | None:
        """The oldest entry that is needed to know the items; None: there is no item."""
        while self._stated and not self._statements[self._stated[0]]:
            del self._statements[self._stated.popleft()]
        return self._stated[0] if self._stated else None

    def check_totals(self) -> None:
        """Conservation, at the end: what was counted event by event, against a walk."""
        walked = self.walk()
        for status, number in walked.items():
            if number != self.by_status[status]:
                what = f"{number} items are {status}, by its events {self.by_status[status]}"
                self._findings.add("counters", what)
        gone = sum(self.archived.values())
        if self.complete and self.submitted != sum(walked.values()) + gone:
            self._findings.add(
                "counters",
                f"{self.submitted} items were submitted; {sum(walked.values())} are there and "
                f"{gone} archived",
            )

    # --- items ------------------------------------------------------------------------

    def _of_item(self, event: Event, seq: int, entry: LogEntry) -> None:
        number: int = getattr(event, "n")  # noqa: B009 - events of items have it
        if isinstance(event, lives.REMEMBERED):
            self._remember(event.command_id, seq, entry)
        life = self.lives.get(number)
        if life is None:
            self._unknown(number, event)
            return
        why = lives.complaint(life, event)
        if why:
            self._findings.add("holder" if lives.is_about_holding(event) else "event", why, number)
        before = life.status
        lives.happens(life, event, entry.now, entry.owner)
        self._moved(before, life.status)
        self.totals.claims += isinstance(event, Claimed)
        if isinstance(event, Told):
            self.told[number, event.dependent] = event.status

    def _unknown(self, number: int, event: Event) -> None:
        if not self.complete:
            self.totals.passed_by += 1
            return
        name = type(event).__name__.lower()
        if number in self.archived_by:
            by = self.archived_by[number]
            why = f"`{name}`, but entry {by} archived it"
        elif number < self.next_number:
            why = f"`{name}`, but it was archived before"
        else:
            why = f"`{name}`, but it was never submitted"
        self._findings.add("event", why, number)

    def _submitted(self, event: Submitted, seq: int, entry: LogEntry) -> None:
        # What has moved here by another shard map comes after the rest, which is named again.
        more = entry.map_version > 1 and bool(event.known)
        self._remember(event.command_id, seq, entry, more)
        if self.complete and event.first != self.next_number:
            what = f"items are numbered from {event.first}, the next number is {self.next_number}"
            self._findings.add("event", what, event.first)
        keys: list[str] = []
        for number, raw in enumerate(event.items, start=event.first):
            if number in self.lives or number in self.archived_by:
                self._findings.add("event", "submitted a second time", number)
                continue
            life, key = lives.born(raw, entry.now, seq)
            self._add(number, life)
            if key and self._keys.first_at(key, entry.now) is not None:
                self._findings.add("repeated", f"the key {key!r} belongs to another item", number)
            if key:
                keys.append(key)
        for _, number in event.known:
            if number >= event.first + len(event.items):
                self._findings.add("event", "named as known, and never submitted", number)
        if keys:
            self._keys.state(keys, entry.now, seq)
        self.next_number = event.first + len(event.items)
        self.submitted += len(event.items)

    def _due(self, event: Due, seq: int, entry: LogEntry) -> None:
        for number in event.n:
            life = self.lives.get(number)
            if life is None:
                self._unknown(number, event)
                continue
            if life.status not in ("scheduled", "waiting"):
                self._findings.add("event", f"`due`, but it is {life.status}", number)
            elif life.until > entry.now:
                early_s = life.until - entry.now
                self._findings.add("event", f"`due` {early_s:.3f} s before its time", number)
            self._moved(life.status, "queued")
            life.status, life.until = "queued", 0.0

    def _archived(self, event: Archived, seq: int, entry: LogEntry) -> None:
        for number in event.n:
            life = self.lives.pop(number, None)
            if life is None:
                self._unknown(number, event)
                continue
            if life.status not in OVER:
                self._findings.add("event", f"`archived`, but it is {life.status}", number)
            elif lives.untold(life):
                names = ", ".join(lives.untold(life))
                self._findings.add("edge", f"archived before {names} heard how it ended", number)
            self._count(life.status, -1)
            self._unstate(life.stated)
            self.archived[life.status] = self.archived.get(life.status, 0) + 1
            self.archived_by[number] = seq

    # --- compaction ---------------------------------------------------------------------

    def _copied(self, event: Copied, seq: int, entry: LogEntry) -> None:
        for number, raw in zip(event.n, event.items, strict=True):
            self.totals.copies += 1
            item = _read_item(raw)
            if item.number != number:
                self._findings.add("copy", f"the copy is of item number {item.number}", number)
                continue
            life = self.lives.get(number)
            if life is not None:
                why = lives.unlike(life, item)
                if why:
                    self._findings.add("copy", f"stated again: {why}", number)
                self._unstate(life.stated)
                life.stated = seq
                self._state(seq)
            elif self.complete:
                self._unknown(number, event)
            else:
                self._add(number, lives.copied(item, seq))

    def _remembered(self, event: Remembered, seq: int, entry: LogEntry) -> None:
        if event.at > entry.now:
            self._findings.add("event", "answers are stated again that were given later")
        self._commands.state([id_ for id_, _ in event.commands], event.at, seq)
        self._keys.state([key for key, _ in event.keys], event.at, seq)

    def _marked(self, event: Marked, seq: int, entry: LogEntry) -> None:
        self.totals.marks += 1
        if not self.complete and event.needs >= self._first_seq:
            self._begin(event, seq)
        if self.complete:
            self._check_counters(event)
        if event.needs > seq:
            self._findings.add("needs", f"nothing before {event.needs} is needed, which is later")
        if self.mark is not None and event.needs < self.mark.needs:
            what = f"entry {event.needs} is needed; mark {self.mark_seq} let go of it"
            self._findings.add("needs", what)
        self._check_needs(event, entry.now)
        self.mark, self.mark_seq = event, seq

    def _begin(self, mark: Marked, seq: int) -> None:
        """What was before the log's beginning is known from here on."""
        self.complete, self.complete_at = True, seq
        self.submitted, self.next_number = mark.submitted, mark.next_number
        for status in self.archived:
            self.archived[status] = mark.archived.get(status, 0)

    def _check_counters(self, mark: Marked) -> None:
        for what, theirs, ours in (
            ("items submitted", mark.submitted, self.submitted),
            ("the next number", mark.next_number, self.next_number),
            ("numbers given out", mark.next_number - 1, self.submitted),
            ("items in all", self.submitted, len(self.lives) + sum(self.archived.values())),
            *(
                (f"items that ended {status}", mark.ended.get(status, 0), self._ended(status))
                for status in self.archived
            ),
            *(
                (f"{status} items archived", mark.archived.get(status, 0), count)
                for status, count in self.archived.items()
            ),
        ):
            if theirs != ours:
                self._findings.add("counters", f"{what}: {theirs} by the mark, {ours} by the log")

    def _ended(self, status: Status) -> int:
        return self.by_status[status] + self.archived[status]

    def _check_needs(self, mark: Marked, now: float) -> None:
        """What the mark lets go of must have been stated again, or be of no use."""
        oldest = self.oldest_statement()
        if oldest is not None and oldest < mark.needs:
            number = next(n for n, life in self.lives.items() if life.stated == oldest)
            what = f"lets go of everything before {mark.needs}; only entry {oldest} states this"
            self._findings.add("needs", what, number)
        for what, lost in (
            ("command", self._commands.let_go(mark.needs, now, mark.horizon)),
            ("key", self._keys.let_go(mark.needs, now, None)),
        ):
            for id_, seq in lost:
                self._findings.add(
                    "needs",
                    f"lets go of everything before {mark.needs}; only entry {seq} states the "
                    f"answer to {what} {id_!r}",
                )

    # --- steps --------------------------------------------------------------------------

    def _remember(self, command_id: str, seq: int, entry: LogEntry, more: bool = False) -> None:
        if not command_id:
            return
        if not more and self._commands.first_at(command_id, entry.now) is not None:
            self._findings.add("repeated", f"command {command_id} is carried out once more")
        self._commands.state([command_id], entry.now, seq)

    def _add(self, number: int, life: Life) -> None:
        self.lives[number] = life
        self._count(life.status, 1)
        self._state(life.stated)

    def _moved(self, before: Status, after: Status) -> None:
        if before != after:
            self._count(before, -1)
            self._count(after, 1)

    def _count(self, status: Status, by: int) -> None:
        assert by in (-1, 1), "items move one by one"
        self.by_status[status] += by

    def _state(self, seq: int) -> None:
        if seq not in self._statements:
            assert not self._stated or self._stated[-1] < seq, "statements come in order"
            self._statements[seq] = 0
            self._stated.append(seq)
        self._statements[seq] += 1

    def _unstate(self, seq: int) -> None:
        self._statements[seq] -= 1
        assert self._statements[seq] >= 0, "every statement is taken back once"


def _opened(ledger: Ledger, event: Opened, seq: int, entry: LogEntry) -> None:
    """Ownership is a matter of the chain."""


_HANDLERS: dict[type[Event], Callable[[Ledger, Any, int, LogEntry], None]] = {
    Opened: _opened,
    Submitted: Ledger._submitted,
    Due: Ledger._due,
    Archived: Ledger._archived,
    Copied: Ledger._copied,
    Remembered: Ledger._remembered,
    Marked: Ledger._marked,
}
