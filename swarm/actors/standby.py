"""Standbys: fold the logs of shards that others own, so as to own them without a replay.

A standby reads its log page by page, at once again while there is more, else as often as is
worth it, at least once a second.  It folds in slices, and all standbys of a coordinator
together rest as long as they fold: they must not slow what the coordinator serves.  A
log that was purged below what was read last is a gap, and the reader starts over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Coroutine, Iterator
from typing import Any

import structlog
from msgspec import Struct

from swarm.actors.actor import Actor
from swarm.actors.opening import ShardReader, shard_reader
from swarm.actors.surroundings import Surroundings
from swarm.bus.log_reader import LOOK_AGAIN_S, SLICE_S
from swarm.core.shard import Shard
from swarm.errors import BadConfig, BusError, Undecodable

log = structlog.get_logger()

#: Pauses between two looks at the log.
LOOK_SHORTEST_S = 0.2
LOOK_LONGEST_S = 1.0
#: Entries that a look is worth: it costs as much as writing one, whatever it finds.
WORTH = 32
#: A log that cannot be folded is read again after this time.
BROKEN_S = 30.0
#: Things let go of at a stretch.
LET_GO = 2000
#: Work types, priorities, kinds of ends: there are no more of them than this.
FEW = 1000


def next_pause(pause_s: float, found: int) -> float:
    """Seconds until the next look, after one that came after `pause_s` and found so many entries.

    The busier a log, the more often, so that none is far behind; but never for a few entries.
    """
    if found >= WORTH:
        return max(pause_s / 2, LOOK_SHORTEST_S)
    return min(2 * pause_s, LOOK_LONGEST_S)


class Pace:
    """Lets all standbys of a coordinator rest as long as they fold."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def rest(self) -> None:
        """Return after a rest of one's own."""
        async with self._turn:
            await asyncio.sleep(SLICE_S)


class Standby(Actor):
    """Follows one log.  `reader` has its state, as of `reader.position`."""

    def __init__(self, around: Surroundings, shard: int, pace: Pace) -> None:
        super().__init__(f"standby-{shard}")
        self.shard = shard
        self._around = around
        self._pace = pace
        self._clock = asyncio.get_running_loop().time
        #: When the log's end was last reached.
        self._at_end = float("-inf")
        self.reader = self._new_reader()

    @property
    def behind_s(self) -> float:
        """By how much it may be behind the log's end, in seconds; -1 if that is not known yet."""
        position = self.reader.position
        if position.at == 0 and self._at_end == float("-inf"):
            return -1.0
        # A busy log has no end to be reached, but every entry says when it was written.
        lag_s = max(0.0, self._around.runtime.wall() - position.now)
        return min(lag_s, self._clock() - self._at_end)

    def follow(self) -> None:
        """Follow on, at a pace that leaves room for others."""
        self.reader.rest = self._pace.rest
        if not self.running:
            self._task = asyncio.create_task(self._supervise(), name=self.name)

    async def start(self) -> None:
        """The same."""
        self.follow()

    async def take(self) -> ShardReader:
        """Stop following, and hand the state over; `follow` goes on."""
        await self.stop()
        self.reader.rest = None
        return self.reader

    async def reach(self, sequence: int) -> None:
        """Fold up to this entry, without rests; the caller sets the time limit."""
        reader = await self.take()
        while reader.position.at < sequence:
            before = reader.position.at
            await reader.catch_up(sequence)
            if reader.position.at == before:
                # The replica that answers is behind.
                await asyncio.sleep(LOOK_AGAIN_S)

    async def let_go(self) -> None:
        """Stop, and free the memory."""
        await self.stop()
        reader, self.reader = self.reader, self._new_reader()
        self._at_end = float("-inf")
        await dismantle(reader.state)

    def _new_reader(self) -> ShardReader:
        reader = shard_reader(self._around, self.shard)
        reader.rest = self._pace.rest
        return reader

    async def _run(self) -> None:
        pause_s = LOOK_SHORTEST_S
        while True:
            before = self.reader.position.at
            began = self._clock()
            try:
                await self._around.server_clock.check()
                await self.reader.catch_up()
                self._at_end = began
            except BusError as error:
                log.debug("a standby cannot read on", shard=self.shard, why=str(error))
            except (BadConfig, Undecodable, AssertionError) as error:
                log.error("a standby is of no use", shard=self.shard, why=str(error))
                self.reader, self._at_end = self._new_reader(), float("-inf")
                await asyncio.sleep(BROKEN_S)
            pause_s = next_pause(pause_s, self.reader.position.at - before)
            # Hundreds of them must not look in step.
            await asyncio.sleep(pause_s * (0.5 + 0.5 * self._around.runtime.rng.random()))


