"""The part of the leader that moves shards by itself (`AUTO_REBALANCE_ENABLED`).

`swarm.core.rebalancer` decides; every move is a planned handoff that the shard's owner
carries out: the receiver follows the log until it has as good as caught up, and only then
the shard pauses for a moment.  A move that does not succeed ends the round; the shard
stays with its owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from swarm.actors.handoff import GIVE_S
from swarm.actors.surroundings import Surroundings
from swarm.core.rebalance import Plan, PlannedMove
from swarm.core.rebalancer import Rebalancer
from swarm.errors import BusError
from swarm.messages import Beat, ErrorBody, Move, Moved, Round, ShardMove

log = structlog.get_logger()

#: The owner gives up before that.
MOVE_S = GIVE_S + 2.0

_encode = msgspec.json.Encoder().encode


class _Reply(msgspec.Struct):
    """`Moved`, or a refusal."""

    shard: int = -1
    coordinator: str = ""
    error: ErrorBody | None = None


_reply = msgspec.json.Decoder(_Reply)
assert set(Moved.__struct_fields__) < set(_Reply.__struct_fields__), "one shape"


class Rebalancing:
    """Rounds of moves, one at a time.  `note` is told of each that has ended."""

    def __init__(self, around: Surroundings, note: Callable[[Round], None]) -> None:
        self._around = around
        self._note = note
        self._clock = asyncio.get_running_loop().time
        self._enabled = around.settings.auto_rebalance_enabled
        self._threshold = around.settings.rebalance_threshold
        self._rebalancer = Rebalancer(self._threshold)
        self._running: asyncio.Task[None] | None = None

    def look(self, live: dict[str, Beat], shard_count: int) -> None:
        """To be called a few times a second by who leads: begin a round if it is time."""
        if not self._enabled:
            return
        now = self._clock()
        if self._running is not None and not self._running.done():
            self._rebalancer.observe(live, now)
            return
        plan = self._rebalancer.look(live, shard_count, now)
        if plan is not None:
            name = f"{self._around.coordinator} rebalances"
            self._running = asyncio.create_task(self._round(plan), name=name)

    async def stop(self) -> None:
        """Move nothing more, and know nothing of before when it begins again.

        What an owner was asked for it may still do: it is a handoff like any other.
        """
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        self._rebalancer = Rebalancer(self._threshold)

    async def _round(self, plan: Plan) -> None:
        moved: list[ShardMove] = []
        failed = ""
        for move in plan.moves:
            if not self._rebalancer.is_steady(self._clock()):
                failed = "coordinators come or go"
            else:
                failed = await self._move(move)
            if failed:
                break
            moved.append(ShardMove(move.shard, move.source, move.to))
        self._rebalancer.done(plan, [move.shard for move in moved], self._clock())
        before, after = round(plan.before, 3), round(plan.after, 3)
        why = (
            f"{plan.moves[0].source} has {before:g} of an even part of the load; "
            f"allowed are {1 + self._threshold:g}"
        )
        log.info(
            "rebalanced",
            moves=[f"{move.shard}: {move.source} -> {move.to}" for move in moved],
            why=why,
            failed=failed,
            planned=len(plan.moves),
            expected=after,
        )
        self._note(Round(why=why, moves=moved, failed=failed, before=before, after=after))

    async def _move(self, move: PlannedMove) -> str:
        """Why the shard was not moved; "" if it was."""
        around = self._around
        subject = around.subjects.coordinator(move.source, "move", around.coordinator)
        try:
            answer = await around.bus.request(subject, _encode(Move(move.shard, move.to)), MOVE_S)
            reply = _reply.decode(answer.data)
        except (BusError, msgspec.MsgspecError) as error:
            return f"shard {move.shard}: no answer from {move.source}: {error}"
        if reply.error is not None:
            return f"shard {move.shard} stays at {move.source}: {reply.error.message}"
        return ""
