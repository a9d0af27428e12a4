"""``python -m swarm.testing.chaos``: a swarm of real processes under faults from a seed.

Exit code 0 only if every promise was kept, and the run has proven something.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from swarm.errors import SwarmError
from swarm.hosting.logs import configure_logs
from swarm.hosting.process import stop_on_signals, unless
from swarm.subjects import Subjects
from swarm.testing.chaos.cast import CAST, PREFIX
from swarm.testing.chaos.net import enter
from swarm.testing.chaos.progress import Progress
from swarm.testing.chaos.report import Summary, show, summarize
from swarm.testing.chaos.run import Chaos, ChaosPlan, Traces
from swarm.testing.chaos.testimony import read_told
from swarm.testing.chaos.verdict import judge
from swarm.testing.fold import read_logs
from swarm.testing.history import read_acks, read_executions
from swarm.testing.recorded import RecordedLogs

#: Exit code after Ctrl-C.
INTERRUPTED = 130
MODULE = ("-m", "swarm.testing.chaos")


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(prog="python -m swarm.testing.chaos", description=__doc__)
    made.add_argument("--minutes", type=float, default=30.0, help="of faults (default: 30)")
    made.add_argument("--short", action="store_true", help="the essential faults once, some 30 s")
    made.add_argument("--seed", type=int, default=1, help="decides the faults (default: 1)")
    made.add_argument(
        "--report", type=Path, default=Path("build/chaos.json"), help="file for the report"
    )
    made.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    made.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep data, logs and records in this new directory"
    )
    made.add_argument("--no-links", action="store_true", help="do not cut links, even if possible")
    return made


def main() -> int:
    """The command."""
    args = parser().parse_args()
    if args.minutes <= 0:
        parser().error("--minutes must be more than 0")
    # Returns only if there is no other network to be had, or we are in it already.
    left_out = "--no-links was given" if args.no_links else enter([*MODULE, *sys.argv[1:]])
    directory = _directory(args.keep)
    console = Console(file=sys.stderr if args.json else sys.stdout)
    summary: Summary | None = None
    try:
        with (directory / "chaos.log").open("w", encoding="utf-8") as log:
            configure_logs(log)
            plan = ChaosPlan(
                seed=args.seed, seconds=60 * args.minutes, short=args.short, directory=directory
            )
            summary = asyncio.run(_run(plan, console, left_out))
    except _Interrupted:
        console.print("chaos: interrupted", style="red")
        return INTERRUPTED
    except SwarmError as error:
        console.print(f"chaos: {error}", style="red")
    finally:
        if summary is not None and summary.ok and args.keep is None:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            console.print(f"data, logs and records are in {directory}")
    if summary is None:
        return 1
    show(summary, console)
    text = json.dumps(summary.line())
    args.report.parent.mkdir(parents=True, exist_ok=True)
    args.report.write_text(text + "\n", "utf-8")
    if args.json:
        sys.stdout.write(text + "\n")
    return 0 if summary.ok else 1


class _Interrupted(Exception):
    """By SIGINT or SIGTERM."""


async def _run(plan: ChaosPlan, console: Console, left_out: str) -> Summary:
    def say(what: str) -> None:
        console.print(what, highlight=False, soft_wrap=True)

    if left_out:
        say(f"links cannot be cut here: {left_out}")
    summaries: list[Summary] = []

    async def run() -> None:
        traces = await Chaos(plan, say).run()
        summaries.append(await _judge(plan, traces, left_out))

    # Not `asyncio.run`'s own way: a single cancellation can get lost in nats-py.
    stop = asyncio.Event()
    stop_on_signals(stop)
    if not await unless(stop, run()):
        raise _Interrupted
    return summaries[0]


async def _judge(plan: ChaosPlan, traces: Traces, left_out: str) -> Summary:
    records = plan.directory / "records"
    subjects = Subjects(PREFIX)
    shards = range(CAST.shards)
    recorded = RecordedLogs(records, {subjects.log(shard): shard for shard in shards})
    history = await read_logs(recorded, subjects, shards)
    executions, testimony = read_executions(records), read_told(records)
    verdict = judge(executions, read_acks(records), history, testimony)
    stills = Progress(history, testimony, executions).standstills()
    return summarize(plan.seed, traces, verdict, stills, left_out=left_out)


def _directory(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="swarm-chaos-"))
    keep.mkdir(parents=True, exist_ok=True)
    if any(keep.iterdir()):
        raise SystemExit(f"--keep {keep} is not empty: name a new or empty directory")
    return keep.absolute()


if __name__ == "__main__":
    sys.exit(main())
