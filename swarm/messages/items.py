"""Submitting work items and asking about them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

from swarm.messages.basics import (
    NULL,
    SUBMIT_ITEMS_MAX,
    ErrorBody,
    Label,
    LeaseTime,
    Moment,
    Priority,
    Span,
    WorkType,
)
from swarm.messages.state import Ask, Attempt, Dependency

#: What becomes of an item when one that it depends on is dead or cancelled.
OnFailure = Literal["block", "cancel", "run"]


class NewItem(Struct, omit_defaults=True, gc=False):
    """A work item as a client describes it."""

    work_type: WorkType
    description: str = ""
    priority: Priority = "medium"
    team: Label = ""
    labels: dict[Label, Label] = {}
    story_points: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    #: Any JSON; handed to the agent as it is.
    payload: Raw = NULL
    #: Ids of items that must have ended before this one can be claimed.
    dependencies: Annotated[list[str], Meta(max_length=100)] = []
    #: Submitting the same key with the same content again yields the same work item.
    idempotency_key: Annotated[str, Meta(max_length=256)] = ""
    #: How long a claim of this item holds without a heartbeat.
    lease_s: LeaseTime = 0.0
    #: W3C traceparent of the submitter.
    trace: Annotated[str, Meta(max_length=256)] = ""
    #: Attempts charged before it is dead; 0 = the swarm's default.
    max_attempts: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    #: Pause after its first failed attempt, doubled with each; 0 = the swarm's default.
    backoff_s: Span = 0.0
    #: Not to be claimed before this time.
    not_before: Moment = 0.0
    #: Dead if it has not completed by this time; 0 = none.
    deadline: Moment = 0.0
    #: A claim without a report of progress for this long ends; 0 = no such limit.
    progress_s: Span = 0.0
    #: ``block``: wait until that item is brought back and completes, or somebody decides.
    on_dependency_failure: OnFailure = "block"


class Submit(Struct, omit_defaults=True):
    """``<p>.submit.<work_type>.<sender>``: some items, in one command.

    Every item is answered on its own.  A batch whose items fall into several shards is
    answered by several `SubmitReply` messages, each with the items of one shard.
    """

    items: Annotated[list[Raw], Meta(max_length=SUBMIT_ITEMS_MAX)]
    #: UUIDv7 of the command; the same id is never carried out twice.  Without one, a
    #: coordinator makes it up, and the request must not be retried.
    command_id: str = ""
    #: 0 at the first try, then 1, 2, …
    retry: int = 0


class ShardSubmit(Struct, omit_defaults=True):
    """``<p>.shard.<n>.submit.<sender>``: the part of a `Submit` that belongs to one shard.

    Sent by the coordinator that admitted the items to the shard's owner.
    """

    command_id: str
    #: Admitted items (each a `NewItem`).
    items: list[Raw]
    #: Position of each item in the client's batch.
    indexes: list[int]
    map_version: int
    retry: int = 0
    #: Of `indexes`, those that an earlier shard map, which may still matter, put elsewhere.
    moved: list[int] = []


class SubmitResult(Struct, omit_defaults=True, frozen=True):
    """What became of one item of a batch: an id, or an error."""

    index: int
    work_item_id: str = ""
    error: ErrorBody | None = None


class SubmitReply(Struct, omit_defaults=True, frozen=True):
    """Answer to (a part of) a `Submit`; an `error` beside it refuses the whole request."""

    results: list[SubmitResult]
    command_id: str = ""


class KnownReply(Struct, omit_defaults=True):
    """Answer to a `ShardSubmit` on ``<p>.shard.<n>.known.<coordinator>``: a question.

    The shard has these of the items, from when they were placed by an earlier map.  What
    is not listed it has not, and will never accept.
    """

    results: list[SubmitResult]
    #: When this was so, by the shard's log.
    at: float = 0.0


class Get(Struct, omit_defaults=True):
    """``<p>.shard.<n>.get.<sender>``: one item, at once or when it has ended."""

    work_item_id: str
    #: Answer when the item has ended, or after this time with its state then.
    wait_s: Annotated[float, Meta(ge=0, le=300)] = 0.0
    #: Of an earlier answer: answer as soon as the item is different from that.
    version: str = ""


class Cancel(Struct, omit_defaults=True):
    """``<p>.shard.<n>.cancel.<sender>``: this item is not wanted any more.

    One that nobody holds is cancelled at once.  The holder of another is told to stop;
    after `grace_s` seconds the item is cancelled whatever its holder does.
    """

    command_id: str
    work_item_id: str
    reason: Annotated[str, Meta(max_length=1000)] = ""
    grace_s: Annotated[float, Meta(ge=0, le=86_400)] = 10.0
    retry: int = 0


class Prioritize(Struct, omit_defaults=True):
    """``<p>.shard.<n>.prioritize.<sender>``: this item is more, or less, urgent now."""

    command_id: str
    work_item_id: str
    priority: Priority
    retry: int = 0


class Retry(Struct, omit_defaults=True):
    """``<p>.shard.<n>.retry.<sender>``: queue a dead, scheduled or blocked item now.

    A dead one gets all its attempts anew and keeps its history; a deadline that has passed
    counts no more.  One that is queued or claimed stays so.
    """

    command_id: str
    work_item_id: str
    retry: int = 0


class Answer(Struct, omit_defaults=True):
    """``<p>.shard.<n>.answer.<sender>``: what a waiting item waits for; the first one wins."""

    command_id: str
    work_item_id: str
    #: Any JSON; handed to the agent that resumes the work.
    answer: Raw = NULL
    #: Which time of waiting is meant (`WorkItem.waits`); 0 = whichever it is now.
    wait: int = 0
    retry: int = 0


#: What anybody who is allowed to may say of an item.
ItemControl = Cancel | Prioritize | Retry | Answer


class List(Struct, omit_defaults=True):
    """``<p>.shard.<n>.list.<sender>``: a page of items, oldest first."""

    status: str = ""
    work_type: str = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    #: Item number to continue after (`ItemPage.after` of the page before).
    after: int = 0


class Stats(Struct, omit_defaults=True):
    """``<p>.shard.<n>.stats.<sender>``: the shard's counts."""


