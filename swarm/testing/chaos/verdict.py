"""What a chaos run has shown: every testimony held against the entries of the logs.

`swarm.testing.history` joins what handlers recorded with the logs.  Here what clients were
told is added, answers of coordinators that were deposed without knowing it among them.
Stamps are the NATS servers', times the clients', all by one machine's clock:

- an answer is *stale* if it is true as of an entry that stands before one stamped earlier
  than the question was asked.  Every answer rides on an append made after its question has
  arrived, and stamps grow along a log; so a correct answer never is;
- an answer is *wrong* if it is not what the log says as of the entry that it names, or names
  an entry that was not there when it came (said before it was durable, or invented);
- an item is *doubled* if the log has two of one that its client submitted once.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from msgspec import Struct

from swarm.subjects import parse_item_id
from swarm.testing.chaos.testimony import Counted, Seen, Told
from swarm.testing.chaos.work import not_before, task_of
from swarm.testing.fold import History, Hold
from swarm.testing.history import Acks, Execution, Report, check


class Verdict(Struct):
    """The counts; `findings` has a sentence for each violation."""

    report: Report
    #: Answers held against the logs.
    answers: int = 0
    #: Answers older than their question.
    stale: int = 0
    #: Answers and acknowledgements that contradict the log.
    wrong: int = 0
    #: Items that are in the logs more than once, or under another id than was told.
    doubled: int = 0
    #: Entries that continue nothing: nobody but owners writes here, so one of them got past
    #: the fence after another had opened the shard.
    foreign: int = 0
    #: Counts of a shard that do not add up.
    unbalanced: int = 0
    #: Claims before their time: of a delayed item, or before what it depends on had ended.
    too_early: int = 0
    #: Items that ended, but with another result than their work has.
    wrong_results: int = 0
    #: Submissions of which the client never knew: allowed, they were given up.
    given_up: int = 0
    findings: list[str] = []

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        told = self.stale or self.wrong or self.wrong_results
        written = self.doubled or self.foreign or self.unbalanced or self.too_early
        return self.report.ok and not told and not written


def judge(
    executions: Iterable[Execution], acks: Acks, history: History, testimony: Told
) -> Verdict:
    """Hold everything against the history."""
    report = check(executions, acks, history)
    verdict = Verdict(report, findings=list(report.findings))
    verdict.foreign = history.foreign
    if history.foreign:
        verdict.findings.append(f"foreign: {history.foreign} entries got past the fence")
    _check_identity(history, testimony, verdict)
    _check_acceptance(history, testimony, verdict)
    _check_ends(history, testimony, verdict)
    _check_readings(history, testimony, verdict)
    _check_hands(history, testimony, verdict)
    _check_order(history, verdict)
    verdict.given_up = len(
        {(line.client, line.number) for line in testimony.unanswered}
        - {(line.client, line.number) for line in testimony.accepted}
    )
    return verdict


def _wrong(verdict: Verdict, what: str) -> None:
    verdict.wrong += 1
    verdict.findings.append(f"wrong answer: {what}")


def _check_identity(history: History, testimony: Told, verdict: Verdict) -> None:
    """Each submitted item is in the logs once, under the id that was told."""
    names: dict[tuple[str, int], list[str]] = {}
    for name, life in history.items.items():
        task = task_of(life.item)
        names.setdefault((task.client, task.number), []).append(name)
    for (client, number), found in names.items():
        if len(found) > 1:
            verdict.doubled += 1
            verdict.findings.append(f"doubled: {client}'s item {number} is {' and '.join(found)}")
    for line in testimony.accepted:
        if line.item in history.items and line.item not in names.get(
            (line.client, line.number), []
        ):
            verdict.doubled += 1
            verdict.findings.append(
                f"doubled: {line.client} was told that its item {line.number} is {line.item}, "
                "and that is another's"
            )


def _check_acceptance(history: History, testimony: Told, verdict: Verdict) -> None:
    """Nothing is acknowledged before it is in the log (that it is there, `check` has seen)."""
    for line in testimony.accepted:
        life = history.items.get(line.item)
        if life is not None and line.at < life.submitted_time:
            early_s = life.submitted_time - line.at
            _wrong(verdict, f"{line.item} was accepted {early_s:.6f} s before it was in the log")


def _check_ends(history: History, testimony: Told, verdict: Verdict) -> None:
    """Clients heard how items ended as the log has it, and of the right results."""
    for line in testimony.finished:
        life = history.items.get(line.item)
        ended = life.ended if life is not None else None
        if line.status != ended:
            _wrong(verdict, f"{line.item} was said to be {line.status}; in the log: {ended}")
        elif life is not None and line.at < life.turns[-1].time:
            early_s = life.turns[-1].time - line.at
            _wrong(verdict, f"{line.item} was said to be {ended} {early_s:.6f} s before it was")
        elif not line.right:
            verdict.wrong_results += 1
            verdict.findings.append(
                f"wrong result: {line.client}'s item {line.number}, {line.item}, is {ended}, "
                "but not with what its work gives"
            )

    for unwanted in testimony.unwanted:
        life = history.items.get(unwanted.item)
        ended = life.ended if life is not None else None
        if unwanted.status == "cancelled" and ended != "cancelled":
            _wrong(verdict, f"{unwanted.item} was said to be cancelled; in the log: {ended}")


def _check_order(history: History, verdict: Verdict) -> None:
    """Nothing is claimed before its time has come and what it depends on has ended."""
    for name, life in history.items.items():
        # Where stamps are not known: the latest that this, and the earliest that others can be.
        first = max(life.holds[0].time, life.holds[0].latest) if life.holds else None
        for other, told in life.depends.items():
            before = history.items.get(other)
            ended = before.ended if before is not None else None
            if told and told != ended:
                _wrong(verdict, f"{name} was told that {other} is {told}; in the log: {ended}")
            if first is None:
                continue
            if before is None or ended is None or first < before.turns[-1].time:
                verdict.too_early += 1
                verdict.findings.append(f"too early: {name} was claimed before {other} had ended")
        if first is not None and first < not_before(life.item):
            early_s = not_before(life.item) - first
            verdict.too_early += 1
            verdict.findings.append(
                f"too early: {name} was claimed {early_s:.6f} s before its time"
            )


# --- questions -----------------------------------------------------------------------------


class _Stamps:
    """The entries of one shard by the time of their stamp."""

    def __init__(self, stamps: dict[int, tuple[float, float]]) -> None:
        self._stamps = stamps
        pairs = sorted((latest, seq) for seq, (_, latest) in stamps.items())
        self._times = [time for time, _ in pairs]
        self._seqs: list[int] = []
        highest = 0
        for _, seq in pairs:
            highest = max(highest, seq)
            self._seqs.append(highest)

    def last_before(self, time: float) -> int:
        """The highest sequence stamped earlier than `time`; 0 without any."""
        index = bisect.bisect_left(self._times, time)
        return self._seqs[index - 1] if index else 0

    def time_of(self, seq: int) -> float | None:
        """The stamp of this entry, at the earliest; None if the log has no such entry."""
        found = self._stamps.get(seq)
        return None if found is None else found[0]


def _check_readings(history: History, testimony: Told, verdict: Verdict) -> None:
    stamps = {shard: _Stamps(times) for shard, times in history.stamps.items()}
    for line in testimony.seen:
        verdict.answers += 1
        shard, _ = parse_item_id(line.item)
        if line.status.startswith("refused"):
            _wrong(verdict, f"a question about {line.item} was {line.status}")
        elif _check_time(line, shard, f"{line.item} is {line.status}", stamps, verdict):
            life = history.items.get(line.item)
            status = life.status_at(line.as_of) if life is not None else "in no log"
            if status != line.status:
                what = f"{line.item} is {line.status} as of {line.as_of}"
                _wrong(verdict, f"{what}; in the log: {status or 'nothing yet'}")
    for counted in testimony.counted:
        verdict.answers += 1
        _check_time(counted, counted.shard, "counts", stamps, verdict)
        if counted.conservation:
            verdict.unbalanced += 1
            verdict.findings.append(
                f"unbalanced: shard {counted.shard} as of {counted.as_of}: "
                f"{counted.conservation} items too many or too few"
            )


def _check_time(
    line: Seen | Counted, shard: int, what: str, stamps: dict[int, _Stamps], verdict: Verdict
) -> bool:
    """Whether the answer is as of an entry of its time."""
    known = stamps.get(shard, _Stamps({}))
    told = f"shard {shard} as of {line.as_of}: {what}, asked {line.asked:.6f}"
    time = known.time_of(line.as_of)
    if time is None or time > line.at:
        when = "is in no log" if time is None else f"came {time - line.at:.6f} s later"
        _wrong(verdict, f"{told}, and that entry {when}")
        return False
    wanted = known.last_before(line.asked)
    if line.as_of < wanted:
        verdict.stale += 1
        verdict.findings.append(f"stale answer: {told}, when the log had {wanted} entries")
        return False
    return True


# --- work by hand ----------------------------------------------------------------------------


def _check_hands(history: History, testimony: Told, verdict: Verdict) -> None:
    """What those were told who claim, complete, fail and release by hand."""
    for line in testimony.taken:
        verdict.answers += 1
        hold = _hold(history, line.item, line.token)
        if hold is None:
            _wrong(verdict, f"{line.item} was given away under {line.token}, which no log has")
        elif line.at < hold.time:
            early_s = hold.time - line.at
            _wrong(
                verdict, f"{line.item} was given away {early_s:.6f} s before that was in the log"
            )
    for ack in testimony.acknowledged:
        verdict.answers += 1
        hold = _hold(history, ack.item, ack.token)
        ending = hold.ending if hold is not None else None
        if hold is None or ending is None or hold.after != ack.status:
            said = f"the end of {ack.token} of {ack.item} was acknowledged as {ack.status}"
            _wrong(verdict, f"{said}; in the log: {ending}")
        elif ack.at < hold.ended_time:
            early_s = hold.ended_time - ack.at
            _wrong(verdict, f"the end of {ack.token} of {ack.item} was told {early_s:.6f} s early")


def _hold(history: History, item: str, token: str) -> Hold | None:
    life = history.items.get(item)
    holds = life.holds if life is not None else []
    return next((hold for hold in holds if hold.token == token), None)
