"""A machine's clock against the server's, also where it is set at the worst moment."""

from __future__ import annotations

import asyncio
from random import Random
from typing import cast

import pytest

from swarm.actors.server_clock import ServerClock
from swarm.bus.base import Bus
from swarm.errors import BadConfig
from swarm.runtime import Runtime
from swarm.testing.loop import run

SERVER_S = 1_767_225_600.0


class Machine:
    """A wall clock that may be set, and a bus that asks a server whose clock is right."""

    def __init__(self) -> None:
        self.off_s = 0.0
        #: Between the server's look at its clock and its answer: so long, and the clock is set.
        self.answers_after_s = 0.01
        self.set_meanwhile_s = 0.0
        self.clock = ServerClock(cast(Bus, self), Runtime(self.wall, Random(1)))

    def true(self) -> float:
        return SERVER_S + asyncio.get_running_loop().time()

    def wall(self) -> float:
        return self.true() + self.off_s

    async def server_time(self) -> float:
        true = self.true()
        await asyncio.sleep(self.answers_after_s)  # virtual time
        self.off_s += self.set_meanwhile_s
        return true


@pytest.mark.parametrize("by_s", [3600.0, -3600.0, 5.0])
def test_a_clock_that_is_set_while_the_server_answers_is_not_taken_for_right(by_s: float) -> None:
    async def main() -> None:
        machine = Machine()
        machine.set_meanwhile_s = by_s
        with pytest.raises(BadConfig, match="s off the NATS server's"):
            await machine.clock.check()

    run(main, seed=1)


def test_its_time_goes_on_from_when_the_clock_was_right() -> None:
    """An opening takes a while, and the clock may be set meanwhile."""

    async def main() -> None:
        machine = Machine()
        machine.off_s = 1.0
        await machine.clock.check()
        machine.off_s = 3600.0
        await asyncio.sleep(5.0)  # virtual time
        # Somebody else who opens finds it wrong.
        with pytest.raises(BadConfig, match="s off the NATS server's"):
            await machine.clock.check()
        assert machine.clock.now() == pytest.approx(machine.true() + 1.0)

    run(main, seed=1)


def test_before_any_look_it_is_the_wall_clock() -> None:
    async def main() -> None:
        machine = Machine()
        machine.off_s = 7.0
        assert machine.clock.now() == machine.wall()

    run(main, seed=1)


def test_a_slow_answer_makes_nobody_wrong() -> None:
    async def main() -> None:
        machine = Machine()
        machine.answers_after_s = 4.0
        await machine.clock.check()

    run(main, seed=1)
