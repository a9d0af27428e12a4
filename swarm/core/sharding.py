"""Which shard an item goes to: a pure function, so that a retry lands where the first
try did, whoever places it.

`SHARD_KEY` says what of an item is its key, `SHARD_DISTRIBUTION` how keys become shards:

- ``consistent_hash``: the key's hash; more shards move only what the new ones get;
- ``round_robin``: the items of a key are dealt to all shards in turn, from a place that is
  the key's own: no key makes a hot shard, and none stays in one;
- ``range``: keys that are near each other in order share a shard.

What "in turn" means must not depend on what was placed before: an item's turn is in its
command id and its place in the batch, or in its idempotency key.
"""

from __future__ import annotations

from hashlib import blake2b

from msgspec import structs

from swarm.messages import PRIORITIES, NewItem, ShardMap

#: What `SHARD_KEY` may be in this version.
SHARD_KEYS = ("hash", "work_type", "priority", "agent_id")
#: What `SHARD_DISTRIBUTION` may be in this version.
SHARD_DISTRIBUTIONS = ("consistent_hash", "round_robin", "range")
#: Keys in the order of `range`: other characters sort with the nearest of these.
_ORDERED = "-0123456789_abcdefghijklmnopqrstuvwxyz"
#: So many of a key's characters decide its place in the order.
_PREFIX = 12


def stable_hash(text: str) -> int:
    """64 bits of `text`, the same in every process and on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def jump_hash(key: int, buckets: int) -> int:
    """Bucket of a 64-bit key: even, and growing moves only what the new buckets get.

    Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm"
    (arXiv:1406.2294).
    """
    assert buckets > 0, "there is no bucket to choose"
    bucket, jump = -1, 0
    while jump < buckets:
        bucket = jump
        key = (key * 2862933555777941757 + 1) & 0xFFFF_FFFF_FFFF_FFFF
        jump = int((bucket + 1) * (1 << 31) / ((key >> 33) + 1))
    return bucket


def accepting(map_: ShardMap) -> int:
    """New items go to the shards below this one."""
    assert map_.accepts <= map_.shard_count, "only shards that there are"
    return map_.accepts or map_.shard_count


def before(map_: ShardMap) -> list[ShardMap]:
    """The earlier maps that still matter, the latest last."""
    assert len(map_.earlier) < map_.version, "each change makes one"
    return [
        structs.replace(
            map_,
            version=earlier.version,
            shard_count=earlier.shard_count,
            accepts=earlier.accepts,
            pins=earlier.pins,
            earlier=[],
        )
        for earlier in map_.earlier
    ]


def shard_of(item: NewItem, command_id: str, index: int, sender: str, map_: ShardMap) -> int:
    """The shard of the item at `index` of the batch `command_id` of `sender`."""
    shards = accepting(map_)
    if shards == 1:
        return 0
    key = _key(item, command_id, index, sender, map_)
    match map_.shard_distribution:
        case "consistent_hash":
            return jump_hash(stable_hash(key), shards)
        case "round_robin":
            return (_start(key, map_) + _turn(item, command_id, index)) % shards
        case _:
            assert map_.shard_distribution == "range", "checked when the map was made"
            return int(_order(key, map_) * shards)


def _key(item: NewItem, command_id: str, index: int, sender: str, map_: ShardMap) -> str:
    match map_.shard_key:
        case "work_type":
            return item.work_type
        case "priority":
            return item.priority
        case "agent_id":
            return sender
        case _:
            assert map_.shard_key == "hash", "checked when the map was made"
            return item.idempotency_key or f"{command_id}:{index}"


def _start(key: str, map_: ShardMap) -> int:
    """Where the items of a key begin to be dealt."""
    return 0 if map_.shard_key == "hash" else stable_hash(key)


def _turn(item: NewItem, command_id: str, index: int) -> int:
    """An item's turn: the items of a batch follow one another."""
    if item.idempotency_key:
        return stable_hash(item.idempotency_key)
    return stable_hash(command_id) + index


def _order(key: str, map_: ShardMap) -> float:
    """Where the key is in the order of all keys: 0 to less than 1."""
    if map_.shard_key == "hash":
        return (stable_hash(key) >> 11) / (1 << 53)
    if map_.shard_key == "priority":
        assert key in PRIORITIES, "checked when it was admitted"
        return PRIORITIES.index(key) / len(PRIORITIES)
    place, width = 0.0, 1.0
    for character in key[:_PREFIX].lower():
        width /= len(_ORDERED)
        place += width * sum(known < character for known in _ORDERED[1:])
    assert 0 <= place < 1, "a place in the order"
    return place


def hot_shards(shard_key: str, distribution: str, shards: int) -> str:
    """Why this combination makes hot shards, for people; "" if it does not.

    Few keys can only ever fill few shards, unless each of them is dealt to all.
    """
    if distribution == "round_robin" or shards == 1:
        return ""
    keys = {
        "priority": f"there are {len(PRIORITIES)} priorities",
        "work_type": "there are as many keys as work types",
    }.get(shard_key, "")
    if shard_key == "agent_id" and distribution == "range":
        keys = "names that begin alike are near each other"
    if shard_key == "work_type" and distribution == "range":
        keys += ", and names that begin alike are near each other"
    if not keys:
        return ""
    return (
        f"SHARD_KEY={shard_key} with SHARD_DISTRIBUTION={distribution} makes hot shards: {keys}, "
        f"and {shards} shards; most of them will be idle.  SHARD_KEY=hash spreads evenly, "
        "SHARD_DISTRIBUTION=round_robin deals each key to all shards"
    )
