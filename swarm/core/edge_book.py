"""What a shard's owner has said to other shards about dependencies, and when to repeat it.

In memory only: whoever owns the shard next says everything again, which does no harm.
"""

from __future__ import annotations

from swarm.core.decide.edges import outcome
from swarm.core.shard import Shard
from swarm.core.work import unresolved, untold
from swarm.messages import Edge, Watch, Watching
from swarm.subjects import item_id

#: First pause before something is said again, doubled up to the longest.
REPEAT_FIRST_S = 1.0
REPEAT_LONGEST_S = 30.0
#: Items looked at in one go.
LOOKED_AT_MAX = 500


class EdgeBook:
    """The edges of one shard's items, from its owner's side."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        #: When to say it again, and the pause before that, by (item, the other one).
        self._said: dict[tuple[int, str], tuple[float, float]] = {}
        #: Edges that the other shard's log is known to have.
        self._watched: dict[tuple[int, str], None] = {}
        #: Items to be looked at in the round under way.
        self._round: list[int] = []

    def heard(self, number: int, message: Edge) -> None:
        """A message about item `number` here has come."""
        if isinstance(message, Watching):
            self._watched[number, message.on] = None

    def look(self, now: float) -> list[Edge]:
        """What is to be said again by now; a part of the items each time."""
        if not self._round:
            self._round = [*self._shard.blocked, *self._shard.untold]
            self._forget()
        part, self._round = self._round[:LOOKED_AT_MAX], self._round[LOOKED_AT_MAX:]
        return [edge for number in part for edge in self.of(number, now)]

    def of(self, number: int, now: float) -> list[Edge]:
        """What is to be said by now about item `number`."""
        assert now >= 0, "monotonic seconds"
        shard = self._shard
        item = shard.items.get(number)
        if item is None or (number not in shard.blocked and number not in shard.untold):
            return []
        assert item.story is not None, "only items with a story have edges"
        name = item_id(shard.number, number)
        if item.end is not None:
            told = [other for other in untold(item) if self._is_due(number, other, now)]
            return [outcome(item, name, other) for other in told]
        return [
            Watch(on, name)
            for on in unresolved(item)
            if (number, on) not in self._watched
            and not item.story.depends[on].status
            and self._is_due(number, on, now)
        ]

    def _is_due(self, number: int, other: str, now: float) -> bool:
        at, pause_s = self._said.get((number, other), (now, REPEAT_FIRST_S / 2))
        if at > now:
            return False
        pause_s = min(2 * pause_s, REPEAT_LONGEST_S)
        self._said[number, other] = (now + pause_s, pause_s)
        return True

    def _forget(self) -> None:
        """Drop what is about items that have no open edges any more."""
        shard = self._shard
        gone = [
            key for key in self._said if key[0] not in shard.blocked and key[0] not in shard.untold
        ]
        for key in gone:
            del self._said[key]
        for key in [key for key in self._watched if key[0] not in shard.blocked]:
            del self._watched[key]
