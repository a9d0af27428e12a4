"""Giving up the claims of one shard whose leases ran out, unless it is the trouble of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from swarm.actors.answers import Answers
from swarm.actors.deciding import Deciding, numbers_of
from swarm.bus.base import Bus
from swarm.core import decide
from swarm.core.leases import Leases
from swarm.core.shard import Shard

#: Most leases given up in one round.
LAPSES_MAX = 200


@dataclass(slots=True)
class Lapsing:
    """One shard under its owner; everything here happens between two appends."""

    bus: Bus
    shard: Shard
    leases: Leases
    deciding: Deciding
    clock: Callable[[], float]
    #: Whether agents can be heard now.
    hearing: Callable[[], bool]
    #: A heartbeat was not listened to: its agent has been heard of all the same.
    deaf: bool = False
    _reconnects: int = field(init=False)

    def __post_init__(self) -> None:
        self._reconnects = self.bus.reconnects
        self._restart(self.clock())

    def look(self, batch: decide.Batch, answers: Answers, *, in_full: bool) -> None:
        """Give up what lapsed; NATS trouble restarts all leases instead.

        `in_full`: no heartbeat waits among what was not decided yet.
        """
        now = self.clock()
        if not self.hearing():
            self.deaf = True
            return
        if self.deaf or self.bus.reconnects != self._reconnects:
            self.deaf, self._reconnects = False, self.bus.reconnects
            self._restart(now)
        if in_full:
            self._give_up(batch, answers, now)

    def _give_up(self, batch: decide.Batch, answers: Answers, now: float) -> None:
        shard, leases = self.shard, self.leases
        # What this batch has ended, or claimed anew, is not what the lease was for.
        touched = {number for event in batch.events for number in numbers_of(event)}
        lapsed = [number for number in leases.lapsed(now) if number not in touched]
        del lapsed[LAPSES_MAX:]
        mass = bool(lapsed) and leases.is_mass(shard.held.values(), now)
        for number in lapsed:
            trouble = mass or leases.is_unheard(number)
            cause: decide.TakenBack = "trouble" if trouble else "lapsed"
            decide.give_up(shard, number, cause, "its agent fell silent", batch)
        for number in leases.stalled(now)[:LAPSES_MAX]:
            hold = shard.items[number].hold
            if hold is not None and number not in touched:
                decide.give_up(shard, number, "stalled", "its agent made no progress", batch)
                self.deciding.stop_holder(number, hold, "it made no progress in time", answers)

    def _restart(self, now: float) -> None:
        """Nobody could be heard for a while: all leases run anew, in full."""
        for number, hold in self.shard.holds():
            if number not in self.leases:
                self.deciding.begin_lease(number, hold, now)
        self.leases.restart(now)
