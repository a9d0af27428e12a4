"""Ready items in lanes: FIFO per (work type, priority), the best lane first, none starved.

Waiting raises an item: one step of priority is worth `ageing_s` seconds of waiting.
That is the same as giving every item the score ``submitted_at + rank * ageing_s`` once
and taking the smallest: time itself cancels out, so nothing is ever re-sorted.  Within
a lane the score grows with the item's number, so only lane heads are compared and a
claim costs the same with a thousand or a million items queued.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from swarm.core.work import Item
from swarm.messages import PRIORITIES


class _Lane:
    """Numbers of the ready items of one work type and priority, smallest first."""

    __slots__ = ("fresh", "head", "returned", "score")

    def __init__(self) -> None:
        #: In order of submission, which is the order of numbers.
        self.fresh: deque[int] = deque()
        #: Items handed back: a heap, as they return in any order.
        self.returned: list[int] = []
        #: The smallest number of both, 0 when there is none, and its item's score.
        self.head = 0
        self.score = 0.0

    def smallest(self) -> int:
        """The smallest number of both, 0 when there is none."""
        if self.returned and (not self.fresh or self.returned[0] < self.fresh[0]):
            return self.returned[0]
        return self.fresh[0] if self.fresh else 0

    def pop(self) -> int:
        if self.returned and self.returned[0] == self.head:
            return heappop(self.returned)
        return self.fresh.popleft()

    def __iter__(self) -> Iterator[int]:
        yield from self.returned
        yield from self.fresh


class Lanes:
    """All lanes of a shard."""

    def __init__(self, items: dict[int, Item], ageing_s: float) -> None:
        assert ageing_s > 0, "a priority step must be worth some waiting"
        self._items = items
        self._ageing_s = ageing_s
        self._lanes: dict[str, tuple[_Lane, ...]] = {}
        #: Ready items by work type; types stay listed with 0.
        self.ready: dict[str, int] = {}

    def add(self, item: Item) -> None:
        """A newly submitted item, with a number above all before."""
        lane = self._lane(item)
        assert not lane.fresh or lane.fresh[-1] < item.number, "numbers grow with submission"
        lane.fresh.append(item.number)
        self.ready[item.work_type] += 1
        if not lane.head:
            self._set_head(lane, item.rank, item.number)

    def give_back(self, item: Item) -> None:
        """An item that was claimed returns to the place that its number gives it."""
        lane = self._lane(item)
        heappush(lane.returned, item.number)
        self.ready[item.work_type] += 1
        if not lane.head or item.number < lane.head:
            self._set_head(lane, item.rank, item.number)

    def best(self, work_types: Iterable[str]) -> int | None:
        """The number of the item to claim first among these types, or None."""
        best = 0
        best_score = 0.0
        for work_type in work_types:
            for lane in self._lanes.get(work_type, ()):
                head = lane.head
                if not head:
                    continue
                score = lane.score
                if not best or score < best_score or (score == best_score and head < best):
                    best, best_score = head, score
        return best or None

    def take(self, item: Item) -> None:
        """Remove `item`, which must head its lane: claims only ever take heads."""
        lane = self._lane(item)
        assert lane.head == item.number, f"item {item.number} does not head its lane"
        lane.pop()
        self.ready[item.work_type] -= 1
        self._set_head(lane, item.rank, lane.smallest())

    def __iter__(self) -> Iterator[int]:
        for lanes in self._lanes.values():
            for lane in lanes:
                yield from lane

    def _set_head(self, lane: _Lane, rank: int, number: int) -> None:
        lane.head = number
        if number:
            lane.score = self._items[number].submitted_at + rank * self._ageing_s

    def _lane(self, item: Item) -> _Lane:
        lanes = self._lanes.get(item.work_type)
        if lanes is None:
            lanes = self._lanes[item.work_type] = tuple(_Lane() for _ in PRIORITIES)
            self.ready[item.work_type] = 0
        return lanes[item.rank]
