"""Streams and buckets that are deleted under a running swarm, on a real NATS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import nats
import pytest
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from swarm.actors import shard_map
from swarm.actors.opening import key_of
from swarm.bus.base import Bus
from swarm.bus.embedded import EmbeddedServer
from swarm.bus.jetstream import connect
from swarm.config import Settings
from swarm.errors import LogMissing, StateMissing
from swarm.hosting.node import Node, NodePlan
from swarm.sdk.client import Swarm
from tests.integration.servers import until

pytestmark = pytest.mark.usefixtures("nats_binary")

SETTINGS = Settings(prefix="x", shard_count=2, coordinators=["c1"])
BUCKET = "x-state"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    server = EmbeddedServer()
    await server.start(tmp_path / "data")
    yield server
    await server.stop()


@pytest.fixture
async def operator(server: EmbeddedServer) -> AsyncIterator[JetStreamContext]:
    """Somebody with a tool of NATS's own."""
    client = await nats.connect(server.url)
    yield client.jetstream()
    await client.close()


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    bus = await connect(server.url, "reader", prefix="x")
    yield bus
    await bus.close()


@asynccontextmanager
async def node(server: EmbeddedServer, *, owns: int = 2) -> AsyncIterator[Node]:
    """A running node that owns so many shards."""
    plan = NodePlan(
        node_id="c1", roles=("coordinator", "router"), nats_url=server.url, settings=SETTINGS
    )
    node = Node(plan)
    try:
        await node.start()
        coordinator = node.coordinator
        assert coordinator is not None
        await until(lambda: len(coordinator.owned) == owns, f"{owns} shards are open")
        yield node
    finally:
        await node.stop()


async def closed(node: Node, shard: int) -> str:
    """Why the shard is closed, once it is."""
    coordinator = node.coordinator
    assert coordinator is not None
    await until(lambda: shard in coordinator.closed, f"shard {shard} is closed")
    return coordinator.closed[shard]


async def exists(operator: JetStreamContext, stream: str) -> bool:
    try:
        await operator.stream_info(stream)
    except NotFoundError:
        return False
    return True


async def known(bus: Bus, shard: int) -> str:
    """The incarnation that the shared state has for the shard's log; "" for none."""
    stored = await bus.state_get(key_of(shard))
    return "" if stored is None else msgspec.json.decode(stored)["incarnation"]


async def incarnation(bus: Bus, shard: int) -> str:
    """The incarnation in the first entry of the shard's log."""
    (first,) = await bus.read(f"xlog.{shard}", 1, 1)
    found: str = msgspec.json.decode(first.data)["incarnation"]
    return found


async def test_a_log_deleted_under_its_owner(
    server: EmbeddedServer, operator: JetStreamContext, bus: Bus
) -> None:
    async with node(server) as running:
        coordinator = running.coordinator
        assert coordinator is not None
        assert [await known(bus, n) for n in (0, 1)] == [await incarnation(bus, n) for n in (0, 1)]
        await operator.delete_stream("xlog_0")
        swarm = Swarm(running.bus, prefix="x")
        asking = asyncio.create_task(swarm.submit_many([{"work_type": "build"}] * 20))
        await closed(running, 0)
        # And when it has been tried again:
        await until(lambda: "its stream is gone" in coordinator.closed.get(0, ""), "tried again")
        why = coordinator.closed[0]
        assert "xlog.0" in why
        assert "nats kv del x-state log.0" in why
        assert not await exists(operator, "xlog_0")
        assert running.ready()[0] is False
        assert coordinator.owned == [1]
        # The way out, as the message says.
        await (await operator.key_value(BUCKET)).delete("log.0")
        await until(lambda: coordinator.owned == [0, 1], "opened anew")
        assert await known(bus, 0) == await incarnation(bus, 0)
        assert len(await asking) == 20
        await swarm.close()


async def test_a_log_deleted_while_nobody_ran(
    server: EmbeddedServer, operator: JetStreamContext
) -> None:
    async with node(server):
        pass
    await operator.delete_stream("xlog_1")
    async with node(server, owns=1) as running:
        assert "xlog.1: its stream is gone" in await closed(running, 1)
        assert not await exists(operator, "xlog_1")


async def test_a_log_replaced_by_an_empty_or_another_one(
    server: EmbeddedServer, operator: JetStreamContext, bus: Bus
) -> None:
    async with node(server):
        pass
    entry = (await bus.read("xlog.0", 1, 1))[0].data
    before = await incarnation(bus, 0)
    await operator.delete_stream("xlog_0")
    await bus.create_log("xlog.0")
    async with node(server, owns=1) as running:
        assert "xlog.0: its stream has lost its entries" in await closed(running, 0)
    assert (await bus.log_info("xlog.0")).last_seq == 0
    await bus.append("xlog.0", entry.replace(before.encode(), b"i-other"), 0, 5.0)
    async with node(server, owns=1) as running:
        assert f"another one (i-other instead of {before})" in await closed(running, 0)
    assert (await bus.log_info("xlog.0")).last_seq == 1


