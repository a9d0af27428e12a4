"""Admitting a submission: each item checked on its own, given its shard, made canonical."""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from swarm.core.checks import read_item, too_large
from swarm.core.sharding import shard_of
from swarm.errors import Refusal
from swarm.messages import ErrorBody, NewItem, ShardMap, ShardSubmit, Submit, SubmitResult
from swarm.subjects import shard_of_id

_encode = msgspec.json.Encoder().encode


class Admitted(Struct):
    """What becomes of a submission."""

    parts: dict[int, ShardSubmit]
    refused: list[SubmitResult]
    #: Bytes of each part's items.
    sizes: dict[int, int]
    #: Each part's items as they were read, to be checked no second time in this process.
    specs: dict[int, list[NewItem]]


def admit(submit: Submit, sender: str, map_: ShardMap, item_bytes_max: int) -> Admitted:
    """Sort the items of `submit` (which has a command id) by shard; refuse the bad ones."""
    if not submit.items:
        raise Refusal("bad_request", "items is empty; submit at least one work item")
    assert submit.command_id, "the coordinator has given it one"
    admitted = Admitted({}, [], {}, {})
    for index, raw in enumerate(submit.items):
        try:
            item, canonical = check_item(raw, item_bytes_max)
            _check_dependencies(item, map_.shard_count)
        except Refusal as refusal:
            error = ErrorBody(refusal.code, refusal.message, refusal.retry)
            admitted.refused.append(SubmitResult(index, error=error))
            continue
        shard = shard_of(item, submit.command_id, index, sender, map_)
        part = admitted.parts.get(shard)
        if part is None:
            part = ShardSubmit(submit.command_id, [], [], map_.version, submit.retry)
            admitted.parts[shard] = part
            admitted.sizes[shard] = 0
            admitted.specs[shard] = []
        part.items.append(Raw(canonical))
        part.indexes.append(index)
        admitted.sizes[shard] += len(canonical)
        admitted.specs[shard].append(item)
    return admitted


def check_item(raw: Raw | bytes, item_bytes_max: int) -> tuple[NewItem, bytes]:
    """The item and its canonical encoding; refuses what is wrong with it."""
    item = read_item(raw)
    canonical = _encode(item)
    if len(canonical) > item_bytes_max:
        raise too_large(f"the item has {len(canonical)} bytes", item_bytes_max)
    return item, canonical


def _check_dependencies(item: NewItem, shard_count: int) -> None:
    for name in item.dependencies:
        if shard_of_id(name) >= shard_count:
            raise Refusal(
                "bad_request",
                f"it depends on {name}, but there are only the shards 0 to {shard_count - 1}; "
                "an item can depend on items that exist already",
            )
