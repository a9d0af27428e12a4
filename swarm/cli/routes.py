"""`swarm routes`: the routing rules, and what routers have chosen."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Any

from swarm.cli import common
from swarm.cli.main import DONE, FAILED

if TYPE_CHECKING:
    from swarm.messages import CoordinatorRouted
    from swarm.sdk.routes import Routed

INTERVAL_S = 1.0
#: Moves a terminal's cursor to the top left and clears the screen.
CLEAR = "\x1b[H\x1b[2J"


def add_parser(subparsers: Any) -> None:
    """`swarm routes`."""
    parser = subparsers.add_parser(
        "routes",
        help="routing rules, and what routers have chosen",
        description="Ask every router which rules hold, what each has matched since the router's "
        "start, and how the coordinators are.  Exit 1 when none of a rule's coordinators can be "
        "chosen, or a coordinator is unhealthy.",
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
    return common.run_async(_routes(args))


async def _routes(args: argparse.Namespace) -> int:
    async with common.connect(args) as swarm:
        while True:
            routed = await swarm.routes()
            problems = problems_of(routed)
            if args.watch and not args.json and sys.stdout.isatty():
                sys.stdout.write(CLEAR)
            _show(routed, problems, as_json=args.json)
            common.flush()
            if not args.watch:
                return FAILED if problems else DONE
            await asyncio.sleep(args.interval)


def problems_of(routed: Routed) -> list[str]:
    """What somebody should look at, in words."""
    there = {one.coordinator for one in routed.coordinators if _health(one) == "healthy"}
    problems = [
        f"rule {rule.pattern!r}: none of its coordinators ({', '.join(rule.targets)}) can be "
        f"chosen, so its submissions go elsewhere ({rule.fallbacks} so far)"
        for rule in routed.rules
        if not there.intersection(rule.targets)
    ]
    problems += [
        f"{one.coordinator} is unhealthy: {one.why or 'its probes failed'}"
        for one in routed.coordinators
        if one.live and not one.healthy
    ]
    if len(routed.versions) > 1:
        listed = ", ".join(str(version) for version in routed.versions)
        problems.append(f"routers have different versions of the rules: {listed}")
    return problems


def _show(routed: Routed, problems: list[str], *, as_json: bool) -> None:
    if as_json:
        common.print_json({"routing": routed, "problems": problems})
        return
    console = common.console()
    console.print(_head(routed))
    if routed.rules or routed.unmatched:
        console.print()
        console.print(_rules(routed))
    console.print()
    console.print(_coordinators(routed))
    for problem in problems:
        common.note(f"swarm: {problem}")


def _head(routed: Routed) -> str:
    count = len(routed.routers)
    routers = f"{count} router{'s' if count != 1 else ''}"
    if not routed.enabled:
        rules = "no rules hold (ROUTING_ENABLED is off)"
    elif not routed.rules:
        rules = "there are no rules"
    else:
        version = routed.versions[-1]
        origin = f"version {version}" if version else "from the settings"
        rules = f"{len(routed.rules)} rules by {routed.key}, {origin}"
    return f"{rules}; balancing: {routed.strategy}; {routers}"


def _rules(routed: Routed) -> Any:
    from rich.table import Table

    table = Table("RULE", "COORDINATORS", box=None, pad_edge=False, header_style="bold")
    for column in ("MATCHED", "FALLBACKS"):
        table.add_column(column, justify="right")
    table.add_column("WENT TO")
    for rule in routed.rules:
        went = ", ".join(f"{name} {count}" for name, count in rule.to.items())
        cells = (str(rule.matched), str(rule.fallbacks), went)
        table.add_row(rule.pattern, ", ".join(rule.targets), *cells)
    table.add_row("(no rule)", "by balancing", str(routed.unmatched), "", "")
    return table


def _coordinators(routed: Routed) -> Any:
    from rich.table import Table

    table = Table("COORDINATOR", "HEALTH", box=None, pad_edge=False, header_style="bold")
    for column in ("RESPONSE", "SESSIONS", "SENT SESSIONS", "SENT SUBMISSIONS"):
        table.add_column(column, justify="right")
    for one in routed.coordinators:
        response = f"{one.response_s * 1000:.1f} ms" if one.response_s else "-"
        sent = (str(one.sessions), str(one.submissions))
        table.add_row(one.coordinator, _health(one), response, str(one.attached), *sent)
    return table


def _health(one: CoordinatorRouted) -> str:
    if not one.live:
        return "dead"
    if one.draining:
        return "draining"
    return "healthy" if one.healthy else "unhealthy"
