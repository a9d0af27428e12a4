"""A shard of many items changes hands, on real processes: how long it stands still."""

from __future__ import annotations

from pathlib import Path

from bench.takeover import measure

#: `python -m bench.takeover` does the same with a million.
ITEMS = 50_000
TAKEOVER_MAX_S = 2.0
PAUSE_MAX_S = 0.1


async def test_a_shard_of_many_items_changes_hands_quickly(
    nats_binary: str, tmp_path: Path
) -> None:
    measured = await measure(ITEMS, 2, tmp_path)
    assert all(one.heir != one.killed for one in measured.takeovers)
    assert all(one.new != one.old for one in measured.handoffs)
    # A machine that is busy with other things is slower at everything: the best of each counts.
    best = min(max(one.get_s, one.submit_s) - 10 * one.usual_s for one in measured.takeovers)
    assert best < TAKEOVER_MAX_S, measured.takeovers
    pause_s = min(one.pause_s - 2 * one.usual_s for one in measured.handoffs)
    assert pause_s < PAUSE_MAX_S, measured.handoffs
