"""Looks how full the storage is, so that there is room left for what must go on.

At the soft limit submits are refused (retryable), while outcomes, releases and
compaction use what is left.  At the hard limit NATS refuses every append; that is
`FencedLog.full`, and needs no look.  Both end by themselves once there is room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from swarm.bus.base import Bus, Storage
from swarm.core.watermark import Watermark
from swarm.errors import BusError

log = structlog.get_logger()

LOOK_S = 2.0
#: Logs with a limit of their own that are looked at each time.
LOGS_A_LOOK = 32


class StorageWatch:
    """The storage as a whole, and each of `logs()` (by shard) that has a limit of its own."""

    def __init__(
        self, bus: Bus, coordinator: str, logs: Callable[[], dict[int, str]], soft: float
    ) -> None:
        self._bus = bus
        self._coordinator = coordinator
        self._logs = logs
        self._soft = soft
        self._all = Watermark(soft)
        self._by_shard: dict[int, Watermark] = {}
        self._after = -1
        self._blind = False
        #: What was seen last.
        self.storage = Storage(0)

    @property
    def part(self) -> float:
        """The part of the storage that is used, 0 to 1; of the fullest log if that is more."""
        return max([self._all.part, *(mark.part for mark in self._by_shard.values())])

    def nearly_full(self, shard: int) -> bool:
        """Whether submits to this shard are to be refused."""
        own = self._by_shard.get(shard)
        return self._all.nearly_full or (own is not None and own.nearly_full)

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once; what cannot be seen stays as it was."""
        try:
            self.storage = await self._bus.storage()
            self._see(self._all, "the storage", self.storage.used, self.storage.limit)
            await self._look_at_logs()
        except BusError as error:
            if not self._blind:
                log.warning("how full the storage is cannot be seen", why=str(error))
            self._blind = True
        else:
            self._blind = False

    async def _look_at_logs(self) -> None:
        """At some of them, in turn."""
        logs = self._logs()
        for shard in self._by_shard.keys() - logs.keys():
            del self._by_shard[shard]
        order = sorted(logs, key=lambda shard: (shard <= self._after, shard))
        for shard in order[:LOGS_A_LOOK]:
            self._after = shard
            info = await self._bus.log_info(logs[shard])
            if info.bytes_max:
                mark = self._by_shard.setdefault(shard, Watermark(self._soft))
                self._see(mark, logs[shard], info.bytes, info.bytes_max)
            else:
                self._by_shard.pop(shard, None)

    def _see(self, mark: Watermark, what: str, used: int, limit: int) -> None:
        if not mark.seen(used, limit):
            return
        figures = {"used": used, "limit": limit, "part": round(mark.part, 3)}
        where = {"what": what, "coordinator": self._coordinator}
        if mark.nearly_full:
            log.error("nearly full: submits are refused until there is room", **where, **figures)
        else:
            log.info("there is room again: submits are accepted", **where, **figures)
