"""How much of its shard's items an owner walks over, and how often."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from swarm.actors.counting import WALK_TICKED, Counting
from swarm.core.shard import Shard, ShardRules
from swarm.core.usage import UsageCounter
from swarm.messages import Submitted
from tests.builders import NOW, command_id, new_item

ITEMS = 2 * WALK_TICKED + 1


def counting_of(shard: Shard, hosted: int) -> Counting:
    fenced: Any = SimpleNamespace(position=SimpleNamespace(at=7, foreign=0), epoch=1)
    keeping: Any = SimpleNamespace(first_seq=1, pace=SimpleNamespace(log_bytes=0))
    return Counting(shard, fenced, keeping, {}, UsageCounter("c1", 0.0), lambda: hosted)


@pytest.mark.parametrize(("hosted", "ticks"), [(1, 3), (4, 9), (100, 201)])
async def test_all_shards_of_a_coordinator_share_what_is_walked_over_with_each_tick(
    hosted: int, ticks: int
) -> None:
    shard = Shard(0, ShardRules())
    shard.apply(Submitted(command_id(1), 1, [new_item()] * ITEMS), NOW, "n")
    counting = counting_of(shard, hosted)
    for _ in range(ticks - 1):
        counting.walk(0, ticked=True, as_of=7)
    assert shard.walked.seq == 0, "more would be too much: others have items, too"
    counting.walk(0, ticked=True, as_of=7)
    assert (shard.walked.seq, shard.walked.items, shard.walked.off) == (7, ITEMS, 0)


async def test_a_busy_shard_is_walked_over_as_often_whoever_else_is_there() -> None:
    shard = Shard(0, ShardRules())
    shard.apply(Submitted(command_id(1), 1, [new_item()] * ITEMS), NOW, "n")
    counting = counting_of(shard, hosted=1024)
    counting.walk(ITEMS - 1, ticked=False, as_of=7)
    assert shard.walked.seq == 0
    counting.walk(1, ticked=False, as_of=7)
    assert shard.walked.seq == 7
