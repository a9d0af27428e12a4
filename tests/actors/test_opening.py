"""Opening a shard: its log is made once, and never again in silence."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from swarm.actors.opening import CLUSTER_KEY, key_of
from swarm.bus.base import Entry
from swarm.bus.memory import Faults
from swarm.core.envelope import (
    CLUSTER_LOG,
    SHARD_LOG,
    Kind,
    decode_as,
    decode_entry,
    encode_entry,
)
from tests.actors.cluster import Cluster, on_cluster, pass_time, until


def incarnation_of(cluster: Cluster, shard: int) -> str:
    """As the first entry of the log has it."""
    first = cluster.world.log_entries(f"swarmlog.{shard}")[0]
    entry = decode_entry("log", first.seq, first.data)
    assert entry is not None
    return entry.incarnation


async def known(cluster: Cluster, shard: int) -> str:
    """As the shared state has it; "" for none."""
    stored = await cluster.swarm.bus.state_get(key_of(shard))
    return "" if stored is None else msgspec.json.decode(stored)["incarnation"]


async def closed(cluster: Cluster, name: str, shard: int = 0) -> str:
    """Why the shard is closed, once it is."""
    coordinator = cluster.coordinators[name]
    await until(lambda: shard in coordinator.closed)
    return coordinator.closed[shard]


async def start_anew(cluster: Cluster, name: str) -> None:
    """Stop the coordinator and start it again."""
    await cluster.coordinators.pop(name).stop()
    await cluster.start_coordinator(name)


def test_the_shared_state_knows_each_log_once_it_was_opened() -> None:
    async def scenario(cluster: Cluster) -> None:
        assert await known(cluster, 0) == ""
        await cluster.start("c1", "c2")
        before = [incarnation_of(cluster, shard) for shard in (0, 1)]
        assert [await known(cluster, shard) for shard in (0, 1)] == before
        for name in ("c1", "c2", "c1"):
            await start_anew(cluster, name)
            await until(lambda: sum(len(c.owned) for c in cluster.coordinators.values()) == 2)
        assert [incarnation_of(cluster, shard) for shard in (0, 1)] == before
        assert [await known(cluster, shard) for shard in (0, 1)] == before

    on_cluster(scenario)


def test_a_log_of_an_earlier_version_is_known_from_its_next_opening_on() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        incarnation = incarnation_of(cluster, 0)
        cluster.world.delete_key(key_of(0))
        await start_anew(cluster, "c1")
        await until(lambda: cluster.coordinators["c1"].owned == [0, 1])
        assert await known(cluster, 0) == incarnation
        assert incarnation_of(cluster, 0) == incarnation

    on_cluster(scenario)


def test_a_log_that_is_deleted_under_its_owner_closes_the_shard_alone() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        cluster.world.delete_log("swarmlog.0")
        asking = asyncio.create_task(cluster.swarm.submit_many([{"work_type": "build"}] * 20))
        why = await closed(cluster, "c1")
        assert "no such log" in why or "its stream is gone" in why
        # Tried again and again, and by others, it stays so.
        await cluster.start_coordinator("c2")
        await pass_time(20)
        whys = {why for c in cluster.coordinators.values() for why in c.closed.values()}
        assert whys
        assert all("swarmlog.0: its stream is gone" in why for why in whys)
        assert all("nats kv del swarm-state log.0" in why for why in whys)
        assert not any(0 in c.owned for c in cluster.coordinators.values())
        assert any(1 in c.owned for c in cluster.coordinators.values())
        # The way out: then a new log is made, and known.
        cluster.world.delete_key(key_of(0))
        await until(lambda: any(0 in c.owned for c in cluster.coordinators.values()))
        assert await known(cluster, 0) == incarnation_of(cluster, 0)
        outcomes = await asking
        assert len(outcomes) == 20

    on_cluster(scenario)


def test_a_log_that_has_lost_its_entries_stays_closed() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        await cluster.coordinators.pop("c1").stop()
        cluster.world.delete_log("swarmlog.0")
        await cluster.swarm.bus.create_log("swarmlog.0")
        await cluster.start_coordinator("c1")
        why = await closed(cluster, "c1")
        assert "swarmlog.0: its stream has lost its entries" in why
        await pass_time(20)
        assert cluster.world.log_entries("swarmlog.0") == []
        assert 0 not in cluster.coordinators["c1"].owned

    on_cluster(scenario)


def test_a_log_that_was_replaced_stays_closed() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        await cluster.coordinators.pop("c1").stop()
        other = decode_entry("log", 1, cluster.world.log_entries("swarmlog.0")[0].data)
        assert other is not None
        known_before = other.incarnation
        other = msgspec.structs.replace(other, incarnation="i-other")
        cluster.world.delete_log("swarmlog.0")
        await cluster.swarm.bus.create_log("swarmlog.0")
        cluster.world.inject("swarmlog.0", encode_entry(other))
        await cluster.start_coordinator("c1")
        why = await closed(cluster, "c1")
        assert f"its stream is another one (i-other instead of {known_before})" in why
        assert "nothing was changed" in why
        await pass_time(20)
        assert len(cluster.world.log_entries("swarmlog.0")) == 1
        # The way out: the log as it is.
        cluster.world.delete_key(key_of(0))
        await until(lambda: 0 in cluster.coordinators["c1"].owned)
        assert await known(cluster, 0) == "i-other"

    on_cluster(scenario)


def test_a_state_that_is_deleted_opens_nothing_and_stops_no_owner() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        cluster.world.delete_state()
        handle = await cluster.swarm.submit("build")
        assert (await handle.get()).status == "queued"
        await start_anew(cluster, "c1")
        assert "shared state" in await closed(cluster, "c1")
        await pass_time(20)
        assert cluster.coordinators["c1"].owned == []

    on_cluster(scenario)


def test_what_the_state_says_of_a_log_must_be_readable() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.swarm.bus.state_create(key_of(0), b'{"of a later version": 1}')
        await cluster.start("c1", owned=1)
        assert "log.0 in the shared state cannot be read" in await closed(cluster, "c1")

    on_cluster(scenario)


def test_logs_are_opened_under_every_fault_and_made_once() -> None:
    async def scenario(cluster: Cluster) -> None:
        made: dict[str, set[str]] = {}

        def on_append(log: str, stored: Entry, node: str) -> None:
            kind: Kind[Any] = CLUSTER_LOG if log == "swarmlog.cluster" else SHARD_LOG
            entry = decode_as(kind, log, stored.seq, stored.data)
            made.setdefault(log, set()).add(entry.incarnation if entry else "")

        cluster.world.on_append(on_append)
        cluster.world.faults = Faults(
            append_lost=0.2, append_late=0.2, ack_lost=0.2, read_lag=0.5, gap=0.2, late_s=(0, 2)
        )
        await cluster.start("c1", "c2", owned=0)
        for _ in range(10):
            await pass_time(5)
            for name in ("c1", "c2"):
                await start_anew(cluster, name)
        cluster.world.calm()
        await until(lambda: sum(len(c.owned) for c in cluster.coordinators.values()) == 2)
        for shard in (0, 1):
            assert made[f"swarmlog.{shard}"] == {await known(cluster, shard)}
        stored = cluster.world.state(CLUSTER_KEY)
        assert stored is not None
        assert made["swarmlog.cluster"] == {msgspec.json.decode(stored)["incarnation"]}

    on_cluster(scenario)
