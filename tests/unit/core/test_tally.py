"""Conservation: two counts of the same items, the second one a slice at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from swarm.core.shard import Shard, ShardRules
from swarm.messages import Claimed, End, Submitted
from tests.builders import NOW, command_id, new_item
from tests.unit.core.scribe import Scribe


@pytest.mark.parametrize("slice_", [1, 7, 10_000])
@pytest.mark.parametrize("seed", range(4))
def test_a_walk_that_is_overtaken_by_events_ends_right(seed: int, slice_: int) -> None:
    scribe = Scribe(seed)
    walks = 0
    for _ in range(60):
        scribe.write(5)
        shard = scribe.shard
        before = shard.walked
        shard.walk(slice_, scribe.position.at)
        if shard.walked != before:
            walks += 1
            assert shard.walked.off == 0
            assert (shard.walked.seq, shard.walked.items) == (len(scribe.log), len(shard.items))
        shard.validate()
    # A slice of one is overtaken by what is submitted, and gets there in the end.
    scribe.shard.walk(100_000, len(scribe.log))
    assert scribe.shard.walked.off == 0
    assert scribe.shard.walked.seq == len(scribe.log)
    assert walks > 3 or slice_ == 1


def test_counts_are_those_of_the_items() -> None:
    shard = Scribe(3).shard
    scribe = Scribe(3)
    for _ in range(40):
        scribe.write(5)
        shard = scribe.shard
        found = [item.status for item in shard.items.values()]
        assert shard.tally.counts == {status: found.count(status) for status in shard.tally.counts}


def full_shard(count: int) -> Shard:
    shard = Shard(0, ShardRules())
    shard.apply(Submitted(command_id(1), 1, [new_item()] * count), NOW, "n")
    return shard


def lose(shard: Shard) -> None:
    del shard.items[50]


def end_without_an_event(shard: Shard) -> None:
    shard.items[50].end = End("completed", NOW)


def count_wrong(shard: Shard) -> None:
    shard.submitted -= 1


def tally_wrong(shard: Shard) -> None:
    shard.tally.counts["queued"] += 1


@pytest.mark.parametrize("damage", [lose, end_without_an_event, count_wrong, tally_wrong])
@pytest.mark.parametrize("passed", [False, True], ids=["ahead", "behind"])
def test_damage_is_seen_by_the_end_of_the_next_walk(
    damage: Callable[[Shard], None], passed: bool
) -> None:
    shard = full_shard(100)
    if passed:
        shard.walk(70, 1)
        damage(shard)
        shard.walk(70, 2)  # this one had been there before
    else:
        damage(shard)
    shard.walk(1000, 3)
    assert shard.walked.off > 0
    assert shard.walked.seq == 3


def test_a_walk_begins_where_there_are_items() -> None:
    shard = full_shard(1000)
    for number in range(1, 991):
        shard.drop(shard.items[number])
        shard.archived["completed"] += 1
    shard.walk(10_000, 1)
    # Ten numbers are enough from here on.
    shard.walk(10, 2)
    assert shard.walked.seq == 2
    assert shard.walked.items == 10


def test_an_empty_shard_adds_up() -> None:
    shard = Shard(0, ShardRules())
    assert shard.walked.seq == 0
    shard.walk(1, 5)
    assert (shard.walked.off, shard.walked.seq, shard.walked.items) == (0, 5, 0)
    shard.apply(Submitted(command_id(1), 1, [new_item()]), NOW, "n")
    shard.apply(Claimed(1, 1, "a", "s", 30.0), NOW, "n")
    shard.walk(10, 6)
    assert (shard.walked.off, shard.walked.seq, shard.walked.items) == (0, 6, 1)
