"""Items that depend on an item of a shard that is not in this coordinator's map.

Either there is no such shard, or the swarm has grown and this coordinator has not heard of
it.  Another one that has would accept what is refused here, so nothing is refused for good
before the leader was asked: its answer rides on an append to the cluster log, so it is true.

Nothing of this is kept: whatever goes wrong, the sender is told to send again.
"""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import Struct

from swarm.actors.cluster_copy import ClusterCopy
from swarm.actors.surroundings import Surroundings
from swarm.core.admission import unheard_of
from swarm.errors import BusError, Refusal
from swarm.messages import ClusterView, ErrorBody, ShardMap, SubmitReply, SubmitResult

#: How long the leader may take to answer: clients send again after a second.
ASK_S = 2.0
#: Submissions that wait for its answer, at most.
WAITING_MAX = 1000
#: Refused items answered in one message: each comes with a sentence.
PAGE = 100

_view = msgspec.json.Decoder(ClusterView)
_encode = msgspec.json.Encoder().encode


class _Waiting(Struct):
    reply: str
    command_id: str
    #: (index in the batch, the item that it depends on).
    items: list[tuple[int, str]]


class Unheard:
    """See the module's docstring."""

    def __init__(self, around: Surroundings, cluster: ClusterCopy) -> None:
        self._around = around
        self._cluster = cluster
        self._waiting: list[_Waiting] = []
        self._asking: asyncio.Task[None] | None = None

    def settle(self, reply: str, command_id: str, items: list[tuple[int, str]]) -> None:
        """Answer these items of a submission once the leader has said which shards there are.

        `items`: index in the batch, and what it depends on.
        """
        if not reply:
            return  # they are not accepted, and nobody wants to know
        if len(self._waiting) >= WAITING_MAX:
            raise Refusal("overloaded", "too many items wait for the shard map", retry=True)
        self._waiting.append(_Waiting(reply, command_id, items))
        if self._asking is None or self._asking.done():
            name = f"{self._around.coordinator} asks for the shard map"
            self._asking = asyncio.create_task(self._ask(), name=name)

    async def stop(self) -> None:
        """Drop what is under way."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask(self) -> None:
        while self._waiting:
            # Whoever comes from here on is for the next time: an answer tells nothing of what
            # was made after the question.
            waiting, self._waiting = self._waiting, []
            told = await self._look()
            for one in waiting:
                await self._answer(one, told)

    async def _look(self) -> ShardMap | str:
        """The map that holds, or why it is not known."""
        around = self._around
        subject = around.subjects.control("look", around.bus.sender)
        try:
            reply = await around.bus.request(subject, b"{}", ASK_S)
            view = _view.decode(reply.data)
        except (BusError, msgspec.MsgspecError) as error:
            return f"the leader, which knows all shards, does not answer: {error}"
        self._cluster.there_is(view.map.version, view.rules.version)
        return view.map

    async def _answer(self, one: _Waiting, told: ShardMap | str) -> None:
        results = [SubmitResult(index, error=_error(name, told)) for index, name in one.items]
        for start in range(0, len(results), PAGE):
            part = SubmitReply(results[start : start + PAGE], one.command_id)
            await self._around.send(one.reply, _encode(part))


def _error(depends_on: str, told: ShardMap | str) -> ErrorBody:
    refusal = unheard_of(depends_on, told)
    return ErrorBody(refusal.code, refusal.message, refusal.retry)
