"""Which shard an item goes to: a pure function, so that a retry lands where the first
try did, whoever places it."""

from __future__ import annotations

from hashlib import blake2b

from swarm.messages import NewItem, ShardMap

#: What `SHARD_KEY` may be in this version.
SHARD_KEYS = ("hash", "work_type", "priority", "agent_id")
#: What `SHARD_DISTRIBUTION` may be in this version.
SHARD_DISTRIBUTIONS = ("consistent_hash",)


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


def shard_of(item: NewItem, command_id: str, index: int, sender: str, map_: ShardMap) -> int:
    """The shard of the item at `index` of the batch `command_id` of `sender`."""
    assert map_.shard_distribution == "consistent_hash", "checked when the map was made"
    if map_.shard_count == 1:
        return 0
    return jump_hash(stable_hash(_key(item, command_id, index, sender, map_)), map_.shard_count)


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
