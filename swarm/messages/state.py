"""A work item as its shard keeps it: what compaction copies forward in the log, and what
the records of finished items hold."""

from __future__ import annotations

from typing import Literal

from msgspec import Raw, Struct

from swarm.messages.basics import NULL, Status

#: Why an item is dead.
DeathCause = Literal[
    "failed",  # its last attempt failed
    "lapsed",  # its last attempt ended because its agent fell silent, or made no progress
    "quarantined",  # its agents keep dying
    "deadline",  # it was not done in time
    "expired",  # what it waited for never came
]

#: How an attempt ended that did not complete the item.
AttemptEnd = Literal["failed", "lapsed", "stalled"]


class Hold(Struct, gc=False, omit_defaults=True):
    """Who holds an item, from its claim on."""

    agent: str
    session: str
    #: Grows with every claim of the item.
    fence: int
    #: What every command about the held item must show.
    token: str
    claimed_at: float
    lease_s: float
    percent: float = 0.0
    note: str = ""


class End(Struct, gc=False, omit_defaults=True):
    """How an item ended; `hold` is the claim that ended it, None if it was not held."""

    status: Status
    at: float
    hold: Hold | None = None
    result: Raw = NULL
    error: str = ""
    cause: DeathCause = "failed"


class Pause(Struct, gc=False, omit_defaults=True):
    """Why an item that nobody holds cannot be claimed.

    ``scheduled``: not before `until`.  ``blocked``: dependencies have not ended.
    ``waiting``: for the outside event that `what` describes; given up, or resumed without
    an answer, at `until` (0: never).
    """

    status: Literal["scheduled", "blocked", "waiting"]
    until: float = 0.0
    what: Raw = NULL
    since: float = 0.0
    on_expiry: Literal["dead", "resume"] = "dead"


class Ask(Struct, gc=False, omit_defaults=True):
    """The holder was asked to stop; at `until` the item ends whatever the holder does."""

    status: Literal["cancelled", "dead"]
    until: float
    reason: str = ""
    by: str = ""


class Attempt(Struct, gc=False, omit_defaults=True, frozen=True):
    """An attempt that did not complete the item."""

    fence: int
    agent: str
    claimed_at: float
    ended_at: float
    how: AttemptEnd
    error: str = ""


class Dependency(Struct, gc=False, omit_defaults=True):
    """What is known of an item that another one depends on."""

    #: Empty: it has not ended.
    status: Status | Literal[""] = ""
    result: Raw = NULL
    #: Its result is too large to be handed on: read it with `Get`.
    omitted: bool = False


class Story(Struct, omit_defaults=True):
    """What only some items have."""

    #: The latest attempts that did not complete it, oldest first; at most `HISTORY_MAX`.
    history: list[Attempt] = []
    #: How often an agent that held it died or made no progress.
    deaths: int = 0
    #: What an agent left for whoever works on it next.
    checkpoint: Raw = NULL
    #: How often it has waited, and the answer to the latest time.
    waits: int = 0
    answer: Raw = NULL
    answered_by: str = ""
    ask: Ask | None = None
    #: What it depends on, by id.
    depends: dict[str, Dependency] = {}
    #: Items that depend on it, and the outcome that each is known to have logged.
    dependents: dict[str, str] = {}
    #: How often it was brought back from the dead, and by whom and when the last time.
    replays: int = 0
    replayed_by: str = ""
    replayed_at: float = 0.0


HISTORY_MAX = 10


class Item(Struct, gc=False, omit_defaults=True):
    """One work item.

    Held iff `hold`, ended iff `end`, paused iff `pause`, never two of them; else queued.
    """

    number: int
    #: The submitted `NewItem`, encoded.
    spec: Raw
    work_type: str
    #: Of its priority: 0 is the most urgent.
    rank: int
    submitted_at: float
    #: The item's own lease time in seconds, 0 = the swarm's default.
    lease_s: float = 0.0
    #: Of the latest claim; 0 before the first.
    fence: int = 0
    #: Claims charged as attempts, a running one included.
    attempt: int = 0
    hold: Hold | None = None
    end: End | None = None
    pause: Pause | None = None
    story: Story | None = None
    #: Where the log last said all of this, or an earlier place; of no use to readers.
    seq: int = 0

    @property
    def status(self) -> Status:
        """Where in its life the item is."""
        if self.end is not None:
            return self.end.status
        if self.hold is not None:
            return "claimed"
        return "queued" if self.pause is None else self.pause.status


class Finished(Struct):
    """Some finished items of one block of numbers, in the shard's finished records."""

    shard: int
    items: list[Item]


class Accepted(Struct, frozen=True, gc=False, array_like=True, tag="s", omit_defaults=True):
    """Remembered answer to a submit: its new items, numbered from `first`."""

    first: int
    count: int
    #: Position of each in the client's batch; empty = 0, 1, 2, …
    indexes: list[int] = []
    #: Items that existed already: (index, number).
    known: list[tuple[int, int]] = []
    #: Indexes of those of them that have other content.
    clashes: list[int] = []

    @property
    def numbers(self) -> list[tuple[int, int]]:
        """(index, number) of all items of the batch."""
        fresh = range(self.first, self.first + self.count)
        return list(zip(self.indexes or range(self.count), fresh, strict=True)) + self.known


class Taken(Struct, frozen=True, gc=False, array_like=True, tag="t"):
    """Remembered answer to a command about item `number` under `fence`."""

    number: int
    fence: int
    #: The verb, to tell a repetition from the reuse of an id for something else.
    kind: str


class Keyed(Struct, frozen=True, gc=False, array_like=True):
    """The item of an idempotency key, and a digest of its content."""

    number: int
    digest: int = 0
