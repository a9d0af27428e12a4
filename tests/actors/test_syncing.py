"""COORDINATOR_SYNC_*: what coordinators tell each other of their state, and how often."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from swarm.actors.router import Router
from swarm.config import Settings
from swarm.core.syncing import UNTOLD
from swarm.messages import Beat
from tests.actors.cluster import Cluster, HandAgent, on_cluster, pass_time, until

BASE = Settings(shard_count=2, coordinators=["c1", "c2"])
NEVER_MS = 3_600_000


def with_(**fields: Any) -> Settings:
    return msgspec.structs.replace(BASE, **fields)


async def beats_of(cluster: Cluster) -> list[tuple[float, Beat]]:
    """Every beat from now on, as it travels, and when it came."""
    heard: list[tuple[float, Beat]] = []
    loop = asyncio.get_running_loop()
    await cluster.world.connect("ear").subscribe(
        "swarm.beat.*",
        lambda message: heard.append((loop.time(), msgspec.json.decode(message.data, type=Beat))),
    )
    return heard


@pytest.mark.parametrize(("interval_ms", "told"), [(250, 80), (1000, 20), (5000, 4)])
def test_the_state_is_in_the_beats_once_an_interval(interval_ms: int, told: int) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await cluster.swarm.submit_many([{"work_type": "build"}] * 40)
        await pass_time(8.0)
        heard = await beats_of(cluster)
        await pass_time(20.0)
        for name in ("c1", "c2"):
            mine = [beat for _, beat in heard if beat.coordinator == name]
            assert len(mine) >= 70, "signs of life go on"
            whole = [beat for beat in mine if beat.told == 0]
            assert abs(len(whole) - told) <= 1 + told // 20
            assert all(sum(beat.ready.values()) > 10 for beat in whole)
            assert not any(beat.ready for beat in mine if beat.told)
        # Who hears them knows the state at any time.
        assert sum(sum(beat.ready.values()) for beat in cluster.router.live()) == 40

    on_cluster(scenario, settings=with_(sync_interval_ms=interval_ms))


def test_news_do_not_wait_for_the_interval_nor_for_the_next_beat() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await pass_time(5.0)
        heard = await beats_of(cluster)
        now = asyncio.get_running_loop().time
        for work_type in ("build", "test"):
            await cluster.swarm.submit(work_type)
            began = now()
            await until(
                lambda: [beat for _, beat in heard if work_type in beat.ready]  # noqa: B023
            )
            assert now() - began < 0.1, "at once"
        agent = HandAgent(cluster, "a1", "lint")
        await agent.attach()
        began = now()
        await until(lambda: [beat for _, beat in heard if "lint" in beat.idle])
        assert now() - began < 0.1

    on_cluster(scenario, settings=with_(sync_interval_ms=NEVER_MS))


def test_a_router_that_comes_later_is_told_at_once() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await cluster.swarm.submit_many([{"work_type": "build"}] * 10)
        await pass_time(10.0)
        bus = cluster.world.connect("r2")
        late = Router(bus, cluster.settings, cluster.map, cluster.runtime(9))
        await late.start()
        await until(lambda: sum(sum(beat.ready.values()) for beat in late.live()) == 10, 2.0)
        await late.stop()

    on_cluster(scenario, settings=with_(sync_interval_ms=NEVER_MS))


def test_a_coordinator_that_comes_later_is_told_at_once() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", owned=2)
        await cluster.swarm.submit_many([{"work_type": "build"}] * 10)
        await pass_time(10.0)
        late = await cluster.start_coordinator("c2")
        live = late._presence.live
        await until(lambda: "c1" in live() and live()["c1"].ready == {"build": 10}, 1.0)

    on_cluster(scenario, settings=with_(sync_interval_ms=NEVER_MS))


def test_those_of_an_earlier_version_find_the_state_in_every_beat() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        old = cluster.world.connect("c9")
        stop = asyncio.Event()

        async def beat_on() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                body = {"coordinator": "c9", "instance": "i", "protocol": 2, "number": number}
                await old.publish("swarm.beat.c9", msgspec.json.encode(body))
                await pass_time(0.25)

        beating = asyncio.create_task(beat_on())
        await pass_time(2.0)
        heard = await beats_of(cluster)
        await pass_time(3.0)
        mine = [beat for _, beat in heard if beat.coordinator == "c1"]
        assert len(mine) > 10
        assert {beat.told for beat in mine} == {0}
        stop.set()
        await beating

    on_cluster(scenario, settings=with_(sync_interval_ms=NEVER_MS))


def test_without_synchronization_beats_show_life_and_nothing_is_lent() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        moved: list[str] = []
        cluster.world.on_publish(
            lambda node, subject, *rest: (
                moved.append(subject) if subject.split(".")[3:4] in (["lend"], ["borrow"]) else None
            )
        )
        heard = await beats_of(cluster)
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach()
        await agent.next(30)
        await cluster.swarm.submit_many([{"work_type": "build"}] * 20)
        await pass_time(5.0)
        assert {(beat.told, str(beat.ready), str(beat.idle)) for _, beat in heard} == {
            (UNTOLD, "{}", "{}")
        }
        assert moved == []
        home = cluster.coordinators[agent.coordinator]
        shards = {int(item.split("-")[0]) for item, _ in agent.assigned()}
        assert shards, "its own coordinator's work is done"
        assert shards <= set(home.owned)
        # Sessions and shards are signs of life.
        shown = {beat.coordinator: beat.sessions for beat in cluster.router.live()}
        assert shown[agent.coordinator] == 1
        # Whoever asks the shards finds the rest.
        claimed = await cluster.swarm.claim(["build"], wait_s=1.0)
        assert claimed is not None
        assert int(claimed.work_item_id.split("-")[0]) not in home.owned
        # Somebody is told that work waits which perhaps others could do.
        (other,) = [one for one in cluster.coordinators.values() if one is not home]
        assert "build" in other._lending._stranded

    on_cluster(scenario, settings=with_(sync_enabled=False, shard_affinity="strict"))


def test_a_claim_finds_work_that_no_beat_tells_of() -> None:
    """Even in a round that does not ask everywhere."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        claim = asyncio.create_task(cluster.swarm.claim(["build"], wait_s=30.0))
        await pass_time(5.0)
        began = asyncio.get_running_loop().time()
        await cluster.swarm.submit("build")
        claimed = await claim
        assert claimed is not None
        assert asyncio.get_running_loop().time() - began < 3.0

    on_cluster(scenario, settings=with_(sync_enabled=False, shard_affinity="strict"))
