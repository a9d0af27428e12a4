"""Resting: a swarm that has nothing to do says little, and writes less."""

from __future__ import annotations

import asyncio

from swarm.testing.sim.mechanism import Mechanism, Said
from swarm.testing.sim.processes import Processes
from swarm.testing.sim.scene import Scene

#: How long the swarm is watched, in one schedule of so many.
WATCHED_S = 3.0
ONE_OF = 4
#: After the last item has ended, what is still under way may come to its end.
SETTLES_S = 1.0


class Resting(Mechanism):
    """When all is done, nobody may go on asking, answering or appending in circles."""

    expects = ("rest",)

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: Messages by kind, while the swarm is watched.
        self._said: dict[str, int] | None = None

    async def probe(self, processes: Processes) -> None:
        """Watch."""
        if self.scene.rng.randrange(ONE_OF):
            return
        await asyncio.sleep(SETTLES_S)
        self._said = {}
        await asyncio.sleep(WATCHED_S)
        self.scene.verdict.saw("rest")
        said, self._said = self._said, None
        plan, settings = self.scene.plan, self.scene.settings
        beats = len(plan.coordinators) * (WATCHED_S / settings.beat_s + 2)
        heartbeats = len(plan.agents) * (WATCHED_S / settings.heartbeat_s + 2)
        # Some may still repeat an outcome that their owner was not there for.
        others = 4 * len(plan.agents)
        for kind, count in said.items():
            most = {"beat": beats, "heartbeat": heartbeats}.get(kind, others)
            if count > most:
                self.scene.verdict.broken(
                    f"[liveness] {count} messages {kind!r} in {WATCHED_S} s of rest: {said}"
                )

    def on_coordinator(self, said: Said) -> None:
        """Count what coordinators say."""
        self._count(said)

    def on_other(self, said: Said) -> None:
        """Count what others say."""
        self._count(said)

    def _count(self, said: Said) -> None:
        if self._said is not None:
            tokens = said.tokens
            kind = "reply" if tokens[0] == "_INBOX" else tokens[1]
            if kind in ("coordinator", "agent"):
                kind = f"{kind} {tokens[3]}"
            self._said[kind] = self._said.get(kind, 0) + 1
