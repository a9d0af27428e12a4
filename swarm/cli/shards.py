"""`swarm shards …`: where items are, how evenly; more shards or fewer; other owners."""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from swarm.cli import common, placing
from swarm.cli.main import DONE, FAILED
from swarm.core import rebalance
from swarm.core.sharding import accepting, hot_shards
from swarm.errors import NoAnswer, Refusal
from swarm.messages import PRIORITIES, Description, Round, ShardMap, ShardStats

if TYPE_CHECKING:
    from swarm.sdk.client import Swarm

SHARDS_MAX = 1024
#: A shard with so many times its even part of the submitted items is shown as hot.
HOT = 2.0
#: Part over an even load from which on shards move, unless told otherwise.
THRESHOLD = 0.1
MOVES_MAX = 8
WATCH_S = 2.0
#: How long `swarm shards` waits for the leader, which it can do without.
ASK_LEADER_S = 2.0

#: Part of the keys that get another shard, from so many to so many.
_MOVING: dict[str, Callable[[int, int], float]] = {
    "consistent_hash": lambda old, new: abs(new - old) / max(new, old),
    "round_robin": lambda old, new: 1 - min(new, old) / math.lcm(new, old),
}


def add_parser(subparsers: Any) -> None:
    """`swarm shards` and its verbs."""
    parser = subparsers.add_parser(
        "shards",
        help="where items are, how evenly; change it",
        description="Show every shard: owner, items, its part of all that was submitted.",
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=common.duration,
        const=WATCH_S,
        metavar="TIME",
        help=f"show it again every TIME (default: {WATCH_S:g}s), until interrupted",
    )
    common.add_connection(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="resize|rebalance|access|optimize")
    resize = verbs.add_parser(
        "resize",
        help="spread new items over so many shards from here on",
        description="Change the number of shards while the swarm works.  Items stay where they "
        "are; with fewer shards the last ones take nothing new and end what they have.",
        argument_default=argparse.SUPPRESS,
    )
    resize.add_argument("shards", type=common.whole(1, SHARDS_MAX), metavar="N")
    resize.add_argument(
        "--priority",
        choices=PRIORITIES,
        default="medium",
        help="of several changes of one map that meet, the most urgent one wins where "
        "CONFLICT_RESOLUTION is priority (default: medium)",
    )
    _add_dry_run(resize)
    common.add_connection(resize)
    rebalance_ = verbs.add_parser(
        "rebalance",
        help="move shards so that all coordinators have about the same to do",
        description="Hand shards over from coordinators that have more than their part to those "
        "that have least.  Half of a shard's load is for being there, half goes by its unfinished "
        "items.  Exit 1 if a shard could not be moved.",
        argument_default=argparse.SUPPRESS,
    )
    _add_moving(rebalance_, MOVES_MAX)
    rebalance_.add_argument(
        "--threshold",
        type=common.part,
        default=THRESHOLD,
        metavar="PART",
        help=f"leave a coordinator with so much over its even part (default: {THRESHOLD:g})",
    )
    common.add_connection(rebalance_)
    placing.add_verbs(verbs, _add_moving)


def _add_moving(parser: argparse.ArgumentParser, moves_max: int) -> None:
    _add_dry_run(parser)
    parser.add_argument(
        "--moves",
        type=common.whole(1),
        default=moves_max,
        metavar="N",
        help=f"move at most so many shards (default: {moves_max})",
    )


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    text = "only say what would be done"
    parser.add_argument("--dry-run", action="store_true", default=False, help=text)


def run(args: argparse.Namespace) -> int:
    """Do what was chosen."""
    if args.verb == "resize":
        return common.run_async(_resize(args))
    verbs = {"rebalance": _rebalance, "access": placing.access, "optimize": placing.optimize}
    return common.run_async(verbs.get(args.verb, _show)(args))


# --- looking --------------------------------------------------------------------------------


class Row(msgspec.Struct):
    """One shard as it is shown."""

    shard: int
    owner: str
    #: ``open``, ``draining`` (takes nothing new), ``drained`` (has nothing to do either),
    #: ``no answer``.
    state: str
    unfinished: int = 0
    ready: int = 0
    submitted: int = 0
    #: Of all that was submitted, as a multiple of an even part.
    load: float = 0.0


async def _show(args: argparse.Namespace) -> int:
    async with common.connect(args) as swarm:
        while True:
            described, rows = await _look(swarm, args.timeout)
            _print(args, described, rows, await _last_round(swarm, described))
            common.flush()
            if args.watch is None:
                return FAILED if any(row.state == "no answer" for row in rows) else DONE
            await asyncio.sleep(args.watch)


async def _look(swarm: Swarm, timeout_s: float) -> tuple[Description, list[Row]]:
    described = await swarm.describe(timeout_s=timeout_s)
    answers = await swarm.stats(timeout_s=timeout_s)
    total = sum(one.submitted for one in answers.values() if isinstance(one, ShardStats))
    even = total / accepting(described.map)
    rows = []
    for shard, stats in sorted(answers.items()):
        if not isinstance(stats, ShardStats):
            rows.append(Row(shard, "", "no answer"))
            continue
        left = placing.unfinished(stats)
        state = "open"
        if shard >= accepting(described.map):
            state = "draining" if left else "drained"
        load = round(stats.submitted / even, 3) if even else 0.0
        ready = sum(stats.ready.values())
        rows.append(Row(shard, stats.coordinator, state, left, ready, stats.submitted, load))
    return described, rows


