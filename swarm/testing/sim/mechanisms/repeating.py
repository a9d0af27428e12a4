"""Repeating: whatever was sent how often, a command is carried out at most once [7]."""

from __future__ import annotations

from swarm.testing.sim.mechanism import Mechanism
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded


class Repeating(Mechanism):
    """Clients and agents say again what was not answered, and the network doubles messages."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: What each command has done, by shard and command id.
        self._done: dict[tuple[int, str], object] = {}

    def on_event(self, folded: Folded) -> None:
        """No command comes twice."""
        command_id: str = getattr(folded.event, "command_id", "")
        if not command_id:
            return
        first = self._done.setdefault((folded.shard, command_id), folded.event)
        if first is not folded.event:
            self.scene.verdict.broken(f"[7] carried out twice: {first}, then {folded.event}")
