"""Every planted bug is found by the simulation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from swarm.testing.sim.__main__ import simulate
from swarm.testing.sim.logbook import quiet
from tests.sim import planted, planted_life, planted_work

#: A planted bug must show within this many schedules.
PLANTED_RUNS = 100
PLANTED = [*planted.PLANTED, *planted_life.PLANTED, *planted_work.PLANTED_WORK]


@pytest.mark.parametrize(("plant", "focus"), PLANTED, ids=[plant.__name__ for plant, _ in PLANTED])
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None],
    focus: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quiet()
    plant(monkeypatch)
    for seed in range(1, PLANTED_RUNS + 1):
        if simulate(seed, focus).failure:
            return
    pytest.fail(f"{PLANTED_RUNS} schedules did not find: {plant.__doc__}")
