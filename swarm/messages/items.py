"""Submitting work items and asking about them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Raw, Struct

from swarm.messages.basics import (
    NULL,
    SUBMIT_ITEMS_MAX,
    ErrorBody,
    Label,
    LeaseTime,
    Priority,
    WorkType,
)


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
    #: Not acted on by this version: a non-empty list is refused as `unsupported`.
    dependencies: list[str] = []
    #: Submitting the same key with the same content again yields the same work item.
    idempotency_key: Annotated[str, Meta(max_length=256)] = ""
    #: How long a claim of this item holds without a heartbeat.
    lease_s: LeaseTime = 0.0
    #: W3C traceparent of the submitter.
    trace: Annotated[str, Meta(max_length=256)] = ""


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


class SubmitResult(Struct, omit_defaults=True, frozen=True):
    """What became of one item of a batch: an id, or an error."""

    index: int
    work_item_id: str = ""
    error: ErrorBody | None = None


class SubmitReply(Struct, omit_defaults=True, frozen=True):
    """Answer to (a part of) a `Submit`; an `error` beside it refuses the whole request."""

    results: list[SubmitResult]
    command_id: str = ""


class Get(Struct, omit_defaults=True):
    """``<p>.shard.<n>.get.<sender>``: one item, at once or when it has ended."""

    work_item_id: str
    #: Answer when the item has ended, or after this time with its state then.
    wait_s: Annotated[float, Meta(ge=0, le=300)] = 0.0


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


class ItemPage(Struct, omit_defaults=True):
    """Answer to `List`; `after` is 0 when there is no more."""

    items: list[WorkItem]
    after: int = 0
    as_of: int = 0


class ShardStats(Struct, omit_defaults=True):
    """Answer to `Stats`."""

    shard: int
    coordinator: str
    epoch: int
    as_of: int
    #: Items by status, from a walk over the items.
    counts: dict[str, int]
    #: Ready items by work type.
    ready: dict[str, int]
    #: Items ever submitted, from the event counters.
    submitted: int
    #: submitted minus the sum of `counts`: anything but 0 is a defect.
    conservation: int
    #: Entries in the log that are not ours; anything but 0 wants a look.
    foreign: int
    #: Commands refused since this owner opened the shard, by error code.
    refused: dict[str, int] = {}
