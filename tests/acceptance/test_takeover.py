"""kill -9 of a shard's owner, on real processes: how long the shard stands still."""

from __future__ import annotations

from pathlib import Path

from bench.takeover import measure

#: `python -m bench.takeover` does the same with a million.
ITEMS = 50_000
TAKEOVER_MAX_S = 2.0


async def test_a_shard_of_many_items_is_served_again_within_two_seconds(
    nats_binary: str, tmp_path: Path
) -> None:
    for one in await measure(ITEMS, 2, tmp_path):
        assert one.heir != one.killed
        assert one.get_s < TAKEOVER_MAX_S, one
        assert one.submit_s < TAKEOVER_MAX_S, one
