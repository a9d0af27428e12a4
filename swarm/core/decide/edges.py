"""Dependencies across shards: what the two items' owners say to each other.

The dependent is in its log, blocked, before its owner sends a `Watch`; the edge is in the
other log before that is answered.  An outcome is told until the dependent's log has it:
both logs hold all that is needed to go on after any crash, at any step, and each step may
be repeated.
"""

from __future__ import annotations

from typing import assert_never

from swarm.core.checks import stored_bytes
from swarm.core.decide.batch import Batch
from swarm.core.read import find
from swarm.core.shard import Shard
from swarm.core.work import read_spec
from swarm.errors import Refusal
from swarm.messages import (
    ENDED,
    Cancelled,
    Died,
    Edge,
    Heard,
    Item,
    Outcome,
    Resolved,
    Told,
    Watch,
    Watched,
    Watching,
)


def edge(shard: Shard, message: Edge, out: Batch) -> Edge | None:
    """Take a message from another shard's owner; the answer, to the other item's shard."""
    match message:
        case Watch():
            return _watch(shard, message, out)
        case Outcome():
            _outcome(shard, message, out)
            return Heard(message.on, message.dependent, message.status)
        case Heard():
            _heard(shard, message, out)
            return None
        case Watching():
            return None
        case _:
            assert_never(message)


def _watch(shard: Shard, watch: Watch, out: Batch) -> Edge:
    try:
        item = find(shard, watch.on)
    except Refusal:
        return Outcome(watch.on, watch.dependent, "dead", missing=True)
    final = item.end is not None and (item.end.status != "dead" or shard.is_archived(item))
    known = item.story is not None and watch.dependent in item.story.dependents
    if not final and not known:
        out.add(Watched(item.number, watch.dependent))
    if item.end is None:
        return Watching(watch.on, watch.dependent)
    return outcome(item, watch.on, watch.dependent)


def outcome(item: Item, name: str, dependent: str) -> Outcome:
    """How the item ended, for one that depends on it."""
    assert item.end is not None, "it has ended"
    return Outcome(name, dependent, item.end.status, item.end.result)


def _outcome(shard: Shard, told: Outcome, out: Batch) -> None:
    assert told.status in ENDED, "an outcome is an end"
    try:
        item = find(shard, told.dependent)
    except Refusal:
        return
    known = item.story.depends.get(told.on) if item.story is not None else None
    if item.end is not None or known is None:
        return
    if known.status in (told.status, "completed", "cancelled"):
        return
    assert item.story is not None, "it has dependencies"
    handed_on = sum(stored_bytes(one.result) for one in item.story.depends.values())
    omitted = handed_on + stored_bytes(told.result) > shard.rules.item_bytes_max // 4
    if omitted:
        out.add(Resolved(item.number, told.on, told.status, omitted=True))
    else:
        out.add(Resolved(item.number, told.on, told.status, told.result))
    if item.status != "blocked" or told.status == "completed":
        return
    if told.missing:
        why = f"it depends on work item {told.on}, which does not exist"
        out.add(Died(item.number, item.fence, why))
    elif read_spec(item.spec).on_dependency_failure == "cancel":
        why = f"work item {told.on}, which it depends on, is {told.status}"
        out.add(Cancelled(item.number, item.fence, why))


def _heard(shard: Shard, heard: Heard, out: Batch) -> None:
    assert heard.status in ENDED, "an outcome is an end"
    try:
        item = find(shard, heard.on)
    except Refusal:
        return
    if item.end is None or item.end.status != heard.status or item.number not in shard.untold:
        return
    told = item.story.dependents.get(heard.dependent) if item.story is not None else None
    if told is not None and told != heard.status:
        out.add(Told(item.number, heard.dependent, heard.status))
