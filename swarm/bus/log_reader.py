"""Reading a log: folding it from where it begins, page by page, and noticing what was missed.

A reader reads the entry that it folded last once more, with those behind it: a sequence alone
does not tell that a log is the one that was folded (`swarm.bus.log`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from swarm.bus.base import Bus, Entry
from swarm.core.envelope import (
    SHARD_LOG,
    WAY_OUT,
    AnyEntry,
    Kind,
    Link,
    LogPosition,
    decode_as,
)
from swarm.errors import (
    Undecodable,
)

#: Entries asked for at once.
PAGE = 256
#: Of a larger entry there may be but one in a page.
LARGE = 500_000
#: A reader that misses the same entries this often takes them for lost for good.
GAPS_MAX = 20
#: Between two looks at a log that a lagging replica answers for.
LOOK_AGAIN_S = 0.05
#: What an entry raises that says what cannot be, or says it in a way that cannot be read.
BREAKS = (AssertionError, LookupError, TypeError, ValueError, msgspec.MsgspecError)
#: A long log must not keep the loop from beating: a reader folds this long at a stretch.
SLICE_S = 0.005


class State(Protocol):
    """What a log folds to."""

    #: Sequence of the entry whose events are applied.
    seq: int
    #: Who owns the log.
    coordinator: str

    @property
    def complete(self) -> bool:
        """Whether what was purged from the log is known again."""
        ...

    def apply(self, event: Any, now: float, nonce: str) -> None:
        """Fold one event of entry `seq`, with the entry's `now` and owner nonce."""
        ...


StateT = TypeVar("StateT", bound=State)


async def read_on(bus: Bus, position: LogPosition, last: Entry | None) -> list[Entry]:
    """A page of what comes behind `position`; first the entry `last`, which is there, again."""
    if last is None:
        return await bus.read(position.log, position.at + 1, PAGE)
    entries = await bus.read(position.log, last.seq, PAGE)
    if len(entries) == 1 and len(entries[0].data) >= LARGE:
        # It may have been too large to let any other into its page.
        entries += await bus.read(position.log, last.seq + 1, PAGE)
    return entries


def _is_short(entries: list[Entry]) -> bool:
    """Whether there was no more to read when this page was: neither number nor size ended it."""
    return len(entries) < PAGE // 2 and sum(len(entry.data) for entry in entries) < LARGE


class LogReader(Generic[StateT]):
    """Folds a log from where it begins, page by page; starts over when it missed something.

    `begin` makes the state of a log that begins with this sequence.
    """

    def __init__(
        self, bus: Bus, log: str, begin: Callable[[int], StateT], kind: Kind[Any] = SHARD_LOG
    ) -> None:
        self._bus = bus
        self._log = log
        self._kind = kind
        self._new_state = begin
        #: How often something was missed, and since when at the same place.
        self.gaps = 0
        self._missing = (0, 0)
        #: How often the log seemed to have been cut by somebody else.
        self._incomplete = 0
        #: Whether the next thing to do is to find out where the log begins.
        self._lost = True
        self._clock = asyncio.get_running_loop().time
        #: The entry at `position.at`, and when it was last seen in the log (monotonic).
        self.last: Entry | None = None
        self.sure_at = float("-inf")
        #: Called between two slices; default: let others have a turn.
        self.rest: Callable[[], Awaitable[None]] | None = None
        self.state = begin(1)
        self.position = LogPosition(log)

    async def catch_up(self, up_to: int = 0) -> None:
        """Fold all that can be read now, with `up_to` no further than the page it is in.

        Raises what `Bus.read` raises, or `Undecodable`, also for a log that somebody else
        than its owner has cut at the front.
        """
        while True:
            if self._lost:
                await self._begin()
            entries = await self._read_page()
            if self._lost:
                continue
            if not entries:
                if self.state.complete:
                    return
                # What makes up for a purge was stored before it: it is there, or the replica
                # that was asked is behind.
                self._begins_too_late()
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            began = self._clock()
            for stored in entries:
                if not self.fold(stored):
                    break
                if self._clock() - began > SLICE_S:
                    await self._rest()
                    began = self._clock()
            else:
                if self.state.complete and _is_short(entries):
                    return
            if 0 < up_to <= self.position.at:
                return
            await self._rest()

    def start_over(self) -> None:
        """Fold the log from its beginning at the next occasion: it is not what it was."""
        self._lost = True

    async def _read_page(self) -> list[Entry]:
        """The entries behind `position`; starts over if what is there is not what it was."""
        last, began = self.last, self._clock()
        entries = await read_on(self._bus, self.position, last)
        if last is None or not entries:
            return entries
        again = entries.pop(0)
        if again.seq != last.seq:
            self._start_over(again.seq)
        elif again.data != last.data:
            self._lost = True
        else:
            self.sure_at = began
        return entries

    async def _rest(self) -> None:
        await (asyncio.sleep(0) if self.rest is None else self.rest())

    async def _begin(self) -> None:
        """Start at the log's first entry."""
        info = await self._bus.log_info(self._log)
        self.state = self._new_state(info.first_seq)
        self.position = LogPosition.before(self._log, info.first_seq)
        self.last = None
        self._lost = False

    def fold(self, stored: Entry) -> bool:
        """Fold one entry; False when it shows that others were missed: catch up again."""
        entry = decode_as(self._kind, self._log, stored.seq, stored.data)
        try:
            link = self.position.advance(stored.seq, entry)
            if link is Link.OURS and entry is not None:
                self._apply(stored.seq, entry)
        except Undecodable:
            # What is damaged lies behind us: it must be read again once it is mended.
            self._lost = True
            raise
        except BREAKS as error:
            # The state is neither that before the entry nor that behind it.
            self._lost = True
            raise Undecodable(
                f"{self._log}: entry {stored.seq} cannot follow what the log says before it "
                f"({error}); {WAY_OUT}"
            ) from error
        if self._missed(link):
            self._start_over(stored.seq)
            return False
        self.last = stored
        return True

    def _apply(self, seq: int, entry: AnyEntry) -> None:
        state = self.state
        state.seq = seq
        for event in entry.events:
            state.apply(event, entry.now, entry.owner)

    def _start_over(self, found: int) -> None:
        self.gaps += 1
        wanted = self.position.at + 1
        times = self._missing[1] + 1 if self._missing[0] == wanted else 1
        self._missing = (wanted, times)
        if times > GAPS_MAX:
            raise Undecodable(
                f"{self._log}: entry {wanted} is missing, the next one is {found}; was something "
                f"deleted from the log?  {WAY_OUT}"
            )
        self._lost = True

    def _begins_too_late(self) -> None:
        self._lost = True
        self._incomplete += 1
        if self._incomplete > GAPS_MAX:
            raise Undecodable(
                f"{self._log}: it begins with entry {self.position.first}, and no mark in it says "
                f"that what came before is not needed; was it purged by hand?  {WAY_OUT}"
            )

    def _missed(self, link: Link) -> bool:
        return link is Link.GAP
