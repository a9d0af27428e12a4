"""`swarm shards access` and `optimize`: who uses which shard from where, and what follows."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import msgspec

from swarm.cli import common
from swarm.cli.main import DONE, FAILED
from swarm.core import affinity, rebalance
from swarm.errors import NoAnswer, Refusal
from swarm.messages import ENDED, Description, ShardStats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from swarm.core.rebalance import PlannedMove
    from swarm.sdk.client import Swarm

#: What a coordinator may have over an even part of the load, and how many shards move.
SLACK = 0.2
MOVES_MAX = 8


def add_verbs(verbs: Any, add_moving: Callable[[argparse.ArgumentParser, int], None]) -> None:
    """Both verbs; `add_moving` adds the options of all that move shards."""
    access = verbs.add_parser(
        "access",
        help="who uses which shard, and from where",
        description="Show for each shard where the agents are attached that its items went to, "
        "and which requests its coordinator brought itself, over the last minutes, as its owner "
        "has counted.  Exit 1 if a shard does not answer.",
        argument_default=argparse.SUPPRESS,
    )
    common.add_connection(access)
    optimize = verbs.add_parser(
        "optimize",
        help="move shards to the coordinators whose agents use them most",
        description="Hand shards over so that most items go to agents of their shard's own "
        "coordinator, as far as nobody gets too much to do.  Where a shard does not fit, two are "
        "exchanged.  Exit 1 if a shard could not be moved.",
        argument_default=argparse.SUPPRESS,
    )
    add_moving(optimize, MOVES_MAX)
    optimize.add_argument(
        "--slack",
        type=common.part,
        default=SLACK,
        metavar="PART",
        help=f"give nobody more than so much over its even part (default: {SLACK:g})",
    )
    common.add_connection(optimize)


async def find_owners(swarm: Swarm, timeout_s: float) -> tuple[Description, dict[int, ShardStats]]:
    """What the shards say; refuses if one of them has no owner now."""
    described = await swarm.describe(timeout_s=timeout_s)
    answers = await swarm.stats(timeout_s=timeout_s)
    found = {shard: one for shard, one in answers.items() if isinstance(one, ShardStats)}
    stay = any(not beat.draining for beat in described.coordinators)
    if not stay or len(found) < described.map.shard_count:
        raise Refusal(
            "unavailable",
            "some shards have no owner: nothing is moved while they are taken over",
            retry=True,
        )
    return described, found


def unfinished(stats: ShardStats) -> int:
    """Items that have not ended."""
    return sum(count for status, count in stats.counts.items() if status not in ENDED)


async def carry_out(swarm: Swarm, moves: Iterable[PlannedMove], timeout_s: float) -> list[str]:
    """Make the moves one after the other; the first that fails ends it, and is told."""
    for move in moves:
        try:
            await swarm.move(move.shard, move.source, move.to, timeout_s=timeout_s)
        except (Refusal, NoAnswer) as error:
            # The plan is not that of this swarm any more.
            return [f"shard {move.shard} stays at {move.source}: {error}"]
    return []


def finish(args: argparse.Namespace, plan: Any, failed: list[str]) -> int:
    """Say what became of a plan."""
    if args.json:
        common.print_json({"plan": plan, "done": not args.dry_run, "failed": failed})
    elif args.dry_run and plan.moves:
        common.note("nothing was done; without --dry-run it is")
    for line in failed:
        common.note(f"swarm: {line}; look again")
    return FAILED if failed else DONE


# --- access -------------------------------------------------------------------------------------


class AccessRow(msgspec.Struct):
    """One shard as it is shown."""

    shard: int
    owner: str
    #: The figures are of the last so many seconds.
    seconds: float = 0.0
    #: Items given to agents, those of them to agents of the owner, and by coordinator.
    assigned: int = 0
    assigned_locally: int = 0
    by_coordinator: dict[str, int] = {}
    #: Agent sessions that got them, by coordinator.
    sessions: dict[str, int] = {}
    #: Items claimed by requests to the shard itself.
    claimed: int = 0
    #: Requests and submitted items that its own coordinator brought, and that came otherwise.
    local: int = 0
    remote: int = 0
    error: str = ""


def _row(shard: int, stats: ShardStats | Refusal | NoAnswer) -> AccessRow:
    if not isinstance(stats, ShardStats):
        return AccessRow(shard, "", error=str(stats))
    usage = stats.usage
    return AccessRow(
        shard,
        stats.coordinator,
        usage.seconds,
        sum(usage.assigned.values()),
        usage.assigned.get(stats.coordinator, 0),
        usage.assigned,
        usage.sessions,
        usage.claimed,
        usage.local,
        usage.remote,
    )


async def access(args: argparse.Namespace) -> int:
    """`swarm shards access`."""
    async with common.connect(args) as swarm:
        answers = await swarm.stats(timeout_s=args.timeout)
    rows = [_row(shard, stats) for shard, stats in sorted(answers.items())]
    assigned = sum(row.assigned for row in rows)
    locally = sum(row.assigned_locally for row in rows)
    part = round(locally / assigned, 4) if assigned else None
    if args.json:
        common.print_json({"shards": rows, "assigned": assigned, "assigned_locally": part})
    else:
        _print_access(rows, assigned, part)
    silent = [row for row in rows if row.error]
    for row in silent:
        common.note(f"swarm: shard {row.shard} does not answer: {row.error}")
    return FAILED if silent else DONE


def _print_access(rows: list[AccessRow], assigned: int, part: float | None) -> None:
    from rich.table import Table

    table = Table("SHARD", "OWNER", box=None, pad_edge=False, header_style="bold")
    for column in ("ASSIGNED", "LOCALLY", "CLAIMED", "LOCAL", "REMOTE"):
        table.add_column(column, justify="right")
    table.add_column("AGENTS (SESSIONS) AT")
    for row in rows:
        locally = f"{row.assigned_locally / row.assigned:.0%}" if row.assigned else "-"
        figures = (row.assigned, locally, row.claimed, row.local, row.remote)
        by = sorted(row.by_coordinator.items(), key=lambda one: (-one[1], one[0]))
        where = ", ".join(f"{name} {n} ({row.sessions.get(name, 0)})" for name, n in by)
        owner = row.owner or "no answer"
        table.add_row(str(row.shard), owner, *map(str, figures), where)
    console = common.console()
    console.print(table)
    longest = max((row.seconds for row in rows), default=0.0)
    if part is None:
        console.print(f"no item was assigned to an attached agent in the last {longest:.0f} s")
        return
    console.print(
        f"{part:.0%} of {assigned} assignments in the last {longest:.0f} s went to agents of the "
        "shard's own coordinator"
    )


# --- optimize -----------------------------------------------------------------------------------


async def optimize(args: argparse.Namespace) -> int:
    """`swarm shards optimize`."""
    async with common.connect(args) as swarm:
        described, found = await find_owners(swarm, args.timeout)
        plan = affinity.optimize(
            {shard: stats.coordinator for shard, stats in found.items()},
            {shard: stats.usage.assigned for shard, stats in found.items()},
            rebalance.loads({shard: unfinished(stats) for shard, stats in found.items()}),
            [beat.coordinator for beat in described.coordinators if not beat.draining],
            args.slack,
            args.moves,
        )
        if not args.json:
            _print_plan(plan, found)
        moves = [] if args.dry_run else plan.moves
        failed = await carry_out(swarm, moves, args.timeout)
    return finish(args, plan, failed)


def _print_plan(plan: affinity.Local, found: dict[int, ShardStats]) -> None:
    console = common.console()
    seen = sum(sum(stats.usage.assigned.values()) for stats in found.values())
    if not seen:
        console.print("no shard has given items to attached agents lately: nothing to go by")
        return
    for move in plan.moves:
        by = found[move.shard].usage.assigned
        console.print(
            f"shard {move.shard}: {move.source} -> {move.to} (of {sum(by.values())} assignments, "
            f"{by.get(move.to, 0)} there, {by.get(move.source, 0)} here)"
        )
    if not plan.moves:
        console.print(f"{plan.before:.0%} of {seen} assignments are local: no move is worth it")
        return
    console.print(
        f"{plan.after:.0%} of {seen} assignments would be local instead of {plan.before:.0%}; "
        f"the most loaded then has {plan.load_after:.2f} of an even part instead of "
        f"{plan.load_before:.2f}"
    )
