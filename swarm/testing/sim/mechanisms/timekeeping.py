"""Clocks: who opens a shard has one that is right; the log's time never goes back [9]."""

from __future__ import annotations

from swarm.messages import Opened
from swarm.testing.sim.mechanism import Mechanism
from swarm.testing.sim.mishaps import Mishap
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded

#: An owner whose clock is further off the server's refuses to open.
OFF_MAX_S = 2.0
#: What a look at the clocks may be wrong by, and what may go unnoticed between two looks.
MARGIN_S = 0.6
#: What a log's time may be off: of a look that took long nobody knows when the server looked.
LOG_OFF_MAX_S = OFF_MAX_S + MARGIN_S + 8.0
#: What was set wrong so lately may not have been noticed when the opening began.
NOTICED_S = 5.0


class Timekeeping(Mechanism):
    """The clocks of machines are a little off, and jump by up to hours."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._now: dict[int, float] = {}
        #: When each machine's clock was last set.
        self._set_at: dict[str, float] = {}

    def on_mishap(self, mishap: Mishap) -> None:
        """A clock is set wrong."""
        if mishap.kind == "clock":
            self._set_at[mishap.node] = self.scene.clock()

    def on_mended(self, mishap: Mishap) -> None:
        """A clock is set right."""
        self.on_mishap(mishap)

    def on_event(self, folded: Folded) -> None:
        """An entry is no older than the one before, and opened by the right clock."""
        verdict, now = self.scene.verdict, folded.entry.now
        before = self._now.get(folded.shard, now)
        self._now[folded.shard] = now
        if now < before:
            verdict.broken(f"[9] time in log {folded.shard} went back from {before} to {now}")
        self._check_right(folded)
        if isinstance(folded.event, Opened):
            self._opened(folded)

    def _check_right(self, folded: Folded) -> None:
        """A log's time begins right and then goes on by monotonic clocks."""
        true = self.scene.world.time() - self.scene.clock() + folded.decided_at_s
        off_s = folded.entry.now - true
        if abs(off_s) > LOG_OFF_MAX_S:
            name = f"log {folded.shard}, by {folded.node},"
            self.scene.verdict.broken(f"[9] the time of {name} is {off_s:.1f} s off")

    def _opened(self, folded: Folded) -> None:
        off_s = self.scene.clocks.off_s(folded.node)
        wrong_for_s = folded.decided_at_s - self._set_at.get(folded.node, 0.0)
        if abs(off_s) > OFF_MAX_S + MARGIN_S and wrong_for_s > NOTICED_S:
            self.scene.verdict.broken(f"[9] {folded.node} opened, its clock is {off_s:.1f} s off")
