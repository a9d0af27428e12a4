"""Where a log begins and ends, and what a purge does to who reads it, on every bus."""

from __future__ import annotations

import asyncio

import pytest

from swarm.bus.base import Bus
from swarm.errors import AppendRefused
from tests.conformance.worlds import DEADLINE_S, TIMEOUT_S, World, filled, reading


async def ends(bus: Bus, log: str) -> tuple[int, int]:
    """The first and last sequence."""
    info = await bus.log_info(log)
    return info.first_seq, info.last_seq


async def sequences(bus: Bus, log: str, from_seq: int = 1) -> list[int]:
    """What there is to read."""
    return [entry.seq for entry in await bus.read(log, from_seq, 1000)]


async def test_what_is_known_of_a_log(world: World) -> None:
    one, two = await world.connect("one"), await world.connect("two")
    log = world.log()
    await one.create_log(log)
    empty = await one.log_info(log)
    assert (empty.first_seq, empty.last_seq, empty.bytes, empty.bytes_max) == (1, 0, 0, 0)
    sizes = []
    for seq in range(5):
        await one.append(log, bytes(1000), seq, TIMEOUT_S)
        info = await two.log_info(log)
        assert (info.first_seq, info.last_seq) == (1, seq + 1)
        sizes.append(info.bytes)
    # Each takes what it holds and a little more.
    assert all(1000 * n < size < 1300 * n for n, size in enumerate(sizes, start=1))
    await one.purge(log, 4)
    info = await two.log_info(log)
    assert (info.first_seq, info.last_seq) == (4, 5)
    assert info.bytes == sizes[1]


async def test_purging_drops_what_is_below_and_nothing_else(world: World) -> None:
    one, two = await world.connect("one"), await world.connect("two")
    log = world.log()
    await filled(one, log, 10)
    await two.purge(log, 4)
    assert await ends(one, log) == (4, 10)
    entries = await one.read(log, 1, 3)
    assert [(entry.seq, entry.data) for entry in entries] == [(4, b"4"), (5, b"5"), (6, b"6")]
    assert await sequences(one, log, 4) == [4, 5, 6, 7, 8, 9, 10]
    assert await sequences(one, log, 9) == [9, 10]


@pytest.mark.parametrize("below_seq", [-1, 0, 1, 3, 4])
async def test_a_purge_that_is_behind_changes_nothing(world: World, below_seq: int) -> None:
    bus = await world.connect()
    await filled(bus, world.log(), 6)
    await bus.purge(world.log(), 4)
    await bus.purge(world.log(), below_seq)
    assert await ends(bus, world.log()) == (4, 6)
    assert await sequences(bus, world.log()) == [4, 5, 6]


async def test_purging_a_log_without_entries(world: World) -> None:
    bus = await world.connect()
    await bus.create_log(world.log())
    for below_seq in (0, 1, 2, 100):
        await bus.purge(world.log(), below_seq)
        assert await ends(bus, world.log()) == (1, 0)
    assert await bus.append(world.log(), b"", 0, TIMEOUT_S) == 1


@pytest.mark.parametrize("below_seq", [6, 7, 1_000_000])
async def test_purging_everything_leaves_the_sequence(world: World, below_seq: int) -> None:
    bus = await world.connect()
    log = world.log()
    await filled(bus, log, 5)
    await bus.purge(log, below_seq)
    assert await ends(bus, log) == (6, 5)
    assert (await bus.log_info(log)).bytes == 0
    assert await bus.read(log, 1, 10) == []
    for expected_seq in (0, 4, 6, below_seq + 1):
        with pytest.raises(AppendRefused):
            await bus.append(log, b"", expected_seq, TIMEOUT_S)
    assert await bus.append(log, b"next", 5, TIMEOUT_S) == 6
    assert await ends(bus, log) == (6, 6)
    assert await sequences(bus, log) == [6]


async def test_the_fence_holds_across_purges(world: World) -> None:
    bus = await world.connect()
    log = world.log()
    await bus.create_log(log)
    for seq in range(60):
        assert await bus.append(log, str(seq + 1).encode(), seq, TIMEOUT_S) == seq + 1
        if seq % 7 == 6:
            await bus.purge(log, seq - 2)
        with pytest.raises(AppendRefused) as refused:
            await bus.append(log, b"", seq, TIMEOUT_S)
        assert refused.value.actual == seq + 1
    first_seq, last_seq = await ends(bus, log)
    assert (first_seq, last_seq) == (53, 60)
    assert await sequences(bus, log) == list(range(53, 61))


async def test_purges_of_many_at_once_leave_the_shortest(world: World) -> None:
    buses = [await world.connect(f"p{number}") for number in range(5)]
    log = world.log()
    await filled(buses[0], log, 30)
    await asyncio.gather(*(bus.purge(log, 4 * n) for n, bus in enumerate(buses, start=2)))
    assert await ends(buses[0], log) == (24, 30)


async def test_reading_on_from_before_a_purge_begins_after_it(world: World) -> None:
    bus = await world.connect()
    log = world.log()
    await filled(bus, log, 10)
    await bus.purge(log, 8)
    async with reading(bus, log, 2) as seen:
        await bus.append(log, b"11", 10, TIMEOUT_S)
        assert [entry.seq for entry in await seen.count(4)] == [8, 9, 10, 11]


async def test_reading_on_while_it_grows_and_is_purged(world: World) -> None:
    writer, reader = await world.connect("w"), await world.connect("r")
    log = world.log()
    await filled(writer, log, 5)
    async with reading(reader, log) as seen:
        for seq in range(5, 300):
            await writer.append(log, str(seq + 1).encode(), seq, TIMEOUT_S)
            if seq % 10 == 0:
                # Right behind, so that some entries may be gone before the reader gets them.
                await writer.purge(log, seq + 1)
        entries = await seen.until(lambda all_: bool(all_) and all_[-1].seq == 300)
    order = [entry.seq for entry in entries]
    assert order == sorted(set(order))
    assert all(entry.data == str(entry.seq).encode() for entry in entries)
    # The newest are never purged.
    assert order[-9:] == list(range(292, 301))


async def test_reading_on_while_it_is_purged(world: World) -> None:
    writer, reader = await world.connect("w"), await world.connect("r")
    log = world.log()
    await filled(writer, log, 200)

    async def purge_all() -> None:
        for below_seq in range(2, 200):
            await writer.purge(log, below_seq)

    purging = asyncio.create_task(purge_all())
    at = 0
    async with asyncio.timeout(DEADLINE_S):
        while at < 200:
            for entry in await reader.read(log, at + 1, 7):
                assert entry.seq > at
                assert entry.data == str(entry.seq).encode()
                at = entry.seq
    await purging
    assert await sequences(reader, log) == [199, 200]
