"""How many items a shard has by status, counted twice.

Event by event, as items come, go and change; and by a walk over the items, a slice at a
time, so that a shard with a million of them is never stopped for it.  While a walk is
under way, what happens to items that it has passed is made good, so that at its end it
says what there is at that moment, whatever happened since it began.

The walk looks at the items themselves: what changed without an event, or was lost, shows
at the end of the next one.
"""

from __future__ import annotations

from msgspec import Struct

from swarm.messages import STATUSES, Item, Status


class Walked(Struct, frozen=True):
    """What a walk found."""

    #: How far it is from what the events say: 0.
    off: int = 0
    #: The entry as of which that was true; 0: no walk has ended yet.
    seq: int = 0
    items: int = 0


class Tally:
    """Items by status.  `items`: the shard's, by number."""

    def __init__(self, items: dict[int, Item]) -> None:
        self._items = items
        #: Event by event.
        self.counts: dict[Status, int] = dict.fromkeys(STATUSES, 0)
        self.found: dict[Status, int] = dict.fromkeys(STATUSES, 0)
        #: The walk has passed all items with numbers below this.
        self._passed = 1
        #: No item has a number below this, of those that were there at the last walk.
        self._lowest = 0

    # --- event by event -----------------------------------------------------------------

    def added(self, item: Item) -> None:
        """The item is there, as it is now."""
        self._change(item.number, item.status, 1)

    def removed(self, item: Item) -> None:
        """The item is not there any more."""
        self._change(item.number, item.status, -1)

    def moved(self, number: int, before: Status, after: Status) -> None:
        """The item has changed."""
        # Twice in the life of every item: spelled out.
        counts = self.counts
        counts[before] -= 1
        counts[after] += 1
        if number < self._passed:
            self.found[before] -= 1
            self.found[after] += 1

    def _change(self, number: int, status: Status, by: int) -> None:
        self.counts[status] += by
        if number < self._passed:
            self.found[status] += by

    # --- the walk -------------------------------------------------------------------------

    def walk(self, numbers: int, next_number: int) -> bool:
        """Look at so many numbers more; whether that was the last of them.

        Then `found` says what there is, until `begin`.
        """
        assert numbers > 0, "a walk that does not move never ends"
        end = min(self._passed + numbers, next_number)
        found, lowest = self.found, self._lowest
        for item in map(self._items.get, range(self._passed, end)):
            if item is not None:
                found[item.status] += 1
                lowest = lowest or item.number
        self._lowest = lowest
        self._passed = max(end, self._passed)
        return end >= next_number

    def begin(self, next_number: int) -> None:
        """Begin anew, with the lowest number that was found."""
        assert self._passed >= next_number, "a walk is under way"
        # Numbers only grow: where there was nothing, there will be nothing.
        self._passed = self._lowest or next_number
        self._lowest = 0
        self.found = dict.fromkeys(STATUSES, 0)
