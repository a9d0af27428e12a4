"""`python -m bench.shard_life`, small: it measures what it says, on real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.probing import percentile
from bench.shard_life import NODE, Plan, measure, tell

#: Generous: what is seen is some 700 (and 500 with a million items).
MEMORY_MAX = 4000


@pytest.mark.slow
async def test_a_small_shard_is_measured(nats_binary: str, tmp_path: Path) -> None:
    plan = Plan(items=5000, opens=1, rate=100.0, seconds=1.0)
    life = await measure(plan, tmp_path)

    assert 0 < life.submitted.per_item < MEMORY_MAX
    assert life.log_bytes_per_item > life.payload_bytes
    assert len(life.opening.full_s) == len(life.opening.nearly_empty_s) == 1
    assert life.opening.full_s[0] > 0
    assert life.before.count >= plan.rate * plan.seconds
    assert life.compacting.count >= life.before.count
    assert 0 < life.before.p50_ms <= life.before.p99_ms <= life.before.most_ms
    assert life.purged_entries > 0, "the log was compacted under way"
    assert "5,000 queued items" in tell(life)
    assert (tmp_path / f"{NODE}.log").stat().st_size > 0, "what the node says is kept"


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert percentile(values, 50) == 51.0
    assert percentile(values, 99) == 100.0
    assert percentile(values, 100) == 100.0
    assert percentile([3.0], 99) == 3.0
