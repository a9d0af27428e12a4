"""What the holder of an item says of it."""

from __future__ import annotations

from typing import assert_never

from msgspec import Raw

from swarm.core.checks import check_json, stored_bytes, too_large
from swarm.core.decide.batch import Batch, check_id, may_remember, repeated_about
from swarm.core.read import find
from swarm.core.shard import Shard
from swarm.core.work import backoff_s, end_as_asked, read_spec
from swarm.errors import Refusal
from swarm.messages import (
    NULL,
    Ack,
    Complete,
    Completed,
    Died,
    Fail,
    Hold,
    Item,
    ItemCommand,
    Progress,
    Progressed,
    Release,
    Released,
    Renew,
    Retried,
    Status,
    Taken,
    Wait,
    Waited,
)
from swarm.subjects import item_id

#: The last but one token of the subject for each command about an item.
VERB: dict[type[ItemCommand], str] = {
    Complete: "complete",
    Fail: "fail",
    Release: "release",
    Progress: "progress",
    Wait: "wait",
}

#: Named once: a union that is written where it is used is made anew each time.
_HANDING_BACK = (Release, Wait)

#: Where a command that was carried out left its item.
_LEFT_IN: dict[str, Status] = {
    "fail": "scheduled",
    "release": "queued",
    "progress": "claimed",
    "wait": "waiting",
}


def item_command(
    shard: Shard, command: ItemCommand, sender: str, out: Batch, number: int = 0
) -> Ack:
    """Complete, fail, release, wait or progress of a held item; `number`: see `find`."""
    item = find(shard, command.work_item_id, number)
    verb = VERB[type(command)]
    done = _done_before(shard, command, item, verb, out.now)
    if done is not None:
        return _ack_again(command, item, done)
    if item.end is not None:
        return _after_the_end(command, item, sender, verb)
    hold = held_by(shard, item, sender, command.token)
    match command:
        case Complete():
            if command.result != NULL:
                _check_growth(shard, item, command.result, hold.note, without_checkpoint=True)
                check_json(command.result, "the result")
            out.add(Completed(item.number, hold.fence, command.command_id, command.result))
        case Fail():
            _check_growth(shard, item, command.error, hold.note)
            _fail(shard, item, hold, command, out)
        case Release():
            _check_growth(shard, item, command.reason, "", command.checkpoint)
            _release(item, hold, command, out)
        case Wait():
            _check_growth(shard, item, command.waits_for, "", command.checkpoint)
            check_json(command.waits_for, "waits_for")
            _wait(shard, item, hold, command, out)
        case Progress():
            _check_growth(shard, item, command.note, "", command.checkpoint)
            out.add(
                Progressed(
                    item.number,
                    command.percent,
                    command.note,
                    command.command_id,
                    command.checkpoint,
                )
            )
        case _:
            assert_never(command)
    return _ack(command, item)


def _done_before(
    shard: Shard, command: ItemCommand, item: Item, verb: str, now: float
) -> Taken | None:
    """What the first try of this command did.

    All but progress end the claim, so that the token tells whether they were carried out,
    however old they are: only a progress can be too old to tell.
    """
    id_ = command.command_id
    if isinstance(command, Progress) or shard.commands.get(id_) is not None:
        return repeated_about(shard, id_, command.retry, item.number, verb, now)
    if isinstance(command, _HANDING_BACK):
        check_id(id_, now)
    # An outcome is taken whatever its id is worth.
    return None


def _after_the_end(command: ItemCommand, item: Item, sender: str, verb: str) -> Ack:
    """The same outcome by the same claim is a repetition, whatever id it carries."""
    end = item.end
    assert end is not None, "only ended items"
    by_this_claim = end.hold is not None and (end.hold.agent, end.hold.token) == (
        sender,
        command.token,
    )
    fits = (end.status == "completed") == (verb == "complete") and verb != "progress"
    if by_this_claim and fits:
        return _ack(command, item)
    raise Refusal("already_finished", f"work item {command.work_item_id} is {end.status} already")


