"""Which shards a coordinator owns: opening what falls to it, letting go of what it lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import structlog

from swarm.actors.opening import ShardReader, open_shard
from swarm.actors.requests import Request
from swarm.actors.shard_worker import ShardWorker
from swarm.actors.standby import Standbys
from swarm.actors.surroundings import Surroundings
from swarm.core.placement import Placement
from swarm.core.urgency import most_urgent
from swarm.errors import Deposed, SwarmError
from swarm.messages import Beat, Conflict, Handoff, ShardMap

log = structlog.get_logger()

#: Before opening even its first-choice shards, a coordinator listens for this many beats.
LISTEN_BEATS = 3
#: A shard that its live owner shows no more is left to itself for this many beats: it may
#: have been handed over, and the beat that says so is on its way.
SPARE_BEATS = 2
#: Pause before a shard that could not be opened or was lost is tried again; while somebody
#: must look at it, doubled up to the longest: each time its whole log may be read.
REOPEN_S = 2.0
REOPEN_LONGEST_S = 15.0
#: Who was asked to take a shard stands by for it this long.
ASKED_S = 5.0


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
        self._placement = self._placed(shard_map)
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
        #: The next pause of shards that cannot be opened.
        self._pauses: dict[int, float] = {}
        #: Shards to stand by for until then, because their owners asked for it.
        self._asked: dict[int, float] = {}
        self._urgent: dict[str, tuple[int, float]] = {}
        #: Shards that cannot be opened, and why.
        self.closed: dict[int, str] = {}

    def __iter__(self) -> Iterator[ShardWorker]:
        return iter(list(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

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

    def urgent(self) -> dict[str, tuple[int, float]]:
        """By work type: the shard with the most urgent ready item, and that item's score."""
        heads = {worker.number: worker.heads for worker in self._workers.values()}
        self._urgent = most_urgent(heads, self._urgent, self._around.settings.ageing_s)
        return self._urgent

    @property
    def listened(self) -> bool:
        """Whether this coordinator has listened for a while since its start."""
        return self._clock() - self._since >= LISTEN_BEATS * self._around.settings.beat_s

    @property
    def settled(self) -> bool:
        """Whether it has listened long enough to have heard of everybody alive."""
        return self._clock() - self._since > 2 * self._around.settings.missed_s

    def adopt(self, shard_map: ShardMap) -> None:
        """From here on this map holds."""
        self._map = shard_map
        self._placement = self._placed(shard_map)
        for worker in self:
            worker.adopt(shard_map.version)

    def _placed(self, shard_map: ShardMap) -> Placement:
        policy = self._around.settings.conflict_resolution
        return Placement(shard_map.shard_count, shard_map.coordinators, policy)

    def look_around(self) -> None:
        """Begin to open the shards that are ours in turn, and follow those of others."""
        live = self._live()
        self._note_owners(live)
        if not self.listened:
            return
        settings, now = self._around.settings, self._clock()
        me, busy = self._around.coordinator, set(self._workers) | set(self._opening)
        for shard in self._placement.to_open(me, busy, live, self.settled):
            if now >= self._not_before.get(shard, 0.0) and not self._spared(shard, live):
                name = f"{me} opens {shard}"
                self.standbys.take(shard)
                self._opening[shard] = asyncio.create_task(self._open(shard), name=name)
                busy.add(shard)
        following = self.standbys.shards()
        wanted = self._placement.to_follow(me, busy, live, following, settings.standbys)
        asked = [shard for shard, until in self._asked.items() if now < until]
        self.standbys.follow({*wanted, *(shard for shard in asked if shard not in busy)})

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

    def lost(self, shard: int, why: str, alarm: bool, by: str = "") -> None:
        """The shard's worker has ended, or it could not be opened: `by` has opened it, if any."""
        worker = self._workers.pop(shard, None)
        if by:
            me, epoch = self._around.coordinator, worker.epoch if worker is not None else 0
            dropped = f"{me}, epoch {epoch}" if epoch else f"{me}, which came second"
            self._around.disagreed(Conflict("opening", f"shard {shard}", by, dropped))
        if worker is not None:
            self.standbys.free(worker.state)
        pause_s = self._pauses.get(shard, REOPEN_S)
        self._not_before[shard] = self._clock() + (pause_s if alarm else REOPEN_S)
        if alarm:
            self._pauses[shard] = min(2 * pause_s, REOPEN_LONGEST_S)
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

    def heirs(self, shard: int) -> list[str]:
        """Who is to own this shard if we do not, best first."""
        names = self._placement.candidates(shard, self._live())
        return [name for name in names if name != self._around.coordinator]

    # --- handing over -------------------------------------------------------------------

    async def close_in(self, shard: int, sequence: int, limit_s: float) -> int:
        """Stand by for this shard for a while, in turn or not, and close in on `sequence`.

        Returns the sequence that was reached within the limit.
        """
        self._asked[shard] = self._clock() + ASKED_S
        if shard in self._opening or shard in self._workers:
            return 0
        self.standbys.add(shard)
        standby = self.standbys.take(shard)
        if standby is None:
            return 0  # asked twice
        try:
            async with asyncio.timeout(limit_s):
                await standby.reach(sequence)
        except TimeoutError:
            log.debug("not there yet", shard=shard, sequence=sequence)
        finally:
            self.standbys.unused(shard)
        return standby.reader.position.at

    async def take_over(self, handoff: Handoff, owner: str) -> ShardWorker:
        """Own a shard whose owner decides nothing more, if it has not gone on meanwhile.

        Raises what `open_shard` raises; `Deposed` if it has.
        """
        shard, task = handoff.shard, asyncio.current_task()
        assert task is not None, "called by a coroutine"
        if shard in self._opening or self.standbys.take(shard) is None:
            raise Deposed(f"shard {shard} is being opened already")
        self._opening[shard] = task

        def taken(reader: ShardReader) -> str:
            position = reader.position
            found = (position.at, position.epoch, reader.state.coordinator)
            as_said = found == (handoff.sequence, handoff.epoch, owner)
            return "" if as_said else reader.state.coordinator

        return await self._own(shard, taken)

    async def hand_over(self, worker: ShardWorker, to: str) -> list[Request]:
        """`to` owns the worker's shard now; returns what it is to be asked."""
        shard = worker.number
        self._workers.pop(shard, None)
        self._owners[shard] = to
        # Its beat may still be on its way.
        self._not_before[shard] = self._clock() + REOPEN_S
        log.info("shard handed over", shard=shard, coordinator=self._around.coordinator, to=to)
        left = await worker.hand_over()
        self.standbys.free(worker.state)
        return left

    # --- opening ------------------------------------------------------------------------

    async def _open(self, shard: int) -> None:
        try:
            await self._own(shard, lambda reader: self._holder(shard, reader))
        except Deposed as deposed:
            self.lost(shard, str(deposed), alarm=False, by=deposed.by)
        except SwarmError as error:
            self.lost(shard, str(error), alarm=True)
        except Exception as error:
            log.exception("opening a shard failed", shard=shard)
            self.lost(shard, f"internal error: {error!r}", alarm=True)

    async def _own(self, shard: int, taken: Callable[[ShardReader], str]) -> ShardWorker:
        """Open a shard noted in `_opening`, with the standby that was taken, if any."""
        around, began = self._around, self._clock()
        standby = self.standbys.taken(shard)
        try:
            reader = await standby.take() if standby is not None else None
            read_from = reader.position.at if reader is not None else 0
            worker = await open_shard(around, shard, self._map.version, reader, taken)
            self.standbys.used(shard)
            await worker.start()
            worker.adopt(self._map.version)
            self._workers[shard] = worker
        finally:
            self._opening.pop(shard, None)
            self.standbys.unused(shard)
            around.committed()
        self.closed.pop(shard, None)
        self._pauses.pop(shard, None)
        log.info(
            "shard opened",
            shard=shard,
            coordinator=worker.owner,
            epoch=worker.epoch,
            read_from=read_from,
            took_s=round(self._clock() - began, 3),
        )
        worker.tick()
        return worker

    def _owner(self, shard: int) -> str:
        """The other live coordinator that owns the shard by its beat, "" if there is none."""
        me = self._around.coordinator
        found = (name for name, beat in self._live().items() if name != me and shard in beat.owns)
        return next(found, "")

    def _holder(self, shard: int, reader: ShardReader) -> str:
        """The same; or who has opened it just now, by the log, and whose beat is on its way."""
        shown, opener = self._owner(shard), reader.state.coordinator
        if shown or opener in ("", self._around.coordinator, self._owners.get(shard)):
            return shown
        age_s = self._around.server_clock.now() - reader.position.now
        # No longer than a beat may take: it may have lost the shard again and not have said so.
        fresh = opener in self._live() and age_s < self._around.settings.missed_s
        return opener if fresh else ""
