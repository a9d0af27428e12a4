"""What follows a log forgets what has gone from it, though it never asks for the oldest."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from swarm.core.shard import Shard, ShardRules
from swarm.messages import Archived, Claimed, Completed, Copied, Event, Submitted
from tests.builders import NOW, command_id, new_item

ROUNDS = 300
BATCH = 5


def fold(shard: Shard, *events: Event) -> None:
    """One entry."""
    shard.seq += 1
    for event in events:
        shard.apply(event, NOW, "n")


def life(shard: Shard, number: int) -> None:
    """Some items come, are done and are archived, in four entries."""
    first = shard.next_number
    numbers = list(range(first, first + BATCH))
    fold(shard, Submitted(command_id(number), first, [new_item()] * BATCH))
    fold(shard, *(Claimed(n, 1, "a", "s", 30.0) for n in numbers))
    fold(shard, *(Completed(n, 1) for n in numbers))
    fold(shard, Archived(numbers))


def test_items_that_came_and_went_leave_nothing() -> None:
    shard = Shard(0, ShardRules())
    for number in range(ROUNDS):
        life(shard, number)
        assert len(shard.trail) <= BATCH
    assert len(shard.items) == 0


@pytest.mark.parametrize("every", [3, 50])
def test_one_that_stays_keeps_no_more_than_came_since_it_was_stated(every: int) -> None:
    shard = Shard(0, ShardRules())
    fold(shard, Submitted(command_id(10_000), 1, [new_item()]))
    most = 0
    for number in range(ROUNDS):
        life(shard, number)
        if number % every == every - 1:
            # As its owner's compaction does.
            fold(shard, Copied([1], [Raw(msgspec.json.encode(shard.items[1]))]))
        most = max(most, len(shard.trail))
    # Dropped at twice the rate at which it comes: while a run of them goes, another one grows.
    assert most <= 2 * BATCH * every + BATCH + 2
    assert [item.number for item in shard.trail] == [1]
    shard.validate()
