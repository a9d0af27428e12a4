"""What a shard's log holds."""

from __future__ import annotations

from typing import Literal

from msgspec import Raw, Struct

from swarm.messages.basics import NULL


class Opened(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="opened"):
    """A coordinator owns the shard from here on; always alone, first of its epoch."""

    coordinator: str


class Submitted(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="submitted"):
    """Items were accepted; they are numbered from `first`, in order."""

    command_id: str
    first: int
    #: Each a `NewItem`.
    items: list[Raw]
    #: Position of each item in the client's batch; empty = 0, 1, 2, …
    indexes: list[int] = []
    #: Items that existed already, under their idempotency key: (index, number).
    known: list[tuple[int, int]] = []


class Claimed(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="claimed"):
    """Item `n` is held by (agent, session) with the token (fence, owner nonce, session)."""

    n: int
    fence: int
    agent: str
    session: str
    lease_s: float = 0.0
    #: Of a `Claim` command; empty when a credit was served.
    command_id: str = ""


class Progressed(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="progressed"):
    """The holder of item `n` reported progress."""

    n: int
    percent: float
    note: str = ""
    command_id: str = ""


class Completed(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="completed"):
    """Item `n` is done."""

    n: int
    fence: int
    command_id: str = ""
    result: Raw = NULL


class Died(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="died"):
    """Item `n` failed and will not be tried again."""

    n: int
    fence: int
    error: str = ""
    command_id: str = ""


class Released(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="released"):
    """Item `n` is queued again.

    `cause`: ``agent`` handed it back, ``unlisted`` (its agent never got it), ``lapsed``
    (its agent stopped sending heartbeats).  Only ``lapsed`` keeps the attempt charged.
    """

    n: int
    fence: int
    cause: Literal["agent", "unlisted", "lapsed"]
    reason: str = ""
    command_id: str = ""


Event = Opened | Submitted | Claimed | Progressed | Completed | Died | Released


class LogEntry(Struct, frozen=True):
    """One batch of a shard's log.  The first field tells our entries from foreign ones."""

    #: Format version of the entry.
    swarm: int
    #: Of the log: minted by the first owner, the same in all entries.
    incarnation: str
    #: Grows by one with every `Opened`.
    epoch: int
    #: Nonce of the owner, the same from its `Opened` on.
    owner: str
    #: Counts the owner's batches, from 0 (the `Opened` one).
    batch: int
    #: Sequence of the last entry of ours before this one, 0 at the start.
    previous: int
    map_version: int
    #: The owner's clock at the decision; never smaller than in the entry before.
    now: float
    events: list[Event]
