"""Did a run keep its promises?  Answered without asking the queue.

Three independent testimonies are joined: what the handlers wrote down while they ran
(`ExecutionLog`), what the clients were told (`AckLog`), and the entries of the swarm's
logs as the NATS server stamped them.  From the logs only submissions, claims and their
ends are taken, by a fold of this module's own; the state that a shard keeps is not used.

What may be compared with what
    All times are one machine's wall clock: the handlers' and clients' by `time.time`, the
    log's by the server's stamp.  No tolerance is needed, and none is given:

    - a handler reads the clock first and last, so its interval covers its work; it gets
      its item after the claim was durable, and its completion is sent after it returned,
      so ``claim's stamp <= start <= end <= completion's stamp`` in a correct swarm;
    - a claim that follows a release has a stamp no smaller than the release's, and stands
      behind it in the log; so ``release's stamp <= start`` of whoever runs the item next;
    - the server stamps an entry when it takes it in, just before it is durable.  A start
      in between (below a millisecond or two) is not seen here; the simulation sees it.

    A clock that is set back during a run makes findings, it does not hide any: an
    interval that ends before it starts is reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Literal, Protocol

from msgspec import Struct

from swarm.bus.base import Entry
from swarm.core.envelope import Link, LogPosition, decode_entry
from swarm.core.work import make_token
from swarm.errors import LogMissing
from swarm.messages import Claimed, Completed, Died, Event, Released, Submitted
from swarm.subjects import Subjects, item_id
from swarm.testing.records import (
    AckLog,
    Acks,
    Execution,
    ExecutionLog,
    read_acks,
    read_executions,
)

__all__ = [
    "AckLog",
    "Acks",
    "Execution",
    "ExecutionLog",
    "History",
    "Report",
    "check",
    "read_acks",
    "read_executions",
    "read_logs",
]

#: Entries asked for at once.
PAGE = 256

#: How a claim ended, by the log.
Ending = Literal["completed", "dead", "released"]


class Hold(Struct):
    """A claim and its end, as the log has them."""

    token: str
    #: Sequence and place within the entry: what came first in the log.
    at: tuple[int, int]
    #: The server's stamp of the entry.
    time: float
    ending: Ending | None = None
    ended_at: tuple[int, int] | None = None
    ended_time: float = 0.0


class Life(Struct):
    """One work item, as the log has it."""

    submitted_time: float
    #: In the order of the log.
    holds: list[Hold]
    ended: Literal["completed", "dead"] | None = None


class History(Struct):
    """All work items of the logs, and where a log contradicts itself."""

    items: dict[str, Life]
    contradictions: list[str]
    #: Entries that are not the swarm's.
    foreign: int = 0


class Report(Struct):
    """The verdict; `findings` has a sentence for each violation."""

    #: Submissions that clients were told of.
    acknowledged: int
    #: Items in the logs.
    submitted: int
    completed: int
    dead: int
    #: Handler runs on record.
    executions: int
    #: Items acknowledged, and missing from the logs or not ended in them; or said to be
    #: completed, and not completed in the logs.
    lost: int = 0
    #: Executions by more than one holder at a time, or by none: overlapping ones, two
    #: under one token, under a token that the log never issued, or before it did.
    held_twice: int = 0
    #: Completions in the logs without a finished execution under their token before them.
    unrecorded: int = 0
    #: Items in the logs that have not ended.
    unended: int = 0
    #: Executions that began after their claim had ended in the log.  Allowed: the fence
    #: keeps them from having an effect in the swarm.
    late_starts: int = 0
    #: Entries of the logs that contradict what the same log says before; clocks set back.
    contradictions: int = 0
    findings: list[str] = []

    @property
    def ok(self) -> bool:
        """Whether every promise was kept, and every item has ended."""
        return not (
            self.lost or self.held_twice or self.unrecorded or self.unended or self.contradictions
        )


# --- the logs ----------------------------------------------------------------------


class LogSource(Protocol):
    """What of a `swarm.bus.base.Bus` is needed."""

    async def read(self, log: str, from_seq: int, limit: int) -> list[Entry]:
        """As `Bus.read`."""
        ...


async def read_logs(bus: LogSource, subjects: Subjects, shards: Iterable[int]) -> History:
    """Fold the logs of these shards; raises what `Bus.read` raises, or `Undecodable`."""
    history = History({}, [])
    for shard in shards:
        fold = _Fold(shard, subjects.log(shard), history)
        while True:
            try:
                entries = await bus.read(fold.log, fold.position.at + 1, PAGE)
            except LogMissing:
                fold.contradiction(0, "the log does not exist")
                break
            if not entries or not all(fold.take(entry) for entry in entries):
                break
        history.foreign += fold.position.foreign
    return history


class _Fold:
    """Takes the entries of one log into `history`."""

    def __init__(self, shard: int, log: str, history: History) -> None:
        self.log = log
        self.position = LogPosition(log)
        self._shard = shard
        self._history = history

    def contradiction(self, seq: int, what: str) -> None:
        where = f"{self.log}, entry {seq}" if seq else self.log
        self._history.contradictions.append(f"{where}: {what}")

    def take(self, stored: Entry) -> bool:
        """Fold one entry; False when the log cannot be read any further."""
        entry = decode_entry(self.log, stored.seq, stored.data)
        last = self.position.last
        link = self.position.advance(stored.seq, entry)
        if link is Link.GAP:
            self.contradiction(stored.seq, f"entries between {last} and this one are missing")
            return False
        if link is not Link.OURS or entry is None:
            return True
        for index, event in enumerate(entry.events):
            self._fold(event, entry.owner, (stored.seq, index), stored.time)
        return True

    def _fold(self, event: Event, owner: str, at: tuple[int, int], time: float) -> None:
        items = self._history.items
        match event:
            case Submitted():
                for number in range(event.first, event.first + len(event.items)):
                    name = item_id(self._shard, number)
                    if name in items:
                        self.contradiction(at[0], f"{name} is submitted a second time")
                    items[name] = Life(time, [])
            case Claimed():
                token = make_token(event.fence, owner, event.session)
                self._claimed(item_id(self._shard, event.n), Hold(token, at, time))
            case Completed():
                self._ended(event.n, event.fence, "completed", at, time)
            case Died():
                self._ended(event.n, event.fence, "dead", at, time)
            case Released():
                self._ended(event.n, event.fence, "released", at, time)
            case _:
                pass  # progress and ownership say nothing about who holds what

    def _claimed(self, name: str, hold: Hold) -> None:
        life = self._history.items.get(name)
        if life is None:
            self.contradiction(hold.at[0], f"{name} is claimed and was never submitted")
            return
        if life.ended:
            self.contradiction(hold.at[0], f"{name} is claimed ({hold.token}) after its end")
        if life.holds and life.holds[-1].ending is None:
            token = life.holds[-1].token
            self.contradiction(hold.at[0], f"{name} is claimed ({hold.token}), held by {token}")
        if any(hold.token == earlier.token for earlier in life.holds):
            self.contradiction(hold.at[0], f"{name}: the token {hold.token} is issued again")
        life.holds.append(hold)

    def _ended(
        self, number: int, fence: int, ending: Ending, at: tuple[int, int], time: float
    ) -> None:
        name = item_id(self._shard, number)
        life = self._history.items.get(name)
        hold = life.holds[-1] if life is not None and life.holds else None
        if life is None or hold is None or hold.ending or not hold.token.startswith(f"{fence}."):
            self.contradiction(at[0], f"{name} is {ending} under fence {fence}, not so held")
            return
        hold.ending, hold.ended_at, hold.ended_time = ending, at, time
        if ending != "released":
            life.ended = ending


# --- the verdict ---------------------------------------------------------------------


def check(executions: Iterable[Execution], acks: Acks, history: History) -> Report:
    """Hold the three testimonies against each other."""
    ran: dict[str, list[Execution]] = {}
    for execution in executions:
        ran.setdefault(execution.work_item_id, []).append(execution)
    ends = [life.ended for life in history.items.values()]
    report = Report(
        acknowledged=len(acks.submitted),
        submitted=len(history.items),
        completed=ends.count("completed"),
        dead=ends.count("dead"),
        executions=sum(len(of_item) for of_item in ran.values()),
        unended=ends.count(None),
        contradictions=len(history.contradictions),
        findings=[f"contradiction: {text}" for text in history.contradictions],
    )
    _check_lost(acks, history, report)
    for name, of_item in ran.items():
        _check_executions(name, of_item, history.items.get(name), report)
    for name, life in history.items.items():
        _check_recorded(name, life, ran.get(name, []), report)
    return report


def _check_lost(acks: Acks, history: History, report: Report) -> None:
    lost: dict[str, str] = {}
    for name in acks.submitted:
        life = history.items.get(name)
        if life is None:
            lost[name] = "its submission was acknowledged, and no log has it"
        elif life.ended is None:
            held = life.holds and life.holds[-1].ending is None
            lost[name] = f"its submission was acknowledged, and it is {_state(bool(held))} still"
    for name in acks.completed:
        life = history.items.get(name)
        if life is None or life.ended != "completed":
            lost.setdefault(name, "it was said to be completed, and is not in the log")
    report.lost = len(lost)
    report.findings += [f"lost: {name}: {why}" for name, why in lost.items()]


def _state(held: bool) -> str:
    return "claimed" if held else "queued"


def _check_executions(
    name: str, executions: list[Execution], life: Life | None, report: Report
) -> None:
    """Every execution by itself, then each pair of those that had a claim."""
    holds = {hold.token: hold for hold in life.holds} if life is not None else {}
    issued: list[tuple[Hold, Execution]] = []
    for run in executions:
        hold = holds.get(run.token)
        if run.end is not None and run.end < run.start:
            report.contradictions += 1
            report.findings.append(f"contradiction: {_tell(run)}: the clock was set back")
        if hold is None:
            _twice(report, f"{_tell(run)}: no log has issued this token")
            continue
        if run.start < hold.time:
            early_s = hold.time - run.start
            _twice(report, f"{_tell(run)}: {early_s:.6f} s before its claim was in the log")
        if _is_late(run, hold):
            report.late_starts += 1
        issued.append((hold, run))
    # In the order of their claims, executions under one claim in the order of their starts.
    issued.sort(key=lambda pair: (pair[0].at, pair[1].start))
    for (hold, run), (later_hold, later) in combinations(issued, 2):
        why = _conflict(hold, run, later_hold, later)
        if why:
            _twice(report, f"{name}: {why}: {_tell(run)} and {_tell(later)}")


def _conflict(hold: Hold, run: Execution, later_hold: Hold, later: Execution) -> str:
    """Why these two executions must not both be; "" if they may."""
    if hold.at == later_hold.at:
        # One claim allows one execution, however short.
        return "" if _is_late(later, hold) else "run twice under one token"
    if not _overlap(run, later):
        return ""
    handed_on = (
        hold.ending == "released"
        and hold.ended_at is not None
        and hold.ended_at < later_hold.at
        and hold.ended_time <= later.start
    )
    return "" if handed_on else "run by two holders at once"


def _overlap(one: Execution, other: Execution) -> bool:
    """Whether the two ever ran at once; one without an end is taken to run for ever."""
    one_first = one.end is not None and one.end <= other.start
    other_first = other.end is not None and other.end <= one.start
    return not (one_first or other_first)


def _is_late(run: Execution, hold: Hold) -> bool:
    return hold.ending is not None and hold.ended_time < run.start


def _check_recorded(name: str, life: Life, executions: list[Execution], report: Report) -> None:
    for hold in life.holds:
        if hold.ending != "completed":
            continue
        runs = [run for run in executions if run.token == hold.token]
        if any(run.end is not None and run.end <= hold.ended_time for run in runs):
            continue
        report.unrecorded += 1
        on_record = ", ".join(_tell(run) for run in runs) or "no execution"
        report.findings.append(
            f"unrecorded: {name} was completed under {hold.token} at {hold.ended_time:.6f}; "
            f"on record: {on_record}"
        )


def _twice(report: Report, why: str) -> None:
    report.held_twice += 1
    report.findings.append(f"held twice: {why}")


def _tell(run: Execution) -> str:
    end = "no end" if run.end is None else f"{run.end:.6f}"
    return f"{run.work_item_id} under {run.token} by process {run.pid} [{run.start:.6f}, {end}]"
