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

from swarm.messages import PRIORITIES, Item


class _Lane:
    """Numbers of the items of one work type and priority, the smallest first.

    Some may be stale: items that have left the lane other than by its head.
    """

    __slots__ = ("fresh", "head", "rank", "returned", "score")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        #: Those that came in the order of their numbers.
        self.fresh: deque[int] = deque()
        #: The others: a heap.
        self.returned: list[int] = []
        #: The smallest number of a ready item, 0 when there is none, and its score.
        self.head = 0
        self.score = 0.0

    def add(self, number: int) -> None:
        if not self.fresh or number > self.fresh[-1]:
            self.fresh.append(number)
        else:
            heappush(self.returned, number)

    def smallest(self) -> int:
        """The smallest number of both, 0 when there is none."""
        fresh = self.fresh
        if self.returned and (not fresh or self.returned[0] < fresh[0]):
            return self.returned[0]
        return fresh[0] if fresh else 0

    def pop(self, number: int) -> None:
        """Remove the smallest number, which is `number`."""
        returned = self.returned
        if returned and returned[0] == number:
            heappop(returned)
        else:
            self.fresh.popleft()

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
        #: Of each type those that have a ready item.
        self._filled: dict[str, list[_Lane]] = {}
        #: Ready items by work type; types stay listed with 0.
        self.ready: dict[str, int] = {}

    def add(self, item: Item) -> None:
        """A queued item takes the place that its number gives it."""
        work_type, number = item.work_type, item.number
        lanes = self._lanes.get(work_type)
        if lanes is None:
            lanes = self._lanes[work_type] = tuple(_Lane(rank) for rank in range(len(PRIORITIES)))
            self.ready[work_type] = 0
            self._filled[work_type] = []
        lane = lanes[item.rank]
        lane.add(number)
        self.ready[work_type] += 1
        if not lane.head:
            self._filled[work_type].append(lane)
            self._set_head(lane, item)
        elif number < lane.head:
            self._set_head(lane, item)

    def best(self, work_types: Iterable[str]) -> int | None:
        """The number of the item to claim first among these types, or None."""
        best = 0
        best_score = 0.0
        for work_type in work_types:
            for lane in self._filled.get(work_type, ()):
                head, score = lane.head, lane.score
                if not best or score < best_score or (score == best_score and head < best):
                    best, best_score = head, score
        return best or None

    def score(self, head: Item) -> float:
        """How urgent this head of a lane is: less is more.  Shards whose clocks agree compare."""
        lane = self._lanes[head.work_type][head.rank]
        assert lane.head == head.number, f"item {head.number} is not the first of its lane"
        return lane.score

    def heads(self) -> dict[str, float]:
        """The best score of a ready item, by work type."""
        return {
            work_type: min(lane.score for lane in lanes)
            for work_type, lanes in self._filled.items()
            if lanes
        }

    def remove(self, item: Item) -> None:
        """`item` is not queued any more, or about to change its lane.

        Only heads are looked for: another one is left in its place, stale, and passed
        over when the lane comes to it.
        """
        work_type = item.work_type
        lane = self._lanes[work_type][item.rank]
        assert self.ready[work_type] > 0, f"item {item.number} was not ready"
        self.ready[work_type] -= 1
        if lane.head == item.number:
            lane.pop(item.number)
            self._next_head(lane, item)

    def __iter__(self) -> Iterator[int]:
        """Numbers of the ready items."""
        for work_type, lanes in self._lanes.items():
            for lane in lanes:
                for number in dict.fromkeys(lane):
                    item = self._items.get(number)
                    if item is not None and _is_in(item, work_type, lane.rank):
                        yield number

    def _next_head(self, lane: _Lane, left: Item) -> None:
        fresh = lane.fresh
        # Nearly always none has returned, and the next in the queue is the one.
        while number := lane.smallest() if lane.returned or not fresh else fresh[0]:
            item = self._items.get(number)
            if item is not None and item is not left and _is_in(item, left.work_type, lane.rank):
                self._set_head(lane, item)
                return
            lane.pop(number)
        lane.head = 0
        self._filled[left.work_type].remove(lane)

    def _set_head(self, lane: _Lane, item: Item) -> None:
        lane.head = item.number
        lane.score = item.submitted_at + lane.rank * self._ageing_s


def _is_in(item: Item, work_type: str, rank: int) -> bool:
    """Whether the item is ready in the lane of this type and rank."""
    if item.hold is not None or item.end is not None or item.pause is not None:
        return False
    return item.rank == rank and item.work_type == work_type
