"""Which shards a coordinator owns: opening what falls to it, letting go of what it lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import structlog

from swarm.actors.opening import open_shard
from swarm.actors.shard_worker import ShardWorker, Surroundings
from swarm.actors.standby import Standby, Standbys
from swarm.core.placement import Placement
from swarm.errors import Deposed, SwarmError
from swarm.messages import Beat, ShardMap

log = structlog.get_logger()

#: Before opening even its first-choice shards, a coordinator listens for this many beats.
LISTEN_BEATS = 3
#: A shard that its live owner shows no more is left to itself for this many beats: it may
#: have been handed over, and the beat that says so is on its way.
SPARE_BEATS = 2
#: Pause before a shard that could not be opened or was lost is tried again.
REOPEN_S = 2.0


class Ownership:
    """The shard workers of one coordinator, and its standbys.

    `live`: the latest beat of each live coordinator, by name.
    """

    def __init__(
        self, around: Surroundings, shard_map: ShardMap, live: Callable[[], dict[str, Beat]]
    ) -> None:
        self._around = around
        self._map = shard_map
        self._live = live
        self._placement = Placement(shard_map.shard_count, shard_map.coordinators)
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()
        self._workers: dict[int, ShardWorker] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self.standbys = Standbys(around)
        #: The latest owner of each shard by the beats, and since when it shows it no more.
        self._owners: dict[int, str] = {}
        self._unowned: dict[int, float] = {}
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

    @property
    def opening(self) -> bool:
        """Whether shards are being opened."""
        return bool(self._opening)

    def ready(self) -> dict[str, int]:
        """Ready items by work type, over all shards owned here."""
        ready: dict[str, int] = {}
        for worker in self._workers.values():
            for work_type, count in worker.ready.items():
                if count:
                    ready[work_type] = ready.get(work_type, 0) + count
        return ready

    def look_around(self) -> None:
        """Begin to open the shards that are ours in turn, and follow those of others."""
        live = self._live()
        self._note_owners(live)
        settings, now = self._around.settings, self._clock()
        listened_s = now - self._since
        if listened_s < LISTEN_BEATS * settings.beat_s:
            return
        me, busy = self._around.coordinator, set(self._workers) | set(self._opening)
        settled = listened_s > 2 * settings.missed_s
        for shard in self._placement.to_open(me, busy, live, settled):
            if now >= self._not_before.get(shard, 0.0) and not self._spared(shard, live):
                name = f"{me} opens {shard}"
                opening = self._open(shard, self.standbys.take(shard))
                self._opening[shard] = asyncio.create_task(opening, name=name)
                busy.add(shard)
        following = self.standbys.shards()
        self.standbys.follow(
            self._placement.to_follow(me, busy, live, following, settings.standbys)
        )

    def _note_owners(self, live: dict[str, Beat]) -> None:
        now = self._clock()
        shown = {shard: name for name, beat in live.items() for shard in beat.owns}
        for shard, name in shown.items():
            self._owners[shard] = name
            self._unowned.pop(shard, None)
            if name != self._around.coordinator:
                self.closed.pop(shard, None)
        for shard in self._owners:
            if shard not in shown:
                self._unowned.setdefault(shard, now)

    def _spared(self, shard: int, live: dict[str, Beat]) -> bool:
        """Whether its owner lives, and showed it only just now."""
        owner = self._owners.get(shard)
        if owner not in live or owner == self._around.coordinator:
            return False
        unowned_s = self._clock() - self._unowned.get(shard, self._clock())
        return unowned_s < SPARE_BEATS * self._around.settings.beat_s

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
        await self.standbys.stop()

    async def _open(self, shard: int, standby: Standby | None) -> None:
        began = self._clock()
        try:
            reader = await standby.take() if standby is not None else None
            read_from = reader.position.at if reader is not None else 0
            worker = await open_shard(
                self._around, shard, self._map.version, reader, lambda: self._owner(shard)
            )
            self.standbys.used(shard)
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
            took_s = round(self._clock() - began, 3)
            log.info(
                "shard opened",
                shard=shard,
                coordinator=worker.owner,
                epoch=worker.epoch,
                read_from=read_from,
                took_s=took_s,
            )
            worker.tick()
        finally:
            self._opening.pop(shard, None)
            await self.standbys.unused(shard)
        self._around.committed()

    def _owner(self, shard: int) -> str:
        """The other live coordinator that owns the shard by its beat, "" if there is none."""
        me = self._around.coordinator
        found = (name for name, beat in self._live().items() if name != me and shard in beat.owns)
        return next(found, "")
