"""Somebody deletes what the bus keeps, under its users: nothing is made anew in silence."""

from __future__ import annotations

import pytest

from swarm.errors import LogMissing, StateMissing
from tests.conformance.worlds import TIMEOUT_S, World, filled


async def test_a_log_that_is_deleted_is_missing(world: World) -> None:
    bus = await world.connect()
    log = world.log()
    await filled(bus, log, 3)
    await world.delete_log()
    for call in (
        bus.append(log, b"4", 3, TIMEOUT_S),
        bus.append(log, b"1", 0, TIMEOUT_S),
        bus.read(log, 1, 10),
        bus.log_info(log),
        bus.purge(log, 2),
    ):
        with pytest.raises(LogMissing, match=log):
            await call


async def test_a_log_made_anew_is_empty_and_read_on(world: World) -> None:
    bus = await world.connect()
    log = world.log()
    await filled(bus, log, 3)
    entries = await bus.read(log, 3, 10)
    await world.delete_log()
    await filled(bus, log, 4)
    # Who has read three goes on where it was.
    entries += await bus.read(log, 4, 10)
    assert [(entry.seq, entry.data) for entry in entries] == [(3, b"3"), (4, b"4")]
    assert [entry.seq for entry in await bus.read(log, 1, 10)] == [1, 2, 3, 4]
    info = await bus.log_info(log)
    assert (info.first_seq, info.last_seq) == (1, 4)


async def test_records_that_are_deleted_are_missing(world: World) -> None:
    bus = await world.connect()
    name = f"{world.prefix}done.0"
    await bus.create_records(name, 0)
    await bus.put_record(name, "k", b"1", TIMEOUT_S)
    await world.delete_records(name)
    for call in (bus.put_record(name, "k", b"2", TIMEOUT_S), bus.get_records(name, "k")):
        with pytest.raises(LogMissing, match=name):
            await call
    await bus.create_records(name, 0)
    assert await bus.get_records(name, "k") == []


async def test_a_state_that_is_deleted_is_missing(world: World) -> None:
    bus = await world.connect()
    await bus.create_log(world.log())
    assert await bus.state_create("map", b"1")
    await world.delete_state()
    for _ in range(2):
        for call in (
            bus.state_get("map"),
            bus.state_create("map", b"2"),
            bus.state_read("map"),
            bus.state_update("map", b"2", 1),
            bus.server_time(),
            bus.open_state(),
        ):
            with pytest.raises(StateMissing, match="delete"):
                await call
    # Everything else goes on.
    assert await bus.append(world.log(), b"1", 0, TIMEOUT_S) == 1


async def test_a_state_is_made_for_a_swarm_without_logs_only(world: World) -> None:
    one, two = await world.connect("one"), await world.connect("two")
    await one.open_state()
    assert await one.state_create("map", b"1")
    await two.open_state()
    assert await two.state_get("map") == b"1"
    await world.delete_state()
    await two.open_state()
    assert await one.state_get("map") is None
    await one.create_log(world.log())
    await world.delete_state()
    with pytest.raises(StateMissing, match="logs"):
        await two.open_state()
    await world.delete_log()
    await two.open_state()
    assert await one.state_create("map", b"2")
