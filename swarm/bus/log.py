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
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from swarm.bus.base import Bus, Entry
from swarm.core.envelope import (
    FORMAT,
    SHARD_LOG,
    WAY_OUT,
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
    Undecodable,
)
from swarm.messages import ClusterEvent, Event

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
#: A log that has been shorter than it was for so long has been cut.
SHORTER_S = 3.0
#: Between two attempts to append while there is no room.
FULL_S = 0.25
#: A log is not replaced within this time, from one append of an owner to its next.
SURE_S = 1.0


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
        try:
            entries = await _read_on(self._bus, self.position, last)
        except (BusTimeout, BusUnavailable):
            entries = []
        for stored in entries:
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
            raise Deposed(f"{self.position.log}: owner {who} wrote entry {stored.seq}")
        self.position, self._last = trial, stored

    async def _make_sure(self) -> None:
        """The entry that was just appended must continue what this process has folded."""
        last = self._last
        while last is not None:
            try:
                found = await self._bus.read(self.position.log, last.seq, 1)
            except (BusTimeout, BusUnavailable):
                found = []
            if found:
                self._check_same(found[0], last)
                return
            # The replica that was asked is behind.
            self._check_silence()
            await asyncio.sleep(LOOK_AGAIN_S)

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


async def _read_on(bus: Bus, position: LogPosition, last: Entry | None) -> list[Entry]:
    """A page of what comes behind `position`; first the entry `last`, which is there, again."""
    if last is None:
        return await bus.read(position.log, position.at + 1, PAGE)
    entries = await bus.read(position.log, last.seq, PAGE)
    if len(entries) == 1 and len(entries[0].data) >= LARGE:
        # It may have been too large to let any other into its page.
        entries += await bus.read(position.log, last.seq + 1, PAGE)
    return entries


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
            if 0 < up_to <= self.position.at:
                return
            await self._rest()

    def start_over(self) -> None:
        """Fold the log from its beginning at the next occasion: it is not what it was."""
        self._lost = True

    async def _read_page(self) -> list[Entry]:
        """The entries behind `position`; starts over if what is there is not what it was."""
        last, began = self.last, self._clock()
        entries = await _read_on(self._bus, self.position, last)
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
