"""What all parts of one simulation share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from swarm.bus.memory import MemoryWorld
from swarm.config import Settings
from swarm.core.shard import ShardRules
from swarm.messages import ShardMap
from swarm.runtime import Runtime, no_cpu
from swarm.subjects import Subjects
from swarm.testing.sim.clocks import Clocks
from swarm.testing.sim.plan import Plan
from swarm.testing.sim.traps import Traps
from swarm.testing.sim.truth import Truth
from swarm.testing.sim.verdict import Verdict


def _nobody(name: str, _for_s: float) -> None:
    raise AssertionError(f"there is no {name} yet")


@dataclass
class Scene:
    """One simulation.  `clock` is the loop's: virtual, monotonic, the same for all."""

    plan: Plan
    settings: Settings
    map: ShardMap
    rules: ShardRules
    subjects: Subjects
    world: MemoryWorld
    clock: Callable[[], float]
    clocks: Clocks
    verdict: Verdict
    truth: Truth
    traps: Traps
    rng: Random
    #: Kills a process, which is started again after so many seconds.
    kill: Callable[[str, float], None] = _nobody
    #: When all faults end, on `clock`.
    calm_at_s: float = float("inf")

    @property
    def calm(self) -> bool:
        """Whether all faults have ended."""
        return self.clock() >= self.calm_at_s

    def runtime(self, node: str) -> Runtime:
        """Surroundings of a process on this machine."""
        return Runtime(self.clocks.wall(node), self.new_rng(), no_cpu)

    def new_rng(self) -> Random:
        """A generator of its own, for whoever draws at times that others influence."""
        return Random(self.rng.random())
