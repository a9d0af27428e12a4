"""Handing items out."""

from __future__ import annotations

from swarm.core.decide.batch import Batch, repeated
from swarm.core.shard import Shard
from swarm.errors import Refusal
from swarm.messages import Assignment, Claim, Claimed, Item, Taken
from swarm.subjects import item_id


def claim(shard: Shard, command: Claim, sender: str, out: Batch) -> Assignment:
    """Take the best ready item for an agent that asks once, by name."""
    if not command.work_types:
        raise Refusal("bad_request", "work_types is empty; name at least one")
    done = repeated(shard, command.command_id, command.retry, Taken, out.now)
    if done is not None:
        return _claimed_before(shard, done, sender)
    number = shard.lanes.best(command.work_types)
    if number is None:
        types = ", ".join(command.work_types)
        raise Refusal("no_work", f"shard {shard.number} has nothing ready of: {types}", retry=True)
    session = claim_session(command.command_id)
    item = take(shard, number, sender, session, out, command.lease_s, command.command_id)
    return assignment(shard.number, item)


def claim_session(command_id: str) -> str:
    """The session of a claim by name, its own: nobody else's heartbeats speak for it."""
    return "c" + command_id.replace("-", "")[-12:]


def _claimed_before(shard: Shard, done: Taken, sender: str) -> Assignment:
    if done.kind != "claim":
        raise Refusal("bad_request", "this command id was used for something else")
    item = shard.items.get(done.number)
    hold = item.hold if item is not None else None
    if item is not None and hold and hold.fence == done.fence and hold.agent == sender:
        return assignment(shard.number, item)
    raise Refusal("stale_token", "this claim was carried out before and is not held any more")


def take(
    shard: Shard,
    number: int,
    agent: str,
    session: str,
    out: Batch,
    lease_s: float = 0.0,
    command_id: str = "",
) -> Item:
    """Claim item `number`, the best of its lane, for (agent, session); the item."""
    assert lease_s >= 0, "a lease of no length is the default's"
    item = shard.items[number]
    lease_s = lease_s or item.lease_s or shard.rules.lease_s
    out.add(Claimed(number, item.fence + 1, agent, session, lease_s, command_id))
    return item


def assignment(shard: int, item: Item) -> Assignment:
    """What the holder of an item of `shard` gets."""
    hold = item.hold
    assert hold is not None, "only a holder gets an assignment"
    name = item_id(shard, item.number)
    story = item.story
    if story is None:
        return Assignment(name, hold.token, item.attempt, hold.lease_s, item.spec)
    # A dict of its own: this one may have changed by the time that it is encoded.
    return Assignment(
        name,
        hold.token,
        item.attempt,
        hold.lease_s,
        item.spec,
        story.checkpoint,
        story.answer,
        dict(story.depends),
        story.waits,
        story.answered_by,
    )
