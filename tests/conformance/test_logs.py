"""Logs, shared state and the server's clock, on every bus."""

from __future__ import annotations

import asyncio
import time

import pytest

from swarm.bus.base import Bus, Entry, headers_size
from swarm.errors import AppendRefused, LogMissing, OutcomeUnknown, PayloadTooLarge
from tests.conformance.worlds import (
    DEADLINE_S,
    TIMEOUT_S,
    World,
    filled,
    outcome,
    reading,
)


async def read_all(bus: Bus, log: str, count: int, limit: int = 1000) -> list[Entry]:
    """`count` entries from the beginning; a read may lag, but not for ever."""
    found: list[Entry] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < count:
            found += await bus.read(log, len(found) + 1, limit)
    return found


# --- appending -----------------------------------------------------------------------


async def test_creating_a_log_twice_changes_nothing(world: World) -> None:
    one, two = await world.connect("one"), await world.connect("two")
    await filled(one, world.log(), 2)
    await one.create_log(world.log())
    await two.create_log(world.log())
    assert [entry.data for entry in await read_all(two, world.log(), 2)] == [b"1", b"2"]


async def test_a_log_can_be_created_by_many_at_once(world: World) -> None:
    buses = [await world.connect(f"c{number}") for number in range(5)]
    log = world.log()
    await asyncio.gather(*(bus.create_log(log) for bus in buses * 4))
    assert await buses[0].append(log, b"x", 0, TIMEOUT_S) == 1


async def test_appending_counts_from_one(world: World) -> None:
    bus = await world.connect()
    log = world.log()
    await bus.create_log(log)
    before = await bus.server_time()
    assert await bus.append(log, b"one", 0, TIMEOUT_S) == 1
    assert await bus.append(log, b"", 1, TIMEOUT_S) == 2
    assert await bus.append(log, b"\x00\xff\r\n", 2, TIMEOUT_S) == 3
    after = await bus.server_time()
    entries = await read_all(bus, log, 3)
    assert [(entry.seq, entry.data) for entry in entries] == [
        (1, b"one"),
        (2, b""),
        (3, b"\x00\xff\r\n"),
    ]
    times = [entry.time for entry in entries]
    assert times == sorted(times)
    assert before - 0.01 <= times[0] <= times[-1] <= after + 0.01


@pytest.mark.parametrize("expected_seq", [0, 1, 3, 1000])
async def test_a_wrong_expectation_is_refused_and_leaves_nothing(
    world: World, expected_seq: int
) -> None:
    bus = await world.connect()
    log = world.log()
    await filled(bus, log, 2)
    with pytest.raises(AppendRefused) as refused:
        await bus.append(log, b"intruder", expected_seq, TIMEOUT_S)
    assert (refused.value.log, refused.value.expected) == (log, expected_seq)
    assert refused.value.actual == 2
    # The next one goes where the refused one is not.
    assert await bus.append(log, b"3", 2, TIMEOUT_S) == 3
    assert [entry.data for entry in await read_all(bus, log, 3)] == [b"1", b"2", b"3"]


async def test_of_racing_writers_exactly_one_wins(world: World) -> None:
    buses = [await world.connect(f"w{number}") for number in range(10)]
    log = world.log()
    await buses[0].create_log(log)
    for seq in range(5):
        outcomes = await asyncio.gather(
            *(
                outcome(bus.append(log, f"{seq} by {bus.sender}".encode(), seq, TIMEOUT_S))
                for bus in buses
            )
        )
        winners = [number for number, result in enumerate(outcomes) if result == seq + 1]
        refused = [result for result in outcomes if isinstance(result, AppendRefused)]
        assert len(winners) == 1
        assert len(refused) == 9
        stored = (await read_all(buses[0], log, seq + 1))[-1]
        assert stored.data == f"{seq} by {buses[winners[0]].sender}".encode()


async def test_logs_do_not_touch_one_another(world: World) -> None:
    bus = await world.connect()
    await filled(bus, world.log(1), 3)
    await filled(bus, world.log(2), 1)
    await filled(bus, world.log(11), 2)
    assert len(await read_all(bus, world.log(1), 3)) == 3
    assert [entry.data for entry in await read_all(bus, world.log(2), 1)] == [b"1"]


async def test_a_log_that_is_missing(world: World) -> None:
    bus = await world.connect()
    log = world.log(404)
    for call in (
        bus.append(log, b"x", 0, TIMEOUT_S),
        bus.read(log, 1, 10),
        bus.log_info(log),
        bus.purge(log, 1),
    ):
        with pytest.raises(LogMissing, match=log):
            await call


async def test_the_size_guard_holds_for_appends(world: World) -> None:
    bus = await world.connect()
    log = world.log()
    await bus.create_log(log)
    with pytest.raises(PayloadTooLarge, match=str(bus.max_payload)):
        await bus.append(log, bytes(bus.max_payload), 0, TIMEOUT_S)
    # What an append adds to its data is small, and no business of the caller.
    room = headers_size({"Nats-Expected-Last-Sequence": "0", "Nats-Expected-Stream": log})
    assert await bus.append(log, bytes(bus.max_payload - room), 0, TIMEOUT_S) == 1
    assert len((await read_all(bus, log, 1))[0].data) == bus.max_payload - room
    assert bus.reconnects == 0