class WorkItem(Struct, omit_defaults=True):
    """A work item as the swarm sees it."""

    work_item_id: str
    work_type: str
    #: A `Status`; later versions have more of them.
    status: str
    priority: Priority
    submitted_at: float
    description: str = ""
    team: str = ""
    labels: dict[str, str] = {}
    story_points: int | None = None
    payload: Raw = NULL
    idempotency_key: str = ""
    trace: str = ""
    progress: float = 0.0
    note: str = ""
    #: Attempts charged so far, the running one included.
    attempt: int = 0
    agent_id: str = ""
    claimed_at: float = 0.0
    finished_at: float = 0.0
    result: Raw = NULL
    error: str = ""
    #: Sequence of the shard's log as of which all this is true.
    as_of: int = 0
    #: Differs when anything of the above does, `as_of` apart.
    version: str = ""
    dependencies: list[str] = []
    not_before: float = 0.0
    deadline: float = 0.0
    max_attempts: int = 0
    #: Of a scheduled or waiting item: when that is over, 0 = never.
    until: float = 0.0
    #: What a waiting item waits for.
    waits_for: Raw = NULL
    #: How often it has waited, and the latest answer.
    waits: int = 0
    answer: Raw = NULL
    answered_by: str = ""
    checkpoint: Raw = NULL
    #: Why it is dead: see `DeathCause`.
    cause: str = ""
    #: Attempts that did not complete it, oldest first.
    history: list[Attempt] = []
    #: How often agents that held it died, or made no progress.
    deaths: int = 0
    #: How often it was brought back from the dead.
    replays: int = 0
    #: Set while its holder is asked to stop.
    ask: Ask | None = None
    #: What is known of its dependencies, by id; their results only for its holder.
    depends: dict[str, Dependency] = {}


class ItemPage(Struct, omit_defaults=True):
    """Answer to `List`; `after` is 0 when there is no more."""

    items: list[WorkItem]
    after: int = 0
    as_of: int = 0
    #: Finished items of this shard that are in the records only, and never listed here.
    archived: int = 0


class Usage(Struct, omit_defaults=True, frozen=True):
    """How a shard was used, as its owner has counted since it opened it."""

    #: Requests about single items, items submitted, and items assigned to agents.
    operations: int = 0
    #: What follows is of the last so many seconds.
    seconds: float = 0.0
    #: Items assigned, by the coordinator where their agents are attached; and how many agent
    #: sessions got them.
    assigned: dict[str, int] = {}
    sessions: dict[str, int] = {}
    #: Items claimed by requests to the shard, which no coordinator stands between.
    claimed: int = 0
    #: Requests and submitted items that the owner's own coordinator brought, and those that
    #: came to the shard's subject: forwarded by other coordinators, or asked of it directly.
    local: int = 0
    remote: int = 0


class ShardStats(Struct, omit_defaults=True):
    """Answer to `Stats`."""

    shard: int
    coordinator: str
    epoch: int
    as_of: int
    #: Items by status, as counted event by event.
    counts: dict[str, int]
    #: Ready items by work type.
    ready: dict[str, int]
    #: Items ever submitted, from the event counters.
    submitted: int
    #: How far a walk over all items is from what the events say: anything but 0 is a defect.
    conservation: int
    #: Entries in the log that are not ours; anything but 0 wants a look.
    foreign: int
    #: Commands refused since this owner opened the shard, by error code.
    refused: dict[str, int] = {}
    #: Of the ended ones in `counts`, those that are in the finished records only.
    archived: int = 0
    #: Sequence of the oldest entry that the log still has.
    first_seq: int = 0
    #: Bytes of the log, and of the state that it must keep, roughly.
    log_bytes: int = 0
    live_bytes: int = 0
    #: Sequence as of which `conservation` was found: a large shard is walked over slowly.
    #: 0: its first walk has not ended yet.
    walked_at: int = 0
    #: Who uses it, and from where.
    usage: Usage = Usage()