class Standbys:
    """All standbys of one coordinator."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._pace = Pace()
        self._standbys: dict[int, Standby] = {}
        #: Those whose shard is being opened.
        self._taken: dict[int, Standby] = {}
        self._ending: dict[asyncio.Task[None], None] = {}

    def __contains__(self, shard: int) -> bool:
        return shard in self._standbys

    def shards(self) -> list[int]:
        """The shards that are followed."""
        return sorted(self._standbys)

    def behind(self) -> dict[str, float]:
        """By shard, as beats show it."""
        # Those that are about to be used, too: their coordinator is the one to open the shard.
        known = {**self._standbys, **self._taken}
        return {str(shard): round(known[shard].behind_s, 2) for shard in sorted(known)}

    def follow(self, wanted: Collection[int]) -> None:
        """Stand by for these shards and no others."""
        for shard in self.shards():
            if shard not in wanted:
                self._later(self._standbys.pop(shard).let_go())
        for shard in wanted:
            self.add(shard)

    def add(self, shard: int) -> Standby:
        """Stand by for this shard, too."""
        standby = self._standbys.get(shard) or self._taken.get(shard)
        if standby is None:
            standby = self._standbys[shard] = Standby(self._around, shard, self._pace)
            standby.follow()
        return standby

    def taken(self, shard: int) -> Standby | None:
        """The standby that was taken."""
        return self._taken.get(shard)

    def take(self, shard: int) -> Standby | None:
        """Take the standby of this shard out, if there is one; say `used` or `unused` later."""
        standby = self._standbys.pop(shard, None)
        if standby is not None:
            self._taken[shard] = standby
        return standby

    def used(self, shard: int) -> None:
        """The state of the standby that was taken is somebody else's now."""
        self._taken.pop(shard, None)

    def unused(self, shard: int) -> None:
        """Follow on with the standby that was taken, if there was one."""
        standby = self._taken.pop(shard, None)
        if standby is not None:
            self._standbys[shard] = standby
            standby.follow()

    async def stop(self) -> None:
        """Follow nothing any more."""
        standbys = [*self._standbys.values(), *self._taken.values()]
        self._standbys, self._taken = {}, {}
        await asyncio.gather(*self._ending, return_exceptions=True)
        for standby in standbys:
            await standby.stop()

    def free(self, shard: Shard) -> None:
        """Let go of a state that nobody needs any more."""
        self._later(dismantle(shard))

    def _later(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(what)
        self._ending[task] = None
        task.add_done_callback(lambda done: self._ending.pop(done, None))


async def dismantle(shard: Shard) -> None:
    """Free a large state in slices: all at once would hold up the loop."""
    for container in _containers(shard, {}):
        take = container.popitem if isinstance(container, dict) else container.pop
        while container:
            for _ in range(min(LET_GO, len(container))):
                take()
            await asyncio.sleep(0)


def _containers(
    part: object, seen: dict[int, object]
) -> Iterator[dict[Any, Any] | deque[Any] | list[Any]]:
    """Everything that a state keeps things in, what it is made of included."""
    if id(part) in seen:
        return
    seen[id(part)] = part
    if isinstance(part, dict | deque | list):
        # Small ones may hold large ones: what a shard has many of is small itself.
        if len(part) < FEW:
            for one in list(part.values() if isinstance(part, dict) else part):
                yield from _containers(one, seen)
        yield part
    elif type(part).__module__.startswith("swarm.core.") and not isinstance(part, Struct):
        slots = getattr(part, "__slots__", ())
        for one in [*getattr(part, "__dict__", {}).values(), *(getattr(part, x) for x in slots)]:
            yield from _containers(one, seen)
