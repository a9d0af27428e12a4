"""Many agents in one process, over shared connections, on a simulated swarm."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from swarm import Agent, AgentHost, Context, InlineRunner
from swarm.errors import Refusal
from tests.actors.cluster import SETTINGS, Cluster, on_cluster, pass_time, until

AGENTS = 12


def make(cluster: Cluster, name: str, seed: int, held: asyncio.Event, **more: Any) -> Agent:
    """An agent whose handler says who it was, once `held` is set."""
    runtime = cluster.runtime(seed)
    agent = Agent(agent_id=name, runner=InlineRunner(), runtime=runtime, **more)

    @agent.handles("build")
    async def handler(ctx: Context) -> str:
        await held.wait()
        return name

    return agent


def test_each_agent_of_a_host_works_under_its_own_id() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        held = asyncio.Event()
        names = [f"a-{number}" for number in range(AGENTS)]
        host = AgentHost([make(cluster, name, n, held) for n, name in enumerate(names)])
        buses = [cluster.world.connect(f"host-{number}") for number in (1, 2)]
        running = asyncio.create_task(host.run_on(buses))
        handles = [await cluster.swarm.submit("build") for _ in range(AGENTS)]
        # Longer than a lease: all of them send heartbeats, two connections or not.
        await until(lambda: sum(len(c._pool.sessions) for c in cluster.coordinators.values()) == 12)
        await pass_time(2 * SETTINGS.lease_s)
        held.set()
        results = [await handle.result(timeout=20.0) for handle in handles]
        assert sorted(results) == sorted(names)
        items = [await handle.get() for handle in handles]
        assert [item.attempt for item in items] == [1] * AGENTS, "heartbeats kept every claim"
        assert sorted(item.agent_id for item in items) == sorted(names)
        host.stop()
        await running

    on_cluster(scenario)


def test_an_agent_that_is_taken_over_leaves_the_others_at_work() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        held = asyncio.Event()
        held.set()
        host = AgentHost([make(cluster, name, n, held) for n, name in enumerate(("a-1", "a-2"))])
        running = asyncio.create_task(host.run_on([cluster.world.connect("host")]))
        await (await cluster.swarm.submit("build")).result(timeout=20.0)
        other = make(cluster, "a-1", 9, held, takeover=True)
        elsewhere = asyncio.create_task(other.run(cluster.world.connect("elsewhere")))
        await pass_time(2.0)
        other.stop()
        await elsewhere
        handles = [await cluster.swarm.submit("build") for _ in range(3)]
        assert [await handle.result(timeout=20.0) for handle in handles] == ["a-2"] * 3
        host.stop()
        with pytest.raises(Refusal) as refusal:
            await running
        assert refusal.value.code == "agent_id_in_use"

    on_cluster(scenario)
