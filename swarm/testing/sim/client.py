"""A client process: turn by turn it does something with one of the mechanisms."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from swarm.sdk.client import Swarm

if TYPE_CHECKING:
    from swarm.testing.sim.mechanism import Hooks
    from swarm.testing.sim.scene import Scene


class Client:
    """What a turn works with: `swarm` to ask, `rng` to draw from."""

    def __init__(self, scene: Scene, hooks: Hooks, name: str) -> None:
        self.scene = scene
        self.hooks = hooks
        self.name = name
        self.rng = scene.new_rng()
        self.swarm = Swarm(scene.world.connect(name), scene.runtime(name))
        #: Items that it has still to submit, and the ids of those that it knows of.
        self.left = scene.plan.items
        self.ids: list[str] = []
        self._background: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Until everything is submitted and every answer is there, or given up."""
        acting = self.hooks.acting
        weights = [mechanism.weight for mechanism in acting]
        # However many mechanisms there are, most is submitted while things go wrong.
        pause_s = 10.0 * self.scene.plan.faults_s / (self.scene.plan.items * sum(weights))
        while self.left > 0:
            (mechanism,) = self.rng.choices(acting, weights)
            await mechanism.act(self)
            await asyncio.sleep(self.rng.random() * pause_s)
        await asyncio.gather(*self._background)
        await self.swarm.close()

    def meanwhile(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on with the next turn while this is under way."""
        self._background.append(asyncio.create_task(work))
