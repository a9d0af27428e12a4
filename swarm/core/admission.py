"""Admitting a submission: each item checked on its own, given its shard, made canonical."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from swarm.core.checks import read_item, too_large
from swarm.core.headers import contradiction
from swarm.core.ids import CLOCK_AHEAD_MAX_S, is_uuid7, uuid7_ms
from swarm.core.sharding import before, shard_of
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
    #: By part: the shards that may have items of it already, and their indexes.
    asks: dict[int, dict[int, list[int]]]
    #: Items that depend on one of a shard that is not in the map: (index, what it depends on).
    unheard: list[tuple[int, str]]


def admit(
    submit: Submit,
    sender: str,
    map_: ShardMap,
    item_bytes_max: int,
    adopted: Mapping[int, float] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Admitted:
    """Sort the items of `submit` (which has a command id) by shard; refuse the bad ones.

    `adopted`: shards that are known to have adopted this map, and a time at which they had.
    `headers` say what it was routed by; if an item is of another kind than they say, all is
    refused.
    """
    if not submit.items:
        raise Refusal("bad_request", "items is empty; submit at least one work item")
    assert submit.command_id, "the coordinator has given it one"
    admitted, maps = Admitted({}, [], {}, {}, {}, []), before(map_)
    for index, raw in enumerate(submit.items):
        try:
            item, canonical = check_item(raw, item_bytes_max)
            wrong = contradiction(item, headers) if headers else ""
        except Refusal as refusal:
            error = ErrorBody(refusal.code, refusal.message, refusal.retry)
            admitted.refused.append(SubmitResult(index, error=error))
            continue
        if wrong:
            raise Refusal("bad_request", f"item {index}: {wrong}")
        unknown = _unknown_dependency(item, map_.shard_count)
        if unknown:
            admitted.unheard.append((index, unknown))
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
        if not maps:
            continue
        earlier = [shard_of(item, submit.command_id, index, sender, one) for one in maps]
        if any(other != shard for other in earlier):
            part.moved.append(index)
            for other in dict.fromkeys(earlier):
                if other != shard and may_have(item, submit.command_id, other, adopted or {}):
                    asks = admitted.asks.setdefault(shard, {})
                    asks.setdefault(other, []).append(index)
    return admitted


def may_have(item: NewItem, command_id: str, shard: int, adopted: Mapping[int, float]) -> bool:
    """Whether this shard may have accepted the item by an earlier map.

    An idempotency key may have been used at any time.  A command cannot have been carried
    out by a shard that adopted this map before the command was made; its maker's clock may
    be ahead by as much as shards bear with.
    """
    if item.idempotency_key:
        return True
    if not is_uuid7(command_id) or shard not in adopted:
        # (What is no id at all is refused by every shard.)
        return is_uuid7(command_id)
    return uuid7_ms(command_id) / 1000 <= adopted[shard] + CLOCK_AHEAD_MAX_S


def check_item(raw: Raw | bytes, item_bytes_max: int) -> tuple[NewItem, bytes]:
    """The item and its canonical encoding; refuses what is wrong with it."""
    item = read_item(raw)
    canonical = _encode(item)
    if len(canonical) > item_bytes_max:
        raise too_large(f"the item has {len(canonical)} bytes", item_bytes_max)
    return item, canonical


def _unknown_dependency(item: NewItem, shard_count: int) -> str:
    """The first of its dependencies that is in no shard of the map; "" if there is none."""
    for name in item.dependencies:
        if shard_of_id(name) >= shard_count:
            return name
    return ""


def unheard_of(depends_on: str, told: ShardMap | str) -> Refusal:
    """Why an item that depends on an item of an unknown shard is not accepted.

    `told`: the map that holds, by the leader; or why that is not known.
    """
    if isinstance(told, str):
        message = f"it depends on {depends_on}, of a shard that is not known here; {told}"
        return Refusal("stale_map", message, retry=True)
    if shard_of_id(depends_on) < told.shard_count:
        message = f"it depends on {depends_on}, of a shard that is new here; send it again"
        return Refusal("stale_map", message, retry=True)
    return Refusal(
        "bad_request",
        f"it depends on {depends_on}, but there are only the shards 0 to {told.shard_count - 1}; "
        "an item can depend on items that exist already",
    )
