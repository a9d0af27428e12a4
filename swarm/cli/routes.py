"""`swarm routes`: the routing rules, and what routers have chosen; `swarm routes apply`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.cli import common
from swarm.cli.main import DONE, FAILED
from swarm.core.rules import ROUTING_KEYS
from swarm.errors import BadInput
from swarm.messages import PRIORITIES

if TYPE_CHECKING:
    from swarm.messages import CoordinatorRouted
    from swarm.sdk.client import Swarm
    from swarm.sdk.routes import Routed

INTERVAL_S = 1.0
#: How long routers may take to know new rules.
KNOWN_S = 5.0
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
    verbs = parser.add_subparsers(dest="verb", metavar="apply")
    apply = verbs.add_parser(
        "apply",
        help="set the routing rules, all of them",
        description="Read rules, one a line (feature -> coordinator-1:4000), and put them in place "
        "of those that there are.  They are checked as a whole: if one is wrong, the old ones "
        "stay.  Exit 1 unless all routers act by them in the end.",
    )
    apply.add_argument(
        "file", nargs="?", default="-", metavar="FILE", help="a file (default: -, the input)"
    )
    apply.add_argument(
        "--key",
        choices=ROUTING_KEYS,
        default=None,
        help="what the rules are about (default: ROUTING_KEY, else what the swarm's settings say)",
    )
    apply.add_argument(
        "--based-on",
        type=common.whole(1),
        default=0,
        metavar="VERSION",
        help="refuse if there is a newer version than this one, which was edited",
    )
    apply.add_argument(
        "--priority",
        choices=PRIORITIES,
        default="medium",
        help="of several edits of one version that meet, the most urgent one wins where "
        "CONFLICT_RESOLUTION is priority (default: medium)",
    )
    common.add_connection(apply, timeout_s=10.0)


def run(args: argparse.Namespace) -> int:
    """Ask, and print."""
    if args.verb == "apply":
        text, key = _read(args.file), _key(args.key)
        return common.run_async(_apply(args, text, key))
    return common.run_async(_routes(args))


# --- applying -------------------------------------------------------------------------------


def _read(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode()
    except OSError as error:
        raise BadInput(f"the rules in {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput("the rules are not UTF-8 text") from error


def _key(given: str | None) -> str:
    key = given if given is not None else os.environ.get("ROUTING_KEY", "").strip()
    if key and key not in ROUTING_KEYS:
        raise BadInput(f"ROUTING_KEY = {key!r} cannot be used; allowed: {', '.join(ROUTING_KEYS)}")
    return key


async def _apply(args: argparse.Namespace, text: str, key: str) -> int:
    async with common.connect(args) as swarm:
        reply = await swarm.set_rules(
            text,
            key=key,
            based_on=args.based_on,
            priority=args.priority,
            timeout_s=args.timeout,
        )
        version = reply.rules_version
        routed = await _until_known(swarm, version)
    problems = [
        f"router {one.router} does not act by rules: start it with ROUTING_ENABLED=1"
        if not one.enabled
        else f"router {one.router} has version {one.version} still; look again with `swarm routes`"
        for one in routed.routers
        if one.version < version
    ]
    problems += [one for one in problems_of(routed) if one.startswith("rule ")]
    if args.json:
        common.print_json({"version": version, "rules": len(routed.rules), "problems": problems})
    else:
        count = len(routed.rules)
        print(f"version {version} of the rules holds: {count} rule{'s' if count != 1 else ''}")
        for problem in problems:
            common.note(f"swarm: {problem}")
    return FAILED if problems else DONE


async def _until_known(swarm: Swarm, version: int) -> Routed:
    """What routers say once all that act by rules know this version, or time is up."""
    give_up_at = time.monotonic() + KNOWN_S
    while True:
        routed = await swarm.routes()
        waiting = [one for one in routed.routers if one.enabled and one.version < version]
        if not waiting or time.monotonic() > give_up_at:
            return routed


# --- looking --------------------------------------------------------------------------------


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
        newest = next(one for one in routed.routers if one.version == version)
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(newest.at))
        origin = f"version {version} of {when} by {newest.by}" if version else "of the settings"
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
