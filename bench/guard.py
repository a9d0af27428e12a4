"""`make bench-guard`: has anything become slower?  Compares ratios, never absolute times.

Our system beside the limit loop on the same machine in the same minutes, few rounds; each ratio
is held against the recorded one.  A machine that is slower today is slower for both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from msgspec import Struct

from bench import results
from bench.__main__ import RECORDED
from bench.child import Failed
from bench.plan import LIMIT, ONE_200, OURS, OURS_16, SUBMIT, SYNC, TENS, System, Workload
from bench.results import Section, Session, chosen, ratios
from bench.running import Options, environment
from bench.sections import TRIAL_ITEMS, TRIAL_ITEMS_TENS, items_for
from bench.tables import table
from swarm.errors import SwarmError
from swarm.hosting.process import run as run_loop

#: A ratio may be this much lower than the recorded one.
LOSS_MAX = 0.20
ROUNDS = 3
PAIRS: tuple[tuple[System, Workload], ...] = (
    (OURS, SUBMIT),
    (OURS, ONE_200),
    (OURS_16, ONE_200),
    (OURS, TENS),
)


class Finding(Struct, frozen=True):
    """One ratio, then and now."""

    what: str
    recorded: float
    measured: float

    @property
    def lost(self) -> float:
        """The part of it that is gone; below 0: gained."""
        return 1 - self.measured / self.recorded

    @property
    def bad(self) -> bool:
        """More is gone than may be."""
        return self.lost > LOSS_MAX


def compare(recorded: Section, sessions: list[Session]) -> list[Finding]:
    """All ratios that both have."""
    now = Section("", 0.0, "", False, ROUNDS, {}, {}, sessions)
    found = []
    for system, workload in PAIRS:
        then_and_now = [
            ratios(
                chosen(section, system.name, workload.name, SYNC),
                chosen(section, LIMIT.name, workload.name, SYNC),
            )
            for section in (recorded, now)
        ]
        if all(then_and_now):
            before, after = (statistics.median(values) for values in then_and_now)
            what = f"{system.title} / {LIMIT.title}: {workload.title}"
            found.append(Finding(what, before, after))
    return found


async def measure(rounds: int, data: Path | None, work_s: float) -> list[Session]:
    """A trial round and the rounds; raises `Failed`, `SwarmError`."""
    sessions: list[Session] = []
    trial: dict[tuple[str, str], Session] = {}
    with tempfile.TemporaryDirectory(prefix="swarm-guard-", dir=data) as directory:
        options = Options(rounds=rounds, work_s=work_s)
        async with environment(options, Path(directory)) as env:
            for number in range(rounds + 1):
                for workload in dict.fromkeys(workload for _, workload in PAIRS):
                    for system in (LIMIT, *(s for s, w in PAIRS if w == workload)):
                        key = (system.name, workload.name)
                        first = TRIAL_ITEMS.get(workload.name, TRIAL_ITEMS_TENS)
                        items = items_for(trial.get(key), first, work_s)
                        session = await env.session(number, system, workload, items)
                        trial.setdefault(key, session)
                        sessions += [session] if number else []
    return sessions


def told(found: list[Finding]) -> str:
    """For people."""
    rows = [["ratio", "recorded", "now", "lost", ""]]
    for one in found:
        judged = "**slower**" if one.bad else "ok"
        shown = f"{one.recorded:.2f}", f"{one.measured:.2f}", f"{one.lost:+.0%}"
        rows.append([one.what, *shown, judged])
    return table(rows)


def main() -> int:
    """0: nothing lost; 1: something, or failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.guard", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--work", type=float, default=1.5, help="seconds a session (default: 1.5)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep NATS's files below")
    parser.add_argument("--recorded", type=Path, default=RECORDED, help=f"default: {RECORDED.name}")
    args = parser.parse_args()
    if args.rounds < 1 or args.work <= 0:
        parser.error("--rounds must be 1 or more, --work positive")
    section = results.load(args.recorded).sections.get("rates")
    if section is None:
        print(f"bench: {args.recorded} has no section rates; run `make bench`", file=sys.stderr)
        return 1
    try:
        sessions: list[Session] = run_loop(measure(args.rounds, args.data, args.work))
    except (Failed, SwarmError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    found = compare(section, sessions)
    probes = sorted(session.probe_ms for session in sessions)
    print(told(found))
    print(
        f"A fixed loop before each session took {probes[0]:.0f}–{probes[-1]:.0f} ms: when that "
        "range is wide, the machine was busy with other things; measure again on a quiet one."
    )
    if not found:
        print("bench: nothing to compare with", file=sys.stderr)
        return 1
    return 1 if any(one.bad for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
