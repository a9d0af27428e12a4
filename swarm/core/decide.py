"""What a shard's owner decides: commands in, events and an answer out.

Each function checks its command against the state, appends the events it decides to
`out`, applies them at once (so that the next command of the same batch sees them), and
returns the answer, or raises `Refusal` with nothing changed.  Nothing of it may leave
the owner before the batch is durable; that is the shard worker's part.
"""

from __future__ import annotations

from typing import Literal, TypeVar, assert_never

import msgspec
from msgspec import Raw

from swarm.core.checks import check_json, read_item, stored_bytes, too_large
from swarm.core.ids import is_uuid7, uuid7_ms
from swarm.core.read import find
from swarm.core.shard import Accepted, Shard, Taken
from swarm.core.work import Hold, Item
from swarm.errors import Refusal
from swarm.messages import (
    NULL,
    Ack,
    Assignment,
    Claim,
    Claimed,
    Complete,
    Completed,
    Died,
    ErrorBody,
    Event,
    Fail,
    ItemCommand,
    NewItem,
    Progress,
    Progressed,
    Release,
    Released,
    Renew,
    ShardSubmit,
    SubmitReply,
    SubmitResult,
    Submitted,
)
from swarm.subjects import item_id

_item_decoder = msgspec.json.Decoder(NewItem)
_encode = msgspec.json.encode

#: A command id may be this far ahead of the owner's clock: more would move the
#: horizon of the dedupe window so far that everybody's retries look too old.
CLOCK_AHEAD_MAX_S = 300.0

Known = TypeVar("Known", Accepted, Taken)


class Batch:
    """The events decided so far in this batch, applied as they are decided."""

    __slots__ = ("events", "map_version", "nonce", "now", "shard")

    def __init__(self, shard: Shard, nonce: str, now: float, map_version: int = 1) -> None:
        self.shard = shard
        #: The shard map that the shard has adopted.
        self.map_version = map_version
        self.nonce = nonce
        self.now = now
        self.events: list[Event] = []

    def add(self, event: Event) -> None:
        self.events.append(event)
        self.shard.apply(event, self.now, self.nonce)


# --- submit ------------------------------------------------------------------------


def submit(shard: Shard, command: ShardSubmit, out: Batch) -> SubmitReply:
    """Accept a batch's part for this shard."""
    _check_indexes(command)
    done = _repeated(shard, command.command_id, command.retry, Accepted, out.now)
    if done is not None:
        return _submit_reply(shard, command, done)
    if command.map_version != out.map_version:
        raise Refusal(
            "stale_map",
            f"placed by shard map {command.map_version}, this shard has adopted "
            f"{out.map_version}; send it again",
            retry=True,
        )
    fresh: list[Raw] = []
    indexes: list[int] = []
    known: list[tuple[int, int]] = []
    in_batch: dict[str, int] = {}
    for index, raw in zip(command.indexes, command.items, strict=True):
        spec = _admitted(shard, raw)
        number = shard.keys.get(spec.idempotency_key) if spec.idempotency_key else None
        if number is None and spec.idempotency_key:
            number = in_batch.setdefault(spec.idempotency_key, shard.next_number + len(fresh))
            number = number if number < shard.next_number + len(fresh) else None
        if number is not None:
            known.append((index, number))
            continue
        fresh.append(raw)
        indexes.append(index)
    contiguous = indexes == list(range(len(fresh)))
    out.add(
        Submitted(
            command.command_id, shard.next_number, fresh, [] if contiguous else indexes, known
        )
    )
    accepted = shard.commands.get(command.command_id)
    assert isinstance(accepted, Accepted), "applying the event remembers the answer"
    return _submit_reply(shard, command, accepted)


def _check_indexes(command: ShardSubmit) -> None:
    indexes = command.indexes
    if len(indexes) != len(command.items):
        raise Refusal("bad_request", "indexes and items must have the same length")
    if len(set(indexes)) != len(indexes) or (indexes and min(indexes) < 0):
        raise Refusal("bad_request", "indexes must be different positions, from 0 on")


def _admitted(shard: Shard, raw: Raw) -> NewItem:
    """The item, checked: what cannot be folded again must never enter the log."""
    spec = read_item(raw)
    size = stored_bytes(raw)
    if size > shard.rules.item_bytes_max:
        raise too_large(f"the item has {size} bytes", shard.rules.item_bytes_max)
    return spec


