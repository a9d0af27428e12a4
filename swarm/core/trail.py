"""In which order the log last stated each item whole: what compaction copies first."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from swarm.messages import Item


class Trail:
    """Items by the sequence of the entry that stated them last, oldest first.

    A statement counts as long as the item is there and has not been stated again, which
    its `seq` tells; others are passed over, and dropped when they come to the front.
    """

    def __init__(self, items: dict[int, Item]) -> None:
        self._items = items
        self._numbers: deque[int] = deque()
        self._seqs: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._numbers)

    def stated(self, item: Item, seq: int) -> None:
        """Entry `seq` states the item whole."""
        assert seq >= item.seq, f"item {item.number} was stated later before"
        item.seq = seq
        self._numbers.append(item.number)
        self._seqs.append(seq)

    def oldest_seq(self) -> int | None:
        """No entry before this one is needed for the items; None: there is no item."""
        self.tidy(len(self._numbers))
        return self._seqs[0] if self._seqs else None

    def tidy(self, most: int) -> None:
        """Drop what has come to the front and does not count any more, so many at most.

        Only an owner asks for the oldest: whoever merely follows must do this whenever something
        stops counting, and for two where one does, so that it gets there in the end.
        """
        numbers, seqs, items = self._numbers, self._seqs, self._items
        while numbers and most > 0:
            item = items.get(numbers[0])
            if item is not None and item.seq == seqs[0]:
                return
            numbers.popleft()
            seqs.popleft()
            most -= 1

    def __iter__(self) -> Iterator[Item]:
        """The items, oldest statement first."""
        assert len(self._numbers) == len(self._seqs), "one sequence a statement"
        for number, seq in zip(self._numbers, self._seqs, strict=True):
            item = self._items.get(number)
            if item is not None and item.seq == seq:
                yield item
