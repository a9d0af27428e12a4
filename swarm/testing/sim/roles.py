"""What runs in the processes of a simulated swarm: the real actors and the real SDK."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from swarm.actors.coordinator import Coordinator
from swarm.actors.router import Router
from swarm.bus.memory import MemoryBus
from swarm.errors import SwarmError
from swarm.sdk.agent import Agent
from swarm.sdk.context import Context
from swarm.sdk.launching import Handler
from swarm.sdk.runners import InlineRunner
from swarm.testing.sim.client import Client
from swarm.testing.sim.mechanism import Execution, Hooks
from swarm.testing.sim.plan import WORK_TYPES
from swarm.testing.sim.scene import Scene


class Roles:
    """A method for each role that a process can have."""

    def __init__(self, scene: Scene, hooks: Hooks) -> None:
        self._scene = scene
        self._hooks = hooks
        #: Handlers that run, by process.
        self._running: dict[str, list[Execution]] = {}

    async def router(self, name: str, leave: asyncio.Event) -> None:
        """A router."""
        scene, bus = self._scene, self._scene.world.connect(name)
        await self._host(Router(bus, scene.settings, scene.map, scene.runtime(name)), bus, leave)

    async def coordinator(self, name: str, leave: asyncio.Event) -> None:
        """A coordinator."""
        scene, bus = self._scene, self._scene.world.connect(name)
        actor = Coordinator(bus, scene.settings, name, scene.map, scene.runtime(name))
        await self._host(actor, bus, leave)

    async def _host(
        self, actor: Router | Coordinator, bus: MemoryBus, leave: asyncio.Event
    ) -> None:
        while not actor.running:
            try:
                await actor.start()
            except SwarmError:
                # As a node does that cannot reach its NATS server at the start.
                await actor.stop()
                await asyncio.sleep(0.5)
        await leave.wait()
        if isinstance(actor, Coordinator):
            # As a node does: what others can take over is handed to them first.
            await actor.drain(self._scene.settings.drain_s)
        await actor.stop()
        await bus.close()

    async def client(self, name: str, _leave: asyncio.Event) -> None:
        """A client; its process ends when it has done its work."""
        await Client(self._scene, self._hooks, name).run()

    # --- agents ------------------------------------------------------------------------

    async def agent(self, name: str, leave: asyncio.Event) -> None:
        """An agent process; it may share its agent id with another one."""
        scene, rng = self._scene, self._scene.new_rng()
        while not leave.is_set():
            bus = scene.world.connect(scene.plan.agents[name], node=name)
            agent = Agent(
                list(WORK_TYPES),
                concurrency=scene.plan.concurrency[name],
                takeover=rng.random() < 0.3,
                drain_s=rng.random() * 3.0,
                runner=InlineRunner(),
                runtime=scene.runtime(name),
            )
            agent.handles(*WORK_TYPES)(self._handler(name, rng))
            leaving = asyncio.create_task(_stop_when(agent, leave))
            try:
                await agent.run(bus)
            except SwarmError:
                # Refused or superseded: another process has the id.  Try again later.
                await asyncio.sleep(1.0 + rng.random())
            leaving.cancel()
            await bus.close()

    def _handler(self, process: str, rng: Random) -> Handler:
        async def handle(context: Context) -> Any:
            execution = self._started(context, process)
            try:
                await asyncio.sleep(rng.choice((0.01, 0.1, 1.0, 3.0)) * rng.random())
                if rng.random() < 0.2:
                    await context.progress(50, "half")
                    await asyncio.sleep(0.5 * rng.random())
                await self._hooks.work(context, rng)
                if rng.random() < 0.1:
                    raise ValueError("the work went wrong")
                return {"by": process, "token": context.token}
            finally:
                self._finished(execution)

        return handle

    def _started(self, context: Context, process: str) -> Execution:
        scene, key = self._scene, (context.work_item_id, context.token)
        claim = scene.truth.claims.get(key)
        if claim is None:
            scene.verdict.broken(f"[6] {process} runs {key}, a claim that was never issued")
        execution = Execution(claim, process, scene.clock())
        self._running.setdefault(process, []).append(execution)
        self._hooks.start(execution)
        return execution

    def _finished(self, execution: Execution) -> None:
        if execution.ended_at_s is None:
            execution.ended_at_s = self._scene.clock()
            self._running[execution.process].remove(execution)
            self._hooks.finish(execution)

    def died(self, name: str) -> None:
        """A process was killed, and all its handlers with it."""
        for execution in list(self._running.get(name, ())):
            self._finished(execution)


async def _stop_when(agent: Agent, leave: asyncio.Event) -> None:
    await leave.wait()
    agent.stop()
