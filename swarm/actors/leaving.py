"""Sending agents' sessions away from a coordinator that is about to leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from swarm.actors.sending import Outgoing
from swarm.actors.surroundings import Surroundings
from swarm.messages import Beat, Control

_encode = msgspec.json.Encoder().encode

#: Sessions told to attach elsewhere at once, the pause then, and when they are told again.
SENT_AT_ONCE = 40
SEND_PAUSE_S = 0.05
SEND_AGAIN_S = 1.0


class Leaving:
    """The part of a coordinator that sends its sessions to others."""

    def __init__(
        self, around: Surroundings, say: Outgoing, live: Callable[[], dict[str, Beat]]
    ) -> None:
        self._me = around.coordinator
        self._pool = around.pool
        self._subjects = around.subjects
        self._say = say
        self._live = live
        self._clock = asyncio.get_running_loop().time

    def stayers(self) -> list[str]:
        """Other live coordinators that are not about to leave."""
        return [
            name for name, beat in self._live().items() if name != self._me and not beat.draining
        ]

    async def send_away(self, limit_s: float) -> None:
        """Tell all sessions to attach elsewhere, not all at once; return when they have."""
        give_up_at = self._clock() + limit_s
        told: dict[tuple[str, str], float] = {}
        while self._pool.sessions and self.stayers() and self._clock() < give_up_at:
            before = self._clock() - SEND_AGAIN_S
            due = [key for key in self._pool.sessions if told.get(key, before) <= before]
            for agent, session in due[:SENT_AT_ONCE]:
                told[agent, session] = self._clock()
                control = Control("reattach", reason=f"{self._me} is about to leave")
                self._say(self._subjects.agent_control(agent, session), _encode(control))
            await self._say.flush()
            await asyncio.sleep(SEND_PAUSE_S)
