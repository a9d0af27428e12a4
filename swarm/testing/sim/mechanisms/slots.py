"""Slots: whatever happened, in the end every slot of every agent gets work again."""

from __future__ import annotations

import asyncio
from random import Random

from swarm.errors import SwarmError
from swarm.sdk.client import Swarm
from swarm.sdk.context import Context
from swarm.testing.sim.mechanism import Mechanism
from swarm.testing.sim.plan import WORK_TYPES
from swarm.testing.sim.processes import Processes
from swarm.testing.sim.scene import Scene

#: Payload names of the items that fill the house begin so.
FILLER = "filler-"
#: A healthy swarm must have handed out as many items as it has slots after this long.
FULL_S = 30.0


class Slots(Mechanism):
    """When all is done, as many items as there are slots: none of them ends before all run.

    A slot that was lost on its way between coordinators, or an agent that nobody knows any
    more, goes unnoticed as long as others do the work.
    """

    expects = ("full house",)

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._slots = 0
        self._here: list[str] = []
        self._full = asyncio.Event()

    async def probe(self, processes: Processes) -> None:
        """Fill the house."""
        plan = self.scene.plan
        # Of processes that share an id only one can be at work.
        names = {agent: name for name, agent in plan.agents.items()}
        for name, agent in plan.agents.items():
            if names[agent] != name:
                processes.end(name)
        self._slots = sum(plan.concurrency[name] for name in names.values())
        await self._submit(self._slots)
        try:
            await asyncio.wait_for(self._full.wait(), FULL_S)
        except TimeoutError:
            self.scene.verdict.broken(
                f"[liveness] of {self._slots} slots only {len(self._here)} get work: {self._here}"
            )
        self.scene.verdict.saw("full house")

    async def _submit(self, count: int) -> None:
        bus = self.scene.world.connect("filler")
        swarm = Swarm(bus, self.scene.runtime("filler"))
        rng = self.scene.new_rng()
        items = [
            {"work_type": rng.choice(WORK_TYPES), "payload": {"logical": f"{FILLER}{number}"}}
            for number in range(count)
        ]
        for outcome in await swarm.submit_many(items, timeout_s=FULL_S):
            if isinstance(outcome, SwarmError):
                self.scene.verdict.broken(f"[liveness] a filler was not accepted: {outcome}")
        await swarm.close()
        await bus.close()

    async def work(self, context: Context, rng: Random) -> None:
        """A filler stays until all are there."""
        if not context.payload["logical"].startswith(FILLER):
            return
        self._here.append(context.work_item_id)
        if len(self._here) == self._slots:
            self._full.set()
        try:
            await self._full.wait()
        finally:
            self._here.remove(context.work_item_id)
