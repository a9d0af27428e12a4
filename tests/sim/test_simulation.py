"""Some hundred schedules keep every guarantee, every planted bug is found, seeds replay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from swarm.testing.sim.__main__ import outcomes, simulate
from swarm.testing.sim.logbook import quiet
from swarm.testing.sim.mechanisms import MECHANISMS
from swarm.testing.sim.mishaps import KINDS
from tests.sim import planted, planted_life, planted_work

#: `make sim` runs 10,000; these keep `make test` quick.
RUNS = 300
#: A planted bug must show within this many schedules.
PLANTED_RUNS = 100
PLANTED = [*planted.PLANTED, *planted_life.PLANTED, *planted_work.PLANTED_WORK]


def test_every_guarantee_holds_in_many_schedules() -> None:
    seen: dict[str, int] = {}
    for outcome in outcomes(seed=1, runs=RUNS, jobs=os.cpu_count() or 1):
        assert not outcome.failure, f"seed {outcome.seed}: {outcome.failure}"
        for what, count in outcome.seen.items():
            seen[what] = seen.get(what, 0) + count
    # A simulation in which nothing goes wrong shows nothing.
    expected = ["Opened", *(kind.name for kind in KINDS)]
    expected += [what for mechanism in MECHANISMS for what in mechanism.expects]
    assert [what for what in expected if not seen.get(what)] == []


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


_TRACE = """
import sys
from random import Random

from swarm.testing.loop import run
from swarm.testing.sim.logbook import quiet
from swarm.testing.sim.plan import draw
from swarm.testing.sim.swarm import SimSwarm

quiet()
seed = int(sys.argv[1])
swarms = []

async def main():
    swarms.append(SimSwarm(draw(Random(f"plan {seed}")), seed))
    await swarms[0].run()

run(main, seed)
sys.stdout.write(str(swarms[0].world.trace))
"""


def test_a_seed_replays_exactly_in_another_process() -> None:
    traces = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", _TRACE, "7"]
        done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
        traces.append(done.stdout)
    assert traces[0] == traces[1]
    assert len(traces[0].splitlines()) > 500
