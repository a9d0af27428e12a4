"""A work item as the shard keeps it, and its life.

::

    queued --claim--> claimed --complete--> completed
      ^                 |  \\--fail--------> dead
      +--release, lapse-+

What the submitter wrote stays encoded (`Item.spec`): the shard reads only what it
decides by, agents and readers get the bytes as they are.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from swarm.messages import NULL, PRIORITIES, NewItem, Priority, Status, WorkItem
from swarm.subjects import item_id

_spec_decoder = msgspec.json.Decoder(NewItem)

RANK: dict[Priority, int] = {priority: rank for rank, priority in enumerate(PRIORITIES)}


class Hold(Struct, gc=False):
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


class End(Struct, gc=False):
    """How an item ended; `hold` is the claim that ended it."""

    status: Status
    at: float
    hold: Hold
    result: Raw = NULL
    error: str = ""


class Item(Struct, gc=False):
    """One work item.  Held iff `hold`, ended iff `end`, never both; else queued."""

    number: int
    #: The submitted `NewItem`, encoded.
    spec: Raw
    work_type: str
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

    @property
    def status(self) -> Status:
        """Where in its life the item is."""
        if self.end is not None:
            return self.end.status
        return "queued" if self.hold is None else "claimed"


def make_token(fence: int, nonce: str, session: str) -> str:
    """The token of a claim: unique for its item, by fence, owner and the holder's session.

    The nonce is that of the `Opened` entry that issued it: a claim that was decided but
    never became durable can share a fence with a later one, but not the nonce.
    """
    return f"{fence}.{nonce}.{session}"


def view(item: Item, shard: int, as_of: int) -> WorkItem:
    """The item for readers, true as of log sequence `as_of`."""
    spec = _spec_decoder.decode(item.spec)
    seen = WorkItem(
        work_item_id=item_id(shard, item.number),
        work_type=spec.work_type,
        status=item.status,
        priority=spec.priority,
        submitted_at=item.submitted_at,
        description=spec.description,
        team=spec.team,
        labels=spec.labels,
        story_points=spec.story_points,
        payload=spec.payload,
        idempotency_key=spec.idempotency_key,
        trace=spec.trace,
        attempt=item.attempt,
        as_of=as_of,
    )
    hold = item.hold
    if item.end is not None:
        hold = item.end.hold
        seen.finished_at, seen.result, seen.error = item.end.at, item.end.result, item.end.error
    if hold is not None:
        seen.agent_id, seen.claimed_at = hold.agent, hold.claimed_at
        seen.progress, seen.note = hold.percent, hold.note
    if seen.status == "completed":
        seen.progress = 100.0
    return seen