async def _last_round(swarm: Swarm, described: Description) -> Round | None:
    """The latest round of rebalancing, if there was any and the leader answers."""
    if not any(beat.leads and beat.rounds for beat in described.coordinators):
        return None
    try:
        return (await swarm.cluster(timeout_s=ASK_LEADER_S)).round
    except (NoAnswer, Refusal):
        return None  # it is being replaced; shards are shown all the same


def _print(
    args: argparse.Namespace, described: Description, rows: list[Row], last: Round | None
) -> None:
    map_ = described.map
    hottest = max(rows, key=lambda row: row.load)
    warning = hot_shards(map_.shard_key, map_.shard_distribution, accepting(map_))
    if args.json:
        shown = {"map": map_, "shards": rows, "hottest": hottest.load, "warning": warning}
        common.print_json({**shown, "last_round": last})
        return
    from rich.table import Table

    table = Table("SHARD", "OWNER", "STATE", box=None, pad_edge=False, header_style="bold")
    for column in ("READY", "UNFINISHED", "SUBMITTED", "LOAD"):
        table.add_column(column, justify="right")
    for row in rows:
        figures = (row.ready, row.unfinished, row.submitted, f"{row.load:.2f}")
        table.add_row(str(row.shard), row.owner, row.state, *map(str, figures))
    console = common.console()
    console.print(
        f"map {map_.version}: new items go to {accepting(map_)} of {map_.shard_count} shards by "
        f"{map_.shard_key} ({map_.shard_distribution})"
    )
    console.print(table)
    if last is not None:
        _print_round(last)
    if hottest.load >= HOT:
        common.note(
            f"swarm: shard {hottest.shard} got {hottest.load:.1f} times its even part; few keys, "
            "or a key with most of the items?"
        )
    if warning:
        common.note(f"swarm: {warning}")


def _print_round(last: Round) -> None:
    console = common.console()
    at = datetime.fromtimestamp(last.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    console.print(
        f"last round of rebalancing ({last.number}, {at}): {last.why}; planned {last.after:g}"
    )
    for move in last.moves:
        console.print(f"  shard {move.shard}: {move.source} -> {move.to}")
    if last.failed:
        console.print(f"  no more than that: {last.failed}")


# --- more shards, or fewer --------------------------------------------------------------------


async def _resize(args: argparse.Namespace) -> int:
    async with common.connect(args) as swarm:
        # The leader's: a router may not know the latest one yet.
        before = (await swarm.cluster(timeout_s=args.timeout)).map
        plan = _resize_plan(before, args.shards)
        if not args.json:
            for line in plan["steps"]:
                common.console().print(line)
        if not args.dry_run and plan["from"] != plan["to"]:
            reply = await swarm.resize(
                args.shards,
                based_on=before.version,
                priority=args.priority,
                timeout_s=args.timeout,
            )
            plan["map_version"] = reply.map_version
        plan["done"] = not args.dry_run
    if args.json:
        common.print_json(plan)
    elif args.dry_run:
        common.note("nothing was done; without --dry-run it is")
    else:
        common.console().print(f"done: map {plan.get('map_version', before.version)} holds")
    return DONE


def _resize_plan(before: ShardMap, wanted: int) -> dict[str, Any]:
    now, count = accepting(before), before.shard_count
    moving = _MOVING.get(before.shard_distribution)
    part = moving(now, wanted) if moving is not None else None
    steps = [f"new items go to {wanted} shards instead of {now}"]
    if wanted == now:
        steps = [f"new items go to {now} shards already: there is nothing to do"]
    if wanted > count:
        steps.append(f"{wanted - count} new shards are opened ({count} to {wanted - 1})")
    if wanted < count:
        steps.append(f"shards {wanted} to {count - 1} take nothing new, and end what they have")
    if part:
        steps.append(f"about {part:.0%} of the keys get another shard; no item moves")
    elif part is None and wanted != now:
        steps.append("keys get other shards as the ranges shift; no item moves")
    return {"from": now, "to": wanted, "moved_keys": part, "steps": steps}


# --- other owners -------------------------------------------------------------------------------


async def _rebalance(args: argparse.Namespace) -> int:
    async with common.connect(args) as swarm:
        described, found = await placing.find_owners(swarm, args.timeout)
        plan = rebalance.plan(
            {shard: stats.coordinator for shard, stats in found.items()},
            rebalance.loads({shard: placing.unfinished(stats) for shard, stats in found.items()}),
            [beat.coordinator for beat in described.coordinators if not beat.draining],
            args.threshold,
            args.moves,
        )
        if not args.json:
            _print_plan(plan)
        moves = [] if args.dry_run else plan.moves
        failed = await placing.carry_out(swarm, moves, args.timeout)
    return placing.finish(args, plan, failed)


def _print_plan(plan: rebalance.Plan) -> None:
    console = common.console()
    if not plan.moves:
        console.print(f"even enough: the most loaded has {plan.before:.2f} of an even part")
        return
    for move in plan.moves:
        console.print(
            f"shard {move.shard}: {move.source} -> {move.to} ({move.load:.1%} of the load)"
        )
    console.print(
        f"the most loaded then has {plan.after:.2f} of an even part instead of {plan.before:.2f}"
    )
