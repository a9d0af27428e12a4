"""`swarm work get|list`: look at work items."""

from __future__ import annotations

import argparse
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Literal, get_args

from swarm.cli import common
from swarm.cli.main import DONE
from swarm.messages import ShardStats, Status, WorkItem
from swarm.subjects import parse_item_id

if TYPE_CHECKING:
    from swarm.sdk.client import Swarm

#: Items that a list shows, unless told otherwise.
LIMIT = 100
STATES: tuple[str, ...] = get_args(Status)


def add_parser(subparsers: Any) -> None:
    """`swarm work` and its two verbs."""
    parser = subparsers.add_parser("work", help="look at work items")
    verbs = parser.add_subparsers(dest="verb", metavar="get|list", required=True)
    get = verbs.add_parser("get", help="all about one work item")
    get.add_argument("work_item_id", metavar="ID")
    common.add_connection(get)
    list_ = verbs.add_parser(
        "list",
        help="the items, oldest first in each shard",
        description="List work items.  With --json one object a line.",
    )
    list_.add_argument("--state", choices=STATES, help="only these")
    list_.add_argument("--type", dest="work_type", type=common.token, metavar="TYPE")
    list_.add_argument("--count", action="store_true", help="print only how many there are")
    list_.add_argument(
        "--limit",
        type=common.whole(0),
        default=LIMIT,
        metavar="N",
        help=f"at most so many (default: {LIMIT}; 0: all)",
    )
    common.add_connection(list_)


def run(args: argparse.Namespace) -> int:
    """Do what was chosen."""
    if args.verb == "get":
        parse_item_id(args.work_item_id)
        return common.run_async(_get(args))
    return common.run_async(_count(args) if args.count else _list(args))


async def _get(args: argparse.Namespace) -> int:
    async with common.connect(args) as swarm:
        item = await swarm.get(args.work_item_id, timeout_s=args.timeout)
    if args.json:
        common.print_json(item)
    else:
        _print_item(item)
    return DONE


async def _count(args: argparse.Namespace) -> int:
    async with common.connect(args) as swarm:
        number = await _counted(swarm, args)
    if args.json:
        common.print_json({"count": number})
    else:
        print(number)
    return DONE


async def _counted(swarm: Swarm, args: argparse.Namespace) -> int:
    if args.work_type is None:
        # The shards keep these counts; no need to page through the items.
        shards = await swarm.stats(timeout_s=args.timeout)
        for answer in shards.values():
            if not isinstance(answer, ShardStats):
                raise answer
        return sum(
            count
            for shard in shards.values()
            if isinstance(shard, ShardStats)
            for state, count in shard.counts.items()
            if args.state in (None, state)
        )
    number = 0
    async for _ in _found(swarm, args):
        number += 1
    return number


def _found(swarm: Swarm, args: argparse.Namespace) -> AsyncIterator[WorkItem]:
    status: Status | Literal[""] = args.state or ""
    return swarm.list(status=status, work_type=args.work_type or "", timeout_s=args.timeout)


async def _list(args: argparse.Namespace) -> int:
    shown: list[WorkItem] = []
    more = False
    async with common.connect(args) as swarm:
        async for item in _found(swarm, args):
            if args.limit and len(shown) == args.limit:
                more = True
                break
            shown.append(item)
    if args.json:
        for item in shown:
            common.print_json(item)
    elif shown:
        _print_items(shown)
    else:
        common.note("no such work items")
    if more:
        common.note(f"… and more; --limit 0 shows all, --limit N the first N (now {args.limit})")
    return DONE


# --- for people ----------------------------------------------------------------------------


def _print_items(items: list[WorkItem]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("ID", "TYPE", "PRIORITY", "STATE", "%", "AGENT", "AGE"):
        table.add_column(column, no_wrap=True)
    table.add_column("DESCRIPTION", overflow="ellipsis", no_wrap=True)
    now = time.time()
    for item in items:
        table.add_row(
            item.work_item_id,
            item.work_type,
            item.priority,
            item.status,
            f"{item.progress:.0f}" if item.agent_id else "",
            item.agent_id,
            _age(now - item.submitted_at),
            item.description.replace("\n", " "),
        )
    common.console().print(table)


def _print_item(item: WorkItem) -> None:
    rows = {
        "id": item.work_item_id,
        "type": item.work_type,
        "state": item.status,
        "priority": item.priority,
        "description": item.description,
        "team": item.team,
        "labels": ", ".join(f"{name}={value}" for name, value in item.labels.items()),
        "story points": "" if item.story_points is None else str(item.story_points),
        "submitted": _when(item.submitted_at),
        "agent": item.agent_id,
        "attempt": str(item.attempt) if item.attempt else "",
        "claimed": _when(item.claimed_at),
        "progress": f"{item.progress:g} % {item.note}".strip() if item.agent_id else "",
        "finished": _when(item.finished_at),
        "payload": _json_text(item.payload),
        "result": _json_text(item.result),
        "error": item.error,
    }
    for name, value in rows.items():
        if value:
            print(f"{name:<13}{value}")


def _json_text(raw: object) -> str:
    text = bytes(memoryview(raw)).decode()  # type: ignore[arg-type]
    return "" if text == "null" else text


def _when(wall: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall)) if wall else ""


def _age(age_s: float) -> str:
    age_s = max(age_s, 0.0)
    for unit, size_s in (("d", 86_400), ("h", 3600), ("m", 60)):
        if age_s >= size_s:
            return f"{age_s / size_s:.0f}{unit}"
    return f"{age_s:.0f}s"
