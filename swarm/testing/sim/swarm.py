"""One simulated swarm: real actors and the real SDK on the deterministic bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from swarm.actors.coordinator import Coordinator
from swarm.actors.opening import shard_rules_of
from swarm.actors.router import Router
from swarm.bus.log import LogReader
from swarm.bus.memory import EPOCH_S, Faults, MemoryWorld
from swarm.errors import BusError, NoAnswer, SwarmError
from swarm.messages import ShardMap
from swarm.runtime import Runtime
from swarm.sdk.agent import Agent
from swarm.sdk.client import Swarm
from swarm.sdk.context import Context
from swarm.sdk.runners import InlineRunner
from swarm.subjects import Subjects
from swarm.testing.sim.checker import Checker, Violation
from swarm.testing.sim.plan import AGENTS, CLIENTS, COORDINATORS, SETTINGS, Mishap, Plan

TYPES = ("build", "test")
PRIORITIES = ("critical", "high", "medium", "low")
#: A healthy swarm must have finished everything after this long (virtual seconds).
LIVENESS_S = 120.0


class SimSwarm:
    """Processes, their faults, and the checker that watches them."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self._plan = plan
        self._loop = asyncio.get_running_loop()
        self._rng = Random(f"swarm {seed}")
        self.world = MemoryWorld(Random(f"world {seed}"), faults=plan.faults, trace_max=4000)
        rules = shard_rules_of(SETTINGS, self.world.max_payload)
        self.checker = Checker(rules, self._loop.time, EPOCH_S)
        self.checker.coordinators = dict.fromkeys(COORDINATORS, "")
        self.world.on_append(self.checker.on_append)
        self.world.on_publish(self.checker.on_publish)
        self.world.on_deliver(self.checker.on_deliver)
        self._map = ShardMap(
            1,
            SETTINGS.shard_count,
            SETTINGS.shard_key,
            SETTINGS.shard_distribution,
            list(COORDINATORS),
        )
        #: What runs in each process: its main task.
        self._processes: dict[str, asyncio.Task[None]] = {}
        self._calm = False
        self._clients_done = False
        self._subjects = Subjects(SETTINGS.prefix)

    async def run(self) -> None:
        """Faults first, then health: in which everything must finish."""
        self._start("r1", self._router)
        for name in COORDINATORS:
            self._start(name, self._coordinator)
        for name in AGENTS:
            self._start(name, self._agent)
        follower = asyncio.create_task(self._follow(), name="follower")
        clients = [asyncio.create_task(self._client(name), name=name) for name in CLIENTS]
        await self._misbehave()
        self._calm = True
        self.world.calm()
        for name, task in self._processes.items():
            if task.done():
                self._start(name, self._role(name))
        try:
            async with asyncio.timeout(LIVENESS_S):
                await asyncio.gather(*clients)
                self._clients_done = True
                await follower
        except TimeoutError:
            self.checker.raise_violation()
            waiting = [task.get_name() for task in [*clients, follower] if not task.done()]
            left = ", ".join(self.checker.unfinished()) or "none"
            raise Violation(f"[liveness] unfinished: {left}; waiting: {waiting}") from None
        self.checker.check_end()

    # --- processes -----------------------------------------------------------------------

    def _role(self, name: str) -> Callable[[str], Coroutine[Any, Any, None]]:
        if name in COORDINATORS:
            return self._coordinator
        return self._agent if name in AGENTS else self._router

    def _start(self, name: str, role: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        self._processes[name] = asyncio.create_task(role(name), name=name)

    def _runtime(self) -> Runtime:
        return Runtime(self.world.time, Random(self._rng.random()))

    async def _router(self, name: str) -> None:
        router = Router(self.world.connect(name), SETTINGS, self._map, self._runtime())
        await self._hold(router)

    async def _coordinator(self, name: str) -> None:
        bus = self.world.connect(name)
        await self._hold(Coordinator(bus, SETTINGS, name, self._map, self._runtime()))

    async def _hold(self, actor: Router | Coordinator) -> None:
        """Run until cancelled: a crash leaves no time to say goodbye."""
        try:
            await actor.start()
            await asyncio.Event().wait()
        finally:
            with contextlib.suppress(BusError):  # a dead process cannot unsubscribe
                await actor.stop()

    async def _agent(self, name: str) -> None:
        rng = Random(self._rng.random())
        while True:
            bus = self.world.connect(AGENTS[name], node=name)
            agent = Agent(
                list(TYPES),
                concurrency=rng.randint(1, 3),
                takeover=rng.random() < 0.3,
                runner=InlineRunner(),
                runtime=self._runtime(),
            )
            agent.handles(*TYPES)(self._handler(name, rng))
            try:
                await agent.run(bus)
            except SwarmError:
                # Refused or superseded: another process has the id.  Try again later.
                await asyncio.sleep(1.0 + rng.random())
            await bus.close()

    def _handler(self, process: str, rng: Random) -> Callable[[Context], Coroutine[Any, Any, Any]]:
        async def handle(context: Context) -> Any:
            execution = self.checker.started(context.work_item_id, context.token, process)
            try:
                await asyncio.sleep(rng.choice((0.01, 0.1, 1.0, 3.0)) * rng.random())
                if rng.random() < 0.2:
                    await context.progress(50, "half")
                    await asyncio.sleep(0.5 * rng.random())
                if rng.random() < 0.1:
                    raise ValueError("the work went wrong")
                return {"by": process}
            finally:
                self.checker.finished(execution)

        return handle

    async def _follow(self) -> None:
        """A reader of the logs: whatever it misses, it ends with what the log says."""
        bus = self.world.connect("f1")
        rules = shard_rules_of(SETTINGS, bus.max_payload)
        readers = [
            LogReader(bus, self._subjects.log(number), number, rules)
            for number in range(SETTINGS.shard_count)
        ]
        while True:
            last_round = self._calm and self._clients_done and not self.checker.unfinished()
            same = 0
            for reader in readers:
                with contextlib.suppress(BusError):  # the next round reads on
                    await reader.catch_up()
                    if last_round:
                        same += self.checker.same_as(reader.shard, reader.position.at)
            if same == len(readers):
                return
            await asyncio.sleep(0.7)

    # --- clients ------------------------------------------------------------------------------

    async def _client(self, name: str) -> None:
        rng = Random(self._rng.random())
        swarm = Swarm(self.world.connect(name), self._runtime())
        left = self._plan.items
        batch = 0
        while left > 0:
            count = min(left, rng.randint(1, 5))
            left -= count
            batch += 1
            await self._submit(swarm, rng, [f"{name}-{batch}-{index}" for index in range(count)])
            await asyncio.sleep(rng.random() * self._plan.faults_s / self._plan.items)
        await swarm.close()

    async def _submit(self, swarm: Swarm, rng: Random, names: list[str]) -> None:
        keyed = rng.random() < 0.3
        items = [
            {
                "work_type": rng.choice(TYPES),
                "priority": rng.choice(PRIORITIES),
                "payload": {"logical": name},
                "idempotency_key": name if keyed else "",
            }
            for name in names
        ]
        ids: list[str] = []
        # Again with the same keys, as a client does that was restarted: no item is doubled.
        for _ in range(rng.randint(1, 2) if keyed else 1):
            outcomes = await swarm.submit_many(items, timeout_s=10_000.0)
            for name, outcome in zip(names, outcomes, strict=True):
                if isinstance(outcome, SwarmError):
                    raise Violation(f"[1] {name} was not accepted: {outcome}")
                self.checker.submitted(name, outcome.work_item_id)
                ids.append(outcome.work_item_id)
        if rng.random() < 0.3:
            with contextlib.suppress(NoAnswer):  # under faults a read may find nobody
                seen = await swarm.get(ids[0], timeout_s=5.0)
                assert seen.payload is not None, "an item keeps its payload"

    # --- mishaps -------------------------------------------------------------------------------

    async def _misbehave(self) -> None:
        started = self._loop.time()
        for mishap in self._plan.mishaps:
            await asyncio.sleep(max(0.0, started + mishap.at_s - self._loop.time()))
            self._strike(mishap)
        await asyncio.sleep(max(0.0, started + self._plan.faults_s - self._loop.time()))

    def _strike(self, mishap: Mishap) -> None:
        self.checker.saw(mishap.kind)
        match mishap.kind:
            case "crash":
                self._crash(mishap.node)
                self._loop.call_later(mishap.for_s, self._restart, mishap.node)
            case "partition":
                self.world.partition(mishap.node)
                self._loop.call_later(mishap.for_s, self._heal, mishap.node)
            case "cut_log":
                self.world.cut_log(mishap.node)
                self._loop.call_later(mishap.for_s, self._heal, mishap.node)
            case "pause":
                self.world.pause(mishap.node, mishap.for_s)
            case _:
                assert mishap.kind == "foreign", "every kind of mishap is done"
                log = self._subjects.log(self._rng.randrange(SETTINGS.shard_count))
                with contextlib.suppress(BusError):  # the log may not have been made yet
                    self.world.inject(log, b'{"not": "ours"}')

    def _crash(self, node: str) -> None:
        self.world.crash(node)
        self._processes[node].cancel()
        self.checker.died(node)

    def _restart(self, node: str) -> None:
        if self._processes[node].done():
            self._start(node, self._role(node))

    def _heal(self, node: str) -> None:
        self.world.heal(node)


def faultless(plan: Plan) -> Plan:
    """The same work without any fault."""
    return Plan(Faults.none(), [], plan.faults_s, plan.items)
