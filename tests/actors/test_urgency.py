"""The most urgent work of all shards of a coordinator goes first: none waits for other shards."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from swarm.config import Settings
from swarm.messages import Complete
from tests.actors.cluster import Cluster, HandAgent, on_cluster, pass_time, until

SHARDS = 4
SETTINGS = Settings(shard_count=SHARDS, coordinators=["c1"], standbys=0)
#: Items of each kind, several for every shard.
MANY = 40


async def submit(cluster: Cluster, priority: str, count: int = MANY) -> set[str]:
    items = [{"work_type": "build", "priority": priority} for _ in range(count)]
    handles = await cluster.swarm.submit_many(items)
    return {handle.work_item_id for handle in handles if not isinstance(handle, Exception)}


async def attached(cluster: Cluster, slots: int) -> HandAgent:
    agent = HandAgent(cluster, "a1", "build")
    await agent.attach()
    await agent.next(slots)
    return agent


async def work_off(cluster: Cluster, agent: HandAgent, count: int) -> list[str]:
    """Complete so many of the items that the agent gets, one by one; their ids in turn."""
    done = [item for item, _ in agent.assigned()][: max(0, len(agent.assigned()) - 1)]
    for number in range(len(done), len(done) + count):
        await until(lambda: len(agent.assigned()) > number)  # noqa: B023 - awaited here
        item, token = agent.assigned()[number]
        await agent.next(1, Complete(cluster.runtime(1000 + number).new_id(), item, token))
        done.append(item)
    return done


def shard_of(work_item_id: str) -> int:
    return int(work_item_id.split("-", maxsplit=1)[0])


def test_what_is_urgent_goes_first_whatever_shard_it_is_in() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        await submit(cluster, "medium")
        agent = await attached(cluster, 1)
        await work_off(cluster, agent, 5)
        urgent = await submit(cluster, "critical", 12)
        assert len({shard_of(item) for item in urgent}) > 1, "in several shards"
        done = await work_off(cluster, agent, 14)
        # One was under way already.
        assert set(done[-13:-1]) == urgent or set(done[-12:]) == urgent

    on_cluster(scenario, settings=SETTINGS)


def test_what_has_waited_longer_goes_first_whatever_shard_it_is_in() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        early = await submit(cluster, "medium")
        await pass_time(8.0)
        late = await submit(cluster, "medium")
        agent = await attached(cluster, 1)
        done = await work_off(cluster, agent, 2 * MANY)
        assert set(done[:MANY]) == early
        assert set(done[MANY:]) == late

    on_cluster(scenario, settings=SETTINGS)


def test_an_agent_of_two_types_gets_the_more_urgent_one_from_another_shard() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        await submit(cluster, "high")
        items = [{"work_type": "test", "priority": "critical"} for _ in range(8)]
        handles = await cluster.swarm.submit_many(items)
        tests = {one.work_item_id for one in handles if not isinstance(one, Exception)}
        await pass_time(0.5)
        agent = HandAgent(cluster, "a1", "build", "test")
        await agent.attach()
        await agent.next(1)
        assert set(await work_off(cluster, agent, 8)) == tests

    on_cluster(scenario, settings=SETTINGS)


def test_a_shard_that_decides_nothing_does_not_keep_slots_from_the_others() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        urgent = await submit(cluster, "critical")
        await submit(cluster, "medium")
        agent = await attached(cluster, 1)
        await until(agent.assigned)
        stuck = shard_of(agent.assigned()[0][0])
        workers = {worker.number: worker for worker in cluster.coordinators["c1"]._shards}
        free = [item for item in urgent if shard_of(item) != stuck]
        # As while it is handed over, or its log is out of reach; the agent has another slot.
        async with workers[stuck].turn:
            await agent.next(1)
            async with asyncio.timeout(5.0):
                for number in range(len(free) + 5):
                    await until(lambda: len(agent.assigned()) > number + 1)  # noqa: B023
                    await agent.next(1)
            taken = [item for item, _ in agent.assigned()[1:]]
            assert stuck not in {shard_of(item) for item in taken}
            assert set(taken) >= set(free)
        await until(lambda: stuck in {shard_of(item) for item, _ in agent.assigned()[1:]})

    on_cluster(scenario, settings=SETTINGS)


async def claimed(cluster: Cluster, count: int) -> list[str]:
    """Items that a shell claims by name, one after the other, and does not give back."""
    items = []
    for _ in range(count):
        assignment = await cluster.swarm.claim(["build"])
        assert assignment is not None
        items.append(assignment.work_item_id)
    return items


def test_who_claims_by_name_gets_the_most_urgent_of_all_coordinators() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await submit(cluster, "medium")
        for _ in range(3):
            (urgent,) = await submit(cluster, "critical", 1)
            await pass_time(0.5)  # told by the next beat
            assert await claimed(cluster, 1) == [urgent]

    on_cluster(scenario, settings=with_two())


def test_no_work_starves_because_another_coordinator_has_some() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await submit(cluster, "medium")
        await pass_time(2.5)
        owners = set()
        for item in await claimed(cluster, MANY // 2):
            owned = {name: one.owned for name, one in cluster.coordinators.items()}
            owners |= {name for name, shards in owned.items() if shard_of(item) in shards}
        assert owners == {"c1", "c2"}

    on_cluster(scenario, settings=with_two(sync_enabled=False))


def with_two(**fields: Any) -> Settings:
    return msgspec.structs.replace(SETTINGS, coordinators=["c1", "c2"], **fields)
