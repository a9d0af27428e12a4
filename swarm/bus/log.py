"""A shard's log as its owner writes it, and as anybody reads it.

Writing: one fenced append in flight, never more (pipelined appends of a deposed owner
leak through the fence).  Every append expects the last sequence that *this process has
folded*; a number learned from an error or from the server's stream info is never used,
for it would step over what somebody else has written.

An append without an answer has an unknown outcome, which is resolved, never guessed:
presence is proven by reading the entry; absence only by a later append of our own with
the same expected sequence being acknowledged, because then the lost one can never land.
So the same batch is sent again, until it is in the log or another owner's entry is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from swarm.bus.base import Bus, Entry
from swarm.core.envelope import FORMAT, Link, LogPosition, decode_entry, encode_entry
from swarm.core.shard import Shard, ShardRules
from swarm.errors import (
    AppendRefused,
    BusTimeout,
    BusUnavailable,
    Deposed,
    OutcomeUnknown,
    Undecodable,
)
from swarm.messages import Event, LogEntry

#: Entries asked for at once.
PAGE = 256
#: A reader that misses the same entries this often takes them for lost for good.
GAPS_MAX = 20
#: Between two looks at a log that a lagging replica answers for.
LOOK_AGAIN_S = 0.05
#: A long log must not keep the loop from beating: a reader folds this long at a stretch.
SLICE_S = 0.005


class FencedLog:
    """Appends as one owner.  `position` is what this process has folded."""

    def __init__(
        self,
        bus: Bus,
        position: LogPosition,
        *,
        incarnation: str,
        epoch: int,
        owner: str,
        map_version: int,
        append_timeout_s: float,
        silence_s: float,
    ) -> None:
        self._bus = bus
        self._clock = asyncio.get_running_loop().time
        self.position = position
        self.incarnation = incarnation
        self.epoch = epoch
        self.owner = owner
        self.map_version = map_version
        self._append_timeout_s = append_timeout_s
        #: Without an acknowledged append for this long, the owner must fall silent.
        self._silence_s = silence_s
        self._batch = 0
        self._appending = False
        #: When an append was last acknowledged, monotonic.
        self.proven_at = self._clock()

    async def append(self, events: list[Event], now: float) -> int:
        """Make one batch durable; returns its sequence.

        `now` must not be below `position.now`.  Raises `Deposed` when somebody else owns
        the log, or nothing could be proven for the silence time; `Undecodable`,
        `LogMissing`.  After any of them the decided state is void.
        """
        assert not self._appending, "one append in flight, never two"
        assert now >= self.position.now, "the log's time never goes backwards"
        entry = LogEntry(
            swarm=FORMAT,
            incarnation=self.incarnation,
            epoch=self.epoch,
            owner=self.owner,
            batch=self._batch,
            previous=self.position.last,
            map_version=self.map_version,
            now=now,
            events=events,
        )
        self._appending = True
        try:
            seq = await self._settle(encode_entry(entry))
        finally:
            self._appending = False
        link = self.position.advance(seq, entry)
        assert link is Link.OURS, f"our own entry {seq} does not continue the log: {link}"
        self._batch += 1
        self.proven_at = self._clock()
        return seq

    async def _settle(self, data: bytes) -> int:
        """Append until the outcome is known."""
        while True:
            try:
                return await self._bus.append(
                    self.position.log, data, self.position.at, self._append_timeout_s
                )
            except AppendRefused as refused:
                seq = await self._after_refusal(refused, data)
            except (OutcomeUnknown, BusUnavailable) as unknown:
                seq = await self._after_unknown(unknown, data)
            if seq is not None:
                return seq
            self._check_silence()

    async def _after_refusal(self, refused: AppendRefused, data: bytes) -> int | None:
        """Something is in the log that was not folded: read it, never trust the number."""
        return await self._look(data)

    async def _after_unknown(self, unknown: Exception, data: bytes) -> int | None:
        """The barrier: look for the entry; not finding it proves nothing, so append again."""
        return await self._look(data)

    async def _look(self, data: bytes) -> int | None:
        """Read on from `position`: our entry's sequence, None if it is not there (yet).

        Steps over foreign entries; raises `Deposed` on another owner's.
        """
        try:
            entries = await self._bus.read(self.position.log, self.position.at + 1, PAGE)
        except (BusTimeout, BusUnavailable):
            entries = []
        before = self.position.at
        for stored in entries:
            if stored.seq != self.position.at + 1:
                break  # the read missed something: look again
            if stored.data == data:
                return stored.seq
            self._step_over(stored)
        if self.position.at == before:
            await asyncio.sleep(LOOK_AGAIN_S)
        return None

    def _step_over(self, stored: Entry) -> None:
        entry = decode_entry(self.position.log, stored.seq, stored.data)
        trial = msgspec.structs.replace(self.position)
        if trial.advance(stored.seq, entry) is not Link.FOREIGN:
            who = entry.owner if entry is not None else "?"
            raise Deposed(f"{self.position.log}: owner {who} wrote entry {stored.seq}")
        self.position = trial

    def _check_silence(self) -> None:
        silent_s = self._clock() - self.proven_at
        if silent_s > self._silence_s:
            raise Deposed(
                f"{self.position.log}: no acknowledged append for {silent_s:.1f} s; "
                "cannot prove that this owner still owns it"
            )


class LogReader:
    """Folds a log from its beginning, page by page; starts over when it missed something."""

    def __init__(self, bus: Bus, log: str, number: int, rules: ShardRules) -> None:
        self._bus = bus
        self._log = log
        self._number = number
        self._rules = rules
        #: How often something was missed, and since when at the same place.
        self.gaps = 0
        self._missing = (0, 0)
        self._clock = asyncio.get_running_loop().time
        #: Called between two slices; default: let others have a turn.
        self.rest: Callable[[], Awaitable[None]] | None = None
        self.shard = Shard(number, rules)
        self.position = LogPosition(log)

    async def catch_up(self, up_to: int = 0) -> None:
        """Fold all that can be read now, with `up_to` no further than the page it is in.

        Raises what `Bus.read` raises, or `Undecodable`.
        """
        while True:
            entries = await self._bus.read(self._log, self.position.at + 1, PAGE)
            if not entries:
                return
            began = self._clock()
            for stored in entries:
                if not self._fold(stored):
                    break
                if self._clock() - began > SLICE_S:
                    await self._rest()
                    began = self._clock()
            if 0 < up_to <= self.position.at:
                return
            await self._rest()

    async def _rest(self) -> None:
        await (asyncio.sleep(0) if self.rest is None else self.rest())

    def _fold(self, stored: Entry) -> bool:
        """Fold one entry; False when the rest of the page is void."""
        entry = decode_entry(self._log, stored.seq, stored.data)
        link = self.position.advance(stored.seq, entry)
        if self._missed(link):
            self._start_over(stored.seq)
            return False
        if link is Link.OURS:
            assert entry is not None, "a foreign entry is not ours"
            for event in entry.events:
                self.shard.apply(event, entry.now, entry.owner)
        return True

    def _start_over(self, found: int) -> None:
        self.gaps += 1
        wanted = self.position.at + 1
        times = self._missing[1] + 1 if self._missing[0] == wanted else 1
        self._missing = (wanted, times)
        if times > GAPS_MAX:
            raise Undecodable(
                f"{self._log}: entry {wanted} is missing, the next one is {found}; was something "
                "deleted from the log?  Restore it from a replica or backup"
            )
        self.shard = Shard(self._number, self._rules)
        self.position = LogPosition(self._log)

    def _missed(self, link: Link) -> bool:
        return link is Link.GAP
