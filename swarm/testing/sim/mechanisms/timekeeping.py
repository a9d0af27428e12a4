"""Clocks: who opens a shard has one that is right; the log's time never goes back [9]."""

from __future__ import annotations

from swarm.messages import Opened
from swarm.testing.sim.mechanism import Mechanism
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded

#: An owner whose clock is further off the server's refuses to open.
OFF_MAX_S = 2.0
#: What a look at the clocks may be wrong by.
MARGIN_S = 0.1


class Timekeeping(Mechanism):
    """The clocks of machines are a little off, and jump by up to hours."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._now: dict[int, float] = {}
        #: Looks at the server's clock while their own was right, that have not led to an
        #: opening yet, by node.
        self._looks: dict[str, int] = {}

    def on_look(self, node: str) -> None:
        """A process compares its clock with the server's: for each try to open a shard."""
        if abs(self.scene.clocks.off_s(node)) <= OFF_MAX_S + MARGIN_S:
            self._looks[node] = self._looks.get(node, 0) + 1

    def on_event(self, folded: Folded) -> None:
        """An entry is no older than the one before, and opened by the right clock."""
        verdict, now = self.scene.verdict, folded.entry.now
        before = self._now.get(folded.shard, now)
        self._now[folded.shard] = now
        if now < before:
            verdict.broken(f"[9] time in log {folded.shard} went back from {before} to {now}")
        if isinstance(folded.event, Opened):
            self._opened(folded)

    def _opened(self, folded: Folded) -> None:
        self._looks[folded.node] = self._looks.get(folded.node, 0) - 1
        if self._looks[folded.node] < 0:
            off_s = self.scene.clocks.off_s(folded.node)
            self.scene.verdict.broken(f"[9] {folded.node} opened, its clock is {off_s:.1f} s off")
