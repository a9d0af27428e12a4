"""Every error of the swarm, by whose fault it is and what is known of its effect.

`Refusal` travels: it is what a reply's ``{"error": {"code", "message", "retry"}}``
holds, and the exception that a client raises on receiving it.  The other classes
never leave the process that raises them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from swarm.messages import WorkItem

RefusalCode = Literal[
    "bad_request",  # malformed JSON, a missing or wrong field: the sender's mistake
    "too_large",  # an item, progress note or result over its size limit
    "unsupported",  # a field that this version does not act on, so it will not pretend to
    "unknown_item",  # no such work item in this shard
    "unknown_session",  # the coordinator does not know this agent session: attach again
    "stale_token",  # the token is not (or no longer) the one the item is held with
    "not_holder",  # the item is held by somebody else than the sender
    "not_claimed",  # the item is not held by anybody
    "already_finished",  # the item has ended, by other hands or with another outcome
    "not_waiting",  # an answer for an item that has asked for nothing
    "already_answered",  # somebody else's answer came first
    "storage_full",  # the swarm's storage is nearly full: try again when there is room
    "no_work",  # nothing to claim among the types that were asked for
    "agent_id_in_use",  # another live process is attached under this agent id
    "idempotency_conflict",  # the idempotency key was used before, for other content
    "conflict",  # what was to be changed has changed meanwhile: read it, and edit that
    "stale_map",  # by another shard map than this shard or coordinator has
    "too_old",  # a retry older than the dedupe window: cannot tell whether it was done
    "overloaded",  # a full mailbox: try again a little later
    "unavailable",  # nobody who could do it is alive right now: try again
]

REFUSAL_CODES: frozenset[str] = frozenset(get_args(RefusalCode))


class SwarmError(Exception):
    """Base of all errors of this package; the message says what to do about it."""


class Refusal(SwarmError):
    """The swarm refused a request, and nothing of it was done.

    `code` is one of `RefusalCode`, `message` a sentence for people, `retry` whether
    sending the same request again later may succeed.
    """

    def __init__(self, code: RefusalCode, message: str, retry: bool = False) -> None:
        super().__init__(f"{code}: {message}")
        self.code: RefusalCode = code
        self.message = message
        self.retry = retry


class BadConfig(SwarmError):
    """A setting is unknown, out of range, or impossible together with another."""


class BadInput(SwarmError):
    """What the user gave (a file, a flag, a path) cannot be used; says which and why."""


class NoAnswer(SwarmError):
    """No reply within the deadline: whether the request was carried out is unknown.

    Retrying with the same command id is safe.
    """


class WorkFailed(SwarmError):
    """The awaited work item ended without a result: it is dead.

    `item` is how it ended, with its history; None where only the message is known.
    """

    def __init__(self, message: str, item: WorkItem | None = None) -> None:
        super().__init__(message)
        self.item = item


class WorkCancelled(WorkFailed):
    """The awaited work item was cancelled."""


class LeaseLost(SwarmError):
    """The item that a handler works on is not held by it any more; stop the work."""


class DiscoveryFailed(SwarmError):
    """Where the coordinators are cannot be found out now; says what did not answer, and how."""


class NotInMemory(SwarmError):
    """An archived item is asked for: it must be read from the finished records first."""

    def __init__(self, number: int) -> None:
        super().__init__(f"item {number} is in the finished records")
        self.number = number


# --- the bus ---------------------------------------------------------------


class BusError(SwarmError):
    """Base of what a `swarm.bus.Bus` raises."""


class BusUnavailable(BusError):
    """The bus cannot be reached, or is closed; nothing was sent."""


class BusTimeout(BusError):
    """No reply to a request in time."""


class NoResponders(BusError):
    """Nobody listens on the subject of a request; known at once."""


class PayloadTooLarge(BusError):
    """A message above the size limit; refused before it was sent."""


class AppendRefused(BusError):
    """The log's last sequence is not the expected one; this append is not in the log.

    `actual` is the sequence that the server named: for messages to people only, never
    to be used as the next expected sequence (that would defeat the fence).
    """

    def __init__(self, log: str, expected: int, actual: int | None) -> None:
        super().__init__(f"{log}: expected last sequence {expected}, the log is at {actual}")
        self.log = log
        self.expected = expected
        self.actual = actual


class OutcomeUnknown(BusError):
    """An append got no answer: it may be in the log, may come later, or be lost."""


class StorageFull(BusError):
    """No room: this append, record or value is not stored, and will not be by itself.

    Of an earlier attempt that went without an answer it says nothing.  Trying again is
    right once something was purged, or the limit was raised.
    """


class LogMissing(BusError):
    """The log does not exist (any more)."""


class LogReplaced(BusError):
    """The log is another one than the shared state knows, or has lost its entries."""


class StateMissing(BusError):
    """The shared state does not exist (any more); what it held is not known."""


# --- ownership ---------------------------------------------------------------


class Deposed(SwarmError):
    """Another owner has opened the shard, or ours cannot prove that it still owns it.

    `by`: the other one, if one has opened it while we would have, or did; else empty.
    """

    def __init__(self, message: str, by: str = "") -> None:
        super().__init__(message)
        self.by = by


class Undecodable(SwarmError):
    """An entry of ours in the log cannot be decoded; the shard stays closed."""
