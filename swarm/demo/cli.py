"""`swarm demo`: a swarm of its own audits a source tree, and is checked."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from swarm.cli import common, settings
from swarm.cli.main import DONE, FAILED, INTERRUPTED
from swarm.demo import tree as trees
from swarm.demo.chaos import COORDINATORS
from swarm.demo.report import TOP, Summary, show
from swarm.demo.run import Demo, DemoPlan
from swarm.errors import BadInput
from swarm.hosting.logs import configure_logs
from swarm.hosting.process import run as run_loop
from swarm.hosting.process import stop_on_signals, unless


def add_parser(subparsers: Any) -> None:
    """`swarm demo`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="audit a source tree with a swarm of its own",
        description="Start a private swarm, audit every Python file of a source tree in three "
        "ways, show what was found and how fast, and check with records of the handlers' own "
        "that nothing was lost or worked on twice at once.  Exit code 0 only if so.",
    )
    parser.add_argument(
        "--tree",
        type=Path,
        metavar="PATH",
        help="directory with Python code (default: the standard library of this Python)",
    )
    parser.add_argument(
        "--agents",
        type=common.whole(1, 100),
        default=1,
        metavar="N",
        help="agent processes for each of the three audits (default: 1)",
    )
    parser.add_argument(
        "--coordinators",
        type=common.whole(1, 256),
        metavar="N",
        help="coordinator processes (default: PARALLEL_WORKERS, else 2; with --chaos 3)",
    )
    parser.add_argument(
        "--chaos",
        action="store_true",
        help="kill one coordinator (-9) in the middle of the work; everything must end as without",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="keep all data, logs and records in this new directory (default: removed, if all "
        "went well)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the findings as one line of JSON and the figures as the last one; "
        "everything for people goes to stderr",
    )
    settings.add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo to its exit code."""
    found = trees.find(args.tree if args.tree is not None else trees.default_root())
    workers = None if args.coordinators is None else str(args.coordinators)
    if args.chaos and workers is None:
        workers = str(COORDINATORS)
    read, _ = settings.read_settings(args, PARALLEL_WORKERS=workers, HTTP_PORT="0")
    if args.chaos and read.parallel_workers == 1:
        raise BadInput("--chaos kills a coordinator: another one is needed, --coordinators 2")
    data_dir = _data_dir(args.keep)
    console = Console(file=sys.stderr if args.json else sys.stdout)
    plan = DemoPlan(
        tree=found, settings=read, agents=args.agents, data_dir=data_dir, chaos=args.chaos
    )
    summary: Summary | None = None
    interrupted = False
    try:
        with (data_dir / "demo.log").open("w", encoding="utf-8") as log:
            # People see the progress; what the parts say is in files.
            configure_logs(log)
            summary = run_loop(_until_stopped(Demo(plan, console)))
        interrupted = summary is None
    finally:
        done = interrupted or (summary is not None and summary.ok)
        if done and args.keep is None:
            shutil.rmtree(data_dir, ignore_errors=True)
        else:
            common.note(f"data, logs and records are in {data_dir}")
    if summary is None:
        return INTERRUPTED
    show(summary, console)
    if args.json:
        common.print_json({"audits": _worst(summary), "check": msgspec.to_builtins(summary.report)})
        common.print_json(summary.line())
    return DONE if summary.ok else FAILED


async def _until_stopped(demo: Demo) -> Summary | None:
    """The summary, or None after SIGINT or SIGTERM."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    summaries = []

    async def work() -> None:
        summaries.append(await demo.run())

    return summaries[0] if await unless(stop, work()) else None


def _data_dir(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="swarm-demo-"))
    try:
        keep.mkdir(parents=True, exist_ok=True)
        taken = any(keep.iterdir())
    except OSError as error:
        raise BadInput(f"--keep {keep} cannot be used: {error.strerror}") from error
    if taken:
        raise BadInput(
            f"--keep {keep} is not empty, and the demo starts with a swarm of its own: "
            "name a new or empty directory"
        )
    return keep.absolute()


def _worst(summary: Summary) -> dict[str, Any]:
    """The files with the most findings, by work type."""
    return {
        name: sorted(audits, key=lambda audit: (-audit.count, audit.file))[:TOP]
        for name, audits in summary.audits.items()
    }
