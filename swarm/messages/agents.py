"""Between agents and the swarm: attach, free slots, assignments, outcomes, heartbeats."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

from swarm.messages.basics import NULL, ErrorBody, LeaseTime, Span, WorkType
from swarm.messages.state import Dependency


class Claim(Struct, omit_defaults=True):
    """``<p>.shard.<n>.claim.<sender>``: take the most urgent ready item of these types.

    For agents without a session (a shell, a hand-written message).  Answered by an
    `Assignment` or the error ``no_work``.
    """

    command_id: str
    work_types: list[WorkType]
    #: How long the claim holds without a heartbeat; 0 = the item's or the swarm's default.
    lease_s: LeaseTime = 0.0
    retry: int = 0


class Recall(Struct, omit_defaults=True):
    """``<p>.coordinator.<id>.recall.<sender>``: what came of a `Claim` of the sender?

    For those who pass on claims that may have been sent before, to any shard.
    """

    command_id: str


class Recalled(Struct, omit_defaults=True):
    """Answer to `Recall`: a hint where to send that `Claim` again, which is then answered as
    it was the first time."""

    #: Shards that the coordinator owns: it tells of these only.
    shards: list[int]
    #: Those of them where the sender holds an item by that claim.
    held: list[int] = []


class Complete(Struct, gc=False, omit_defaults=True, tag_field="verb", tag="complete"):
    """The work is done; `result` is any JSON."""

    command_id: str
    work_item_id: str
    token: str
    result: Raw = NULL
    retry: int = 0


class Fail(Struct, omit_defaults=True, tag_field="verb", tag="fail"):
    """The work failed; `error` says how.  It is tried again while attempts are left."""

    command_id: str
    work_item_id: str
    token: str
    error: str = ""
    retry: int = 0
    #: Try again after this time; None: after the item's backoff.
    retry_after: Span | None = None
    #: Do not try again.
    final: bool = False


class Release(Struct, omit_defaults=True, tag_field="verb", tag="release"):
    """Hand the item back unworked: it is queued again and no attempt is charged."""

    command_id: str
    work_item_id: str
    token: str
    reason: str = ""
    retry: int = 0
    #: Any JSON for whoever works on it next; null keeps the one that there is.
    checkpoint: Raw = NULL


class Progress(Struct, omit_defaults=True, tag_field="verb", tag="progress"):
    """The work advances: 0 to 100 percent and a note for people.  Also renews the lease."""

    command_id: str
    work_item_id: str
    token: str
    percent: Annotated[float, Meta(ge=0, le=100)]
    note: str = ""
    retry: int = 0
    #: Any JSON for whoever works on it after a crash; null keeps the one that there is.
    checkpoint: Raw = NULL


class Wait(Struct, omit_defaults=True, tag_field="verb", tag="wait"):
    """The work needs something from outside: an answer, an approval, an event.

    Slot and lease are free at once; with the `Answer` the item is queued again, for any
    agent, with the checkpoint and the answer.  No attempt is charged.
    """

    command_id: str
    work_item_id: str
    token: str
    #: What it waits for, for people: any JSON.
    waits_for: Raw
    #: After this time it is not waited for any more; 0 = the swarm's default.
    expires_s: Span = 0.0
    on_expiry: Literal["dead", "resume"] = "dead"
    checkpoint: Raw = NULL
    retry: int = 0


#: What an agent says about an item that it holds.
ItemCommand = Complete | Fail | Release | Progress | Wait


class Renew(Struct, omit_defaults=True):
    """``<p>.shard.<n>.renew.<sender>``: a heartbeat for one item, with an answer."""

    work_item_id: str
    token: str


class Ack(Struct, gc=False, omit_defaults=True, frozen=True):
    """Answer to a command about an item: done, or an error."""

    command_id: str = ""
    work_item_id: str = ""
    status: str = ""
    #: How long the lease holds from now, where the item is still held.
    lease_s: float = 0.0
    error: ErrorBody | None = None


class Assignment(Struct, gc=False, omit_defaults=True, frozen=True):
    """A claimed item in the hands of an agent."""

    work_item_id: str
    token: str
    #: Counts claims that were charged, from 1.
    attempt: int
    lease_s: float
    #: The submitted `NewItem`.
    item: Raw
    #: What an earlier holder left.
    checkpoint: Raw = NULL
    #: Answer to the latest wait.
    answer: Raw = NULL
    #: How its dependencies ended, by id.
    depends: dict[str, Dependency] = {}
    #: How often it has waited, and who gave the latest answer; empty: nobody, the wait expired.
    waits: int = 0
    answered_by: str = ""


class Next(Struct, gc=False, omit_defaults=True):
    """``<p>.coordinator.<id>.next.<agent>``: outcomes, and the free slots from now on.

    The two parts are carried out and answered separately, both on
    ``<p>.agent.<agent>.<session>.work``.
    """

    session: str
    #: Grows with every change of the agent's free slots; the highest number counts.
    number: int
    #: Free slots: the coordinator may send that many items, less those on their way.
    slots: int
    #: Assignments that this session has received so far: tells what is on its way.
    received: int = 0
    done: list[ItemCommand] = []


class Work(Struct, gc=False, omit_defaults=True):
    """``<p>.agent.<id>.<session>.work``: new assignments, and answers to commands."""

    items: list[Assignment] = []
    acks: list[Ack] = []


class Control(Struct, omit_defaults=True):
    """``<p>.agent.<id>.<session>.control``: what an agent must do now.

    ``stop``: `work_item_id` with `token` is not held by this agent any more.
    ``cancel``: stop working on it and say so (`Release`), or finish within `grace_s`.
    ``superseded``: another process has taken over this agent id; take no more work.
    ``reattach``: the coordinator in the heartbeat does not serve this session; attach
    again with the same session.
    """

    kind: Literal["stop", "superseded", "reattach", "cancel"]
    work_item_id: str = ""
    token: str = ""
    reason: str = ""
    grace_s: float = 0.0


class Attach(Struct, omit_defaults=True):
    """``<p>.attach.<agent>``: an agent process comes (or comes back)."""

    work_types: list[WorkType]
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 1
    #: Named by the agent, so that a repeated request means the same session, and the same
    #: again for one that is to go on.  Empty: made up; then the request must not be repeated.
    session: str = ""
    #: Replace another live process that uses the same agent id.
    takeover: bool = False


class Attached(Struct, omit_defaults=True, frozen=True):
    """Answer to `Attach`."""

    session: str
    coordinator: str
    #: How long a claim holds without a heartbeat.
    lease_s: float
    #: How often the agent is to send heartbeats.
    heartbeat_s: float


class Heartbeat(Struct, omit_defaults=True):
    """``<p>.heartbeat.<agent>``: an agent process lists all it holds.

    Every owner renews exactly what is listed.
    """

    session: str
    #: The coordinator that holds this session's free slots.
    coordinator: str
    number: int
    slots: int
    work_types: list[str]
    #: As in `Next`.
    received: int = 0
    #: Pairs of work item id and token: assigned, and no outcome acknowledged yet.
    held: list[tuple[str, str]] = []
    #: The agent is leaving: drop the session, it holds nothing more.
    leaving: bool = False
