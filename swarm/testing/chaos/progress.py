"""How long nothing moved although something waited, and which faults were under way then.

An item *waits* for the swarm (not for its handler)

- from the moment its client first sent it until it is claimed,
- from the end of its handler until that is in the log,
- from the end of a claim that did not end the item until the next claim.

*Overall* is the longest time in which no item ended anywhere although some item waited all
the time; *one shard* the longest in which one shard's log showed no event about any item
although one of its items waited all the time.  What waits for a free agent counts, too.

A time counts for every kind of fault that was under way at any moment of it: what began
with a kill may well end long after the killed process runs again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from swarm.subjects import parse_item_id
from swarm.testing.chaos.testimony import Told
from swarm.testing.chaos.work import task_of
from swarm.testing.fold import History, Life
from swarm.testing.records import Execution

#: What a standstill without any fault is counted under.
NO_FAULT = "no fault"


class Window(Struct, frozen=True):
    """A fault was under way."""

    label: str
    start: float
    end: float


class Standstill(Struct, frozen=True):
    """Nothing moved from `start` to `end`."""

    start: float
    end: float
    #: -1: in all of them.
    shard: int = -1

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end - self.start


class Longest(Struct):
    """The longest standstill: overall, and of any one shard."""

    overall_s: float = 0.0
    shard_s: float = 0.0


class Wait(Struct, frozen=True):
    """An item waited."""

    start: float
    end: float


def standstills(moves: Iterable[float], waits: Iterable[Wait], shard: int = -1) -> list[Standstill]:
    """The times between two of `moves` while at least one of `waits` lasted."""
    steps = [(time, 0, True) for time in moves]
    for wait in waits:
        steps += [(wait.start, 1, False), (wait.end, -1, False)]
    found = []
    waiting = 0
    since = 0.0
    for time, change, moved in sorted(steps):
        ends = moved or waiting + change == 0
        if waiting > 0 and ends:
            found.append(Standstill(since, time, shard))
        if ends or waiting == 0:
            since = time
        waiting += change
    return found


class Progress:
    """What waited and what moved in a run."""

    def __init__(self, history: History, testimony: Told, executions: Iterable[Execution]) -> None:
        sent: dict[tuple[str, int], float] = {}
        for line in testimony.sent:
            for number in line.numbers:
                sent.setdefault((line.client, number), line.asked)
        ran: dict[tuple[str, str], float] = {
            (run.work_item_id, run.token): run.end for run in executions if run.end is not None
        }
        #: By shard.
        self._waits: dict[int, list[Wait]] = {}
        self._moves: dict[int, list[float]] = {}
        self._ends: list[float] = []
        for name, life in history.items.items():
            shard, _ = parse_item_id(name)
            task = task_of(life.item)
            asked = sent.get((task.client, task.number), life.submitted_time)
            self._waits.setdefault(shard, []).extend(_waits(name, life, asked, ran))
            self._moves.setdefault(shard, []).extend(turn.time for turn in life.turns)
            if life.ended:
                self._ends.append(life.turns[-1].time)

    def standstills(self) -> list[Standstill]:
        """All of them, overall and by shard."""
        waits = [wait for some in self._waits.values() for wait in some]
        found = standstills(self._ends, waits)
        for shard, some in self._waits.items():
            found += standstills(self._moves[shard], some, shard)
        return found


def _waits(name: str, life: Life, asked: float, ran: Mapping[tuple[str, str], float]) -> list[Wait]:
    found = []
    since = asked
    for hold in life.holds:
        found.append(Wait(since, max(since, hold.time)))
        if hold.ending is None:
            return found
        ended = ran.get((name, hold.token), hold.ended_time)
        if ended < hold.ended_time:
            found.append(Wait(ended, hold.ended_time))
        since = hold.ended_time
    return found


def longest(stills: Iterable[Standstill], faults: list[Window]) -> dict[str, Longest]:
    """The longest standstills by kind of fault, and under `NO_FAULT` without one."""
    found: dict[str, Longest] = {}
    for still in stills:
        for name in under_way(still, faults):
            one = found.setdefault(name, Longest())
            if still.shard < 0:
                one.overall_s = max(one.overall_s, still.seconds)
            else:
                one.shard_s = max(one.shard_s, still.seconds)
    return found


def under_way(still: Standstill, faults: Iterable[Window]) -> list[str]:
    """The kinds of fault that were under way at any moment of it; `NO_FAULT` for none."""
    names = {fault.label for fault in faults if fault.start < still.end and still.start < fault.end}
    return sorted(names) or [NO_FAULT]
