"""What the owner of a shard tells of it: counts, sizes, and whether the counts add up.

The items are walked over a slice at a time, when nothing is being decided, so that all are as of
one entry: a shard with a million items is never stopped for it.  That is best done while the entry
is on its way; what was found is told once it is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from swarm.actors.keeping import Keeping
from swarm.bus.log import FencedLog
from swarm.core import read
from swarm.core.shard import Shard
from swarm.core.usage import UsageCounter
from swarm.messages import ShardStats

log = structlog.get_logger()

#: Items walked over for each event of a batch, so that an item's life bears its own share;
#: and with each tick (0.5 ms), by all shards of a coordinator together, however many there are.
WALK_PER_EVENT = 1
WALK_TICKED = 4000
#: Of a shard with fewer items, whoever asks gets counts that were walked over just now.
AT_ONCE_MAX = 20_000


class Counting:
    """One shard's counts.

    `refused`: commands by error code; it and `usage` are counted by others.
    `hosted`: how many shards its coordinator serves.
    """

    def __init__(
        self,
        shard: Shard,
        fenced: FencedLog,
        keeping: Keeping,
        refused: dict[str, int],
        usage: UsageCounter,
        hosted: Callable[[], int],
    ) -> None:
        self._shard = shard
        self._fenced = fenced
        self._keeping = keeping
        self._refused = refused
        self._clock = asyncio.get_running_loop().time
        self._usage = usage
        self._hosted = hosted
        #: As of the last durable batch, or a moment before: for whoever looks on.
        self.shown = self._tell()

    def walk(self, events: int, *, ticked: bool, as_of: int) -> None:
        """Walk on, as the entry `as_of` with so many events is written, or is the latest one."""
        numbers = WALK_PER_EVENT * events
        if ticked:
            numbers += WALK_TICKED // max(1, self._hosted())
        if numbers:
            self._walk(numbers, as_of)

    def durable(self, *, ticked: bool) -> None:
        """What was walked over is in the log, and may be shown."""
        if ticked:
            self.shown = self._tell()

    def stats(self) -> ShardStats:
        """For whoever asks, between two batches; walks over all items if they are few."""
        if len(self._shard.items) <= AT_ONCE_MAX:
            # The walk that is under way may have passed what is wrong: another one.
            as_of = self._fenced.position.at
            self._walk(AT_ONCE_MAX, as_of)
            self._walk(AT_ONCE_MAX, as_of)
        return self._tell()

    def _walk(self, numbers: int, as_of: int) -> None:
        before = self._shard.walked
        self._shard.walk(numbers, as_of)
        walked = self._shard.walked
        if walked.off and walked.off != before.off:
            log.error(
                "conservation: the items of a shard do not add up; run `swarm doctor`",
                shard=self._shard.number,
                off=walked.off,
                as_of=walked.seq,
            )

    def _tell(self) -> ShardStats:
        stats = read.stats(self._shard)
        position = self._fenced.position
        stats.as_of, stats.epoch, stats.foreign = position.at, self._fenced.epoch, position.foreign
        stats.refused = dict(self._refused)
        stats.first_seq = self._keeping.first_seq
        stats.log_bytes = self._keeping.pace.log_bytes
        stats.usage = self._usage.shown(self._clock())
        return stats
