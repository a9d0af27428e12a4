"""A log that was replaced by another one of the same incarnation: nobody goes on in it.

As after restoring an older backup: the entries up to some sequence are the same, and others
have written behind it since.
"""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random

import pytest

from swarm.bus.base import Entry
from swarm.bus.log import SURE_S, FencedLog
from swarm.bus.log_reader import LARGE, LogReader
from swarm.bus.memory import MemoryBus, MemoryWorld
from swarm.core.envelope import LogPosition
from swarm.core.shard import Shard, ShardRules
from swarm.errors import LogReplaced
from swarm.messages import Event, Opened, Submitted
from swarm.testing.loop import run
from tests.builders import new_item

LOG = "log.0"


def fenced(bus: MemoryBus, owner: str, after: LogReader[Shard] | None = None) -> FencedLog:
    position = after.position if after is not None else LogPosition(LOG)
    return FencedLog(
        bus,
        position,
        incarnation="i",
        epoch=position.epoch + 1,
        owner=owner,
        map_version=1,
        append_timeout_s=1.0,
        silence_s=10.0,
        last=after.last if after is not None else None,
        sure_at=after.sure_at if after is not None else float("-inf"),
    )


def item(number: int) -> Event:
    return Submitted("", number, [new_item()])


def reader(bus: MemoryBus) -> LogReader[Shard]:
    return LogReader(bus, LOG, partial(Shard, 0, ShardRules()))


async def written(owner: str, items: int, after: list[Entry]) -> list[Entry]:
    """What this owner writes behind these entries."""
    world = MemoryWorld(Random(1))
    bus = world.connect("b")
    await bus.create_log(LOG)
    put(world, after)
    before = reader(bus)
    await before.catch_up()
    log = fenced(bus, owner, before)
    now = max(1.0, before.position.now)
    await log.append([Opened(owner)], now)
    for number in range(items):
        await log.append([item(before.state.submitted + 1 + number)], now)
    return world.log_entries(LOG)


def put(world: MemoryWorld, entries: list[Entry]) -> None:
    """As `swarm log restore` does in the end."""
    log = world._logs.get(LOG)
    log.entries[:] = entries
    log.bytes = sum(log.size_of(entry.data) for entry in entries)


async def two_histories() -> tuple[list[Entry], list[Entry]]:
    """Two logs of six entries, of which three are the same."""
    common = await written("o1", 2, [])
    one = await written("o2", 2, common)
    other = await written("o3", 2, common)
    assert one[:3] == other[:3]
    assert len(one) == len(other) == 6
    assert one[3].data != other[3].data
    return one, other


def test_a_standby_starts_over() -> None:
    async def main() -> None:
        one, other = await two_histories()
        longer = await written("o4", 3, other)
        for replaced in (other, longer):
            world = MemoryWorld(Random(2))
            bus = world.connect("b")
            await bus.create_log(LOG)
            put(world, one)
            standby = reader(bus)
            await standby.catch_up()
            assert standby.position.owner == "o2"
            put(world, replaced)
            await standby.catch_up()
            assert standby.position.foreign == 0
            assert standby.position.at == len(replaced)
            assert standby.position.owner == ("o3" if replaced is other else "o4")

    run(main, seed=3)


@pytest.mark.parametrize("length", [6, 9, 4], ids=["as long", "longer", "shorter"])
def test_an_owner_that_was_stopped_writes_nothing_that_counts(length: int) -> None:
    async def main() -> None:
        one, other = await two_histories()
        replaced = (await written("o4", 3, other))[:length]
        world = MemoryWorld(Random(2))
        bus = world.connect("b")
        await bus.create_log(LOG)
        put(world, one[:3])
        before = reader(bus)
        await before.catch_up()
        owner = fenced(bus, "o2", before)
        for event in (Opened("o2"), item(3), item(4)):
            await owner.append([event], 1.0)
        await asyncio.sleep(1.1 * SURE_S)  # virtual time
        put(world, replaced)
        with pytest.raises(LogReplaced):
            await owner.append([item(5)], 1.0)
        # Whoever reads the log takes nothing of it.
        after = reader(bus)
        await after.catch_up()
        assert after.position.owner != "o2"

    run(main, seed=3)


def test_an_owner_that_was_stopped_goes_on_in_the_log_that_it_knows() -> None:
    async def main() -> None:
        world = MemoryWorld(Random(2))
        bus = world.connect("b")
        await bus.create_log(LOG)
        owner = fenced(bus, "o1")
        await owner.append([Opened("o1")], 1.0)
        reads = []
        original = bus.read

        async def watched(log: str, from_seq: int, limit: int) -> list[Entry]:
            reads.append(from_seq)
            return await original(log, from_seq, limit)

        bus.read = watched  # type: ignore[method-assign]
        await owner.append([item(1)], 1.0)
        assert reads == [], "an owner that is busy reads nothing"
        await asyncio.sleep(1.1 * SURE_S)  # virtual time
        world.faults.read_lag = 0.7
        assert await owner.append([item(2)], 1.0) == 3
        assert set(reads) == {2}

    run(main, seed=3)


def test_a_standby_that_opens_at_once_is_sure_of_what_it_continues() -> None:
    async def main() -> None:
        one, other = await two_histories()
        world = MemoryWorld(Random(2))
        bus = world.connect("b")
        await bus.create_log(LOG)
        put(world, one)
        standby = reader(bus)
        await standby.catch_up()
        # Its last look was long ago, and the log was replaced since.
        await asyncio.sleep(1.1 * SURE_S)  # virtual time
        put(world, other)
        with pytest.raises(LogReplaced, match="entry 6 is not what it was"):
            await fenced(bus, "o5", standby).append([Opened("o5")], 1.0)

    run(main, seed=3)


def test_a_large_entry_does_not_hide_what_is_behind_it() -> None:
    async def main() -> None:
        world = MemoryWorld(Random(2))
        bus = world.connect("b")
        await bus.create_log(LOG)
        owner = fenced(bus, "o1")
        await owner.append([Opened("o1")], 1.0)
        await owner.append([Submitted("", 1, [new_item(payload="x" * LARGE)])], 1.0)
        follower = reader(bus)
        await follower.catch_up()
        await owner.append([item(2)], 1.0)
        original = bus.read

        async def one_at_a_time(log: str, from_seq: int, limit: int) -> list[Entry]:
            return (await original(log, from_seq, limit))[:1]

        bus.read = one_at_a_time  # type: ignore[method-assign]
        await follower.catch_up()
        assert follower.position.at == 3

    run(main, seed=3)
