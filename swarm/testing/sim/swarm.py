"""One simulated swarm: real actors and the real SDK on the deterministic bus."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from swarm.actors.opening import shard_rules_of
from swarm.bus.memory import MemoryWorld
from swarm.messages import Cancelled, ClusterEvent, Completed, Died, ShardMap
from swarm.subjects import Subjects
from swarm.testing.sim.clocks import Clocks
from swarm.testing.sim.logbook import listen
from swarm.testing.sim.mechanism import Hooks
from swarm.testing.sim.mechanisms import MECHANISMS
from swarm.testing.sim.mishaps import Stagehand
from swarm.testing.sim.plan import CLIENTS, Plan
from swarm.testing.sim.processes import Processes
from swarm.testing.sim.roles import Roles
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.traps import Traps
from swarm.testing.sim.truth import Folded, Truth
from swarm.testing.sim.verdict import Verdict, Violation

#: In a healthy swarm that has not finished everything, an item ends this often (virtual seconds).
LIVENESS_S = 30.0
#: Between two looks at whether it has.
LOOK_S = 0.25


class SimSwarm:
    """Processes, their faults, and the mechanisms that watch them."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self._plan = plan
        self._loop = asyncio.get_running_loop()
        self.world = MemoryWorld(Random(f"world {seed}"), faults=plan.faults, trace_max=4000)
        self.verdict = Verdict(self._end)
        self._scene = self._make_scene(Random(f"swarm {seed}"))
        mechanisms = [make(self._scene) for make in MECHANISMS]
        self._hooks = Hooks(mechanisms, plan.coordinators)
        roles = Roles(self._scene, self._hooks)
        self._processes = Processes(self._scene, self._hooks.boot, roles.died)
        self._scene.kill = self._processes.kill
        for names, role in (
            (plan.routers, roles.router),
            (plan.coordinators, roles.coordinator),
            (plan.agents, roles.agent),
            (CLIENTS, roles.client),
        ):
            for name in names:
                self._processes.add(name, role)
        self._scene.clocks.add("filler")
        for mechanism in mechanisms:
            for name, own_role in mechanism.roles().items():
                self._processes.add(name, own_role)
        #: When the latest item has ended.
        self._ended_at_s = 0.0
        self._watch()
        listen(self._on_error)

    def _make_scene(self, rng: Random) -> Scene:
        settings, world = self._plan.settings, self.world
        rules = shard_rules_of(settings, world.max_payload)
        shard_map = ShardMap(
            1,
            settings.shard_count,
            settings.shard_key,
            settings.shard_distribution,
            settings.coordinators,
        )
        return Scene(
            plan=self._plan,
            settings=settings,
            map=shard_map,
            rules=rules,
            subjects=Subjects(settings.prefix),
            world=world,
            clock=self._loop.time,
            clocks=Clocks(world.time, Random(rng.random())),
            verdict=self.verdict,
            truth=Truth(
                rules,
                self.verdict,
                self._loop.time,
                self._on_event,
                self._on_cluster,
            ),
            traps=Traps(world, self.verdict.saw),
            rng=rng,
        )

    def _watch(self) -> None:
        world, truth, hooks = self.world, self._scene.truth, self._hooks
        world.on_send(truth.on_send)
        world.on_send(lambda log, _data, node: hooks.append(log, node))
        world.on_append(truth.on_append)
        world.on_publish(hooks.publish)
        world.on_arrive(hooks.arrive)
        world.on_deliver(hooks.deliver)
        world.on_look(hooks.look)

    def _on_event(self, folded: Folded) -> None:
        if isinstance(folded.event, Completed | Died | Cancelled):
            self._ended_at_s = self._loop.time()
        self._hooks.event(folded)

    def _on_cluster(self, event: ClusterEvent, node: str) -> None:
        self._hooks.cluster(event, node)

    def _on_error(self, event: str, values: dict[str, Any]) -> None:
        """An actor logs an error."""
        if event == "shard closed":
            self.verdict.saw(event)
        if event == "actor failed" or "internal error" in str(values.get("why", "")):
            self.verdict.broken(f"[internal] {event}: {values}")

    def _end(self, violation: Violation) -> None:
        self._loop.call_exception_handler({"message": "broken", "exception": violation})

    async def run(self) -> None:
        """Faults first, then health: in which everything must finish."""
        self._processes.start_all()
        await self._misbehave()
        self._scene.calm_at_s = self._loop.time()
        self.world.calm()
        self._scene.clocks.mend_all()
        self._processes.start_all()
        await self._finish()
        for mechanism in self._hooks.mechanisms:
            await mechanism.probe(self._processes)
        await self._finish()
        self.verdict.raise_violation()
        for mechanism in self._hooks.mechanisms:
            mechanism.at_end()

    async def _misbehave(self) -> None:
        hand = Stagehand(self._scene, self._hooks, self._processes)
        started = self._loop.time()
        for mishap in self._plan.mishaps:
            await asyncio.sleep(max(0.0, started + mishap.at_s - self._loop.time()))
            hand.strike(mishap)
        await asyncio.sleep(max(0.0, started + self._plan.faults_s - self._loop.time()))

    async def _finish(self) -> None:
        began_at_s = self._loop.time()
        while self._processes.working(CLIENTS) or self._hooks.unfinished():
            # How much work there is, one after the other perhaps, is a matter of the plan.
            if self._loop.time() > max(began_at_s, self._ended_at_s) + LIVENESS_S:
                clients = self._processes.working(CLIENTS) or "none"
                left = "; ".join(self._hooks.unfinished()) or "nothing"
                raise Violation(f"[liveness] clients that wait: {clients}; unfinished: {left}")
            await asyncio.sleep(LOOK_S)
