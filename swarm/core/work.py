"""A work item's life, and how it looks to readers.

::

                    +-- not before, backoff --> scheduled --+
    submit -------->+-- dependencies ---------> blocked ----+--> queued --claim--> claimed
                    +---------------------------------------+      ^                  |
                                                                   +-- release, lapse +
        waiting --answer--> queued          scheduled <-- retry ---+-- fail ----------+
        claimed --complete--> completed     dead <-- no attempts left, no time left --+
        claimed --wait--> waiting           cancelled <-- cancel, from wherever it is

What the submitter wrote stays encoded (`Item.spec`): the shard reads only what it
decides by, agents and readers get the bytes as they are.
"""

from __future__ import annotations

from zlib import crc32

import msgspec
from msgspec import Raw, Struct

from swarm.messages import (
    PRIORITIES,
    Cancelled,
    Dependency,
    Died,
    Item,
    NewItem,
    OnFailure,
    Priority,
    Story,
    WorkItem,
)
from swarm.subjects import item_id

_item_decoder = msgspec.json.Decoder(NewItem)
_encode = msgspec.json.Encoder().encode

#: Of an item's state, without its texts.
ITEM_BYTES = 300
#: Of one dependency or dependent, or of one earlier attempt without its error.
EDGE_BYTES = 30

RANK: dict[Priority, int] = {priority: rank for rank, priority in enumerate(PRIORITIES)}


class Spec(Struct, gc=False):
    """What a shard reads of a `NewItem`."""

    work_type: str
    priority: Priority = "medium"
    idempotency_key: str = ""
    lease_s: float = 0.0
    dependencies: list[str] = []
    max_attempts: int = 0
    backoff_s: float = 0.0
    not_before: float = 0.0
    deadline: float = 0.0
    progress_s: float = 0.0
    on_dependency_failure: OnFailure = "block"


_spec_decoder = msgspec.json.Decoder(Spec)


def read_spec(spec: Raw) -> Spec:
    """What the shard decides by, of an admitted item."""
    return _spec_decoder.decode(spec)


def story_of(item: Item) -> Story:
    """The item's story, made if it has none."""
    if item.story is None:
        # Containers of its own: defaults are shared by nobody, but say so.
        item.story = Story(history=[], depends={}, dependents={})
    return item.story


def deadline_of(item: Item) -> float:
    """When the item must have completed; 0 if it has all the time.

    One that was brought back from the dead after its deadline is wanted all the same.
    """
    deadline = read_spec(item.spec).deadline
    replayed_at = item.story.replayed_at if item.story is not None else 0.0
    return deadline if deadline > replayed_at else 0.0


def unresolved(item: Item) -> list[str]:
    """Dependencies that keep the item blocked."""
    if item.story is None or not item.story.depends:
        return []
    runs_anyway = read_spec(item.spec).on_dependency_failure == "run"
    return [
        name
        for name, known in item.story.depends.items()
        if known.status != "completed" and not (known.status and runs_anyway)
    ]


def untold(item: Item) -> list[str]:
    """Dependents that are not known to have logged how the item ended."""
    if item.story is None or item.end is None:
        return []
    status = item.end.status
    return [name for name, told in item.story.dependents.items() if told != status]


def make_token(fence: int, nonce: str, session: str) -> str:
    """The token of a claim: unique for its item, by fence, owner and the holder's session.

    The nonce is that of the `Opened` entry that issued it: a claim that was decided but
    never became durable can share a fence with a later one, but not the nonce.
    """
    return f"{fence}.{nonce}.{session}"


def backoff_s(first_s: float, longest_s: float, attempt: int, jitter: float) -> float:
    """Pause after failed attempt number `attempt` (from 1), given a random number 0 to 1.

    Exponential with "equal jitter" (M. Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015): half of the doubled pause is fixed, half is random.
    """
    assert attempt > 0, "attempts count from 1"
    # The exponent is bounded: 2 ** 1000 attempts would not fit into a float.
    pause_s = min(longest_s, first_s * 2.0 ** min(attempt - 1, 60))
    return pause_s * (0.5 + 0.5 * jitter)


def end_as_asked(item: Item) -> Cancelled | Died | None:
    """The event that ends a held item whose holder was asked to stop; None if it was not."""
    ask = item.story.ask if item.story is not None else None
    if ask is None or item.hold is None:
        return None
    if ask.status == "cancelled":
        return Cancelled(item.number, item.fence, ask.reason, ask.by)
    return Died(item.number, item.fence, ask.reason, cause="deadline")


def view(item: Item, shard: int, as_of: int) -> WorkItem:
    """The item for readers, true as of log sequence `as_of`."""
    spec = _item_decoder.decode(item.spec)
    seen = WorkItem(
        work_item_id=item_id(shard, item.number),
        work_type=spec.work_type,
        status=item.status,
        priority=PRIORITIES[item.rank],
        submitted_at=item.submitted_at,
        description=spec.description,
        team=spec.team,
        labels=spec.labels,
        story_points=spec.story_points,
        payload=spec.payload,
        idempotency_key=spec.idempotency_key,
        trace=spec.trace,
        attempt=item.attempt,
        dependencies=spec.dependencies,
        not_before=spec.not_before,
        deadline=spec.deadline,
        max_attempts=spec.max_attempts,
    )
    hold = item.hold
    if item.end is not None:
        hold = item.end.hold
        seen.finished_at, seen.result, seen.error = item.end.at, item.end.result, item.end.error
        seen.cause = item.end.cause if item.end.status == "dead" else ""
    if hold is not None:
        seen.agent_id, seen.claimed_at = hold.agent, hold.claimed_at
        seen.progress, seen.note = hold.percent, hold.note
    if seen.status == "completed":
        seen.progress = 100.0
    if item.pause is not None:
        seen.until, seen.waits_for = item.pause.until, item.pause.what
    if item.story is not None:
        _tell_story(seen, item.story)
    seen.version = f"{crc32(_encode(seen)):08x}"
    seen.as_of = as_of
    return seen


def _tell_story(seen: WorkItem, story: Story) -> None:
    seen.history, seen.deaths = list(story.history), story.deaths
    seen.checkpoint = story.checkpoint
    seen.waits, seen.answer, seen.answered_by = story.waits, story.answer, story.answered_by
    seen.replays, seen.ask = story.replays, story.ask
    seen.depends = {name: Dependency(known.status) for name, known in story.depends.items()}


def weight(item: Item) -> int:
    """Roughly the bytes of the item in an entry that copies it forward."""
    return ITEM_BYTES + len(memoryview(item.spec)) + burden(item)


def burden(item: Item) -> int:
    """What the item's weight has gained since it was submitted."""
    if item.end is None and item.pause is None and item.story is None:
        return 0
    size = 0
    if item.end is not None:
        size += len(memoryview(item.end.result)) + len(item.end.error)
    if item.pause is not None and item.pause.status == "waiting":
        size += len(memoryview(item.pause.what))
    if item.story is not None:
        size += _story_weight(item.story)
    return size


def _story_weight(story: Story) -> int:
    size = len(memoryview(story.checkpoint)) + len(memoryview(story.answer))
    size += sum(EDGE_BYTES + len(memoryview(known.result)) for known in story.depends.values())
    size += sum(EDGE_BYTES + len(attempt.error) for attempt in story.history)
    return size + EDGE_BYTES * len(story.dependents)
