"""``python -m swarm.testing.sim --seed N --runs N``: many schedules, each from one seed.

A failing seed is printed with the violated guarantee and the last happenings; running
that seed alone (``--runs 1``) replays it exactly.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from functools import partial
from random import Random

from msgspec import Struct

from swarm.testing.loop import run
from swarm.testing.sim.logbook import quiet
from swarm.testing.sim.mishaps import KINDS
from swarm.testing.sim.plan import draw
from swarm.testing.sim.swarm import SimSwarm

#: Lines of the trace that a failing seed prints.
TRACE_LINES = 60


class Outcome(Struct):
    """Of one schedule."""

    seed: int
    #: Empty when every guarantee held.
    failure: str
    #: How often each kind of event, mishap and release was seen.
    seen: dict[str, int]


def simulate(seed: int, focus: Collection[str] = ()) -> Outcome:
    """Run one schedule, with more than the usual mishaps of the kinds in `focus`."""
    plan = draw(Random(f"plan {seed}"), focus)
    swarms: list[SimSwarm] = []

    async def main() -> None:
        swarms.append(SimSwarm(plan, seed))
        await swarms[0].run()

    failure = ""
    try:
        run(main, seed)
    except Exception as error:  # noqa: BLE001 - whatever went wrong, it is this seed's finding
        trace = "\n".join(list(swarms[0].world.trace)[-TRACE_LINES:]) if swarms else ""
        failure = f"{type(error).__name__}: {error}\n{trace}"
    return Outcome(seed, failure, swarms[0].verdict.seen if swarms else {})


def begin_in_pool() -> None:
    """In a process of the pool, which is ended by a SIGTERM: who made it may have caught that."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    quiet()


def outcomes(seed: int, runs: int, jobs: int, focus: Collection[str] = ()) -> Iterator[Outcome]:
    """Run the schedules of `runs` seeds from `seed` on, over `jobs` processes."""
    seeds = range(seed, seed + runs)
    one = partial(simulate, focus=focus)
    if jobs == 1:
        quiet()
        yield from map(one, seeds)
        return
    with multiprocessing.Pool(jobs, initializer=begin_in_pool) as pool:
        yield from pool.imap(one, seeds, chunksize=20)


def main() -> int:
    """The command; exit code 0 only when every schedule kept every guarantee."""
    parser = argparse.ArgumentParser(prog="python -m swarm.testing.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--runs", type=int, default=10_000, help="how many seeds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    kinds = [kind.name for kind in KINDS]
    parser.add_argument(
        "--focus",
        action="append",
        choices=kinds,
        default=[],
        metavar="KIND",
        help=f"more of this kind of mishap (may be repeated): {', '.join(kinds)}",
    )
    args = parser.parse_args()
    if args.runs < 1 or args.jobs < 1:
        parser.error("--runs and --jobs must be at least 1")
    started = time.monotonic()
    seen: dict[str, int] = {}
    failed = 0
    jobs = min(args.jobs, args.runs)
    focus = "".join(f" --focus {kind}" for kind in args.focus)
    for done, outcome in enumerate(outcomes(args.seed, args.runs, jobs, args.focus), 1):
        for what, count in outcome.seen.items():
            seen[what] = seen.get(what, 0) + count
        if outcome.failure:
            failed += 1
            replay = f"make sim SEED={outcome.seed} RUNS=1"
            replay += f" ARGS='{focus.strip()}'" if focus else ""
            sys.stdout.write(f"seed {outcome.seed} FAILED ({replay})\n{outcome.failure}\n\n")
        if done % 500 == 0:
            sys.stdout.write(f"{done} schedules, {failed} failed\n")
            sys.stdout.flush()
    took_s = time.monotonic() - started
    sys.stdout.write(f"{args.runs} schedules in {took_s:.0f} s, {failed} failed\n")
    sys.stdout.write("seen: " + ", ".join(f"{k} {v}" for k, v in sorted(seen.items())) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
