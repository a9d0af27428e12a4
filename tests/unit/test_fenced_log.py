"""An owner whose reading of its own log gets no answer."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from swarm.bus.base import Entry
from swarm.bus.log import SURE_S, FencedLog
from swarm.bus.memory import MemoryBus, MemoryWorld
from swarm.core.envelope import LogPosition
from swarm.errors import Deposed, OutcomeUnknown
from swarm.messages import Opened
from swarm.testing.loop import run

LOG = "log.0"
#: Much less than what the bus waits for an answer.
APPEND_S = 0.4
SILENCE_S = 4.0


class Forgetful:
    """A bus of which some readings and the outcome of some appends are never told."""

    def __init__(self, bus: MemoryBus, *, readings: int, outcomes: int) -> None:
        self._bus = bus
        self._readings = readings
        self._outcomes = outcomes
        self.read_calls = 0

    async def append(self, log: str, data: bytes, expected_seq: int, timeout_s: float) -> int:
        seq = await self._bus.append(log, data, expected_seq, timeout_s)
        if self._outcomes:
            self._outcomes -= 1
            await asyncio.sleep(timeout_s)  # virtual time
            raise OutcomeUnknown("no acknowledgement")
        return seq

    async def read(self, log: str, from_seq: int, limit: int) -> list[Entry]:
        self.read_calls += 1
        if self.read_calls <= self._readings:
            await asyncio.Event().wait()
        return await self._bus.read(log, from_seq, limit)


async def owner(*, readings: int, outcomes: int) -> tuple[FencedLog, Forgetful]:
    """One with an entry in the log, and a bus that begins to forget then."""
    bus = MemoryWorld(Random(2)).connect("b")
    await bus.create_log(LOG)
    log = FencedLog(
        bus,
        LogPosition(LOG),
        incarnation="i",
        epoch=1,
        owner="o1",
        map_version=1,
        append_timeout_s=APPEND_S,
        silence_s=SILENCE_S,
    )
    await log.append([Opened("o1")], 1.0)
    forgetful = Forgetful(bus, readings=readings, outcomes=outcomes)
    log._bus = forgetful  # type: ignore[assignment]
    return log, forgetful


def test_an_append_is_settled_although_the_reading_that_looks_for_it_is_not_answered() -> None:
    async def main() -> None:
        log, bus = await owner(readings=2, outcomes=1)
        began = asyncio.get_running_loop().time()
        assert await log.append([], 1.0) == 2
        # The append's time, the readings', and no more than a moment each for the rest.
        assert asyncio.get_running_loop().time() - began < 3 * APPEND_S + 0.5
        assert bus.read_calls == 4, "two unanswered, one that finds it, one to be sure"
        assert await log.append([], 1.0) == 3

    run(main, seed=3)


def test_an_owner_is_sure_again_although_the_first_reading_for_that_is_not_answered() -> None:
    async def main() -> None:
        log, bus = await owner(readings=1, outcomes=0)
        await asyncio.sleep(1.1 * SURE_S)  # virtual time
        began = asyncio.get_running_loop().time()
        assert await log.append([], 1.0) == 2
        assert asyncio.get_running_loop().time() - began < APPEND_S + 0.5
        assert bus.read_calls == 2

    run(main, seed=3)


@pytest.mark.parametrize("outcomes", [0, 1])
def test_an_owner_that_can_read_nothing_falls_silent_in_its_time(outcomes: int) -> None:
    async def main() -> None:
        log, _ = await owner(readings=1000, outcomes=outcomes)
        if outcomes:
            log._bus._outcomes = 1000  # type: ignore[attr-defined]
        await asyncio.sleep(1.1 * SURE_S)  # virtual time
        began = log.proven_at
        with pytest.raises(Deposed, match="cannot prove"):
            await log.append([], 1.0)
        assert asyncio.get_running_loop().time() - began < SILENCE_S + 2 * APPEND_S + 0.5

    run(main, seed=3)
