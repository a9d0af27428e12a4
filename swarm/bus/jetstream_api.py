"""What JetStream is asked for and answers, and what its errors mean to the swarm.

Shapes as nats-server 2.15 sends them; fields that nothing here needs are left out.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from swarm.errors import (
    BadInput,
    BusError,
    BusUnavailable,
    LogMissing,
    PayloadTooLarge,
    StorageFull,
)

API: Final = "$JS.API"

#: ``err_code`` of a reply, as nats-server numbers them.
NO_STREAM: Final = 10059
NO_MESSAGE: Final = 10037
NAME_IN_USE: Final = 10058
SUBJECTS_OVERLAP: Final = 10065
WRONG_LAST_SEQUENCE: Final = 10071
#: An append with the same expectation is under way (a cluster of servers only).
WRONG_LAST_SEQUENCE_UNDER_WAY: Final = 10164
OTHER_STREAM: Final = 10060
MESSAGE_TOO_LARGE: Final = 10054
NOT_ENABLED: Final = frozenset({10039, 10076})
#: No room; the append is not stored in any of these cases (tried on nats-server 2.15.1).
#: 10002: the account's limit would be passed.  In a cluster that is noticed some seconds late.
#: 10023: the server's `max_file_store` is reached, which is noticed one message late; then
#: every append to every stream gets it.  One server goes on as soon as something is purged.
#: *In a cluster it does not*: leaders step down, streams lose their quorum, appends have
#: unknown outcomes and purges are refused, until `max_file_store` is raised and reloaded.  So
#: a cluster needs limits of the account or the streams that keep it away from there.
#: 10028, 10047: a new stream's `max_bytes` is more than the memory or disk not yet promised.
#: A disk that is full before any of these limits is another matter: see `swarm.bus.disk`.
NO_ROOM: Final = frozenset({10002, 10023, 10028, 10047})
#: The store refused; the description says why.  "maximum bytes exceeded": the stream's
#: own `max_bytes` would be passed (smaller messages still fit).
STORE_FAILED: Final = 10077
STORE_FULL: Final = ("maximum bytes exceeded", "maximum messages exceeded")

NANOSECONDS: Final = 1_000_000_000
#: The server's own default; nothing here sends ids, but the age of messages may not be less.
DUPLICATES_S: Final = 120.0


class ApiError(msgspec.Struct):
    """Why JetStream refused."""

    code: int = 0
    err_code: int = 0
    description: str = ""

    def __str__(self) -> str:
        return f"{self.description} ({self.err_code})"


class Stored(msgspec.Struct):
    """The answer to a message for a stream."""

    seq: int = 0
    error: ApiError | None = None


class StoredMessage(msgspec.Struct):
    """A message of a stream; `data` and `hdrs` come as base64."""

    seq: int
    data: bytes = b""
    hdrs: bytes = b""


class StreamState(msgspec.Struct):
    """What is in a stream."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    #: How many messages by subject, of those that were asked for.
    subjects: dict[str, int] | None = None


class StorageLimits(msgspec.Struct):
    """What an account may use; -1 = as much as the server has."""

    max_storage: int = -1


class StorageTier(msgspec.Struct):
    """An account's use of streams with a certain number of replicas."""

    storage: int = 0
    limits: StorageLimits = msgspec.field(default_factory=StorageLimits)


class AccountInfo(msgspec.Struct):
    """The answer to the question what an account uses."""

    error: ApiError | None = None
    storage: int = 0
    limits: StorageLimits = msgspec.field(default_factory=StorageLimits)
    #: By ``R<replicas>``, where an operator gives limits so; then the others are empty.
    tiers: dict[str, StorageTier] = {}


class Reply(msgspec.Struct):
    """The answer to any request to the API; `ts` is the server's clock, RFC 3339."""

    error: ApiError | None = None
    ts: str = ""
    #: How many there are of what was asked for.
    total: int = 0
    message: StoredMessage | None = None
    state: StreamState | None = None
    config: dict[str, Any] | None = None


def stream_of(log: str) -> str:
    """The stream of a log, which is named by its subject: a stream's name has no dots."""
    return log.replace(".", "_")


def log_config(log: str, replicas: int, max_bytes: int) -> dict[str, Any]:
    """A log's stream: everything is kept until it is purged, nothing is deduplicated.

    Nothing is ever deleted out of its middle: readers take a hole for something missed.
    """
    config = _stream_config(stream_of(log), log, replicas)
    return config | {"deny_delete": True, "max_bytes": max_bytes or -1}


def bucket_of(prefix: str) -> str:
    """The key-value bucket of the swarm with this prefix."""
    return f"{prefix}-state"


def bucket_config(bucket: str, replicas: int) -> dict[str, Any]:
    """A bucket's stream, as NATS's key-value clients expect it to be."""
    config = _stream_config(f"KV_{bucket}", f"$KV.{bucket}.>", replicas)
    return config | {"max_msgs_per_subject": 1, "allow_rollup_hdrs": True, "deny_delete": True}


def records_config(name: str, max_age_s: float, replicas: int) -> dict[str, Any]:
    """A records' stream: one subject for each key."""
    return _stream_config(stream_of(name), f"{name}.*", replicas) | age_config(max_age_s)


def age_config(max_age_s: float) -> dict[str, int]:
    """After how long records go (0: never); the server forgets their ids no later."""
    max_age_ns = int(max_age_s * NANOSECONDS)
    window_ns = int(DUPLICATES_S * NANOSECONDS)
    return {"max_age": max_age_ns, "duplicate_window": min(max_age_ns or window_ns, window_ns)}


def _stream_config(name: str, subject: str, replicas: int) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": [subject],
        "retention": "limits",
        "storage": "file",
        # When the disk is full appends must fail, not drop what was appended first.
        "discard": "new",
        "max_age": 0,
        "max_bytes": -1,
        "max_msgs": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "num_replicas": replicas,
        "allow_direct": True,
    }


def is_full(error: ApiError) -> bool:
    """Whether a refusal means that there is no room, and that nothing was stored."""
    if error.err_code == STORE_FAILED:
        return error.description.startswith(STORE_FULL)
    return error.err_code in NO_ROOM


def no_room(what: str, error: ApiError) -> StorageFull:
    """The exception for `is_full`."""
    return StorageFull(
        f"{what}: the NATS server has no room: {error}; raise its limit, or free space "
        "(NATS: max_file_store, the account's limit, or max_bytes of the stream)"
    )


def api_error(what: str, error: ApiError) -> BusError | BadInput:
    """The exception for a refusal of JetStream's API: nothing was done."""
    match error.err_code:
        case code if code == NO_STREAM:
            return LogMissing(f"{what}: no such log")
        case code if code == SUBJECTS_OVERLAP:
            return BadInput(
                f"{what}: another JetStream stream takes this subject already; "
                "choose another prefix, or remove that stream"
            )
        case code if code == NAME_IN_USE:
            return BadInput(
                f"{what}: a stream of this name exists for another subject; "
                "choose another prefix, or remove that stream"
            )
        case code if code in NOT_ENABLED:
            return jetstream_missing(what)
        case _ if is_full(error):
            return no_room(what, error)
        case code if code == MESSAGE_TOO_LARGE:
            return PayloadTooLarge(f"{what}: {error}")
    return BusUnavailable(f"{what}: JetStream refused: {error}")


def jetstream_missing(what: str) -> BusUnavailable:
    """The exception for when nobody answers the API."""
    return BusUnavailable(
        f"{what}: JetStream does not answer; it is starting, without a leader, or not "
        "enabled (the server's configuration needs a `jetstream` block)"
    )