def _submit_reply(shard: Shard, command: ShardSubmit, accepted: Accepted) -> SubmitReply:
    spec_at = dict(zip(command.indexes, command.items, strict=True))
    results = []
    for index, number in accepted.numbers:
        conflict = _conflict(shard, shard.items[number], spec_at.get(index))
        if conflict is None:
            results.append(SubmitResult(index, item_id(shard.number, number)))
        else:
            results.append(SubmitResult(index, error=conflict))
    answered = {index for index, _ in accepted.numbers}
    for index in [index for index in command.indexes if index not in answered]:
        message = "this command id was used before, for a batch without this item; use a new id"
        results.append(SubmitResult(index, error=ErrorBody("idempotency_conflict", message)))
    return SubmitReply(results, command.command_id)


def _conflict(shard: Shard, item: Item, raw: Raw | None) -> ErrorBody | None:
    """The error if `raw` comes under the key, or the command id, of `item` but differs."""
    if raw is None or raw == item.spec:
        return None
    theirs = read_item(raw)
    if _content(_item_decoder.decode(item.spec)) == _content(theirs):
        return None
    what = "command id and index"
    if theirs.idempotency_key:
        what = f"idempotency key {theirs.idempotency_key!r}"
    name = item_id(shard.number, item.number)
    message = f"the {what} belongs to work item {name}, which has other content; use a new one"
    return ErrorBody("idempotency_conflict", message)


def _content(spec: NewItem) -> tuple[bytes, bytes]:
    """What makes two submissions the same: not their trace, and not how JSON is spelled."""
    payload, spec.payload, spec.trace = spec.payload, NULL, ""
    try:
        value = msgspec.json.decode(payload)
    except msgspec.MsgspecError:
        # Numbers beyond what Python holds: as written, then.
        return _encode(spec, order="sorted"), bytes(payload)
    return _encode(spec, order="sorted"), _encode(value, order="sorted")


# --- claim --------------------------------------------------------------------------


def claim(shard: Shard, command: Claim, sender: str, out: Batch) -> Assignment:
    """Take the best ready item for an agent that asks once, by name."""
    if not command.work_types:
        raise Refusal("bad_request", "work_types is empty; name at least one")
    done = _repeated(shard, command.command_id, command.retry, Taken, out.now)
    if done is not None:
        if done.kind != "claim":
            raise Refusal("bad_request", "this command id was used for something else")
        hold = shard.items[done.number].hold
        if hold and hold.fence == done.fence and hold.agent == sender:
            return assignment(shard, shard.items[done.number], hold)
        raise Refusal("stale_token", "this claim was carried out before and is not held any more")
    number = shard.lanes.best(command.work_types)
    if number is None:
        types = ", ".join(command.work_types)
        raise Refusal("no_work", f"shard {shard.number} has nothing ready of: {types}", retry=True)
    # A session of its own: nobody else's heartbeats speak for this claim.
    session = "c" + command.command_id.replace("-", "")[-12:]
    return take(shard, number, sender, session, out, command.lease_s, command.command_id)


def take(
    shard: Shard,
    number: int,
    agent: str,
    session: str,
    out: Batch,
    lease_s: float = 0.0,
    command_id: str = "",
) -> Assignment:
    """Claim item `number`, the best of its lane, for (agent, session)."""
    item = shard.items[number]
    lease_s = lease_s or item.lease_s or shard.rules.lease_s
    out.add(Claimed(number, item.fence + 1, agent, session, lease_s, command_id))
    assert item.hold is not None, "just claimed"
    return assignment(shard, item, item.hold)


def assignment(shard: Shard, item: Item, hold: Hold) -> Assignment:
    """What the holder gets."""
    assert item.hold is hold, "only the holder gets an assignment"
    number = item_id(shard.number, item.number)
    return Assignment(number, hold.token, item.attempt, hold.lease_s, item.spec)


# --- what a holder says -----------------------------------------------------------------


def item_command(shard: Shard, command: ItemCommand, sender: str, out: Batch) -> Ack:
    """Complete, fail, release or progress of a held item."""
    item = find(shard, command.work_item_id)
    verb = VERB[type(command)]
    if verb in _REMEMBERED:
        done = _repeated(shard, command.command_id, command.retry, Taken, out.now)
        if done is not None:
            if (done.number, done.kind) != (item.number, verb):
                raise Refusal("bad_request", "this command id was used for something else")
            return _ack_again(command, item, done)
    if item.end is not None:
        # The same outcome by the same claim is a repetition, whatever id it carries.
        ended_by = {"complete": "completed", "fail": "dead"}.get(verb)
        claim_ended = (item.end.hold.agent, item.end.hold.token)
        if claim_ended == (sender, command.token) and item.end.status == ended_by:
            return _ack(command, item)
        raise Refusal(
            "already_finished", f"work item {command.work_item_id} is {item.end.status} already"
        )
    hold = held_by(shard, item, sender, command.token)
    match command:
        case Complete():
            _check_growth(shard, item, command.result, hold.note)
            check_json(command.result, "the result")
            out.add(Completed(item.number, hold.fence, command.command_id, command.result))
        case Fail():
            _check_growth(shard, item, command.error, hold.note)
            out.add(Died(item.number, hold.fence, command.error, command.command_id))
        case Release():
            _check_growth(shard, item, command.reason, "")
            released = Released(
                item.number, hold.fence, "agent", command.reason, command.command_id
            )
            out.add(released)
        case Progress():
            _check_growth(shard, item, command.note, "")
            progressed = Progressed(item.number, command.percent, command.note, command.command_id)
            out.add(progressed)
        case _:
            assert_never(command)
    return _ack(command, item)


