"""Who has truly fallen silent: what the simulation knows of each agent's process."""

from __future__ import annotations

from msgspec import Struct

from swarm.testing.sim.mechanism import Said
from swarm.testing.sim.mechanisms.checkpointing import SHELL
from swarm.testing.sim.mishaps import Mishap
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded

#: A process that went through one of these may have been silent, and for a while after it.
SILENCING = ("crash", "leave", "pause", "stutter", "stall", "slow", "deaf", "partition")
AFTER_S = 3.0


class _Session(Struct):
    """An agent session, as it attached first."""

    agent: str
    node: str
    #: Its process is this one of those on its machine.
    boot: int


class Silence:
    """Tells whether an agent may be charged for having fallen silent.

    Trouble of NATS, or of coordinators, is no reason: only what befell the agent's own
    process or line.  Message loss is one, as nobody can tell it from silence.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._sessions: dict[str, _Session] = {}
        #: Latest session by agent id.
        self._latest: dict[str, str] = {}
        self._boots: dict[str, int] = {}
        #: (kind, from, to) of times in which a machine was in trouble.
        self._trouble: dict[str, list[tuple[str, float, float]]] = {}

    def attaches(self, said: Said) -> None:
        """A process asks to be taken on."""
        session, agent = said.body["session"], said.tokens[-1]
        boot = self._boots.get(said.node, 0)
        self._sessions.setdefault(session, _Session(agent, said.node, boot))
        self._latest[agent] = session

    def boots(self, node: str) -> None:
        """A process starts, or starts anew."""
        self._boots[node] = self._boots.get(node, 0) + 1

    def killed(self, node: str) -> None:
        """A process dies (and is started again, at some time)."""
        self._boots[node] = self._boots.get(node, 0) + 1

    def struck(self, mishap: Mishap) -> None:
        """A mishap befalls a process."""
        if mishap.kind in SILENCING:
            now_s = self._scene.clock()
            until_s = now_s + mishap.for_s + AFTER_S
            self._trouble.setdefault(mishap.node, []).append((mishap.kind, now_s, until_s))
            if mishap.kind == "crash":
                self.killed(mishap.node)

    def check(self, folded: Folded) -> None:
        """A claim has ended because its agent, it is said, fell silent."""
        claim = folded.ended
        assert claim is not None, "it ended a claim"
        session = self._sessions.get(claim.session)
        if session is None and claim.agent == SHELL:
            return  # it sends no heartbeats
        assert session is not None, f"{claim} is of a session that never attached"
        if self._boots[session.node] != session.boot:
            self._scene.verdict.saw("charged an agent")
            return
        if self._latest[session.agent] != claim.session:
            return  # another one has asked for its place, and may have got it
        # An owner that is slow drops heartbeats, and does not know it.
        if self._in_trouble(folded, session.node, SILENCING) or self._in_trouble(
            folded, folded.node, ("slow",)
        ):
            return
        if self._messages_get_lost(folded):
            return
        self._scene.verdict.broken(f"[9] {claim} was charged, and its agent was well all the time")

    def _in_trouble(self, folded: Folded, node: str, kinds: tuple[str, ...]) -> bool:
        until_s = folded.decided_at_s
        from_s = until_s - _lease_s(folded)
        return any(
            kind in kinds and start_s < until_s and end_s > from_s
            for kind, start_s, end_s in self._trouble.get(node, ())
        )

    def _messages_get_lost(self, folded: Folded) -> bool:
        faults = self._scene.plan.faults
        from_s = folded.decided_at_s - _lease_s(folded)
        return bool(faults.loss or faults.delay) and from_s < self._scene.calm_at_s + AFTER_S


def _lease_s(folded: Folded) -> float:
    assert folded.ended is not None, "it ended a claim"
    return folded.ended.lease_s
