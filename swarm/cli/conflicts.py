"""`swarm conflicts`: who has disagreed with whom, what was kept, and what was not."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

from swarm.cli import common
from swarm.cli.main import DONE

if TYPE_CHECKING:
    from swarm.messages import ClusterView, Conflict

INTERVAL_S = 1.0
#: Moves a terminal's cursor to the top left and clears the screen.
CLEAR = "\x1b[H\x1b[2J"
#: Of each side, what a table shows.
SHOWN_CHARS = 60


def add_parser(subparsers: Any) -> None:
    """`swarm conflicts`."""
    parser = subparsers.add_parser(
        "conflicts",
        help="who has disagreed with whom, and what was kept",
        description="Ask the leader for all conflicts: how many there ever were, and both sides of "
        "the latest ones.  Nothing that was acknowledged is ever lost by one.",
    )
    parser.add_argument("--watch", action="store_true", help="again and again, until interrupted")
    parser.add_argument(
        "--interval",
        type=common.duration,
        default=INTERVAL_S,
        metavar="TIME",
        help=f"between two looks with --watch (default: {INTERVAL_S:g}s)",
    )
    common.add_connection(parser, timeout_s=5.0)


def run(args: argparse.Namespace) -> int:
    """Ask, and print."""
    return common.run_async(_conflicts(args))


async def _conflicts(args: argparse.Namespace) -> int:
    async with common.connect(args) as swarm:
        while True:
            view = await swarm.cluster(timeout_s=args.timeout)
            if args.watch and not args.json and sys.stdout.isatty():
                sys.stdout.write(CLEAR)
            _show(view, as_json=args.json)
            common.flush()
            if not args.watch:
                return DONE
            await asyncio.sleep(args.interval)


def _show(view: ClusterView, *, as_json: bool) -> None:
    counts = view.conflict_counts
    total = sum(sum(by_policy.values()) for by_policy in counts.values())
    if as_json:
        common.print_json({"total": total, "counts": counts, "conflicts": view.conflicts})
        return
    console = common.console()
    if not total:
        console.print("no conflicts")
        return
    by_kind = "; ".join(f"{kind}: {_by_policy(counts[kind])}" for kind in sorted(counts))
    console.print(f"{total} conflict{'s' if total != 1 else ''} ({by_kind})\n")
    console.print(_table(view.conflicts))


def _by_policy(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} by {policy}" for policy, count in sorted(counts.items()))


def _table(conflicts: list[Conflict]) -> Any:
    from rich.table import Table

    heads = ("WHEN", "KIND", "ABOUT", "TIMES", "BY", "KEPT", "DROPPED", "TOLD BY")
    table = Table(*heads, box=None, pad_edge=False, header_style="bold")
    table.columns[3].justify = "right"
    for one in reversed(conflicts):
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.at))
        sides = (_short(one.kept), _short(one.dropped))
        table.add_row(when, one.kind, one.about, str(one.count), one.policy, *sides, one.by)
    return table


def _short(side: str) -> str:
    text = " ".join(side.split())
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
