"""Finished items in the shard's records: putting them there, and reading them back.

Records are kept by block: items whose numbers differ only in the last bits lie together,
so that items that end in the order of their submission, as most do, cost one durable
message for hundreds of them.  Putting a chunk twice does no harm: the last record of an
item counts, and they all say the same.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

import msgspec
import structlog
from msgspec import Raw

from swarm.actors.answers import error_reply
from swarm.actors.requests import Request
from swarm.actors.sending import Sender
from swarm.bus.base import Bus
from swarm.core.shard import Shard
from swarm.errors import BusError, LogMissing, Refusal
from swarm.messages import Finished, Item
from swarm.subjects import item_id

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode
_finished = msgspec.json.Decoder(Finished)

#: Items whose numbers differ in these low bits only lie together.
BLOCK_BITS = 8
#: Archived items read back lately that are kept in memory.
THAWED_MAX = 256
PUT_TIMEOUT_S = 5.0
#: Pause after records could not be put or read.
PAUSE_S = 1.0


def block_of(number: int) -> str:
    """The key under which item `number` is kept."""
    return str(number >> BLOCK_BITS)


async def read_finished(bus: Bus, records: str, number: int, as_of: int) -> Item | None:
    """The item as it ended; None if the records, as of this number, have none of it."""
    try:
        found = await bus.get_records(records, block_of(number), as_of)
    except LogMissing:
        return None
    for data in reversed(found):
        for item in _finished.decode(data).items:
            if item.number == number:
                return item
    return None


class FinishedItems:
    """The finished records of one shard, as its owner keeps them.

    `archived(ended)`: these, as (number, time of its end), are in the records.
    `again(request)`: what it asks for has been thawed.
    """

    def __init__(
        self,
        bus: Bus,
        send: Sender,
        records: str,
        shard: Shard,
        max_age_s: float,
        again: Callable[[Request], None],
        archived: Callable[[list[tuple[int, float]]], None],
    ) -> None:
        self._bus = bus
        self._send = send
        self._records = records
        self._shard = shard
        self._max_age_s = max_age_s
        self._again = again
        self._archived = archived
        self._made = False
        #: Number of the latest record put here; whether all put by earlier owners are before it.
        self._as_of = 0
        self._settled = False
        self._putting: asyncio.Task[None] | None = None
        self._waiting: dict[int, list[Request]] = {}
        self._reading: dict[int, asyncio.Task[None]] = {}
        self._thawed: OrderedDict[int, None] = OrderedDict()

    @property
    def busy(self) -> bool:
        """Whether a chunk is under way."""
        return self._putting is not None

    def put(self, numbers: list[int]) -> None:
        """Archive these ended items, as they are now."""
        assert self._putting is None, "one chunk at a time"
        blocks: dict[str, list[Raw]] = {}
        ended: list[tuple[int, float]] = []
        for number in numbers:
            item = self._shard.items[number]
            assert item.end is not None, f"item {number} has not ended"
            blocks.setdefault(block_of(number), []).append(Raw(_encode(item)))
            ended.append((number, item.end.at))
        self._putting = asyncio.create_task(self._put(blocks, ended), name=f"{self._records} put")

    async def _put(self, blocks: dict[str, list[Raw]], ended: list[tuple[int, float]]) -> None:
        try:
            if not self._made:
                await self._bus.create_records(self._records, self._max_age_s)
                self._made = True
            for block, items in blocks.items():
                for part in _parts(items, self._bus.max_payload // 2):
                    data = _encode({"shard": self._shard.number, "items": part})
                    await self._put_record(block, data)
        except BusError as error:
            # They stay where they are, in the log and in memory, and are tried again.
            self._made = False
            log.warning("finished items were not archived", to=self._records, error=str(error))
            await asyncio.sleep(PAUSE_S)
        else:
            self._archived(ended)
        finally:
            self._putting = None

    async def _put_record(self, block: str, data: bytes) -> None:
        number = await self._bus.put_record(self._records, block, data, PUT_TIMEOUT_S)
        self._as_of = max(self._as_of, number)
        self._settled = True

    async def _find(self, number: int) -> Item | None:
        """The archived item, None if its record is not kept any more.

        Who answers may be behind.  That it has no record proves nothing, unless it has come
        as far as a record that was put after the item's: by this owner, if need be one
        without items.
        """
        # A record put meanwhile says nothing of what was read before.
        settled = self._settled
        found = await read_finished(self._bus, self._records, number, self._as_of)
        if found is not None or settled:
            return found
        if not self._settled:
            empty = _encode({"shard": self._shard.number, "items": []})
            try:
                await self._put_record(block_of(number), empty)
            except LogMissing:
                return None
        return await read_finished(self._bus, self._records, number, self._as_of)

    def thaw(self, number: int, request: Request) -> None:
        """Read an archived item, then decide `request` again."""
        self._waiting.setdefault(number, []).append(request)
        if number not in self._reading:
            name = f"{self._records} reads {number}"
            self._reading[number] = asyncio.create_task(self._read(number), name=name)

    async def _read(self, number: int) -> None:
        try:
            item = await self._find(number)
        except BusError as error:
            self._refuse(number, Refusal("unavailable", f"try again: {error}", retry=True))
            return
        finally:
            del self._reading[number]
        if item is None:
            name = item_id(self._shard.number, number)
            self._refuse(number, Refusal("unknown_item", f"the record of {name} is not kept"))
            return
        self._shard.thawed[number] = item
        self._thawed[number] = None
        while len(self._thawed) > THAWED_MAX:
            del self._shard.thawed[self._thawed.popitem(last=False)[0]]
        for request in self._waiting.pop(number, ()):
            self._again(request)

    def _refuse(self, number: int, refusal: Refusal) -> None:
        for request in self._waiting.pop(number, ()):
            if request.reply:
                self._send.soon(request.reply, error_reply(refusal))

    async def stop(self) -> None:
        """Put and read nothing more."""
        tasks = [*self._reading.values()]
        if self._putting is not None:
            tasks.append(self._putting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _parts(items: list[Raw], bytes_max: int) -> list[list[Raw]]:
    parts: list[list[Raw]] = [[]]
    size = 0
    for raw in items:
        if parts[-1] and size + len(memoryview(raw)) > bytes_max:
            parts.append([])
            size = 0
        parts[-1].append(raw)
        size += len(memoryview(raw))
    return parts
