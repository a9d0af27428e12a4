"""The in-process profile runs every kind of work, and counts alike each time."""

from __future__ import annotations

import asyncio

import pytest

from bench import profile

#: So many times fewer items than in a real run.
FEWER = 20


def steps(name: str) -> float:
    with asyncio.Runner(loop_factory=profile.StillLoop) as still:
        return still.run(profile._measure(name, FEWER, profile.Steps()))


@pytest.mark.parametrize(
    "name", ["submit, 16 shards", "in tens, 100 agents", "heartbeat, 1,000 idle agents"]
)
def test_two_counts_agree(name: str) -> None:
    first, second = steps(name), steps(name)
    assert first > 100
    assert second == pytest.approx(first, rel=0.02)


def test_cpu_time_is_measured() -> None:
    micros = asyncio.run(profile._measure("in tens, 100 agents", FEWER))
    assert 0 < micros < 10_000
