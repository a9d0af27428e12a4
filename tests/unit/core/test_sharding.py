"""Where an item goes: the same wherever it is asked, even, and moving little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from swarm.core.sharding import SHARD_DISTRIBUTIONS, SHARD_KEYS, jump_hash, shard_of, stable_hash
from swarm.messages import NewItem
from tests.builders import command_id, shard_map

KEYS = 20_000


def spread(shards: list[int], buckets: int) -> tuple[float, float]:
    """Least and most loaded bucket, as a share of the even load."""
    counts = Counter(shards)
    even = len(shards) / buckets
    loads = [counts.get(bucket, 0) / even for bucket in range(buckets)]
    return min(loads), max(loads)


def test_hashes_are_the_same_in_every_process_and_version() -> None:
    """Else items already placed could not be found, nor retries land where they did."""
    assert stable_hash("") == 0xE4A6A0577479B2B4
    assert stable_hash("key-1") == 0x40793637125647DF


@pytest.mark.parametrize(
    ("key", "buckets", "expected"),
    [(1, 1, 0), (42, 57, 43), (0xDEAD10CC, 1, 0), (0xDEAD10CC, 666, 361), (256, 1024, 520)],
)
def test_the_jump_hash_is_the_published_one(key: int, buckets: int, expected: int) -> None:
    """Values that implementations in other languages give, too."""
    assert jump_hash(key, buckets) == expected


#: 1250 keys a bucket, give or take 5 standard deviations of sqrt(1250 · 15/16) = 34.
@pytest.mark.parametrize(
    "key",
    [
        lambda n: f"key-{n}",
        lambda n: f"{n:08d}",
        lambda n: "a" * (n % 400) + str(n),
        lambda n: f"tenant-1/{n * 1000}",
        lambda n: command_id(n) + ":0",
        lambda n: f"{command_id(7)}:{n}",
        lambda n: chr(0x4E00 + n % 500) + str(n),
    ],
    ids=["counted", "padded", "long", "strided", "commands", "one batch", "wide"],
)
def test_keys_that_look_alike_spread_evenly(key: Callable[[int], str]) -> None:
    shards = [jump_hash(stable_hash(key(number)), 16) for number in range(KEYS)]
    low, high = spread(shards, 16)
    assert 0.86 < low <= high < 1.14


def test_numbers_themselves_spread_as_well() -> None:
    low, high = spread([jump_hash(number, 16) for number in range(KEYS)], 16)
    assert 0.8 < low <= high < 1.2


@pytest.mark.parametrize(("before", "after"), [(16, 17), (1, 2), (16, 32), (100, 101)])
def test_growing_moves_only_what_the_new_shards_get(before: int, after: int) -> None:
    keys = [stable_hash(f"key-{number}") for number in range(KEYS)]
    moved = [
        (jump_hash(key, before), jump_hash(key, after))
        for key in keys
        if jump_hash(key, before) != jump_hash(key, after)
    ]
    assert all(new >= before for _, new in moved), "nothing moves between the old ones"
    share = (after - before) / after
    deviation = (share * (1 - share) / KEYS) ** 0.5
    assert abs(len(moved) / KEYS - share) <= 5 * deviation


def test_every_bucket_is_within_its_number() -> None:
    for buckets in (1, 2, 3, 1000):
        shards = {jump_hash(stable_hash(str(number)), buckets) for number in range(3000)}
        assert min(shards) >= 0
        assert max(shards) < buckets
    with pytest.raises(AssertionError, match="no bucket"):
        jump_hash(1, 0)


# --- what decides ------------------------------------------------------------------------

ITEM = NewItem("bug", priority="high")
KEYED = NewItem("bug", idempotency_key="k")


def places(shard_key: str, item: NewItem, *, varying: str) -> set[int]:
    """Shards that an item gets while one thing varies."""
    found = set()
    for number in range(60):
        ids = {"command": command_id(1), "index": "0", "sender": "a"}
        ids[varying] = command_id(number) if varying == "command" else str(number)
        where = shard_of(
            item, ids["command"], int(ids["index"]), ids["sender"], shard_map(16, shard_key)
        )
        found.add(where)
    return found


@pytest.mark.parametrize("varying", ["command", "index", "sender"])
@pytest.mark.parametrize(
    ("shard_key", "item", "decided_by"),
    [
        ("hash", ITEM, {"command", "index"}),
        ("hash", KEYED, set[str]()),
        ("work_type", ITEM, set[str]()),
        ("priority", ITEM, set[str]()),
        ("agent_id", ITEM, {"sender"}),
    ],
)
def test_only_what_the_shard_key_names_decides(
    shard_key: str, item: NewItem, decided_by: set[str], varying: str
) -> None:
    found = places(shard_key, item, varying=varying)
    # 60 draws of 16 shards leave out more than six of them about once in 10^9.
    assert len(found) >= 10 if varying in decided_by else len(found) == 1


def test_a_key_decides_alone_so_that_any_sender_finds_the_item_again() -> None:
    where = {
        shard_of(NewItem(kind, idempotency_key="k"), command_id(n), n, f"a{n}", shard_map())
        for n, kind in enumerate(("bug", "docs", "feature"))
    }
    assert len(where) == 1


def test_one_shard_takes_everything() -> None:
    assert {shard_of(ITEM, command_id(n), n, "a", shard_map(1)) for n in range(50)} == {0}


@pytest.mark.parametrize("shard_key", SHARD_KEYS)
def test_every_allowed_shard_key_places_items(shard_key: str) -> None:
    assert 0 <= shard_of(ITEM, command_id(1), 0, "a", shard_map(16, shard_key)) < 16


def test_what_is_not_allowed_was_refused_when_the_map_was_made() -> None:
    assert SHARD_DISTRIBUTIONS == ("consistent_hash",)
    with pytest.raises(AssertionError, match="when the map was made"):
        shard_of(ITEM, command_id(1), 0, "a", shard_map(16, "colour"))
