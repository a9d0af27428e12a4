"""A coordinator that is about to leave sends its agents to others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from swarm.actors.sending import Outgoing
from swarm.actors.surroundings import Surroundings
from swarm.messages import Control

_encode = msgspec.json.Encoder().encode

#: Sessions told to attach elsewhere at once, the pause then, and when they are told again.
SENT_AT_ONCE = 40
SEND_PAUSE_S = 0.05
SEND_AGAIN_S = 1.0


async def send_away(
    around: Surroundings, say: Outgoing, stayers: Callable[[], list[str]], limit_s: float
) -> None:
    """Tell all sessions to attach elsewhere, not all at once; return when they have.

    Or after `limit_s`, or once nobody stays (`stayers`) to whom they could go.
    """
    clock, sessions = asyncio.get_running_loop().time, around.pool.sessions
    give_up_at = clock() + limit_s
    told: dict[tuple[str, str], float] = {}
    while sessions and stayers() and clock() < give_up_at:
        before = clock() - SEND_AGAIN_S
        due = [key for key in sessions if told.get(key, before) <= before]
        for agent, session in due[:SENT_AT_ONCE]:
            told[agent, session] = clock()
            control = Control("reattach", reason=f"{around.coordinator} is about to leave")
            say(around.subjects.agent_control(agent, session), _encode(control))
        await say.flush()
        await asyncio.sleep(SEND_PAUSE_S)
