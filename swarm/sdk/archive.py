"""Reading the finished records of a shard: ended items that it has not in memory any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from swarm.actors.finished import block_of
from swarm.bus.base import Bus
from swarm.core.work import view
from swarm.errors import LogMissing
from swarm.messages import Finished, Item, WorkItem

#: Blocks that are read at once.
AT_ONCE = 8

_finished = msgspec.json.Decoder(Finished)


async def read_archived(
    bus: Bus, records: str, shard: int, submitted: int
) -> AsyncIterator[WorkItem]:
    """The items of which `records` has a record, oldest first, as of that record.

    `submitted`: how many items the shard ever had.  Raises `BusTimeout`, `BusUnavailable`.
    """
    blocks = range(int(block_of(submitted)) + 1)
    for first in blocks[::AT_ONCE]:
        part = blocks[first : first + AT_ONCE]
        for found in await asyncio.gather(*(_block(bus, records, block) for block in part)):
            for number in sorted(found):
                yield view(found[number], shard, 0)


async def _block(bus: Bus, records: str, block: int) -> dict[int, Item]:
    try:
        stored = await bus.get_records(records, str(block))
    except LogMissing:
        return {}
    # The last record of an item counts.
    return {item.number: item for data in stored for item in _finished.decode(data).items}
