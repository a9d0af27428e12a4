"""Accepting new items."""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct, structs

from swarm.core.checks import read_item, stored_bytes, too_large
from swarm.core.decide import clashing
from swarm.core.decide.batch import Batch, repeated
from swarm.core.shard import Shard, digest
from swarm.errors import Refusal
from swarm.messages import (
    NULL,
    Accepted,
    Conflict,
    ErrorBody,
    KnownReply,
    NewItem,
    ShardSubmit,
    SubmitReply,
    SubmitResult,
    Submitted,
)
from swarm.subjects import item_id

_item_decoder = msgspec.json.Decoder(NewItem)
_encode = msgspec.json.encode


def submit(
    shard: Shard, command: ShardSubmit, out: Batch, specs: list[NewItem] | None = None
) -> SubmitReply:
    """Accept a batch's part for this shard.

    `specs`: its items, if this process has admitted them; else they are checked here, for
    what cannot be folded again must never enter the log.
    """
    _check_indexes(command)
    done = repeated(shard, command.command_id, command.retry, Accepted, out.now)
    wanted: set[int] = set()
    if done is not None:
        wanted = set(command.indexes) - {index for index, _ in done.numbers}
        if not wanted:
            return _submit_reply(shard, command, done, again=True)
        # By another map these might not be this shard's at all.
        _check_map(command, out)
        # What has moved here by a change of the map was not here when the rest was accepted.
        wanted &= set(command.moved)
        if not wanted:
            return _submit_reply(shard, command, done, again=True)
    _check_map(command, out)
    if out.full:
        raise Refusal(
            "storage_full",
            "the swarm's storage is nearly full, so it takes no new work for now, only outcomes; "
            "free some space or raise the limit",
            retry=True,
        )
    parts = _sort_out(shard, command, None if done is None else wanted, specs, out)
    indexes = parts.indexes
    if done is not None:
        # One answer to all of the command: the earlier part is known by now.
        parts.known += done.numbers
        parts.clashes += done.clashes
    elif indexes == list(range(len(parts.fresh))):
        indexes = []
    first = shard.next_number
    out.add(Submitted(command.command_id, first, parts.fresh, indexes, parts.known, parts.clashes))
    out.conflicts += parts.conflicts
    accepted = shard.commands.get(command.command_id)
    assert isinstance(accepted, Accepted), "applying the event remembers the answer"
    return _submit_reply(shard, command, accepted, again=done is not None)


class _Parts(Struct):
    """A submission, sorted out."""

    #: New items, and their indexes.
    fresh: list[Raw] = []
    indexes: list[int] = []
    #: (index, number) of items that have a key that is known, and which of them are others.
    known: list[tuple[int, int]] = []
    clashes: list[int] = []
    conflicts: list[Conflict] = []


def _sort_out(
    shard: Shard,
    command: ShardSubmit,
    wanted: set[int] | None,
    specs: list[NewItem] | None,
    out: Batch,
) -> _Parts:
    """Which items are new.  `wanted`: the only indexes that count; None: all do."""
    parts = _Parts()
    fresh, indexes, known, clashes = parts.fresh, parts.indexes, parts.known, parts.clashes
    in_batch: dict[str, int] = {}
    for place, (index, raw) in enumerate(zip(command.indexes, command.items, strict=True)):
        if wanted is not None and index not in wanted:
            continue
        spec = specs[place] if specs is not None else _admitted(shard, raw)
        key = spec.idempotency_key
        keyed = shard.keys.get(key) if key else None
        number = keyed.number if keyed is not None else in_batch.get(key, 0)
        if not number:
            if key:
                in_batch[key] = shard.next_number + len(fresh)
            fresh.append(raw)
            indexes.append(index)
            continue
        at = number - shard.next_number
        twin = fresh[at] if at >= 0 else None
        if not _differs(shard, number, raw, twin):
            known.append((index, number))
            continue
        loser, refused = index, raw
        if twin is not None and clashing.prefers_later(twin, raw, out):
            # Those that were the same as the one that had it clash as well now.
            clashes += [other for other, its in known if its == number and other not in clashes]
            loser, refused = indexes[at], twin
            indexes[at], fresh[at] = index, raw
        known.append((loser, number))
        clashes.append(loser)
        item = shard.items.get(number)
        kept = item.spec if item is not None else (fresh[at] if at >= 0 else None)
        policy, name = out.policy if twin is not None else "log", item_id(shard.number, number)
        parts.conflicts.append(clashing.told(name, kept, refused, policy))
    assert len(fresh) == len(indexes), "each has one"
    return parts


