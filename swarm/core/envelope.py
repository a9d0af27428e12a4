"""The envelope of log entries, and what a reader makes of a log.

A log is a chain: every entry of ours names the sequence of the one before it
(`previous`), its owner and the owner's epoch.  `LogPosition.advance` follows the chain
and tells three cases apart, alike for every reader:

- the next link: fold it;
- *foreign*: no entry of ours, or one that its fence should have stopped; skipped and
  counted, it changes nothing;
- a *gap*: something was missed; start over.  Sequences have no holes (logs are purged from
  the front only), so a hole in what was read is a gap even when the next entry is foreign:
  skipping on from it could pass over an entry of ours.

A log that was purged begins in the middle of its chain: a reader that begins there takes
the first entry of ours as it is.

An entry that claims to be ours and cannot be decoded closes the shard: skipping it
would lose what it says.  So does one that is damaged so badly that it does not even claim
to be ours, as soon as the next link names it as the one before: whoever wrote that had
folded it, and nobody of ours ever names an entry that was foreign.
"""

from __future__ import annotations

import enum
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from swarm.errors import Undecodable
from swarm.messages import ClusterEntry, LogEntry, Opened

#: Of the entries this version writes, once every live coordinator can read them.
FORMAT = 2
#: What it reads.
FORMATS = (1, 2)
_MAGIC = b'{"swarm":'
#: With this near its beginning, an entry is ours even if its first bytes are damaged.
_MARK = b'"incarnation":"'
_MARK_WITHIN = 64
#: What to do about an entry that cannot be read, in every message about one.
WAY_OUT = "`swarm log save` and `swarm log restore` bring the log back (docs/operations.md)"
#: Foreign entries since the last link that are remembered.
_STRANGERS_MAX = 10_000

_encoder = msgspec.json.Encoder()

AnyEntry = LogEntry | ClusterEntry
EntryT = TypeVar("EntryT", bound=AnyEntry)


class Kind(Generic[EntryT]):
    """What a log is about: which entries it has."""

    def __init__(self, entry: type[EntryT]) -> None:
        self.entry = entry
        self.decode = msgspec.json.Decoder(entry).decode

    def make(self, **fields: Any) -> EntryT:
        """An entry with these fields."""
        return self.entry(**fields)


SHARD_LOG = Kind(LogEntry)
CLUSTER_LOG = Kind(ClusterEntry)


class Link(enum.Enum):
    """How an entry continues what was read before."""

    OURS = "ours"
    FOREIGN = "foreign"
    GAP = "gap"
    OLD = "old"


def encode_entry(entry: AnyEntry) -> bytes:
    """The entry as it is stored."""
    return _encoder.encode(entry)


def decode_entry(log: str, seq: int, data: bytes) -> LogEntry | None:
    """As `decode_as`, of a shard's log."""
    return decode_as(SHARD_LOG, log, seq, data)


def decode_as(kind: Kind[EntryT], log: str, seq: int, data: bytes) -> EntryT | None:
    """The entry, None for a foreign one; raises `Undecodable` for a broken one of ours."""
    if not data.startswith(_MAGIC):
        if _MARK in data[:_MARK_WITHIN]:
            raise Undecodable(
                f"{log}: entry {seq} is ours but its beginning is damaged (or a newer version "
                f"wrote it: run that version); {WAY_OUT}"
            )
        return None
    try:
        entry = kind.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Undecodable(
            f"{log}: entry {seq} is ours but cannot be decoded ({error}); it may come from a newer "
            f"version: run that version; if it is damaged, {WAY_OUT}"
        ) from error
    if entry.swarm not in FORMATS:
        raise Undecodable(
            f"{log}: entry {seq} has format {entry.swarm}, this version reads "
            f"{', '.join(map(str, FORMATS))}; run the version that wrote it, or a newer one"
        )
    return entry


class LogPosition(Struct):
    """Where a reader stands in a log."""

    log: str
    #: Last sequence seen, foreign entries included: what the next append expects.
    at: int = 0
    #: Sequence of the last entry of ours.
    last: int = 0
    incarnation: str = ""
    epoch: int = 0
    owner: str = ""
    batch: int = -1
    now: float = 0.0
    map_version: int = 0
    foreign: int = 0
    #: Where the reader began, which is where the log did.
    first: int = 1
    #: Entries since `last` that do not even look like ours.
    strangers: list[int] = []

    @classmethod
    def before(cls, log: str, first_seq: int) -> LogPosition:
        """The position of a reader of a log that begins with `first_seq`."""
        assert first_seq > 0, "sequences begin with 1"
        return cls(log, at=first_seq - 1, first=first_seq)

    def advance(self, seq: int, entry: AnyEntry | None) -> Link:
        """Take the entry at `seq` (None: not ours) and say what it is.

        Raises `Undecodable` when the entry shows that one before it is damaged.
        """
        if seq <= self.at:
            return Link.OLD
        if seq != self.at + 1:
            return Link.GAP
        if entry is None:
            self.strangers.append(seq)
            del self.strangers[:-_STRANGERS_MAX]
            return self._skip(seq)
        known = not self.incarnation or entry.incarnation == self.incarnation
        # Without a hole nothing was missed: an entry that continues what is no link of
        # the chain (a leaked one, or none at all) is as foreign as what it continues.
        if known and entry.previous in self.strangers:
            raise Undecodable(
                f"{self.log}: entry {entry.previous} is damaged: entry {seq} follows it as one of "
                f"ours, and it does not look like one; {WAY_OUT}"
            )
        if not known or not self._next_of_chain(entry):
            return self._skip(seq)
        assert entry.now >= self.now, f"{self.log}: time went backwards at {seq}"
        self.at = self.last = seq
        self.strangers.clear()
        self.incarnation, self.epoch, self.owner = entry.incarnation, entry.epoch, entry.owner
        self.batch, self.now, self.map_version = entry.batch, entry.now, entry.map_version
        return Link.OURS

    def _next_of_chain(self, entry: AnyEntry) -> bool:
        """Whether this owner may write this entry here."""
        if self.last == 0 and self.first > 1:
            # What came before was purged: there is nothing to hold it against.
            return entry.previous < self.first
        if entry.previous != self.last:
            return False
        opens = bool(entry.events) and isinstance(entry.events[0], Opened)
        if opens:
            return entry.epoch == self.epoch + 1 and entry.batch == 0
        same_owner = entry.epoch == self.epoch and entry.owner == self.owner
        return same_owner and entry.batch == self.batch + 1

    def _skip(self, seq: int) -> Link:
        self.at = seq
        self.foreign += 1
        return Link.FOREIGN
