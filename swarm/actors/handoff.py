"""Handing a shard over while both coordinators live: a pause that nobody feels.

1. The owner asks another coordinator to follow the shard's log closely, and goes on
   meanwhile, until the other one is as good as there.
2. The owner finishes its round and decides nothing more.  It names its last entry, and
   the other one folds up to there, opens the shard, and says so.
3. The old owner falls silent and passes on what it has not answered.

Whatever fails, nothing is lost and nobody waits long: the owner that hears nothing in
time goes on deciding, and its next append tells it whether it still owns the shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal

import msgspec
import structlog

from swarm.actors.answers import error_reply
from swarm.actors.ownership import Ownership
from swarm.actors.requests import Request, decode_body
from swarm.actors.shard_worker import ShardWorker
from swarm.actors.surroundings import Surroundings
from swarm.bus.base import Message
from swarm.errors import BusError, Refusal, SwarmError
from swarm.messages import Beat, ErrorBody, Handoff, HandoffReply, Heartbeat, Move, Moved

log = structlog.get_logger()

#: How long the receiver closes in on the log's end before it says how far it is.
CLOSE_IN_S = 0.5
#: How long the owner waits for an answer to that.
ASK_S = 1.0
#: How long the owner decides nothing and waits for the receiver to open the shard: this is
#: the longest pause that a handoff can cost.
PAUSE_S = 0.5
#: Receivers give up earlier, so that both know the same.
OPEN_S = 0.4
#: How long a receiver may take to come close at all.
GIVE_S = 30.0
#: After a failed attempt.
TRY_AGAIN_S = 0.1
#: Shards given away at once.
AT_ONCE = 4


class _Reply(msgspec.Struct):
    """`HandoffReply`, or a refusal."""

    sequence: int = 0
    epoch: int = 0
    error: ErrorBody | None = None


#: Of an attempt to give a shard away; a receiver that closes in is worth waiting for.
Outcome = Literal["given", "refused", "closing in"]

_encode = msgspec.json.Encoder().encode
_handoff = msgspec.json.Decoder(Handoff)
_move = msgspec.json.Decoder(Move)
_reply = msgspec.json.Decoder(_Reply)


class Handoffs:
    """See the module's docstring.

    `live`: the latest beat of each live coordinator.  `announce`: show at once what this
    one owns, before anything else is said.  `draining`: whether it takes nothing more.
    """

    def __init__(
        self,
        around: Surroundings,
        shards: Ownership,
        live: Callable[[], dict[str, Beat]],
        announce: Callable[[], Awaitable[None]],
        draining: Callable[[], bool],
    ) -> None:
        self._around = around
        self._me = around.coordinator
        self._shards = shards
        self._live = live
        self._announce = announce
        self._draining = draining
        self._clock = asyncio.get_running_loop().time
        self._giving: dict[int, None] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}

    async def stop(self) -> None:
        """Drop what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def on_move(self, message: Message, sender: str) -> None:
        """Somebody wants a shard of ours to be owned by another coordinator."""
        move: Move = decode_body(_move, message.data)

        async def moved() -> Moved:
            return Moved(move.shard, await self.give(move.shard, move.to))

        self._answer(message.reply, moved())

    def on_handoff(self, message: Message, sender: str) -> None:
        """Another coordinator wants us to own a shard of its."""
        handoff: Handoff = decode_body(_handoff, message.data)
        self._answer(message.reply, self._take(handoff, sender))

    def _answer(self, reply: str, work: Awaitable[HandoffReply | Moved]) -> None:
        async def answer() -> None:
            try:
                data = _encode(await work)
            except Refusal as refusal:
                log.info("no handoff", coordinator=self._me, why=refusal.message)
                data = error_reply(refusal)
            if reply:
                await self._around.send(reply, data)

        task = asyncio.create_task(answer(), name=f"{self._me} handoff")
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    # --- taking -------------------------------------------------------------------------

    async def _take(self, handoff: Handoff, owner: str) -> HandoffReply:
        shard = handoff.shard
        worker = self._shards.get(shard)
        if worker is not None:
            # Said again, as our answer was lost.
            return HandoffReply(shard, worker.sequence, worker.epoch)
        if self._draining():
            raise Refusal("unavailable", f"{self._me} is about to leave", retry=True)
        if not handoff.now:
            reached = await self._shards.close_in(shard, handoff.sequence, CLOSE_IN_S)
            return HandoffReply(shard, reached)
        give_up_at = self._clock() + OPEN_S
        reached = await self._shards.close_in(shard, handoff.sequence, OPEN_S)
        if reached < handoff.sequence:
            raise Refusal("unavailable", f"{self._me} is at entry {reached} only", retry=True)
        try:
            async with asyncio.timeout_at(give_up_at):
                worker = await self._shards.take_over(handoff, owner)
        except (TimeoutError, SwarmError, AssertionError) as error:
            why = f"{self._me} could not open shard {shard}: {error!r}"
            raise Refusal("unavailable", why, retry=True) from error
        await self._announce()
        return HandoffReply(shard, worker.sequence, worker.epoch)

    # --- giving -------------------------------------------------------------------------

    async def give_all(self, limit_s: float) -> None:
        """Give away as many of our shards as can be within the limit, a few at a time."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def give(shard: int) -> None:
            async with turns:
                try:
                    await self.give(shard)
                except Refusal as refusal:
                    log.info("a shard is kept", shard=shard, why=refusal.message)

        try:
            async with asyncio.timeout(limit_s):
                await asyncio.gather(*(give(shard) for shard in self._shards.owned()))
        except TimeoutError:
            log.warning("some shards are left behind", shards=self._shards.owned())

    async def give(self, shard: int, to: str = "") -> str:
        """Hand a shard over to `to`, or to the best coordinator there is; the new owner.

        Raises `Refusal` when that is not possible.
        """
        if self._shards.get(shard) is None or shard in self._giving:
            raise Refusal("bad_request", f"{self._me} does not own shard {shard}, or gives it away")
        if to == self._me or (to and to not in self._live()):
            alive = ", ".join(self._live())
            raise Refusal("bad_request", f"{to!r} is no other live coordinator; alive: {alive}")
        self._giving[shard] = None
        try:
            give_up_at = self._clock() + GIVE_S
            while self._clock() < give_up_at:
                worker = self._shards.get(shard)
                others = [to] if to else self._shards.heirs(shard)
                if worker is None or not others:
                    break
                for other in others:
                    outcome = await self._give_to(worker, other)
                    if outcome == "given":
                        return other
                    if outcome == "closing in":
                        break  # the others would have no less to read
                await asyncio.sleep(TRY_AGAIN_S)
        finally:
            del self._giving[shard]
        why = "nobody took it in time" if self._shards.get(shard) else "it is not ours any more"
        raise Refusal("unavailable", f"shard {shard}: {why}", retry=True)

    async def _give_to(self, worker: ShardWorker, other: str) -> Outcome:
        """One attempt."""
        asked = worker.sequence
        reply = await self._ask(worker, other, ASK_S)
        if reply is None:
            return "refused"
        if reply.epoch == 0 and reply.sequence < asked:
            return "closing in"
        return "given" if await self._hand_to(worker, other) else "refused"

    async def _hand_to(self, worker: ShardWorker, other: str) -> bool:
        began = self._clock()
        async with worker.turn:
            if self._shards.get(worker.number) is not worker:
                return False
            reply = await self._ask(worker, other, PAUSE_S, now=True)
            if not self._owns(other, worker, reply):
                return False
            left = await self._shards.hand_over(worker, other)
        await self._pass_on(worker.number, left)
        self._around.committed()
        paused_s = round(self._clock() - began, 4)
        log.info("handed over", shard=worker.number, to=other, paused_s=paused_s, waiting=len(left))
        return True

    def _owns(self, other: str, worker: ShardWorker, reply: _Reply | None) -> bool:
        if reply is not None and reply.epoch > worker.epoch:
            return True
        beat = self._live().get(other)
        return beat is not None and worker.number in beat.owns

    async def _ask(
        self, worker: ShardWorker, other: str, limit_s: float, *, now: bool = False
    ) -> _Reply | None:
        """`Handoff` to `other`; its answer, None if there was none or it refused."""
        handoff = Handoff(worker.number, worker.epoch, worker.sequence, now)
        subject = self._around.subjects.coordinator(other, "handoff", self._me)
        try:
            answer = await self._around.bus.request(subject, _encode(handoff), limit_s)
            reply = _reply.decode(answer.data)
        except (BusError, msgspec.MsgspecError) as error:
            log.info("no answer to a handoff", shard=worker.number, to=other, why=str(error))
            return None
        if reply.error is not None:
            log.info("handoff refused", shard=worker.number, to=other, why=reply.error.message)
            return None
        return reply

    async def _pass_on(self, shard: int, left: Iterable[Request]) -> None:
        """To the new owner, as if it had come there: same sender, same reply subject."""
        around = self._around
        for request in left:
            if isinstance(request.body, Heartbeat):
                continue  # every coordinator hears them
            body = request.body if isinstance(request.body, bytes) else _encode(request.body)
            headers = {"Swarm-Session": request.session} if request.session else None
            subject = around.subjects.shard(shard, request.verb, request.sender)
            await around.send(subject, body, request.reply, headers)