def known(shard: Shard, command: ShardSubmit, out: Batch) -> KnownReply:
    """Which items of the command this shard has, that would go to another one by now.

    Asked before another shard accepts what was this one's by an earlier map.  From here on
    the earlier map is no more here, so what is not known now never will be.
    """
    _check_indexes(command)
    _check_map(command, out)
    done = repeated(shard, command.command_id, command.retry, Accepted, out.now)
    numbers = dict(done.numbers) if done is not None else {}
    clashes = list(done.clashes) if done is not None else []
    for index, raw in zip(command.indexes, command.items, strict=True):
        keyed = shard.keys.get(read_item(raw).idempotency_key)
        if keyed is not None and index not in numbers:
            numbers[index] = keyed.number
            if _differs(shard, keyed.number, raw):
                clashes.append(index)
    pairs = zip(command.indexes, command.items, strict=True)
    had = {index: raw for index, raw in pairs if index in numbers}
    assert len(had) <= len(command.indexes), "of those that were asked for"
    part = structs.replace(command, indexes=list(had), items=list(had.values()))
    found = Accepted(0, 0, [], [(index, numbers[index]) for index in had], clashes)
    return KnownReply(_submit_reply(shard, part, found, again=True).results, out.now)


def _check_map(command: ShardSubmit, out: Batch) -> None:
    if command.map_version != out.map_version:
        raise Refusal(
            "stale_map",
            f"placed by shard map {command.map_version}, this shard has adopted "
            f"{out.map_version}; send it again",
            retry=True,
        )


def _check_indexes(command: ShardSubmit) -> None:
    indexes = command.indexes
    if len(indexes) != len(command.items):
        raise Refusal("bad_request", "indexes and items must have the same length")
    if len(set(indexes)) != len(indexes) or (indexes and min(indexes) < 0):
        raise Refusal("bad_request", "indexes must be different positions, from 0 on")


def _admitted(shard: Shard, raw: Raw) -> NewItem:
    """The item, checked."""
    spec = read_item(raw)
    size = stored_bytes(raw)
    if size > shard.rules.item_bytes_max:
        raise too_large(f"the item has {size} bytes", shard.rules.item_bytes_max)
    return spec


def _submit_reply(
    shard: Shard, command: ShardSubmit, accepted: Accepted, *, again: bool
) -> SubmitReply:
    """The answer to a command that was just, or (`again`) long ago, carried out."""
    clashes = dict.fromkeys(accepted.clashes)
    if not again and not clashes:
        results = [
            SubmitResult(index, item_id(shard.number, number)) for index, number in accepted.numbers
        ]
        return SubmitReply(results, command.command_id)
    assert len(command.indexes) == len(command.items), "checked before"
    spec_at = dict(zip(command.indexes, command.items, strict=True))
    results = []
    for index, number in accepted.numbers:
        raw = spec_at.get(index)
        if raw is not None and (index in clashes or _differs(shard, number, raw)):
            results.append(SubmitResult(index, error=_conflict(shard, number, raw)))
        else:
            results.append(SubmitResult(index, item_id(shard.number, number)))
    answered = {index for index, _ in accepted.numbers}
    for index in [index for index in command.indexes if index not in answered]:
        message = "this command id was used before, for a batch without this item; use a new id"
        results.append(SubmitResult(index, error=ErrorBody("idempotency_conflict", message)))
    return SubmitReply(results, command.command_id)


def _differs(shard: Shard, number: int, raw: Raw, twin: Raw | None = None) -> bool:
    """Whether `raw` comes under the key, or the command id, of item `number` but differs.

    `twin`: that item, where it comes in the same batch.
    """
    item = shard.items.get(number)
    ours = item.spec if item is not None else twin
    if ours is not None:
        return raw != ours and _content(_item_decoder.decode(ours)) != _content(read_item(raw))
    # Archived: its key has a digest of what it was; without a key, the command id,
    # which nobody uses twice, is all that there is to go by.
    keyed = shard.keys.get(read_item(raw).idempotency_key)
    return keyed is not None and keyed.number == number and keyed.digest != digest(raw)


def _conflict(shard: Shard, number: int, raw: Raw) -> ErrorBody:
    what, key = "command id and index", read_item(raw).idempotency_key
    if key:
        what = f"idempotency key {key!r}"
    name = item_id(shard.number, number)
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
