"""Giving a shard's ready items to the free slots of its coordinator's agents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from swarm.actors.answers import Answers
from swarm.core import decide
from swarm.core.credits import CreditPool, Slots
from swarm.core.shard import Shard
from swarm.core.urgency import Place
from swarm.core.usage import UsageCounter

#: At most the size of an event besides the texts that its command brought along.
EVENT_BYTES = 200


@dataclass(slots=True)
class Serving:
    """One shard under its owner."""

    shard: Shard
    pool: CreditPool
    #: The shard among those of its coordinator, whose slots are the same.
    place: Place
    usage: UsageCounter
    clock: Callable[[], float]
    #: Slots that got an item, once for each, since `count`.
    _given: list[Slots] = field(default_factory=list)

    def wanted(self) -> list[str]:
        """Types that have ready work here, and a free slot that is not left to other shards.

        Those to which one is left are woken.
        """
        wanted = self._free()
        if not wanted:
            self.place.decline()
            return wanted
        heads = self.shard.lanes.heads()
        return [name for name in wanted if not self._gives_way(name, heads[name])]

    def serve(self, batch: decide.Batch, answers: Answers, bytes_left: int) -> None:
        """Give ready items to waiting agents, best item first, longest waiting agent first.

        Not what is less urgent than what another shard here has for the same agent.
        """
        shard, pool, alone = self.shard, self.pool, self.place.alone
        ready, now = shard.lanes.ready, self.clock()
        wanted, gave_way = self._free(), False
        while wanted and bytes_left > 0:
            number = shard.lanes.best(wanted)
            assert number is not None, "there is ready work of every wanted type"
            item = shard.items[number]
            work_type = item.work_type
            left = not alone and self._gives_way(work_type, shard.lanes.score(item))
            gave_way = gave_way or left
            slots = None if left else pool.take(work_type, now)
            if slots is None:
                wanted.remove(work_type)
                continue
            decide.take(shard, number, slots.agent, slots.session, batch)
            answers.assign(slots.agent, slots.session, item)
            self._given.append(slots)
            bytes_left -= EVENT_BYTES
            if not ready[work_type]:
                wanted.remove(work_type)
        self.place.show(shard.lanes.heads(), gave_way=gave_way)

    def count(self) -> None:
        """Count what was given; best while the batch is on its way."""
        self.usage.assigned(self._given)
        self._given.clear()

    def _free(self) -> list[str]:
        """Types that have ready work here and a free slot."""
        ready = self.shard.lanes.ready
        return self.pool.wanted([work_type for work_type in ready if ready[work_type]])

    def _gives_way(self, work_type: str, score: float) -> bool:
        """Whether the next slot for an item of this score is left to another shard."""
        if score <= self.place.limit:
            return False
        slots = self.pool.longest_waiting(work_type)
        return slots is not None and self.place.gives_way(slots.work_types, score, self.clock())
