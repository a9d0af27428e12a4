"""A log as its owner writes it, and as anybody reads it: a shard's, or the cluster log.

Writing: one fenced append in flight, never more (pipelined appends of a deposed owner
leak through the fence).  Every append expects the last sequence that *this process has
folded*; a number learned from an error or from the server's stream info is never used,
for it would step over what somebody else has written.

An append without an answer has an unknown outcome, which is resolved, never guessed:
presence is proven by reading the entry; absence only by a later append of our own with
the same expected sequence being acknowledged, because then the lost one can never land.
So the same batch is sent again, until it is in the log or another owner's entry is.

A sequence alone does not tell that a log is the one that was folded: an operator may have
brought back an older one, in which others have written since.  So a reader reads the entry
that it folded last once more, with those behind it; and so does an owner whose proof is
older than `SURE_S`, the only kind that can have slept through a restore.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec

from swarm.bus.base import Bus, Entry
from swarm.bus.log_reader import LOOK_AGAIN_S, read_on
from swarm.core.envelope import (
    FORMAT,
    SHARD_LOG,
    AnyEntry,
    Kind,
    Link,
    LogPosition,
    decode_as,
    encode_entry,
)
from swarm.errors import (
    AppendRefused,
    BusTimeout,
    BusUnavailable,
    Deposed,
    LogReplaced,
    OutcomeUnknown,
    StorageFull,
)
from swarm.messages import ClusterEvent, Event, Opened

#: A log that has been shorter than it was for so long has been cut.
SHORTER_S = 3.0
#: Between two attempts to append while there is no room.
FULL_S = 0.25
#: A log is not replaced within this time, from one append of an owner to its next.
SURE_S = 1.0


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
        last: Entry | None = None,
        sure_at: float = float("-inf"),
        kind: Kind[Any] = SHARD_LOG,
    ) -> None:
        """`last`: the entry at `position.at`, seen in the log at `sure_at` (monotonic)."""
        self._bus = bus
        self._kind = kind
        self._clock = asyncio.get_running_loop().time
        self.position = position
        self.incarnation = incarnation
        self.epoch = epoch
        self.owner = owner
        self.map_version = map_version
        self._append_timeout_s = append_timeout_s
        #: Without an acknowledged append for this long, the owner must fall silent.
        self._silence_s = silence_s
        self._last = last
        self._sure_at = sure_at
        self._batch = 0
        self._appending = False
        #: Whether the append under way waits for room in the storage.
        self.full = False
        #: Bytes of the latest entry.
        self.entry_bytes = 0
        #: Since when the log has been shorter than what this process has folded.
        self._shorter_since = 0.0
        #: When an append was last acknowledged, monotonic.
        self.proven_at = self._clock()

    async def append(
        self,
        events: Sequence[Event] | Sequence[ClusterEvent],
        now: float,
        format_: int = FORMAT,
    ) -> int:
        """Make one batch durable, as an entry of this format; returns its sequence.

        `now` must not be below `position.now`.  Without room in the storage this goes on
        until there is some; `full` tells.  Raises `Deposed` when somebody else owns
        the log, or nothing could be proven for the silence time; `Undecodable`,
        `LogMissing`, `LogReplaced`.  After any of them the decided state is void.
        """
        assert not self._appending, "one append in flight, never two"
        assert now >= self.position.now, "the log's time never goes backwards"
        entry: AnyEntry = self._kind.make(
            swarm=format_,
            incarnation=self.incarnation,
            epoch=self.epoch,
            owner=self.owner,
            batch=self._batch,
            previous=self.position.last,
            map_version=self.map_version,
            now=now,
            events=events,
        )
        data = encode_entry(entry)
        self._appending = True
        began = self._clock()
        try:
            seq = await self._settle(data)
            if self._clock() - self._sure_at > SURE_S:
                await self._make_sure()
        finally:
            self._appending = False
        link = self.position.advance(seq, entry)
        assert link is Link.OURS, f"our own entry {seq} does not continue the log: {link}"
        self._last, self._sure_at = Entry(seq, data, 0.0), began
        self._batch += 1
        self.entry_bytes = len(data)
        self.proven_at = self._clock()
        return seq

    async def _settle(self, data: bytes) -> int:
        """Append until the outcome is known."""
        while True:
            try:
                seq = await self._bus.append(
                    self.position.log, data, self.position.at, self._append_timeout_s
                )
                self.full = False
                return seq
            except AppendRefused as refused:
                self._check_length(refused)
                found = await self._after_refusal(refused, data)
            except (OutcomeUnknown, BusUnavailable) as unknown:
                found = await self._after_unknown(unknown, data)
            except StorageFull:
                # Nobody can have opened the log meanwhile: there was no room for it either.
                # If there was in between, the next attempt is refused.
                self.full = True
                await asyncio.sleep(FULL_S)
                continue
            self.full = False
            if found is not None:
                return found
            self._check_silence()

    def _check_length(self, refused: AppendRefused) -> None:
        """Raise `LogReplaced` if the log has lost entries that this process has folded.

        (A server that has just become the leader may be behind for a moment.)
        """
        if refused.actual is None or refused.actual >= self.position.at:
            self._shorter_since = 0.0
            return
        self._shorter_since = self._shorter_since or self._clock()
        if self._clock() - self._shorter_since > SHORTER_S:
            raise LogReplaced(
                f"{self.position.log}: it ends with entry {refused.actual}, and had "
                f"{self.position.at}: it was cut, or restored from an older backup"
            )

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
        before, last = self.position.at, self._last
        for stored in await self._read(read_on(self._bus, self.position, last)):
            if last is not None and stored.seq == last.seq:
                self._check_same(stored, last)
                continue
            if stored.seq != self.position.at + 1:
                break  # the read missed something: look again
            if stored.data == data:
                return stored.seq
            self._step_over(stored)
        if self.position.at == before:
            await asyncio.sleep(LOOK_AGAIN_S)
        return None

    def _step_over(self, stored: Entry) -> None:
        entry = decode_as(self._kind, self.position.log, stored.seq, stored.data)
        trial = msgspec.structs.replace(self.position)
        if trial.advance(stored.seq, entry) is not Link.FOREIGN:
            who = entry.owner if entry is not None else "?"
            by = ""
            if entry is not None:
                opened = entry.events[0] if entry.events else None
                name = opened.coordinator if isinstance(opened, Opened) else f"owner {who}"
                by = f"{name}, epoch {entry.epoch}"
            raise Deposed(f"{self.position.log}: owner {who} wrote entry {stored.seq}", by)
        self.position, self._last = trial, stored

    async def _make_sure(self) -> None:
        """The entry that was just appended must continue what this process has folded."""
        last = self._last
        while last is not None:
            found = await self._read(self._bus.read(self.position.log, last.seq, 1))
            if found:
                self._check_same(found[0], last)
                return
            # The replica that was asked is behind.
            self._check_silence()
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _read(self, reading: Awaitable[list[Entry]]) -> list[Entry]:
        """Nothing if no answer comes in the time that an append has.

        The bus would wait for longer, and meanwhile the owner proves nothing.
        """
        try:
            async with asyncio.timeout(self._append_timeout_s):
                return await reading
        except (BusTimeout, BusUnavailable, TimeoutError):
            return []

    def _check_same(self, found: Entry, last: Entry) -> None:
        if (found.seq, found.data) != (last.seq, last.data):
            raise LogReplaced(
                f"{self.position.log}: entry {last.seq} is not what it was: the log was replaced, "
                "or restored from an older backup"
            )

    def _check_silence(self) -> None:
        silent_s = self._clock() - self.proven_at
        if silent_s > self._silence_s:
            raise Deposed(
                f"{self.position.log}: no acknowledged append for {silent_s:.1f} s; "
                "cannot prove that this owner still owns it"
            )
