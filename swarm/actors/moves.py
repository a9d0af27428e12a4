"""Items whose shard has changed with the shard map, on their way in.

What is sent again may have been accepted before, by the shard that an earlier map named.
So before another shard gets it, that one is asked (`core/decide/submitting.py`, `known`).
It answers only once it has adopted the new map, after which it accepts nothing that was
placed by an earlier one; so what it does not know then it will never have, and the answer
stays true however long the item is under way.

Nothing of this is kept: whatever goes wrong, the sender is told to send again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

import msgspec
import structlog
from msgspec import Struct, structs

from swarm.actors.answers import error_reply
from swarm.actors.cluster_copy import ClusterCopy
from swarm.actors.surroundings import Surroundings
from swarm.errors import BusError, Refusal, RefusalCode
from swarm.messages import ErrorBody, KnownReply, ShardSubmit, SubmitReply, SubmitResult

log = structlog.get_logger()

#: How long an earlier shard may take to answer: clients send again after a second.
ASK_S = 2.0
#: Parts of batches that wait for answers, at most.
WAITING_MAX = 1000


class _Reply(Struct):
    """A `KnownReply`, or a refusal."""

    results: list[SubmitResult] = []
    at: float = 0.0
    error: ErrorBody | None = None


_decode = msgspec.json.Decoder(_Reply).decode
_encode = msgspec.json.Encoder().encode
assert set(KnownReply.__struct_fields__) < set(_Reply.__struct_fields__), "one shape"

#: (shard, part, bytes, sender, reply subject): to the shard's owner.
HandOn = Callable[[int, ShardSubmit, int, str, str], None]


class Moves:
    """See the module's docstring.  `hand_on` sends what nobody has to its shard."""

    def __init__(self, around: Surroundings, cluster: ClusterCopy, hand_on: HandOn) -> None:
        self._around = around
        self._cluster = cluster
        self._hand_on = hand_on
        self._tasks: dict[asyncio.Task[None], None] = {}
        #: Shards that have adopted the map of this version, and when they had.
        self._version = 0
        self._adopted: dict[int, float] = {}

    def adopted(self) -> Mapping[int, float]:
        """Shards known to have adopted the map that holds, and a time when they had."""
        if self._version != self._cluster.map.version:
            self._version, self._adopted = self._cluster.map.version, {}
        return self._adopted

    def ask(
        self, shard: int, part: ShardSubmit, asks: dict[int, list[int]], sender: str, reply: str
    ) -> None:
        """Hand `part` on to `shard`, but for what the shards in `asks` (with indexes) have."""
        if len(self._tasks) >= WAITING_MAX:
            raise Refusal("overloaded", "too many items wait for their earlier shards", retry=True)
        name = f"{self._around.coordinator} asks about {part.command_id}"
        task = asyncio.create_task(self._settle(shard, part, asks, sender, reply), name=name)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def stop(self) -> None:
        """Drop what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _settle(
        self, shard: int, part: ShardSubmit, asks: dict[int, list[int]], sender: str, reply: str
    ) -> None:
        send = self._around.send
        found = await asyncio.gather(
            *(self._known(other, _only(part, indexes)) for other, indexes in asks.items())
        )
        results: dict[int, SubmitResult] = {}
        for known in found:
            if isinstance(known, Refusal):
                if reply:
                    await send(reply, error_reply(known))
                return
            results.update((result.index, result) for result in known)
        if results and reply:
            await send(reply, _encode(SubmitReply(list(results.values()), part.command_id)))
        left = _only(part, [index for index in part.indexes if index not in results])
        if left.indexes:
            size = sum(len(memoryview(raw)) for raw in left.items)
            self._hand_on(shard, left, size, sender, reply)
            # What it had to say is said by the coordinator's own loop.
            self._around.committed()

    async def _known(self, shard: int, part: ShardSubmit) -> list[SubmitResult] | Refusal:
        """Those of `part` that `shard` has; or why that is not known."""
        around = self._around
        subject = around.subjects.shard(shard, "known", around.coordinator)
        try:
            message = await around.bus.request(subject, _encode(part), ASK_S)
            answer = _decode(message.data)
        except (BusError, msgspec.MsgspecError) as error:
            why = f"shard {shard}, which may have it already, does not answer: {error}"
            return Refusal("unavailable", why, retry=True)
        if answer.error is not None:
            refused = answer.error
            return Refusal(cast(RefusalCode, refused.code), refused.message, refused.retry)
        if part.map_version == self._cluster.map.version and shard not in self.adopted():
            self._adopted[shard] = answer.at
        return answer.results


def _only(part: ShardSubmit, indexes: list[int]) -> ShardSubmit:
    """The part of `part` with these indexes."""
    wanted = set(indexes)
    kept = [pair for pair in zip(part.indexes, part.items, strict=True) if pair[0] in wanted]
    return structs.replace(
        part,
        indexes=[index for index, _ in kept],
        items=[raw for _, raw in kept],
        moved=[index for index in part.moved if index in wanted],
    )
