"""When there is no room left, on every bus."""

from __future__ import annotations

import itertools

import pytest

from swarm.errors import AppendRefused, StorageFull
from tests.conformance.worlds import TIMEOUT_S, World, outcome

LARGE = bytes(10_000)


async def test_a_log_at_its_limit_refuses_and_keeps_what_it_has(world: World) -> None:
    bus = await world.connect()
    log = world.log()
    await bus.create_log(log, max_bytes=100_000)
    assert (await bus.log_info(log)).bytes_max == 100_000
    seq = 0
    while True:
        result = await outcome(bus.append(log, LARGE, seq, TIMEOUT_S))
        if isinstance(result, StorageFull):
            break
        seq += 1
        assert result == seq
    assert seq == 9
    assert log in str(result)
    # It is definite: nothing comes later, and the fence is where it was.
    info = await bus.log_info(log)
    assert (info.first_seq, info.last_seq) == (1, 9)
    assert info.bytes <= 100_000
    with pytest.raises(AppendRefused):
        await bus.append(log, b"", 4, TIMEOUT_S)
    with pytest.raises(StorageFull):
        await bus.append(log, LARGE, 9, TIMEOUT_S)
    assert await bus.append(log, b"small", 9, TIMEOUT_S) == 10
    assert [entry.seq for entry in await bus.read(log, 1, 100)] == list(range(1, 11))


async def test_a_purge_makes_room(world: World) -> None:
    bus = await world.connect()
    log = world.log()
    await bus.create_log(log, max_bytes=50_000)
    seq = 0
    for _ in range(5):
        while not isinstance(await outcome(bus.append(log, LARGE, seq, TIMEOUT_S)), StorageFull):
            seq += 1
        await bus.purge(log, seq - 1)
    assert seq > 10
    assert [entry.seq for entry in await bus.read(log, 1, 100)] == [seq - 1, seq]


async def test_the_limit_of_one_log_is_no_other_ones(world: World) -> None:
    bus = await world.connect()
    await bus.create_log(world.log(1), max_bytes=15_000)
    await bus.create_log(world.log(2))
    await bus.append(world.log(1), LARGE, 0, TIMEOUT_S)
    with pytest.raises(StorageFull):
        await bus.append(world.log(1), LARGE, 1, TIMEOUT_S)
    for seq in range(10):
        await bus.append(world.log(2), LARGE, seq, TIMEOUT_S)


async def test_the_limit_of_a_log_that_exists_stays(world: World) -> None:
    bus = await world.connect()
    await bus.create_log(world.log(), max_bytes=50_000)
    await bus.create_log(world.log(), max_bytes=70_000)
    await bus.create_log(world.log())
    assert (await bus.log_info(world.log())).bytes_max == 50_000


async def test_storage_counts_logs_records_and_state(world: World) -> None:
    one, two = await world.connect("one"), await world.connect("two")
    log, name = world.log(), f"{world.prefix}done.0"
    await one.create_log(log)
    await one.create_records(name, 0)
    assert await one.state_create("k", b"")
    used = [(await two.storage()).used]
    await one.append(log, LARGE, 0, TIMEOUT_S)
    used.append((await two.storage()).used)
    await one.put_record(name, "k", LARGE, TIMEOUT_S)
    used.append((await two.storage()).used)
    await one.state_create("large", LARGE)
    used.append((await two.storage()).used)
    assert all(10_000 <= b - a < 11_000 for a, b in itertools.pairwise(used))
    await one.purge(log, 2)
    assert 10_000 <= used[-1] - (await two.storage()).used < 11_000
