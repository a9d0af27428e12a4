"""What a coordinator's beats say of its load."""

from __future__ import annotations

import asyncio

from swarm.actors.leader import Leader
from swarm.actors.ownership import Ownership
from swarm.core.load import LoadMeter
from swarm.messages import Beat
from swarm.runtime import Runtime


class Measuring:
    """Samples the load about once a second, as beats are made more often than that."""

    def __init__(self, runtime: Runtime, shards: Ownership, leader: Leader) -> None:
        self._runtime = runtime
        self._shards = shards
        self._leader = leader
        self._clock = asyncio.get_running_loop().time
        self._meter = LoadMeter()

    def fill(self, beat: Beat) -> Beat:
        """The beat with its load, where the urgent work is, and as the leader's, what was moved."""
        beat.urgent = self._shards.urgent()
        now, meter = self._clock(), self._meter
        if meter.is_due(now):
            counts = {worker.number: worker.shown.usage.operations for worker in self._shards}
            meter.sample(now, counts, self._runtime.cpu())
        for worker in self._shards:
            ready, rate = sum(worker.ready.values()), meter.rates.get(worker.number, 0.0)
            if ready or rate >= 0.1:
                beat.load[str(worker.number)] = (ready, round(rate, 1))
        beat.operations = round(sum(meter.rates.values()), 1)
        beat.cpu = round(meter.cpu, 3)
        beat.rounds, beat.moved = self._leader.round.number, self._leader.round.moved
        return beat
