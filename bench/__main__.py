"""`make bench`: our system beside the limit loop, plain nats-py and its peers, in rounds."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bench import machine, plots, report, results
from bench.child import Failed
from bench.results import Results, Section
from bench.running import Env, Options, environment
from bench.sections import ASKED_FOR, PARTS
from swarm.bus.embedded import find_binary
from swarm.errors import SwarmError
from swarm.hosting.process import run as run_loop

HERE = Path(__file__).resolve().parent
RECORDED = HERE / "results" / "latest.json"


async def measure(options: Options, names: list[str], data: Path | None) -> Results:
    """Run the sections of these names; raises `Failed`, `SwarmError`."""
    measured = Results()
    with tempfile.TemporaryDirectory(prefix="swarm-bench-", dir=data) as directory:
        async with environment(options, Path(directory)) as env:
            for name in names:
                measured.sections[name] = await _section(env, name)
    return measured


async def _section(env: Env, name: str) -> Section:
    part = PARTS[name]
    started, clock = datetime.now(UTC), time.monotonic()
    sessions = await part.measure(env)
    section = Section(
        started=started.strftime("%Y-%m-%d %H:%M UTC"),
        took_s=round(time.monotonic() - clock, 1),
        command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        quick=env.options.quick,
        rounds=max((session.round for session in sessions), default=0),
        machine=machine.describe(env.directory, find_binary()),
        settings=part.settings(env),
        sessions=sessions,
    )
    results.judge(section, part.gates)
    return section


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=_rounds, default=None, help="default: 5 (1 with --quick)")
    parser.add_argument(
        "--work",
        type=_seconds,
        default=1.5,
        metavar="SECONDS",
        help="how long a session of a throughput is to work (default: 1.5)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sessions, few workloads: shows that it runs"
    )
    parser.add_argument(
        "--only",
        type=_names,
        metavar="SECTIONS",
        help=f"some of {','.join(PARTS)}; the others keep their recorded results",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="install the peers (below build/peers) and run them, too",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write latest.json, README.md and plots there (default: the recorded ones; a quick "
        "or void run writes only with --out)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="keep NATS's files below (default: the system's temporary directory)",
    )
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 5)
    if args.only is None:
        args.only = [name for name in PARTS if name not in ASKED_FOR or args.peers]
    elif args.peers and "peers" not in args.only:
        args.only.append("peers")
    return args


def _rounds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds; 1 to 100 are allowed")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; 0.1 to 60 seconds are allowed")
    return seconds


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        allowed = ", ".join(PARTS)
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no section; there are: {allowed}")
    return [name for name in PARTS if name in names]


def write(measured: Results, out: Path | None) -> str:
    """Keep the results beside those of the sections that were not measured; says where."""
    counting = {
        name: section
        for name, section in measured.sections.items()
        if out is not None or not (section.quick or section.void)
    }
    if not counting:
        return "Not recorded: only full sections that count replace the recorded results."
    home = HERE if out is None else out
    path = RECORDED if out is None else out / "latest.json"
    merged = results.merge(results.load(path), Results(sections=counting))
    results.store(merged, path)
    drawn = plots.draw(merged, home / "plots")
    report.rewrite(HERE / "README.md", home / "README.md", path.parent, merged)
    if out is None:
        report.show_pictures(HERE.parent / "README.md", home / "plots")
    return f"Written: {path}, {home / 'README.md'} and {drawn}"


def main() -> int:
    """0: measured; 1: failed or void."""
    args = parse()
    options = Options(quick=args.quick, rounds=args.rounds, work_s=args.work)
    try:
        measured: Results = run_loop(measure(options, args.only, args.data))
        print(report.sections(measured))
        print(write(measured, args.out))
    except (Failed, SwarmError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted, nothing recorded", file=sys.stderr)
        return 1
    sections = measured.sections.values()
    if any(s.machine["file_system"] in machine.MEMORY_FILE_SYSTEMS for s in sections):
        print("NATS's files lay in memory, where a sync is free; choose a disk with --data.")
    return 1 if any(section.void for section in sections) else 0


if __name__ == "__main__":
    sys.exit(main())
