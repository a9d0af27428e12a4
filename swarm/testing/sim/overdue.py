"""What must have happened by a certain time of a log, by whoever owns its shard."""

from __future__ import annotations

from collections.abc import Iterator

from swarm.messages import Opened
from swarm.testing.sim.truth import Folded


class Overdue:
    """Items of which something must happen at a certain time by their log's own clock.

    Every entry but an `Opened` one does all that has come due by its own time.
    """

    def __init__(self) -> None:
        #: By shard: when it is to happen, by item id.
        self._until: dict[int, dict[str, float]] = {}
        #: By shard: the entry that is being looked at, and its time; 0 for an opening.
        self._latest: dict[int, tuple[int, float]] = {}

    def expect(self, folded: Folded, work_item_id: str, until: float) -> None:
        """It must happen by then; instead of what was expected of the item before."""
        self._until.setdefault(folded.shard, {})[work_item_id] = until

    def happened(self, folded: Folded, work_item_id: str) -> None:
        """Nothing more is expected of the item."""
        self._until.get(folded.shard, {}).pop(work_item_id, None)

    def missed(self, folded: Folded) -> Iterator[str]:
        """With each event, before anything else of it: what entries before it left undone."""
        seq, now = self._latest.get(folded.shard, (0, 0.0))
        if seq == folded.seq:
            return
        opens = isinstance(folded.event, Opened)
        self._latest[folded.shard] = (folded.seq, 0.0 if opens else folded.entry.now)
        for work_item_id, until in self._until.get(folded.shard, {}).items():
            if until <= now:
                yield f"{work_item_id}, due at {until}: entry {seq} of {now} left it so"
