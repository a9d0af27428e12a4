"""What is to happen to items at a time: a heap of (time, item).

An entry is a hint to look at the item then, no more: it may have moved on since.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from swarm.messages import Item

#: Hints kept without looking whether they are of use still.
KEPT = 1024


class Timers:
    """Times at which items want to be looked at, by the log's clock."""

    def __init__(self, items: dict[int, Item]) -> None:
        self._items = items
        self._heap: list[tuple[float, int]] = []
        self._limit = KEPT

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_at(self) -> float:
        """The earliest time, infinity when there is none."""
        return self._heap[0][0] if self._heap else float("inf")

    def add(self, at: float, number: int) -> None:
        """Look at item `number` at `at`."""
        assert at > 0, "zero means no time at all"
        heappush(self._heap, (at, number))
        if len(self._heap) > self._limit:
            # Only an owner takes hints out: whoever merely follows must forget old ones.
            self._prune()

    def due(self, now: float, count_max: int) -> list[int]:
        """Up to `count_max` items whose time has come, taken out, each once."""
        assert count_max > 0, "nothing would ever come due"
        found: dict[int, None] = {}
        while self._heap and self._heap[0][0] <= now and len(found) < count_max:
            found[heappop(self._heap)[1]] = None
        return list(found)

    def _prune(self) -> None:
        items = self._items
        kept = {hint: None for hint in self._heap if hint[1] in items}
        self._heap = [hint for hint in kept if items[hint[1]].end is None]
        heapify(self._heap)
        self._limit = KEPT + 2 * len(self._heap)
