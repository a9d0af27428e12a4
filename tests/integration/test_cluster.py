"""Three servers that keep every stream together: what one server alone cannot show."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from swarm.bus.base import Bus, Entry
from swarm.bus.jetstream import JetStreamBus, connect
from swarm.bus.jetstream_rebuild import LogRebuild
from swarm.errors import BusError, OutcomeUnknown, StateMissing, StorageFull
from swarm.testing.ports import free_ports
from tests.conformance.worlds import TIMEOUT_S, outcome, reading
from tests.integration.servers import server_with

pytestmark = [pytest.mark.usefixtures("nats_binary"), pytest.mark.slow]

LOG = "xlog.0"
DONE = "xdone.0"
LARGE = bytes(200_000)
#: Electing a leader takes a few seconds.
ELECTED_S = 30.0


@asynccontextmanager
async def cluster(binary: str, directory: Path, account: str = "") -> AsyncIterator[list[str]]:
    """Three servers with JetStream, with a limit of the `account` if one is given.

    Their addresses, credentials included.
    """
    ports = free_ports(3)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    users = "users: [{ user: a, password: a }]"
    accounts = f"accounts {{ A {{ jetstream {{ {account} }}, {users} }} }}" if account else ""
    credentials = "a:a@" if account else ""
    async with AsyncExitStack() as stack:
        addresses = []
        for number, port in enumerate(ports):
            place = directory / f"n{number}"
            place.mkdir()
            config = f"""
                server_name: n{number}
                jetstream {{ store_dir: "{place}", max_file_store: 1GB }}
                cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}
                {accounts}
            """
            address = await stack.enter_async_context(server_with(binary, place, config))
            addresses.append(credentials + address)
        yield addresses


@asynccontextmanager
async def connected(addresses: list[str]) -> AsyncIterator[list[JetStreamBus]]:
    """One bus at each server, once streams can be made."""
    buses = [
        await connect(f"nats://{address}", f"b{number}", prefix="x", replicas=3)
        for number, address in enumerate(addresses)
    ]
    try:
        async with asyncio.timeout(ELECTED_S):
            while isinstance(await outcome(buses[0].open_state()), BusError):
                continue  # each attempt takes its time
        yield buses
    finally:
        for bus in buses:
            await bus.close()


async def fill(bus: Bus, log: str, seq: int) -> tuple[int, BusError]:
    """Append until that fails; returns the last sequence and how."""
    while True:
        result = await outcome(bus.append(log, LARGE, seq, TIMEOUT_S))
        if isinstance(result, BusError):
            return seq, result
        seq = result


async def test_nobody_appends_to_a_log_that_is_rebuilt(nats_binary: str, tmp_path: Path) -> None:
    async with cluster(nats_binary, tmp_path) as addresses, connected(addresses) as buses:
        await buses[0].create_log(LOG)
        told, busy = 0, asyncio.Event()

        async def write(bus: Bus) -> BusError:
            """Until nobody listens any more."""
            nonlocal told
            while True:
                result = await outcome(bus.append(LOG, b"old", told, TIMEOUT_S))
                if isinstance(result, BusError):
                    return result
                told = result
                if told > 20:
                    busy.set()

        stream = LogRebuild(buses[0], LOG, "xrestore.0")
        for _ in range(2):
            writing = asyncio.create_task(write(buses[1]))
            await busy.wait()
            last_seq = await stream.close()
            assert isinstance(await writing, OutcomeUnknown)
            # An append whose answer was lost may be the last one; none was told that is not there.
            assert told <= last_seq == (await buses[2].log_info(LOG)).last_seq
            config = await stream.config()
            await stream.delete()
            await stream.create(config, 3, 57)
            for seq in range(57, 67):
                await stream.append(Entry(seq, b"%d" % seq, 0.0))
            for bus in buses:
                assert isinstance(await outcome(bus.append(LOG, b"x", 66, 1.0)), OutcomeUnknown)
            await stream.open()
            # It takes a moment until every server knows.
            while isinstance(await outcome(buses[2].append(LOG, b"new", 66, 1.0)), OutcomeUnknown):
                continue  # each attempt takes its time
            assert (await buses[1].log_info(LOG)).last_seq == 67
            found: list[bytes] = []
            while len(found) < 11:
                found = [entry.data for entry in await buses[0].read(LOG, 1, 100)]
            assert found[:10] == [b"%d" % seq for seq in range(57, 67)]
            told = 67


async def test_purges_and_records_through_every_server(nats_binary: str, tmp_path: Path) -> None:
    async with cluster(nats_binary, tmp_path) as addresses, connected(addresses) as buses:
        await buses[0].create_log(LOG, max_bytes=2_000_000)
        await buses[1].create_records(DONE, 3600.0)
        async with AsyncExitStack() as readers:
            seen = [await readers.enter_async_context(reading(bus, LOG)) for bus in buses]
            for seq in range(60):
                assert await buses[seq % 3].append(LOG, b"%d" % seq, seq, TIMEOUT_S) == seq + 1
                info = await buses[(seq + 1) % 3].log_info(LOG)
                assert info.last_seq == seq + 1
                if seq % 10 == 9:
                    await buses[(seq + 2) % 3].purge(LOG, seq)
                    # Whichever replica answers: one that has heard of the purge has everything
                    # that was stored before it.
                    for bus in buses:
                        found = [entry.seq for entry in await bus.read(LOG, 1, 100)]
                        assert found == list(range(found[0], found[-1] + 1))
                        assert found[-1] == seq + 1 or found[0] < seq
                await buses[seq % 3].put_record(DONE, "k", b"%d" % seq, TIMEOUT_S)
                # What was put is found at once, through any server.
                records = await buses[(seq + 1) % 3].get_records(DONE, "k")
                assert records == [b"%d" % number for number in range(seq + 1)]
            for entries in seen:
                await entries.until(lambda all_: bool(all_) and all_[-1].seq == 60)
                order = [entry.seq for entry in entries.all]
                assert order == sorted(set(order))
        info = await buses[0].log_info(LOG)
        assert (info.first_seq, info.last_seq, info.bytes_max) == (59, 60, 2_000_000)


async def test_no_room_in_a_log_and_in_the_account(nats_binary: str, tmp_path: Path) -> None:
    limited = cluster(nats_binary, tmp_path, "max_file: 24MB")
    async with limited as addresses, connected(addresses) as buses:
        bus = buses[0]
        await bus.create_log(LOG, max_bytes=1_000_000)
        seq, how = await fill(bus, LOG, 0)
        assert isinstance(how, StorageFull), how
        assert seq == 4
        await bus.purge(LOG, 4)
        assert await bus.append(LOG, LARGE, seq, TIMEOUT_S) == seq + 1
        await bus.create_log("xlog.1")
        await bus.create_records(DONE, 0)
        seq, how = await fill(bus, "xlog.1", 0)
        assert isinstance(how, StorageFull), how
        # Each of three replicas counts; the servers tell one another every few seconds.
        async with asyncio.timeout(ELECTED_S):
            while True:
                figures = await bus.storage()
                if figures.used >= 3 * seq * len(LARGE):
                    break
        assert figures.limit == 24 * 1024 * 1024 < figures.used
        calls: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: bus.append("xlog.1", LARGE, seq, TIMEOUT_S),
            lambda: bus.put_record(DONE, "k", LARGE, TIMEOUT_S),
            lambda: bus.state_create(f"large-{time.monotonic_ns()}", LARGE),
        )
        for call in calls:
            # Each stream's leader goes by what it has heard of the others so far.
            async with asyncio.timeout(ELECTED_S):
                while not isinstance(refused := await outcome(call()), StorageFull):
                    assert not isinstance(refused, BusError), refused
        assert (await bus.log_info("xlog.1")).last_seq == seq
        assert len(await buses[1].read("xlog.1", 1, 5)) == 5
        await bus.purge("xlog.1", seq)
        async with asyncio.timeout(ELECTED_S):
            while True:
                again = await outcome(bus.append("xlog.1", LARGE, seq, TIMEOUT_S))
                if not isinstance(again, BusError):
                    break
        assert again == seq + 1
        assert (await bus.log_info("xlog.1")).first_seq == seq


async def test_the_state_of_a_cluster_is_not_made_anew(nats_binary: str, tmp_path: Path) -> None:
    async with cluster(nats_binary, tmp_path) as addresses, connected(addresses) as buses:
        for bus in buses:
            await bus.open_state()
        created = await asyncio.gather(*(bus.state_create("k", b"1") for bus in buses))
        assert sorted(created) == [False, False, True]
        for bus in buses:
            assert await bus.state_get("k") == b"1"
        await buses[0].create_log(LOG)
        await buses[1].api("deleting the bucket", "STREAM.DELETE.KV_x-state")
        for bus in buses:
            for call in (bus.state_get("k"), bus.state_create("k", b"2"), bus.open_state()):
                missing = await outcome(call)
                assert isinstance(missing, StateMissing), missing
