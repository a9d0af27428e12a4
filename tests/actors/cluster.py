"""A small swarm in a simulated world, for tests of the actors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeVar

import msgspec

from swarm.actors.coordinator import Coordinator
from swarm.actors.router import Router
from swarm.bus.memory import MemoryBus, MemoryWorld
from swarm.config import Settings
from swarm.messages import Attach, Attached, Next, ShardMap, Work
from swarm.runtime import Runtime, no_cpu
from swarm.sdk.client import Swarm
from swarm.testing.loop import run

T = TypeVar("T")

SETTINGS = Settings(
    shard_count=2, coordinators=["c1", "c2"], lease_s=4.0, heartbeat_s=0.8, append_timeout_s=0.4
)


class Cluster:
    """A router and coordinators; `start` them, then talk to them."""

    def __init__(self, settings: Settings = SETTINGS, max_payload: int = 1024 * 1024) -> None:
        self.settings = settings
        self.world = MemoryWorld(Random(5), max_payload=max_payload)
        self.map = ShardMap(
            1,
            settings.shard_count,
            settings.shard_key,
            settings.shard_distribution,
            settings.coordinators,
        )
        self.coordinators: dict[str, Coordinator] = {}
        self._started = 0
        self.router = Router(self.world.connect("r1"), settings, self.map, self.runtime(1))
        self.swarm = Swarm(self.world.connect("me"), self.runtime(2))

    def runtime(self, seed: int, wall: Callable[[], float] | None = None) -> Runtime:
        return Runtime(wall or self.world.time, Random(seed), no_cpu)

    async def start(self, *names: str, owned: int | None = None) -> None:
        """Start the router and these coordinators, and wait until the shards are owned."""
        await self.router.start()
        for name in names:
            await self.start_coordinator(name)
        if owned is None:
            owned = self.settings.shard_count
        await until(lambda: sum(len(c.owned) for c in self.coordinators.values()) >= owned)

    async def start_coordinator(
        self, name: str, wall: Callable[[], float] | None = None
    ) -> Coordinator:
        self._started += 1
        runtime = self.runtime(100 + self._started, wall)
        bus = self.world.connect(name)
        coordinator = Coordinator(bus, self.settings, name, self.map, runtime)
        self.coordinators[name] = coordinator
        await coordinator.start()
        return coordinator

    async def stop(self) -> None:
        for coordinator in self.coordinators.values():
            await coordinator.stop()
        await self.router.stop()

    async def ask(self, bus: MemoryBus, subject: str, body: object) -> dict[str, Any]:
        """One request, one reply."""
        reply = await bus.request(subject, msgspec.json.encode(body), 2.0)
        answer: dict[str, Any] = msgspec.json.decode(reply.data)
        return answer


class HandAgent:
    """An agent by hand: nothing happens that a test did not ask for."""

    def __init__(self, cluster: Cluster, agent_id: str, *work_types: str) -> None:
        self.cluster = cluster
        self.id = agent_id
        self.work_types = list(work_types)
        self.bus = cluster.world.connect(agent_id)
        self.work: list[Work] = []
        self.controls: list[dict[str, Any]] = []
        self.number = 0
        self.received = 0
        self.session = ""
        self.coordinator = ""

    async def attach(self, **more: Any) -> dict[str, Any]:
        request = Attach(self.work_types, **more)
        answer = await self.cluster.ask(self.bus, f"swarm.attach.{self.id}", request)
        if "error" in answer:
            return answer
        attached = msgspec.convert(answer, Attached)
        self.coordinator = attached.coordinator
        if self.session == attached.session:
            return answer
        self.session = attached.session
        at = f"swarm.agent.{self.id}.{self.session}"
        await self.bus.subscribe(f"{at}.work", lambda message: self._on_work(message.data))
        await self.bus.subscribe(
            f"{at}.control", lambda message: self.controls.append(msgspec.json.decode(message.data))
        )
        return answer

    def _on_work(self, data: bytes) -> None:
        work = msgspec.json.decode(data, type=Work)
        self.received += len(work.items)
        self.work.append(work)

    async def next(self, slots: int, *done: Any) -> None:
        self.number += 1
        body = Next(self.session, self.number, slots, self.received, list(done))
        subject = f"swarm.coordinator.{self.coordinator}.next.{self.id}"
        await self.bus.publish(subject, msgspec.json.encode(body))

    async def heartbeat(self, *held: tuple[str, str], slots: int = 0) -> None:
        self.number += 1
        body = {
            "session": self.session,
            "coordinator": self.coordinator,
            "number": self.number,
            "slots": slots,
            "received": self.received,
            "work_types": self.work_types,
            "held": held,
        }
        await self.bus.publish(f"swarm.heartbeat.{self.id}", msgspec.json.encode(body))

    def assigned(self) -> list[tuple[str, str]]:
        return [(a.work_item_id, a.token) for work in self.work for a in work.items]


async def until(condition: Callable[[], object], deadline_s: float = 60.0) -> None:
    """Return when `condition` holds (virtual time); fail at the deadline."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - conditions of any kind, in virtual time
            await asyncio.sleep(0.01)  # virtual time


async def pass_time(duration_s: float) -> None:
    """Let virtual time pass."""
    await asyncio.sleep(duration_s)


def on_cluster(scenario: Callable[[Cluster], Coroutine[Any, Any, T]], **settings: Any) -> T:
    """Run `scenario` with a cluster of its own, and stop what it started."""

    async def main() -> T:
        cluster = Cluster(**settings)
        try:
            return await scenario(cluster)
        finally:
            await cluster.stop()

    return run(main, seed=5)
