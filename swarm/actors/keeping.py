"""Keeping a shard's log short: pace of compaction, purges, archiving of finished items."""

from __future__ import annotations

import asyncio

import structlog

from swarm.actors.finished import FinishedItems
from swarm.bus.base import Bus
from swarm.core import decide, upkeep
from swarm.core.envelope import FORMAT
from swarm.core.shard import Shard
from swarm.errors import BusError
from swarm.messages import Archived

log = structlog.get_logger()

#: Bytes stated again with one entry: at least, and when nothing else is to be written.
COPY_MIN = 32_768
COPY_IDLE = 262_144
#: Items archived in one chunk.
CHUNK = 1000
#: Pause after a purge that failed.
PAUSE_S = 1.0


class Keeping:
    """The upkeep of one shard, while it is owned here."""

    def __init__(
        self,
        bus: Bus,
        name: str,
        shard: Shard,
        finished: FinishedItems,
        *,
        floor_bytes: int,
        kept: int,
        dead_kept_s: float,
    ) -> None:
        self._bus = bus
        self._log = name
        self._shard = shard
        self._finished = finished
        self._kept = kept
        self._dead_kept_s = dead_kept_s
        self.pace = upkeep.Pace(floor_bytes)
        #: Where the log begins, as far as is known.
        self.first_seq = shard.first_seq
        #: What is in the records by now, and must be said in the log: (number, its end).
        self.archived: list[tuple[int, float]] = []
        self._purging: asyncio.Task[None] | None = None

    def say(self, batch: decide.Batch, used: int, bytes_left: int, ticked: bool) -> int:
        """Add what upkeep has to say to this batch, in which `used` bytes are taken.

        Returns the bytes that it takes.  Without anything else to say, only four times a
        second: an idle log is in no hurry.
        """
        shard, pace, taken = self._shard, self.pace, 0
        if batch.format < FORMAT:
            return taken
        pace.pressed = batch.full
        busy = bool(batch.events)
        self._say_archived(batch)
        if not (busy or ticked) or not pace.awake(shard.live_bytes):
            return taken
        if pace.copying(shard.live_bytes, shard.seq, upkeep.needs(shard)):
            wanted = max(COPY_MIN, 2 * used) if busy else COPY_IDLE
            taken = upkeep.compact(shard, batch, wanted, bytes_left)
        if self._purging is None and pace.marking():
            if upkeep.needs(shard) > max(shard.needs, self.first_seq):
                upkeep.mark(shard, batch)
                pace.made_mark()
            else:
                # Nothing to gain: what is old is needed still.
                pace.purged(pace.log_bytes)
        return taken

    def _say_archived(self, batch: decide.Batch) -> None:
        archived, self.archived = self.archived, []
        shard, numbers = self._shard, []
        for number, at in archived:
            item = shard.items.get(number)
            # A dead one may have been brought back meanwhile.
            same = item is not None and item.end is not None and item.end.at == at
            if same and number not in shard.untold:
                numbers.append(number)
        if numbers:
            batch.add(Archived(numbers))

    def durable(self, size: int, now: float, format_: int) -> None:
        """The batch is durable, and took `size` bytes: go on with what builds on it."""
        self.pace.appended(size)
        needed = self._shard.needs
        if self._purging is None and needed > self.first_seq:
            self._purging = asyncio.create_task(self._purge(needed), name=f"{self._log} purge")
        if format_ >= FORMAT and not self._finished.busy and not self.archived:
            dead_before = now - self._dead_kept_s
            numbers = decide.may_archive(self._shard, self._kept, dead_before, CHUNK)
            if numbers:
                self._finished.put(numbers)

    async def _purge(self, needed: int) -> None:
        try:
            await self._bus.purge(self._log, needed)
            info = await self._bus.log_info(self._log)
        except BusError as error:
            log.warning("a log was not purged", log=self._log, error=str(error))
            await asyncio.sleep(PAUSE_S)
        else:
            self.first_seq = max(info.first_seq, needed)
            self.pace.purged(info.bytes)
        finally:
            self._purging = None

    async def start(self) -> None:
        """Find out how long the log is; later if it cannot be told now."""
        try:
            info = await self._bus.log_info(self._log)
        except BusError as error:
            log.warning("the size of a log is not known", log=self._log, error=str(error))
            return
        self.first_seq = info.first_seq
        self.pace.log_bytes = info.bytes

    async def stop(self) -> None:
        """Purge and archive nothing more."""
        if self._purging is not None:
            self._purging.cancel()
            await asyncio.gather(self._purging, return_exceptions=True)
        await self._finished.stop()