async def test_logs_of_an_earlier_version_become_known(
    server: EmbeddedServer, operator: JetStreamContext, bus: Bus
) -> None:
    async with node(server):
        before = [await incarnation(bus, shard) for shard in (0, 1)]
    bucket = await operator.key_value(BUCKET)
    for shard in (0, 1):
        await bucket.purge(key_of(shard))
        assert await known(bus, shard) == ""
    async with node(server):
        assert [await known(bus, shard) for shard in (0, 1)] == before
    assert [await incarnation(bus, shard) for shard in (0, 1)] == before


async def test_the_state_deleted_under_a_running_swarm(
    server: EmbeddedServer, operator: JetStreamContext, bus: Bus
) -> None:
    async with node(server) as running:
        before = [await incarnation(bus, shard) for shard in (0, 1)]
        coordinator = running.coordinator
        assert coordinator is not None
        # Who leads later than this puts the map into whatever bucket it finds then.
        leader = coordinator.leader
        await until(lambda: leader.epoch and not leader._copies_old, "it leads, and has said so")
        await operator.delete_key_value(BUCKET)
        for call in (
            bus.state_get("map"),
            bus.state_create("map", b"1"),
            bus.server_time(),
            shard_map.agree(bus, SETTINGS),
        ):
            with pytest.raises(StateMissing, match=BUCKET):
                await call
        await until(lambda: coordinator.alarms, "an alarm")
        assert f"NATS bucket {BUCKET}) is gone" in coordinator.alarms[0]
        assert running.ready()[0] is False
        assert running.ready()[1]["why"] == coordinator.alarms
        # Owners need it for nothing: they go on.
        swarm = Swarm(running.bus, prefix="x")
        handle = await swarm.submit("build")
        assert (await handle.get()).status == "queued"
        (beat,) = (await swarm.describe()).coordinators
        assert beat.alarms == coordinator.alarms
        assert b'swarmsh_alarms{coordinator="c1"} 1.0' in (await running.metrics())[0]
        # Nobody makes it anew; an operator's empty one lacks the map.
        assert not await exists(operator, f"KV_{BUCKET}")
        await operator.create_key_value(bucket=BUCKET)
        await until(lambda: "has lost the shard map" in coordinator.alarms[0], "it is empty")
        assert await bus.state_create(shard_map.KEY, msgspec.json.encode(running._map))
        await until(lambda: not coordinator.alarms, "all is well")
        assert coordinator.owned == [0, 1]
        await operator.delete_key_value(BUCKET)
        await swarm.close()
    began = time.monotonic()
    with pytest.raises(StateMissing, match=r"3 logs.*nats kv add x-state"):
        async with node(server):
            pass
    # Not after all the time that it would wait for NATS.
    assert time.monotonic() - began < 10
    assert not await exists(operator, f"KV_{BUCKET}")
    # The way out, as the message says.
    await operator.create_key_value(bucket=BUCKET)
    async with node(server):
        assert [await known(bus, shard) for shard in (0, 1)] == before
        assert await bus.state_get(shard_map.KEY)
    assert [await incarnation(bus, shard) for shard in (0, 1)] == before


async def test_clients_make_nothing(server: EmbeddedServer, operator: JetStreamContext) -> None:
    client = await connect(server.url, "c", prefix="x")
    for call in (client.state_get("map"), client.state_create("k", b""), client.server_time()):
        with pytest.raises(StateMissing, match="no node was ever started"):
            await call
    for missing in (client.read("xlog.0", 1, 1), client.append("xlog.0", b"", 0, 1.0)):
        with pytest.raises(LogMissing):
            await missing
    assert await operator.streams_info() == []
    # Another swarm's logs are none of ours.
    await client.create_log("xxlog.0")
    await client.open_state()
    assert await exists(operator, f"KV_{BUCKET}")
    await client.close()


async def test_a_state_is_opened_by_many_nodes_at_once(server: EmbeddedServer) -> None:
    buses = [await connect(server.url, f"n{number}", prefix="x") for number in range(8)]

    async def start(bus: Bus, shard: int) -> None:
        await bus.open_state()
        await bus.create_log(f"xlog.{shard}")

    await asyncio.gather(*(start(bus, shard) for shard, bus in enumerate(buses)))
    results = await asyncio.gather(*(bus.state_create("map", b"1") for bus in buses))
    assert sorted(results) == [False] * 7 + [True]
    for bus in buses:
        await bus.close()
