"""What a shard's log holds."""

from __future__ import annotations

from typing import Literal

from msgspec import Raw, Struct

from swarm.messages.basics import NULL, Priority, Status
from swarm.messages.state import Accepted, DeathCause, Keyed, Taken


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
    #: Indexes of those of them that have other content.
    clashes: list[int] = []


class Claimed(Struct, gc=False, omit_defaults=True, frozen=True, tag_field="t", tag="claimed"):
    """Item `n` is held by (agent, session) with the token (fence, owner nonce, session)."""

    n: int
    fence: int
    agent: str
    session: str
    lease_s: float = 0.0
    #: Of a `Claim` command; empty when a credit was served.
    command_id: str = ""


class Progressed(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="progressed"):
    """The holder of item `n` reported progress, perhaps with a checkpoint."""

    n: int
    percent: float
    note: str = ""
    command_id: str = ""
    checkpoint: Raw = NULL


class Completed(Struct, gc=False, omit_defaults=True, frozen=True, tag_field="t", tag="completed"):
    """Item `n` is done."""

    n: int
    fence: int
    command_id: str = ""
    result: Raw = NULL


class Retried(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="retried"):
    """An attempt of item `n` failed; it is tried again, not before `until`."""

    n: int
    fence: int
    until: float
    error: str = ""
    command_id: str = ""


class Died(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="died"):
    """Item `n`, held under `fence` or not held, will not be tried again."""

    n: int
    fence: int
    error: str = ""
    command_id: str = ""
    cause: DeathCause = "failed"


class Released(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="released"):
    """Item `n` is queued again.

    `cause`: ``agent`` handed it back, ``unlisted`` (its agent never got it), ``lapsed``
    (its agent stopped sending heartbeats), ``stalled`` (no progress in time), ``trouble``
    (silent, and so was much else: nobody's fault).  ``lapsed`` and ``stalled`` keep the
    attempt charged.
    """

    n: int
    fence: int
    cause: Literal["agent", "unlisted", "lapsed", "stalled", "trouble"]
    reason: str = ""
    command_id: str = ""
    checkpoint: Raw = NULL


class Waited(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="waited"):
    """The holder of item `n` hands it to somebody outside: it waits for an answer."""

    n: int
    fence: int
    #: What it waits for: any JSON.
    what: Raw
    until: float = 0.0
    on_expiry: Literal["dead", "resume"] = "dead"
    checkpoint: Raw = NULL
    command_id: str = ""


class Answered(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="answered"):
    """Waiting item `n` got its answer and is queued again."""

    n: int
    answer: Raw = NULL
    by: str = ""
    command_id: str = ""


class Due(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="due"):
    """The time of these scheduled, or of these waiting items has come: they are queued."""

    n: list[int]


class Asked(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="asked"):
    """The holder of item `n` is to stop; at `until` the item ends as `status`."""

    n: int
    until: float
    status: Literal["cancelled", "dead"] = "cancelled"
    reason: str = ""
    by: str = ""
    command_id: str = ""


class Cancelled(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="cancelled"):
    """Item `n`, held under `fence` or not held, will not be worked on any more."""

    n: int
    fence: int
    reason: str = ""
    by: str = ""
    command_id: str = ""


class Prioritized(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="prioritized"):
    """Item `n` has another priority from here on."""

    n: int
    priority: Priority
    command_id: str = ""


class Replayed(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="replayed"):
    """By an operator's wish item `n` is queued, if it was dead, scheduled or blocked."""

    n: int
    by: str = ""
    command_id: str = ""


class Watched(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="watched"):
    """Item `dependent` depends on item `n`: it is to be told how that ends."""

    n: int
    dependent: str


class Told(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="told"):
    """The shard of `dependent` has logged that item `n` ended as `status`."""

    n: int
    dependent: str
    status: Status


class Resolved(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="resolved"):
    """The item `on`, which item `n` depends on, has ended."""

    n: int
    on: str
    status: Status
    result: Raw = NULL
    omitted: bool = False


class Archived(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="archived"):
    """These ended items are in the finished records, and no longer in the state."""

    n: list[int]


class Copied(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="copied"):
    """The whole state of these items, stated again so that older entries can go."""

    n: list[int]
    #: Each an `Item`.
    items: list[Raw]


class Remembered(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="remembered"):
    """Answers given at `at`, stated again so that older entries can go."""

    at: float
    #: Orders them among all answers: the smallest are forgotten first.
    age: int
    commands: list[tuple[str, Accepted | Taken]] = []
    keys: list[tuple[str, Keyed]] = []


class Marked(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="marked"):
    """The counters as of here.  No entry before `needs` is needed to know the state here."""

    needs: int
    next_number: int
    submitted: int
    #: Items that ended (and were not brought back), by status.
    ended: dict[str, int] = {}
    #: Of these, the ones that are in the finished records only.
    archived: dict[str, int] = {}
    #: `DedupeWindow.horizon` of the commands.
    horizon: int = -1


Event = (
    Opened
    | Submitted
    | Claimed
    | Progressed
    | Completed
    | Retried
    | Died
    | Released
    | Waited
    | Answered
    | Due
    | Asked
    | Cancelled
    | Prioritized
    | Replayed
    | Watched
    | Told
    | Resolved
    | Archived
    | Copied
    | Remembered
    | Marked
)

#: What entries of format 1 may hold, with the fields that they had then.
EVENTS_OF_1 = (Opened, Submitted, Claimed, Progressed, Completed, Died, Released)


class Envelope(Struct, frozen=True):
    """What every entry of a log begins with.  The first field tells ours from foreign ones."""

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
    #: Of the shard map that the owner has adopted.
    map_version: int
    #: The owner's clock at the decision; never smaller than in the entry before.
    now: float


class LogEntry(Envelope, frozen=True):
    """One batch of a shard's log."""

    events: list[Event]
