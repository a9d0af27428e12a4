"""Which shards a coordinator owns: opening what falls to it, letting go of what it lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import structlog

from swarm.actors.opening import open_shard
from swarm.actors.shard_worker import ShardWorker, Surroundings
from swarm.core.membership import shards_to_open
from swarm.errors import Deposed, SwarmError
from swarm.messages import Beat, ShardMap

log = structlog.get_logger()

#: Before opening even its first-choice shards, a coordinator listens for this many beats.
LISTEN_BEATS = 3
#: Pause before a shard that could not be opened or was lost is tried again.
REOPEN_S = 2.0


class Ownership:
    """The shard workers of one coordinator."""

    def __init__(self, around: Surroundings, shard_map: ShardMap) -> None:
        self._around = around
        self._map = shard_map
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()
        self._workers: dict[int, ShardWorker] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        #: Shards not to be tried again before this time (monotonic).
        self._not_before: dict[int, float] = {}
        #: Shards that cannot be opened, and why.
        self.closed: dict[int, str] = {}

    def __iter__(self) -> Iterator[ShardWorker]:
        return iter(list(self._workers.values()))

    def get(self, shard: int) -> ShardWorker | None:
        """The worker of this shard, if it is owned here."""
        return self._workers.get(shard)

    def owned(self) -> list[int]:
        """Shards opened and served here."""
        return sorted(self._workers)

    def ready(self) -> dict[str, int]:
        """Ready items by work type, over all shards owned here."""
        ready: dict[str, int] = {}
        for worker in self._workers.values():
            for work_type, count in worker.ready.items():
                if count:
                    ready[work_type] = ready.get(work_type, 0) + count
        return ready

    def open_what_is_ours(self, live: dict[str, Beat]) -> None:
        """Begin to open the shards that nobody alive owns and that are ours in turn."""
        settings, now = self._around.settings, self._clock()
        listened_s = now - self._since
        if listened_s < LISTEN_BEATS * settings.beat_s:
            return
        for shard in shards_to_open(
            self._around.coordinator,
            set(self._workers) | set(self._opening),
            self._map.shard_count,
            self._map.coordinators,
            live,
            settled=listened_s > 2 * settings.missed_s,
        ):
            if now >= self._not_before.get(shard, 0.0):
                name = f"{self._around.coordinator} opens {shard}"
                self._opening[shard] = asyncio.create_task(self._open(shard), name=name)

    def lost(self, shard: int, why: str, alarm: bool) -> None:
        """The shard's worker has ended, or it could not be opened."""
        self._workers.pop(shard, None)
        self._not_before[shard] = self._clock() + REOPEN_S
        if alarm:
            self.closed[shard] = why
            log.error("shard closed", shard=shard, coordinator=self._around.coordinator, why=why)
        else:
            log.warning("shard lost", shard=shard, coordinator=self._around.coordinator, why=why)

    async def stop(self) -> None:
        """Open nothing more, and fall silent for every shard."""
        opening = list(self._opening.values())
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for worker in list(self._workers.values()):
            await worker.stop()
        self._workers.clear()

    async def _open(self, shard: int) -> None:
        try:
            worker = await open_shard(self._around, shard, self._map.version)
            await worker.start()
        except Deposed as deposed:
            self.lost(shard, str(deposed), alarm=False)
        except SwarmError as error:
            self.lost(shard, str(error), alarm=True)
        except AssertionError as error:
            self.lost(shard, f"the log breaks a rule: {error}", alarm=True)
        else:
            self._workers[shard] = worker
            self.closed.pop(shard, None)
            log.info("shard opened", shard=shard, coordinator=worker.owner, epoch=worker.epoch)
            worker.tick()
            self._around.committed()
        finally:
            self._opening.pop(shard, None)
