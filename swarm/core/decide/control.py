"""What anybody who is allowed to says of an item: cancel, prioritize, retry, answer."""

from __future__ import annotations

from typing import assert_never

from swarm.core.checks import check_json, stored_bytes, too_large
from swarm.core.decide.batch import Batch, repeated_about
from swarm.core.read import find
from swarm.core.shard import Shard
from swarm.errors import Refusal
from swarm.messages import (
    Ack,
    Answer,
    Answered,
    Asked,
    Cancel,
    Cancelled,
    Item,
    ItemControl,
    Prioritize,
    Prioritized,
    Replayed,
    Retry,
)

_VERB: dict[type[ItemControl], str] = {
    Cancel: "cancel",
    Prioritize: "prioritize",
    Retry: "retry",
    Answer: "answer",
}


def item_control(shard: Shard, command: ItemControl, sender: str, out: Batch) -> Ack:
    """Carry out `command`; a repetition is told where the item is by now.

    One that changes nothing is logged all the same: if its answer is lost and somebody
    else changes the item, its repetition must not be carried out as if it were new.
    """
    item = find(shard, command.work_item_id)
    verb = _VERB[type(command)]
    done = repeated_about(shard, command.command_id, command.retry, item.number, verb, out.now)
    if done is None:
        match command:
            case Cancel():
                _cancel(item, command, sender, out)
            case Prioritize():
                _prioritize(item, command, out)
            case Retry():
                _retry(item, command, sender, out)
            case Answer():
                _answer(shard, item, command, sender, out)
            case _:
                assert_never(command)
    return Ack(command.command_id, command.work_item_id, item.status)


def _cancel(item: Item, command: Cancel, sender: str, out: Batch) -> None:
    assert command.grace_s >= 0, "checked when it was decoded"
    if item.end is not None:
        if item.end.status == "cancelled":
            return
        # A dead item is not wanted any more either: nobody is to bring it back.
        raise _finished(command, item)
    if item.hold is None or command.grace_s == 0:
        out.add(Cancelled(item.number, item.fence, command.reason, sender, command.command_id))
        return
    asked = item.story.ask if item.story is not None else None
    until = out.now + command.grace_s
    if asked is not None:
        # A second wish gives nobody more time.
        until = min(until, asked.until)
    out.add(Asked(item.number, until, "cancelled", command.reason, sender, command.command_id))


def _prioritize(item: Item, command: Prioritize, out: Batch) -> None:
    if item.end is not None:
        raise _finished(command, item)
    out.add(Prioritized(item.number, command.priority, command.command_id))


def _retry(item: Item, command: Retry, sender: str, out: Batch) -> None:
    if item.end is not None and (item.end.status != "dead" or out.shard.is_archived(item)):
        raise _finished(command, item)
    if item.status == "waiting":
        raise Refusal(
            "bad_request", f"work item {command.work_item_id} waits for an answer; answer it"
        )
    out.add(Replayed(item.number, sender, command.command_id))


def _answer(shard: Shard, item: Item, command: Answer, sender: str, out: Batch) -> None:
    if item.end is not None:
        raise _finished(command, item)
    check_json(command.answer, "the answer")
    waits = item.story.waits if item.story is not None else 0
    if not waits or (command.wait > waits):
        raise Refusal("not_waiting", f"work item {command.work_item_id} has asked for nothing")
    if item.status != "waiting" or command.wait not in (0, waits):
        raise Refusal(
            "already_answered",
            f"work item {command.work_item_id} has its answer already: the first one counts",
        )
    size = stored_bytes(item.spec) + stored_bytes(command.answer)
    if item.story is not None:
        size += stored_bytes(item.story.checkpoint)
    if size > shard.rules.item_bytes_max:
        raise too_large(f"with this, the item would have {size} bytes", shard.rules.item_bytes_max)
    out.add(Answered(item.number, command.answer, sender, command.command_id))


def _finished(command: ItemControl, item: Item) -> Refusal:
    return Refusal("already_finished", f"work item {command.work_item_id} is {item.status} already")
