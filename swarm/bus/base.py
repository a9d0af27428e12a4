"""The bus: what actors may ask of the outside world, and nothing more.

Two implementations keep this contract under one conformance suite
(`tests/conformance`): `swarm.bus.memory` (deterministic, with faults) and
`swarm.bus.jetstream` (a real NATS).

Messages are core NATS: at most once, in order per publisher and subject on one
connection, lost without a trace when nobody listens.  Logs are JetStream streams of
one subject each: durable, totally ordered, numbered from 1, appended to under a fence,
and dropped from the front by purges.  Records are streams of many subjects: what has been
stored under a key, found again by it; no fence guards them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Final, Protocol

from msgspec import Struct

from swarm.errors import BadInput, PayloadTooLarge

#: Records that are dropped at all are kept this long at least (a limit of the server's).
RECORD_AGE_MIN_S: Final = 1.0


class Message(Struct, frozen=True, gc=False):
    """One message as it arrived."""

    subject: str
    data: bytes
    #: Where an answer is wanted; empty when none is.
    reply: str = ""
    headers: Mapping[str, str] | None = None


class Entry(Struct, frozen=True):
    """One log entry as stored."""

    #: Position in the log, from 1; grows by one an append, holes only after a purge.
    seq: int
    data: bytes
    #: When the server stored it, seconds since the epoch by the server's clock.
    time: float


class LogInfo(Struct, frozen=True):
    """How far a log reaches, and what it takes."""

    #: Sequence of the oldest entry kept; ``last_seq + 1`` if there is none.
    first_seq: int
    #: Sequence of the newest entry ever stored, purged or not; 0 for a new log.
    last_seq: int
    #: What its entries take on the server, headers included.
    bytes: int
    #: How much they may take; 0 = no limit of its own.
    bytes_max: int = 0


class StateValue(Struct, frozen=True):
    """A value of the shared state."""

    value: bytes
    #: Another one with every change of the value.
    revision: int


class Storage(Struct, frozen=True):
    """What everything that the bus keeps takes on the server, and may take; bytes."""

    used: int
    #: 0 = not known.
    limit: int = 0


#: Called in the bus's own task for every message: must be quick and must not raise.
#: Actors put the message into their mailbox and return.
Handler = Callable[[Message], None]


class Subscription(Protocol):
    """A running subscription."""

    async def unsubscribe(self) -> None:
        """Stop; safe to call twice.  No handler call after it returned."""
        ...


class Bus(Protocol):
    """One connection, speaking as one sender."""

    @property
    def sender(self) -> str:
        """Who this connection speaks as: the last token of its request subjects."""
        ...

    @property
    def max_payload(self) -> int:
        """Largest message in bytes, headers included, that the server takes."""
        ...

    @property
    def connected(self) -> bool:
        """Whether messages can be sent and received right now."""
        ...

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and made again; leases restart when it grows."""
        ...

    async def publish(
        self,
        subject: str,
        data: bytes,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a message; returns once it is buffered, not once it has arrived.

        Raises `PayloadTooLarge` above `max_payload` (nothing is sent: one oversized
        message would close the whole connection) and `BusUnavailable` when it is closed
        or its buffer is full.
        """
        ...

    def publish_usual(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """Send the first of these (subject, data), as many as can be without a closer look.

        Returns how many; the next one is to be sent by `publish`, which says what is wrong.
        """
        ...

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """Receive messages; `queue` names a group of which one member gets each message.

        Wildcards as in NATS: ``*`` one token, ``>`` the rest.  Active on the server by
        the time this returns.
        """
        ...

    async def request(
        self,
        subject: str,
        data: bytes,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """Send, and wait for the first reply.

        Raises `BusTimeout`, or `NoResponders` at once when nobody listens.
        """
        ...

    def inbox(self) -> str:
        """A fresh reply subject below ``_INBOX.<sender>.``."""
        ...

    async def flush(self) -> None:
        """Return once the server has processed what was published before."""
        ...

    # --- logs ---

    async def create_log(self, log: str, max_bytes: int = 0) -> None:
        """Make the log if it does not exist; no change when it does.

        `max_bytes`: what its entries may take at most, 0 = no limit of its own; at the
        limit appends fail, nothing is dropped.  Raises `StorageFull` when the server cannot
        promise that much.
        """
        ...

    async def append(self, log: str, data: bytes, expected_seq: int, timeout_s: float) -> int:
        """Append one entry if the log's last sequence is `expected_seq` (0: empty log).

        Returns the new entry's sequence once it is durable.  Raises `AppendRefused` and
        `StorageFull` (it is not in the log), `OutcomeUnknown` (no answer within `timeout_s`:
        it may be in the log, may still come, or be lost), `LogMissing`, `PayloadTooLarge`.
        Which of the first two comes when both hold is not defined.
        """
        ...

    async def read(self, log: str, from_seq: int, limit: int) -> list[Entry]:
        """Up to `limit` entries with ``seq >= from_seq``, in order; [] when there is none.

        Begins with the oldest entry kept when what comes before it was purged: the reader
        sees the gap.  May lag behind the log's end (a replica answers), so an absence proves
        nothing; it shows the log as it was at one moment, so one that has applied a purge
        has every entry that was stored before the purge.  Raises `LogMissing`, `BusTimeout`,
        `BusUnavailable`.
        """
        ...

    async def log_info(self, log: str) -> LogInfo:
        """Where the log begins and ends, and its size.

        May be out of date: no number is ever too high, all may be too low.  Raises
        `LogMissing`, `BusTimeout`, `BusUnavailable`.
        """
        ...

    async def purge(self, log: str, below_seq: int) -> None:
        """Drop all entries with ``seq < below_seq``; sequences go on as before.

        Nothing changes when they are gone already, and above the log's end nothing more
        than all of it is dropped: doing it again is fine, and so is an old one that comes
        late.  Raises `LogMissing`, `BusTimeout` (it may have been done, or be done later),
        `BusUnavailable`.
        """
        ...

    async def server_time(self) -> float:
        """The server's clock, seconds since the epoch; raises `StateMissing`, `BusTimeout`."""
        ...

    # --- records: what is kept by key ---

    async def create_records(self, name: str, max_age_s: float) -> None:
        """Make the store `name`, of which each record goes `max_age_s` after it was put.

        0: records stay for ever; else at least `RECORD_AGE_MIN_S`.  Of a store that exists
        the age is set, for the records in it, too.
        """
        ...

    async def put_record(self, name: str, key: str, data: bytes, timeout_s: float) -> int:
        """Store a record under `key` (one token of a subject); returns once it is durable.

        Returns its number in the store: each put's is higher than those that had returned
        before.  Records of one key are all kept, in order.  Raises `OutcomeUnknown` (no answer
        within `timeout_s`: it may be stored, or later, or never; putting it again may store
        it twice), `StorageFull` (it is not stored), `LogMissing`, `PayloadTooLarge`.
        """
        ...

    async def get_records(self, name: str, key: str, as_of: int = 0) -> list[bytes]:
        """All records under `key`, the oldest first; [] when there is none.

        Those with numbers up to `as_of` are among them, until their age ends them; of the
        others those that whoever answers knows of, and it may be behind: a server that was
        the leader and does not know yet that it is not any more.  Raises `LogMissing`,
        `BusTimeout` (nobody has come as far as `as_of`), `BusUnavailable`.
        """
        ...

    async def storage(self) -> Storage:
        """How full the server is, of everybody's streams; may be some seconds out of date.

        Raises `BusTimeout`, `BusUnavailable`.
        """
        ...

    # --- a small shared state, readable by every client ---

    async def open_state(self) -> None:
        """Make the shared state of a new swarm; no change when it is there.

        For the start of a node; nothing else makes it.  Raises `StateMissing` when it is
        gone although the swarm has logs: then somebody has deleted it.
        """
        ...

    async def state_get(self, key: str) -> bytes | None:
        """The value under `key`, or None; raises `StateMissing`, `BusTimeout`."""
        ...

    async def state_create(self, key: str, value: bytes) -> bool:
        """Store `value` if `key` is unset; returns whether it was.

        Raises `StateMissing`, `StorageFull`, `BusTimeout` (it may have been stored),
        `BusUnavailable`.
        """
        ...

    async def state_read(self, key: str) -> StateValue | None:
        """The value under `key` with its revision, or None; raises as `state_get`."""
        ...

    async def state_update(self, key: str, value: bytes, revision: int) -> bool:
        """Replace the value that has this revision; returns whether it still had it.

        Raises as `state_create`.
        """
        ...

    async def close(self) -> None:
        """Flush and disconnect; safe to call twice."""
        ...


def headers_size(headers: Mapping[str, str] | None) -> int:
    """Bytes that `headers` take on the wire (0 without any)."""
    if not headers:
        return 0
    # "NATS/1.0\r\n" + "key: value\r\n" each + "\r\n"
    return 12 + sum(len(key.encode()) + len(value.encode()) + 4 for key, value in headers.items())


def check_size(
    max_payload: int, subject: str, data: bytes, headers: Mapping[str, str] | None = None
) -> None:
    """Raise `PayloadTooLarge` if the message would not fit; called by every send."""
    size = len(data) + headers_size(headers)
    if size > max_payload:
        raise PayloadTooLarge(
            f"a message of {size} bytes to {subject} is over the limit of {max_payload} bytes; "
            "send less at once, or raise max_payload on the NATS server"
        )


def check_record_age(max_age_s: float) -> None:
    """Raise `BadInput` for an age that records cannot have."""
    if max_age_s != 0 and not RECORD_AGE_MIN_S <= max_age_s < inf:
        raise BadInput(
            f"records cannot be kept for {max_age_s} s: at least {RECORD_AGE_MIN_S:.0f} s, "
            "or 0 for ever"
        )


def check_record_key(key: str) -> None:
    """Raise ValueError if `key` cannot be one token of a subject."""
    if not key or "." in key or "*" in key or ">" in key or any(map(str.isspace, key)):
        raise ValueError(f"{key!r} is no record's key: one token of a subject, without wildcards")