async def test_an_append_without_time_has_an_unknown_outcome(world: World) -> None:
    bus = await world.connect()
    log = world.log()
    await bus.create_log(log)
    with pytest.raises(OutcomeUnknown, match=log):
        await bus.append(log, b"x", 0, 0.0)
    # It was stored, or will be, or neither: the same one again settles it.
    async with asyncio.timeout(DEADLINE_S):
        again = await outcome(bus.append(log, b"x", 0, TIMEOUT_S))
    assert again == 1 or isinstance(again, AppendRefused)
    assert [entry.data for entry in await read_all(bus, log, 1)] == [b"x"]


# --- reading -------------------------------------------------------------------------


async def test_reading_an_empty_log(world: World) -> None:
    bus = await world.connect()
    await bus.create_log(world.log())
    assert await bus.read(world.log(), 1, 10) == []
    assert await bus.read(world.log(), 7, 10) == []


async def test_reading_page_by_page(world: World) -> None:
    bus = await world.connect()
    log = world.log()
    await filled(bus, log, 25)
    await read_all(bus, log, 25)
    pages = [await bus.read(log, first, 10) for first in (1, 11, 21, 26)]
    assert [[entry.seq for entry in page] for page in pages] == [
        list(range(1, 11)),
        list(range(11, 21)),
        list(range(21, 26)),
        [],
    ]
    assert all(entry.data == str(entry.seq).encode() for page in pages for entry in page)


@pytest.mark.parametrize(
    ("from_seq", "limit", "expected"),
    [(1, 1, [1]), (5, 1, [5]), (4, 100, [4, 5]), (6, 1, []), (0, 2, [1, 2]), (3, 2, [3, 4])],
)
async def test_ranges(world: World, from_seq: int, limit: int, expected: list[int]) -> None:
    bus = await world.connect()
    await filled(bus, world.log(), 5)
    await read_all(bus, world.log(), 5)
    assert [entry.seq for entry in await bus.read(world.log(), from_seq, limit)] == expected


async def test_a_page_of_large_entries_has_no_hole(world: World) -> None:
    bus = await world.connect()
    log = world.log()
    await bus.create_log(log)
    for seq in range(12):
        await bus.append(log, bytes([seq]) * 700_000, seq, TIMEOUT_S)
    entries = await read_all(bus, log, 12)
    assert [entry.seq for entry in entries] == list(range(1, 13))
    assert all(entry.data == bytes([entry.seq - 1]) * 700_000 for entry in entries)


@pytest.mark.parametrize("from_seq", [1, 4, 7])
async def test_reading_on_while_it_grows(world: World, from_seq: int) -> None:
    writer, reader = await world.connect("w"), await world.connect("r")
    log = world.log()
    await filled(writer, log, 6)
    async with reading(reader, log, from_seq) as seen:
        for seq in range(6, 300):
            await writer.append(log, str(seq + 1).encode(), seq, TIMEOUT_S)
        entries = await seen.count(301 - from_seq)
    assert [entry.seq for entry in entries] == list(range(from_seq, 301))
    assert all(entry.data == str(entry.seq).encode() for entry in entries)
    assert entries == (await read_all(writer, log, 300))[from_seq - 1 :]


# --- clock and shared state ----------------------------------------------------------


async def test_the_servers_time_is_about_ours(world: World) -> None:
    bus = await world.connect()
    before = time.time()
    there = await bus.server_time()
    assert before - 0.5 <= there <= time.time() + 0.5
    assert await bus.server_time() >= there


async def test_state_is_unset_until_it_is_created(world: World) -> None:
    one, two = await world.connect("one"), await world.connect("two")
    assert await one.state_get("map") is None
    assert await one.state_create("map", b'{"shards": 16}') is True
    assert await two.state_get("map") == b'{"shards": 16}'
    assert await two.state_create("map", b"other") is False
    assert await two.state_get("map") == b'{"shards": 16}'
    assert await one.state_get("map.2") is None
    assert await one.state_create("map.2", b"") is True
    assert await one.state_get("map.2") == b""


async def test_of_racing_creators_exactly_one_wins(world: World) -> None:
    buses = [await world.connect(f"c{number}") for number in range(10)]
    results = await asyncio.gather(
        *(bus.state_create("race", bus.sender.encode()) for bus in buses)
    )
    assert sorted(results) == [False] * 9 + [True]
    winner = buses[results.index(True)]
    for bus in buses:
        assert await bus.state_get("race") == winner.sender.encode()


async def test_a_value_is_updated_by_who_knows_its_revision(world: World) -> None:
    one, two = await world.connect("one"), await world.connect("two")
    assert await one.state_read("map") is None
    assert await one.state_update("map", b"1", 7) is False, "there is nothing to update"
    assert await one.state_create("map", b"1")
    first = await two.state_read("map")
    assert first is not None
    assert first.value == b"1"
    assert await two.state_update("map", b"2", first.revision) is True
    assert await one.state_update("map", b"3", first.revision) is False, "it has changed since"
    second = await one.state_read("map")
    assert second is not None
    assert (second.value, second.revision > first.revision) == (b"2", True)
    assert await one.state_get("map") == b"2"
    assert await two.state_create("map", b"4") is False
    assert await one.state_create("other", b"x")
    assert await one.state_update("map", b"5", second.revision) is True, "keys are independent"


async def test_of_racing_updaters_exactly_one_wins(world: World) -> None:
    buses = [await world.connect(f"c{number}") for number in range(10)]
    assert await buses[0].state_create("race", b"0")
    known = await buses[0].state_read("race")
    assert known is not None
    results = await asyncio.gather(
        *(bus.state_update("race", bus.sender.encode(), known.revision) for bus in buses)
    )
    assert sorted(results) == [False] * 9 + [True]
    winner = buses[results.index(True)]
    assert await buses[0].state_get("race") == winner.sender.encode()
