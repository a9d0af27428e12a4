"""Storage that fills up: submits wait, outcomes go on; full: everything waits; then on again."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
import structlog

from swarm.actors import storage_watch
from swarm.bus.memory import MemoryWorld
from swarm.doctor import Examination, examine
from swarm.errors import BusTimeout
from swarm.messages import Complete, Submit
from tests.actors.cluster import SETTINGS, Cluster, HandAgent, on_cluster, pass_time, until
from tests.builders import new_item

ONE = msgspec.structs.replace(
    SETTINGS, shard_count=1, coordinators=["c1"], log_floor_bytes=1_000_000, lease_s=10.0
)


async def fill(world: MemoryWorld, part: float) -> None:
    """From now on what is kept is this part of what there is room for."""
    bus = world.connect("ballast")
    await bus.create_log("ballast")
    if not (await bus.log_info("ballast")).last_seq:
        await bus.append("ballast", bytes(100_000), 0, 1.0)
    world.capacity = max(1, round((await world.connect("look").storage()).used / part))
    await pass_time(2 * storage_watch.LOOK_S)


async def submit(cluster: Cluster) -> dict[str, Any]:
    """One item; the answer as it travels."""
    body = Submit([new_item("build")], cluster.swarm._runtime.new_id())
    return await cluster.ask(cluster.world.connect("you"), "swarm.submit.build.you", body)


async def held(cluster: Cluster, agent: HandAgent) -> tuple[str, str]:
    """An item that the agent holds."""
    count = len(agent.assigned())
    await agent.next(1)
    await cluster.swarm.submit("build")
    await until(lambda: len(agent.assigned()) > count)
    return agent.assigned()[-1]


def test_nearly_full_submits_are_refused_and_outcomes_are_not() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        coordinator = cluster.coordinators["c1"]
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach()
        item, token = await held(cluster, agent)
        with structlog.testing.capture_logs() as logs:
            await fill(cluster.world, 0.9)
        assert [entry["log_level"] for entry in logs if "nearly full" in entry["event"]] == [
            "error"
        ]
        assert 0.85 < coordinator.storage.part < 1.0
        answer = await submit(cluster)
        assert (answer["error"]["code"], answer["error"]["retry"]) == ("storage_full", True)
        beat = (await cluster.swarm.describe()).coordinators[0]
        assert beat.storage == round(coordinator.storage.part, 3)
        # What is under way ends.
        await agent.next(0, Complete(cluster.runtime(9).new_id(), item, token))
        await until(lambda: any(work.acks for work in agent.work))
        assert (await cluster.swarm.get(item)).status == "completed"
        # A little room is not enough, more is.
        await fill(cluster.world, 0.83)
        assert "error" in await submit(cluster)
        await fill(cluster.world, 0.5)
        assert "results" in await submit(cluster)

    on_cluster(scenario, settings=ONE)


def test_full_everything_waits_and_nothing_is_lost() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        world = cluster.world
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach()
        item, token = await held(cluster, agent)
        await fill(world, 1.0)
        done = Complete(cluster.runtime(9).new_id(), item, token)
        await agent.next(0, done)
        await pass_time(1.0)
        worker = next(iter(cluster.coordinators["c1"]._shards))
        assert worker._fenced.full
        # A command that meets the full storage is refused, a reader gets no stale answer.
        refused = await cluster.ask(world.connect("you"), "swarm.shard.0.stats.you", {})
        assert refused["error"]["code"] == "storage_full"
        assert refused["error"]["retry"] is True
        assert "storage_full" in str((await submit(cluster))["error"])
        entries = len(world.log_entries("swarmlog.0"))
        # Longer than a lease: nobody is charged for it.
        await pass_time(3 * ONE.lease_s)
        assert len(world.log_entries("swarmlog.0")) == entries
        world.capacity = 0
        await pass_time(2 * storage_watch.LOOK_S)
        await agent.next(0, done)
        await until(lambda: any(work.acks for work in agent.work))
        seen = await cluster.swarm.get(item)
        assert (seen.status, seen.attempt) == ("completed", 1)
        assert "results" in await submit(cluster)
        await world.connect("map").state_create("map", msgspec.json.encode(cluster.map))
        what = Examination(settings=ONE, now=world.time())
        assert (await examine(world.connect("doctor"), what)).clean

    on_cluster(scenario, settings=ONE)


def test_a_heartbeat_that_met_full_storage_counts_all_the_same() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        world, clock = cluster.world, asyncio.get_running_loop().time
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach()
        item, token = await held(cluster, agent)
        began = clock()
        worker = next(iter(cluster.coordinators["c1"]._shards))
        await pass_time(ONE.lease_s - 1.0)
        world.capacity = 1
        you = world.connect("you")
        await you.publish("swarm.shard.0.stats.you", b"", reply="_INBOX.you.1")
        await until(lambda: worker._fenced.full)
        await agent.heartbeat((item, token))
        await you.flush()
        world.capacity = 0
        # For less than an owner needs to know that it does not hear.
        await until(lambda: not worker._fenced.full)
        assert clock() - began < ONE.lease_s - 1.0 + ONE.missed_s
        await pass_time(ONE.lease_s - 1.0)
        assert clock() - began > ONE.lease_s + 1.0
        assert (await cluster.swarm.get(item)).status == "claimed"
        await pass_time(ONE.lease_s + 1.0)
        assert (await cluster.swarm.get(item)).status == "queued", "it was not heard of again"

    on_cluster(scenario, settings=ONE)


def test_a_log_with_a_limit_of_its_own_closes_its_shard_to_submits_only() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        logs = cluster.world._logs
        log = logs.get("swarmlog.0")
        log.bytes_max = round(log.bytes / 0.9)
        await pass_time(2 * storage_watch.LOOK_S)
        watch = cluster.coordinators["c1"].storage
        assert watch.nearly_full(0)
        assert not watch.nearly_full(1)
        assert 0.85 < watch.part < 1.0
        log.bytes_max = 0
        await pass_time(2 * storage_watch.LOOK_S)
        assert not watch.nearly_full(0)
        assert watch.part == 0.0

    settings = msgspec.structs.replace(SETTINGS, coordinators=["c1"])
    on_cluster(scenario, settings=settings)


def test_what_cannot_be_seen_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        await fill(cluster.world, 0.9)
        coordinator = cluster.coordinators["c1"]
        assert coordinator.storage.nearly_full(0)

        async def storage() -> None:
            raise BusTimeout("no answer")

        monkeypatch.setattr(coordinator._bus, "storage", storage)
        with structlog.testing.capture_logs() as logs:
            await pass_time(5 * storage_watch.LOOK_S)
        assert [entry["why"] for entry in logs if "cannot be seen" in entry["event"]] == [
            "no answer"
        ]
        assert coordinator.storage.nearly_full(0)

    on_cluster(scenario, settings=ONE)


def test_while_storage_is_short_logs_are_compacted_as_far_as_they_can_be() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        world = cluster.world
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach()
        # A log that is nearly all history, and far below the length at which it is compacted.
        for _ in range(150):
            item, token = await held(cluster, agent)
            await agent.next(0, Complete(cluster.runtime(9).new_id(), item, token))
        before = (await world.connect("look").log_info("swarmlog.0")).bytes
        assert before < ONE.log_floor_bytes
        used = (await world.connect("look").storage()).used
        world.capacity = round(used / 0.86)
        await pass_time(20.0)
        after = await world.connect("look").log_info("swarmlog.0")
        assert after.first_seq > 1
        assert after.bytes < before / 2
        assert not cluster.coordinators["c1"].storage.nearly_full(0)

    settings = msgspec.structs.replace(ONE, cache_max_size=1, dedupe_window_s=60.0)
    on_cluster(scenario, settings=settings)
