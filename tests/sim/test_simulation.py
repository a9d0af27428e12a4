"""Some hundred schedules keep every guarantee, and seeds replay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from swarm.testing.sim.__main__ import begin_in_pool, outcomes
from swarm.testing.sim.mechanisms import MECHANISMS
from swarm.testing.sim.mishaps import KINDS

#: `make sim` runs 10,000; these keep `make test` quick.
RUNS = 200


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


def test_a_process_of_the_pool_can_be_ended_whoever_made_it() -> None:
    # A loop with a signal handler leaves it to what is forked, and a pool waits for ever then.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        begin_in_pool()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


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