#: Verbs whose repetition only the dedupe window tells; the others' tells the item's end.
_REMEMBERED = frozenset({"release", "progress"})

#: The last but one token of the subject for each command about an item.
VERB: dict[type[ItemCommand], str] = {
    Complete: "complete",
    Fail: "fail",
    Release: "release",
    Progress: "progress",
}


def renew(shard: Shard, command: Renew, sender: str) -> Ack:
    """A heartbeat for one item: the caller renews the lease if this does not refuse."""
    item = find(shard, command.work_item_id)
    if item.end is not None:
        status = item.end.status
        raise Refusal("already_finished", f"work item {command.work_item_id} is {status} already")
    hold = held_by(shard, item, sender, command.token)
    return Ack("", command.work_item_id, "claimed", hold.lease_s)


def give_up(
    shard: Shard, number: int, cause: Literal["unlisted", "lapsed"], reason: str, out: Batch
) -> None:
    """Queue a held item again because its agent is gone or never got it."""
    hold = shard.items[number].hold
    assert hold is not None, "only a held item can be given up"
    out.add(Released(number, hold.fence, cause, reason))


def held_by(shard: Shard, item: Item, sender: str, token: str) -> Hold:
    """The hold of `item`, if `sender` shows the token that it is held with."""
    name = item_id(shard.number, item.number)
    hold = item.hold
    if hold is None:
        if token:
            raise Refusal(
                "stale_token", f"work item {name} is queued again; stop working on it, claim anew"
            )
        raise Refusal("not_claimed", f"work item {name} is not claimed by anybody")
    if hold.agent != sender:
        raise Refusal("not_holder", f"work item {name} is held by another agent than {sender!r}")
    if hold.token != token:
        raise Refusal(
            "stale_token",
            f"work item {name} is held under another token; this claim of it has ended",
        )
    return hold


def _ack(command: ItemCommand, item: Item) -> Ack:
    lease_s = item.hold.lease_s if item.hold is not None else 0.0
    return Ack(command.command_id, command.work_item_id, item.status, lease_s)


def _ack_again(command: ItemCommand, item: Item, done: Taken) -> Ack:
    """The first answer to a repeated release or progress, wherever the item is by now."""
    if done.kind == "release":
        return Ack(command.command_id, command.work_item_id, "queued")
    lease_s = item.hold.lease_s if item.hold and item.hold.fence == done.fence else 0.0
    return Ack(command.command_id, command.work_item_id, "claimed", lease_s)


def _check_growth(shard: Shard, item: Item, added: Raw | str, note: str) -> None:
    """Refuse what would make the item larger than an item may be."""
    if added is NULL and not note:
        return
    size = stored_bytes(item.spec) + stored_bytes(added) + stored_bytes(note)
    if size > shard.rules.item_bytes_max:
        raise too_large(
            f"with this, the work item would have {size} bytes", shard.rules.item_bytes_max
        )


# --- repetitions ---------------------------------------------------------------------------


def _repeated(
    shard: Shard, command_id: str, retry: int, kind: type[Known], now: float
) -> Known | None:
    """The first answer to this command, None if it is new; refuses what cannot be told."""
    if not is_uuid7(command_id):
        raise Refusal("bad_request", f"command_id {command_id!r} is not a UUIDv7")
    done = shard.commands.get(command_id)
    if done is not None:
        if not isinstance(done, kind):
            raise Refusal("bad_request", "this command id was used for another kind of command")
        return done
    made_ms = uuid7_ms(command_id)
    if made_ms > (now + CLOCK_AHEAD_MAX_S) * 1000:
        ahead_s = made_ms / 1000 - now
        raise Refusal(
            "bad_request", f"command_id is {ahead_s:.0f} s in the future; set the sender's clock"
        )
    if retry > 0 and made_ms <= shard.commands.horizon:
        raise Refusal(
            "too_old",
            "this retry is older than the dedupe window, so whether its first try was carried out "
            "is not known any more; look the work up, then send it as a new command",
        )
    return None
