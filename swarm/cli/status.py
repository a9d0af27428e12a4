"""`swarm status`: coordinators, shards, counts."""

from __future__ import annotations

import argparse
from typing import Any

from swarm.cli import common
from swarm.cli.main import DONE, FAILED
from swarm.messages import Description, ShardStats


def add_parser(subparsers: Any) -> None:
    """`swarm status`."""
    parser = subparsers.add_parser(
        "status",
        help="how the swarm is: coordinators, shards, counts",
        description="Ask a router and every shard.  Exit 1 when a shard has no owner, did not "
        "answer, or its counts do not add up.",
    )
    common.add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Ask, and print."""
    return common.run_async(_status(args))


async def _status(args: argparse.Namespace) -> int:
    async with common.connect(args) as swarm:
        described = await swarm.describe(timeout_s=args.timeout)
        owned = {shard for beat in described.coordinators for shard in beat.owns}
        unowned = [n for n in range(described.map.shard_count) if n not in owned]
        shards = [] if unowned else await swarm.stats(timeout_s=args.timeout)
    counts: dict[str, int] = {}
    for shard in shards:
        for state, count in shard.counts.items():
            counts[state] = counts.get(state, 0) + count
    problems = _problems(described, shards, unowned)
    if args.json:
        common.print_json(
            {
                "prefix": described.prefix,
                "map": described.map,
                "coordinators": described.coordinators,
                "shards": shards,
                "counts": counts,
                "submitted": sum(shard.submitted for shard in shards),
                "problems": problems,
            }
        )
    else:
        _print(described, shards, counts)
        for problem in problems:
            common.note(f"swarm: {problem}")
    return FAILED if problems else DONE


def _problems(described: Description, shards: list[ShardStats], unowned: list[int]) -> list[str]:
    problems = []
    if not described.coordinators:
        problems.append("no coordinator is alive; start one with `swarm up` or `swarm node`")
    elif unowned:
        listed = ", ".join(str(number) for number in unowned)
        problems.append(f"without an owner (a takeover takes about a second): shards {listed}")
    for beat in described.coordinators:
        for number, why in beat.closed.items():
            problems.append(f"{beat.coordinator} cannot open shard {number}: {why}")
    for shard in shards:
        if shard.conservation:
            problems.append(f"shard {shard.shard}: its counts are off by {shard.conservation}")
        if shard.foreign:
            problems.append(f"shard {shard.shard}: {shard.foreign} foreign entries in its log")
    return problems


# --- for people ---------------------------------------------------------------------------


def _print(described: Description, shards: list[ShardStats], counts: dict[str, int]) -> None:
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    map_ = described.map
    console.print(
        f"swarm {described.prefix!r}: {map_.shard_count} shards by {map_.shard_key} "
        f"({map_.shard_distribution}), {len(described.coordinators)} coordinators"
    )
    listed = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    console.print(f"items: {listed or 'none'}")
    console.print()
    console.print(_coordinators(described))
    if shards:
        console.print()
        console.print(_shards(shards))


def _coordinators(described: Description) -> Any:
    from rich.table import Table

    table = Table("COORDINATOR", box=None, pad_edge=False, header_style="bold")
    for column in ("SESSIONS", "SHARDS", "READY", "IDLE"):
        table.add_column(column, justify="right")
    for beat in described.coordinators:
        table.add_row(
            beat.coordinator + (" (draining)" if beat.draining else ""),
            str(beat.sessions),
            str(len(beat.owns)),
            str(sum(beat.ready.values())),
            str(sum(beat.idle.values())),
        )
    return table


def _shards(shards: list[ShardStats]) -> Any:
    from rich.table import Table

    states = list(dict.fromkeys(state for shard in shards for state in shard.counts))
    table = Table("SHARD", "OWNER", box=None, pad_edge=False, header_style="bold")
    for column in ("EPOCH", "ENTRIES", "SUBMITTED", *(state.upper() for state in states)):
        table.add_column(column, justify="right")
    for shard in sorted(shards, key=lambda shard: shard.shard):
        numbers = [shard.epoch, shard.as_of, shard.submitted]
        numbers += [shard.counts.get(state, 0) for state in states]
        table.add_row(str(shard.shard), shard.coordinator, *(str(number) for number in numbers))
    return table
