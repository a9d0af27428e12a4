"""How long nothing moved although there was work, and which faults were under way then.

All by the stamps in the logs:

- *overall*: the longest time in which no item ended anywhere although at least one was
  queued all the time;
- *one shard*: the longest time in which one shard showed no event about any item although
  one was queued there (it may have waited for a free agent as well as for an owner).

A time counts for every kind of fault that was under way at any moment of it: one that began
with a kill may well end long after the killed process runs again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from swarm.subjects import parse_item_id
from swarm.testing.fold import History, Life

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

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end - self.start


class Longest(Struct):
    """The longest standstill: overall, and of any one shard."""

    overall_s: float = 0.0
    shard_s: float = 0.0


#: When something happened, by how much it changed the work that waits, whether it is progress.
Change = tuple[float, int, bool]


def standstills(changes: Iterable[Change]) -> list[Standstill]:
    """The times without progress while work waited."""
    found = []
    waiting = 0
    since = 0.0
    for time, change, moves in sorted(changes):
        if waiting > 0 and moves:
            found.append(Standstill(since, time))
            since = time
        if waiting == 0 and change > 0:
            since = time
        waiting += change
        if moves:
            since = time
    return found


def overall(history: History) -> list[Standstill]:
    """Times in which no item ended although some were queued."""
    changes: list[Change] = []
    for life in history.items.values():
        changes += [(time, change, False) for time, change in _queued(life) if change]
        if life.ended:
            changes.append((life.turns[-1].time, 0, True))
    return standstills(changes)


def by_shard(history: History) -> list[Standstill]:
    """Times in which nothing happened to any item of a shard although some were queued."""
    changes: dict[int, list[Change]] = {}
    for name, life in history.items.items():
        of_shard = changes.setdefault(parse_item_id(name)[0], [])
        # To be submitted is no progress, all else is.
        moves = [False] + [True] * (len(life.turns) - 1)
        of_shard += [
            (time, change, moved)
            for (time, change), moved in zip(_queued(life), moves, strict=True)
        ]
    return [found for of_shard in changes.values() for found in standstills(of_shard)]


def _queued(life: Life) -> list[tuple[float, int]]:
    """For each turn of the item: when, and whether it joined (1) or left (-1) the queue."""
    changes = []
    before = ""
    for turn in life.turns:
        changes.append((turn.time, (turn.status == "queued") - (before == "queued")))
        before = turn.status
    return changes


def longest(history: History, windows: Iterable[Window]) -> Mapping[str, Longest]:
    """The longest standstills by kind of fault, and under `NO_FAULT` without one."""
    found: dict[str, Longest] = {}
    faults = list(windows)
    for still in overall(history):
        for name in _under_way(still, faults):
            one = found.setdefault(name, Longest())
            one.overall_s = max(one.overall_s, still.seconds)
    for still in by_shard(history):
        for name in _under_way(still, faults):
            one = found.setdefault(name, Longest())
            one.shard_s = max(one.shard_s, still.seconds)
    return found


def _under_way(still: Standstill, faults: list[Window]) -> set[str]:
    names = {fault.label for fault in faults if fault.start < still.end and still.start < fault.end}
    return names or {NO_FAULT}