def _fail(shard: Shard, item: Item, hold: Hold, command: Fail, out: Batch) -> None:
    assert item.hold is hold, "the caller has checked who holds it"
    asked = end_as_asked(item)
    if asked is not None:
        out.add(asked)
        return
    spec = read_spec(item.spec)
    attempts = spec.max_attempts or shard.rules.max_attempts
    id_ = command.command_id if may_remember(command.command_id, out.now) else ""
    if command.final or item.attempt >= attempts:
        out.add(Died(item.number, hold.fence, command.error, id_))
        return
    pause_s = command.retry_after
    if pause_s is None:
        first_s = spec.backoff_s or shard.rules.backoff_s
        pause_s = backoff_s(first_s, shard.rules.backoff_max_s, item.attempt, out.rng())
    out.add(Retried(item.number, hold.fence, out.now + pause_s, command.error, id_))


def _release(item: Item, hold: Hold, command: Release, out: Batch) -> None:
    assert item.hold is hold, "the caller has checked who holds it"
    check_json(command.checkpoint, "the checkpoint")
    asked = end_as_asked(item)
    if asked is not None:
        out.add(asked)
        return
    out.add(
        Released(
            item.number,
            hold.fence,
            "agent",
            command.reason,
            command.command_id,
            command.checkpoint,
        )
    )


def _wait(shard: Shard, item: Item, hold: Hold, command: Wait, out: Batch) -> None:
    assert item.hold is hold, "the caller has checked who holds it"
    check_json(command.checkpoint, "the checkpoint")
    asked = end_as_asked(item)
    if asked is not None:
        out.add(asked)
        return
    out.add(
        Waited(
            item.number,
            hold.fence,
            command.waits_for,
            out.now + (command.expires_s or shard.rules.wait_s),
            command.on_expiry,
            command.checkpoint,
            command.command_id,
        )
    )


def renew(shard: Shard, command: Renew, sender: str) -> Ack:
    """A heartbeat for one item: the caller renews the lease if this does not refuse."""
    item = find(shard, command.work_item_id)
    if item.end is not None:
        status = item.end.status
        raise Refusal("already_finished", f"work item {command.work_item_id} is {status} already")
    hold = held_by(shard, item, sender, command.token)
    return Ack("", command.work_item_id, "claimed", hold.lease_s)


def held_by(shard: Shard, item: Item, sender: str, token: str) -> Hold:
    """The hold of `item`, if `sender` shows the token that it is held with."""
    hold = item.hold
    if hold is not None and hold.agent == sender and hold.token == token:
        return hold
    name = item_id(shard.number, item.number)
    if hold is None:
        if token:
            raise Refusal(
                "stale_token",
                f"work item {name} is {item.status} again; stop working on it, claim anew",
            )
        raise Refusal("not_claimed", f"work item {name} is not claimed by anybody")
    if hold.agent != sender:
        raise Refusal("not_holder", f"work item {name} is held by another agent than {sender!r}")
    raise Refusal(
        "stale_token", f"work item {name} is held under another token; this claim of it has ended"
    )


def _ack(command: ItemCommand, item: Item) -> Ack:
    lease_s = item.hold.lease_s if item.hold is not None else 0.0
    return Ack(command.command_id, command.work_item_id, item.status, lease_s)


def _ack_again(command: ItemCommand, item: Item, done: Taken) -> Ack:
    """The first answer to a repeated command, wherever the item is by now."""
    lease_s = 0.0
    if done.kind == "progress" and item.hold and item.hold.fence == done.fence:
        lease_s = item.hold.lease_s
    return Ack(command.command_id, command.work_item_id, _LEFT_IN[done.kind], lease_s)


def _check_growth(
    shard: Shard,
    item: Item,
    added: Raw | str,
    note: str,
    checkpoint: Raw = NULL,
    *,
    without_checkpoint: bool = False,
) -> None:
    """Refuse what would make the item larger than an item may be.

    What adds nothing is never refused, or an item that is at its limit (by the results of
    its dependencies, say) could not be ended by anybody.
    """
    if added in (NULL, "") and checkpoint == NULL:
        return
    story = item.story
    size = stored_bytes(item.spec) + stored_bytes(added) + stored_bytes(note)
    if checkpoint != NULL:
        size += stored_bytes(checkpoint)
    elif story is not None and not without_checkpoint:
        size += stored_bytes(story.checkpoint)
    if story is not None:
        size += stored_bytes(story.answer)
        size += sum(stored_bytes(known.result) for known in story.depends.values())
    if size > shard.rules.item_bytes_max:
        raise too_large(
            f"with this, the work item would have {size} bytes", shard.rules.item_bytes_max
        )
