"""Repeating: whatever was sent how often, a command is carried out at most once [7]."""

from __future__ import annotations

from swarm.messages import Submitted
from swarm.testing.sim.mechanism import Mechanism
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded


class Repeating(Mechanism):
    """Clients and agents say again what was not answered, and the network doubles messages."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: What each command has done, by shard, command id and, of a batch, index.
        self._done: dict[tuple[int, str, int], object] = {}

    def on_event(self, folded: Folded) -> None:
        """No command comes twice, nor any part of a batch (which may come in parts)."""
        event = folded.event
        command_id: str = getattr(event, "command_id", "")
        if not command_id:
            return
        parts = [0]
        if isinstance(event, Submitted):
            parts = event.indexes or list(range(len(event.items)))
        for part in parts:
            first = self._done.setdefault((folded.shard, command_id, part), event)
            if first is not event:
                self.scene.verdict.broken(f"[7] carried out twice: {first}, then {event}")
