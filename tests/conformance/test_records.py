"""Records, kept by key, on every bus."""

from __future__ import annotations

import asyncio

import pytest

from swarm.bus.base import Bus, headers_size
from swarm.errors import BadInput, LogMissing, OutcomeUnknown, PayloadTooLarge
from tests.conformance.worlds import DEADLINE_S, TIMEOUT_S, World, outcome


def name_of(world: World, number: int = 0) -> str:
    """The name of a store that no other test uses."""
    return f"{world.prefix}done.{number}"


async def put(bus: Bus, name: str, key: str, *records: bytes) -> None:
    """Put one after the other."""
    for data in records:
        await bus.put_record(name, key, data, TIMEOUT_S)


async def test_records_are_found_by_their_key_in_order(world: World) -> None:
    one, two = await world.connect("one"), await world.connect("two")
    name = name_of(world)
    await one.create_records(name, 0)
    await put(one, name, "0-1", b"a", b"", b"\x00\xff\r\n")
    await put(two, name, "0-10", b"ten")
    await put(two, name, "0-1", b"a")
    assert await two.get_records(name, "0-1") == [b"a", b"", b"\x00\xff\r\n", b"a"]
    assert await one.get_records(name, "0-10") == [b"ten"]
    for absent in ("0-2", "0", "0-100", "1-1"):
        assert await one.get_records(name, absent) == []


async def test_every_record_has_a_higher_number_than_those_before(world: World) -> None:
    bus = await world.connect()
    name = name_of(world)
    await bus.create_records(name, 0)
    numbers = [await bus.put_record(name, key, b"x", TIMEOUT_S) for key in ("a", "b", "a")]
    assert numbers == sorted(set(numbers))
    assert min(numbers) > 0
    assert await bus.get_records(name, "a", numbers[-1]) == [b"x", b"x"]
    assert await bus.get_records(name, "c", numbers[-1]) == []


async def test_stores_do_not_touch_one_another(world: World) -> None:
    bus = await world.connect()
    for number in (1, 2, 11):
        await bus.create_records(name_of(world, number), 0)
        await put(bus, name_of(world, number), "k", str(number).encode())
    for number in (1, 2, 11):
        assert await bus.get_records(name_of(world, number), "k") == [str(number).encode()]


async def test_creating_a_store_again_keeps_its_records(world: World) -> None:
    one, two = await world.connect("one"), await world.connect("two")
    name = name_of(world)
    await asyncio.gather(*(bus.create_records(name, 0) for bus in (one, two) * 3))
    await put(one, name, "k", b"1")
    for max_age_s in (0, 3600.0, 60.0, 90.0, 86_400.0 * 365, 0):
        await two.create_records(name, max_age_s)
        await put(two, name, "k", str(max_age_s).encode())
    assert len(await one.get_records(name, "k")) == 7


async def test_records_go_when_they_are_old(world: World) -> None:
    bus = await world.connect()
    name = name_of(world)
    await bus.create_records(name, 3600.0)
    await put(bus, name, "old", b"1", b"2")
    await bus.create_records(name, 1.0)
    await put(bus, name, "new", b"3")
    async with asyncio.timeout(DEADLINE_S):
        while await bus.get_records(name, "old") or await bus.get_records(name, "new"):
            continue  # each look takes its time
    await put(bus, name, "old", b"4")
    assert await bus.get_records(name, "old") == [b"4"]


async def test_an_age_that_cannot_be(world: World) -> None:
    bus = await world.connect()
    for max_age_s in (-1.0, 0.5, float("inf"), float("nan")):
        with pytest.raises(BadInput, match="at least 1 s, or 0 for ever"):
            await bus.create_records(name_of(world), max_age_s)


async def test_records_of_several_megabytes(world: World) -> None:
    bus = await world.connect()
    name = name_of(world)
    await bus.create_records(name, 0)
    large = [bytes([number]) * 900_000 for number in range(11)]
    for number, data in enumerate(large):
        await put(bus, name, "large", data)
        await put(bus, name, "other", str(number).encode())
    assert await bus.get_records(name, "large") == large
    assert await bus.get_records(name, "other") == [str(number).encode() for number in range(11)]


async def test_many_records_of_one_key(world: World) -> None:
    bus = await world.connect()
    name = name_of(world)
    await bus.create_records(name, 0)
    # More than are read at once.
    many = [str(number).encode() for number in range(600)]
    await put(bus, name, "many", *many)
    assert await bus.get_records(name, "many") == many


async def test_records_of_many_at_once_are_all_kept(world: World) -> None:
    buses = [await world.connect(f"w{number}") for number in range(5)]
    name = name_of(world)
    await buses[0].create_records(name, 0)
    await asyncio.gather(
        *(put(bus, name, "k", *(f"{bus.sender} {n}".encode() for n in range(20))) for bus in buses)
    )
    found = await buses[0].get_records(name, "k")
    assert len(found) == 100
    for bus in buses:
        of_one = [data for data in found if data.startswith(f"{bus.sender} ".encode())]
        assert of_one == [f"{bus.sender} {n}".encode() for n in range(20)]


async def test_a_store_that_is_missing(world: World) -> None:
    bus = await world.connect()
    name = name_of(world, 404)
    for call in (bus.put_record(name, "k", b"", TIMEOUT_S), bus.get_records(name, "k")):
        with pytest.raises(LogMissing, match=name):
            await call


@pytest.mark.parametrize("key", ["", "a.b", "a b", "*", ">", "a\r\n"])
async def test_a_key_that_is_none(world: World, key: str) -> None:
    bus = await world.connect()
    await bus.create_records(name_of(world), 0)
    with pytest.raises(ValueError, match="key"):
        await bus.put_record(name_of(world), key, b"", TIMEOUT_S)
    with pytest.raises(ValueError, match="key"):
        await bus.get_records(name_of(world), key)
    assert bus.reconnects == 0


async def test_the_size_guard_holds_for_records(world: World) -> None:
    bus = await world.connect()
    name = name_of(world)
    await bus.create_records(name, 0)
    with pytest.raises(PayloadTooLarge, match=str(bus.max_payload)):
        await bus.put_record(name, "k", bytes(bus.max_payload), TIMEOUT_S)
    largest = bus.max_payload - headers_size({"Nats-Expected-Stream": name})
    await bus.put_record(name, "k", bytes(largest), TIMEOUT_S)
    assert [len(data) for data in await bus.get_records(name, "k")] == [largest]


async def test_a_record_without_time_has_an_unknown_outcome(world: World) -> None:
    bus = await world.connect()
    name = name_of(world)
    await bus.create_records(name, 0)
    unknown = await outcome(bus.put_record(name, "k", b"x", 0.0))
    assert isinstance(unknown, OutcomeUnknown)
    await bus.put_record(name, "k", b"x", TIMEOUT_S)
    # The first one is there or not; the second one is.
    assert set(await bus.get_records(name, "k")) == {b"x"}
