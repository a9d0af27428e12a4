"""Did a run keep its promises?  Answered without asking the queue.

Three independent testimonies are joined: what the handlers wrote down while they ran
(`ExecutionLog`), what the clients were told (`AckLog`), and the entries of the swarm's
logs as the NATS server stamped them, folded by `swarm.testing.fold`.

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

from msgspec import Struct

from swarm.testing.fold import History, Hold, Life, read_logs
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
    "Hold",
    "Life",
    "Report",
    "check",
    "read_acks",
    "read_executions",
    "read_logs",
]


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
    #: Items that were cancelled.
    cancelled: int = 0
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
        cancelled=ends.count("cancelled"),
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
            lost[name] = f"its submission was acknowledged, and it is {life.status} still"
    for name in acks.completed:
        life = history.items.get(name)
        if life is None or life.ended != "completed":
            lost.setdefault(name, "it was said to be completed, and is not in the log")
    report.lost = len(lost)
    report.findings += [f"lost: {name}: {why}" for name, why in lost.items()]


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
    # Where the holder has said how it ended, its handler was through with it.
    handed_on = (
        hold.ended_at is not None
        and not hold.told
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
        if any(run.end is not None and run.end <= hold.ended_latest for run in runs):
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
