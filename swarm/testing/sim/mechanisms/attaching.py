"""Attaching: of the processes that use one agent id, one gets work."""

from __future__ import annotations

from swarm.messages import Claimed
from swarm.testing.sim.mechanism import Mechanism
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded

#: After all faults have ended, coordinators may need so long to agree who it is …
AGREED_S = 1.5
#: … and so long to tell each other of a change.
TOLD_S = 0.5
#: Of two that were taken on at once the first may lose work to the second, and get it back.
BACK_MAX = 1


class Attaching(Mechanism):
    """Two processes share an agent id and take it from each other, again and again."""

    expects = ("session replaced",)

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: The session that gets work, by agent id, and since when.
        self._latest: dict[str, tuple[str, float]] = {}
        #: How often work went back to a session that was replaced, by session.
        self._back: dict[str, int] = {}

    def on_event(self, folded: Folded) -> None:
        """Work does not go to two sessions of one agent id in turn."""
        event, now_s = folded.event, folded.decided_at_s
        # (Who claims by name has a session for each claim.)
        if (
            not isinstance(event, Claimed)
            or event.command_id
            or now_s < self.scene.calm_at_s + AGREED_S
        ):
            return
        latest, since_s = self._latest.get(event.agent, ("", 0.0))
        if latest == event.session:
            return
        if event.session not in self._back:
            self.scene.verdict.saw("session replaced")
            self._back[event.session] = 0
        elif now_s < since_s + TOLD_S:
            return  # decided by somebody who had not heard of the change yet
        else:
            self._back[event.session] += 1
        if self._back[event.session] > BACK_MAX:
            self.scene.verdict.broken(f"[6] {event.agent}: work goes to {self._back} in turn")
        self._latest[event.agent] = (event.session, now_s)
