"""`swarm status`: coordinators, shards, counts."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from typing import Any

from swarm.cli import common
from swarm.cli.main import DONE, FAILED
from swarm.core.syncing import UNTOLD
from swarm.errors import SwarmError
from swarm.messages import STATUSES, Beat, Description, ShardStats

#: Statuses that are shown even if no item is in them.
ALWAYS = ("queued", "claimed", "completed", "dead")

#: From this part on, a storage that fills is shown as a problem.
STORAGE_SHOWN = 0.8


def add_parser(subparsers: Any) -> None:
    """`swarm status`."""
    parser = subparsers.add_parser(
        "status",
        help="how the swarm is: coordinators, shards, counts",
        description="Ask a router and every shard.  Exit 1 when anything wants a look: a shard "
        "without an owner, or that did not answer, or whose counts do not add up, a full storage, "
        "a coordinator with more agents than AGENTS_PER_COORDINATOR.",
    )
    common.add_connection(parser, timeout_s=5.0)


def run(args: argparse.Namespace) -> int:
    """Ask, and print."""
    return common.run_async(_status(args))


async def _status(args: argparse.Namespace) -> int:
    async with common.connect(args) as swarm:
        described = await swarm.describe(timeout_s=args.timeout)
        # Shards without an owner are known already: nothing to wait for.
        unowned = _unowned(described)
        answers = {} if unowned else await swarm.stats(timeout_s=args.timeout)
    shards = [answer for answer in answers.values() if isinstance(answer, ShardStats)]
    counts: dict[str, int] = {}
    for shard in shards:
        for state, count in shard.counts.items():
            counts[state] = counts.get(state, 0) + count
    problems = [*_problems_of_coordinators(described, unowned), *_problems_of_shards(answers)]
    if args.json:
        common.print_json(
            {
                "prefix": described.prefix,
                "map": described.map,
                "coordinators": described.coordinators,
                "shards": shards,
                "counts": counts,
                "submitted": sum(shard.submitted for shard in shards),
                "conservation": sum(shard.conservation for shard in shards),
                "archived": sum(shard.archived for shard in shards),
                "log_bytes": sum(shard.log_bytes for shard in shards),
                "live_bytes": sum(shard.live_bytes for shard in shards),
                "problems": problems,
            }
        )
    else:
        _print(described, shards, counts)
        for problem in problems:
            common.note(f"swarm: {problem}")
    return FAILED if problems else DONE


def _unowned(described: Description) -> list[int]:
    owned = {shard for beat in described.coordinators for shard in beat.owns}
    return [number for number in range(described.map.shard_count) if number not in owned]


def _problems_of_coordinators(described: Description, unowned: list[int]) -> list[str]:
    if not described.coordinators:
        return ["no coordinator is alive; start one with `swarm up` or `swarm node`"]
    problems = [
        f"{beat.coordinator} cannot open shard {number}: {why}"
        for beat in described.coordinators
        for number, why in beat.closed.items()
    ]
    problems += [
        f"{beat.coordinator}: the storage is {beat.storage:.0%} full; near its limit submits are "
        "refused until there is room (docs/operations.md)"
        for beat in described.coordinators
        if beat.storage >= STORAGE_SHOWN
    ]
    problems += [
        f"{beat.coordinator}: {beat.sessions} agents are attached, AGENTS_PER_COORDINATOR is "
        f"{beat.agents_wanted}; start more coordinators, or fewer agents"
        for beat in described.coordinators
        if 0 < beat.agents_wanted < beat.sessions
    ]
    problems += [f"{b.coordinator}: {alarm}" for b in described.coordinators for alarm in b.alarms]
    if unowned:
        listed = ", ".join(str(number) for number in unowned)
        problems.append(f"without an owner (a takeover takes a second or two): shards {listed}")
    return problems


def _problems_of_shards(answers: Mapping[int, ShardStats | SwarmError]) -> list[str]:
    problems = []
    for number, answer in answers.items():
        if not isinstance(answer, ShardStats):
            problems.append(f"shard {number}: {answer}")
            continue
        if answer.conservation:
            problems.append(f"shard {number}: its counts are off by {answer.conservation}")
        if answer.foreign:
            problems.append(f"shard {number}: {answer.foreign} foreign entries in its log")
    return problems


# --- for people ---------------------------------------------------------------------------


def _print(described: Description, shards: list[ShardStats], counts: dict[str, int]) -> None:
    console = common.console()
    map_ = described.map
    console.print(
        f"swarm {described.prefix!r}: {map_.shard_count} shards by {map_.shard_key} "
        f"({map_.shard_distribution}), {len(described.coordinators)} coordinators"
    )
    listed = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    console.print(f"items: {listed or 'none'}")
    if shards:
        console.print(_sums(shards))
    console.print()
    console.print(_coordinators(described))
    if shards:
        console.print()
        console.print(_shards(shards))


def _sums(shards: list[ShardStats]) -> str:
    archived = sum(shard.archived for shard in shards)
    logs = size(sum(shard.log_bytes for shard in shards))
    off = sum(shard.conservation for shard in shards)
    adds_up = "all items are accounted for" if not off else f"counts are off by {off}"
    return (
        f"conservation: {off} ({adds_up}); logs: {logs}; finished items in the records only: "
        f"{archived}"
    )


def size(count: int) -> str:
    """Bytes for people."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _coordinators(described: Description) -> Any:
    from rich.table import Table

    table = Table("COORDINATOR", box=None, pad_edge=False, header_style="bold")
    for column in ("SESSIONS", "SHARDS", "STANDBY", "BEHIND", "READY", "IDLE"):
        table.add_column(column, justify="right")
    for beat in described.coordinators:
        table.add_row(
            beat.coordinator + (" (draining)" if beat.draining else ""),
            str(beat.sessions),
            str(len(beat.owns)),
            str(len(beat.standby)),
            _behind(beat.standby.values()),
            *_told(beat),
        )
    return table


def _told(beat: Beat) -> list[str]:
    """Ready items and free slots; not known with COORDINATOR_SYNC_ENABLED=0."""
    if beat.told == UNTOLD:
        return ["-", "-"]
    return [str(sum(counts.values())) for counts in (beat.ready, beat.idle)]


def _behind(standbys: Collection[float]) -> str:
    """By how much the slowest of these standbys may be behind."""
    if not standbys:
        return "-"
    return "unknown" if min(standbys) < 0 else f"{max(standbys):.1f} s"


def _shards(shards: list[ShardStats]) -> Any:
    from rich.table import Table

    # Always in the order of a work life; columns of nothing but zeros tell nothing.
    found = [status for shard in shards for status, count in shard.counts.items() if count]
    states: list[str] = [status for status in STATUSES if status in found or status in ALWAYS]
    states += [status for status in dict.fromkeys(found) if status not in STATUSES]
    table = Table("SHARD", box=None, pad_edge=False, header_style="bold")
    table.add_column("OWNER", no_wrap=True)
    heads = ("EPOCH", "ENTRIES", "LOG", "SUBMITTED", *(state.upper() for state in states))
    for column in (*heads, "ARCHIVED"):
        table.add_column(column, justify="right")
    for shard in sorted(shards, key=lambda shard: shard.shard):
        entries = f"{shard.first_seq}-{shard.as_of}" if shard.first_seq > 1 else str(shard.as_of)
        cells = [shard.shard, shard.coordinator, shard.epoch, entries, size(shard.log_bytes)]
        cells += [shard.submitted, *(shard.counts.get(state, 0) for state in states)]
        table.add_row(*map(str, (*cells, shard.archived)))
    return table
