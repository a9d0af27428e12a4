"""`swarm dead …`: items that will not be tried again, and how to bring them back."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, Any, get_args

from swarm.cli import common
from swarm.cli.main import DONE, FAILED
from swarm.cli.work import LIMIT, count_by_status
from swarm.errors import BadInput, BusError, NoAnswer, Refusal
from swarm.messages import DeathCause, WorkItem
from swarm.subjects import parse_item_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from swarm.sdk.client import Swarm

CAUSES: tuple[str, ...] = get_args(DeathCause)
#: Items brought back at the same time.
AT_ONCE = 16


def add_parser(subparsers: Any) -> None:
    """`swarm dead` and its verbs."""
    parser = subparsers.add_parser("dead", help="dead items: list them, bring them back")
    verbs = parser.add_subparsers(dest="verb", metavar="list|show|replay", required=True)
    list_ = verbs.add_parser(
        "list",
        help="the dead items of all shards",
        description="List dead items.  With --json one object a line.",
    )
    _add_filters(list_)
    list_.add_argument(
        "--limit",
        type=common.whole(0),
        default=LIMIT,
        metavar="N",
        help=f"at most so many (default: {LIMIT}; 0: all)",
    )
    common.add_connection(list_)
    show = verbs.add_parser(
        "show",
        help="one dead item with its history: attempts, agents, errors, deaths, replays",
    )
    show.add_argument("work_item_id", metavar="ID")
    common.add_connection(show)
    replay = verbs.add_parser(
        "replay",
        help="queue dead items again",
        description="Queue dead items again, with all their attempts; they keep their history.  "
        "Name them, or choose them with --all, --type, --cause.  Exit 1 unless all of them were "
        "queued.",
    )
    replay.add_argument("ids", nargs="*", metavar="ID")
    replay.add_argument("--all", action="store_true", help="all dead items")
    _add_filters(replay)
    replay.add_argument("--dry-run", action="store_true", help="only say what would be done")
    common.add_connection(replay)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--type", dest="work_type", type=common.token, metavar="TYPE")
    parser.add_argument("--cause", choices=CAUSES, help="only those that died of this")


def run(args: argparse.Namespace) -> int:
    """Do what was chosen."""
    if args.verb == "list":
        return common.run_async(_list(args))
    if args.verb == "show":
        parse_item_id(args.work_item_id)
        return common.run_async(_show(args))
    chosen = bool(args.all or args.work_type or args.cause)
    if chosen == bool(args.ids):
        raise BadInput("name the items to replay, or choose them: --all, --type TYPE, --cause C")
    for name in args.ids:
        parse_item_id(name)
    return common.run_async(_replay(args))


# --- looking --------------------------------------------------------------------------------


async def _dead(
    swarm: Swarm, args: argparse.Namespace, *, archived: bool
) -> AsyncIterator[WorkItem]:
    work_type = args.work_type or ""
    async for item in swarm.list(
        status="dead", work_type=work_type, archived=archived, timeout_s=args.timeout
    ):
        if args.cause in (None, item.cause):
            yield item


async def _list(args: argparse.Namespace) -> int:
    shown: list[WorkItem] = []
    more, unread = False, ""
    async with common.connect(args) as swarm:
        try:
            async for item in _dead(swarm, args, archived=True):
                if args.limit and len(shown) == args.limit:
                    more = True
                    break
                shown.append(item)
        except BusError as error:
            unread = str(error)
    if args.json:
        for item in shown:
            common.print_json(item)
    elif shown:
        from swarm.cli.showing import DEAD_COLUMNS, print_table

        print_table(shown, DEAD_COLUMNS, "ERROR", lambda item: item.error)
    else:
        common.note("no such dead items")
    if more:
        common.note(f"… and more; --limit 0 shows all, --limit N the first N (now {args.limit})")
    if unread:
        common.note(f"swarm: not all are listed, as the finished records cannot be read: {unread}")
    return FAILED if unread else DONE


async def _show(args: argparse.Namespace) -> int:
    async with common.connect(args) as swarm:
        item = await swarm.get(args.work_item_id, timeout_s=args.timeout)
    if args.json:
        common.print_json(item)
    else:
        from swarm.cli.showing import print_item

        print_item(item)
    if item.status != "dead":
        common.note(f"{item.work_item_id} is {item.status}, not dead")
    return DONE


# --- bringing back --------------------------------------------------------------------------


async def _replay(args: argparse.Namespace) -> int:
    refused = replayed = 0
    async with common.connect(args) as swarm:
        wanted = [item async for item in _wanted(swarm, args)]
        for first in range(0, len(wanted), AT_ONCE):
            part = wanted[first : first + AT_ONCE]
            outcomes = await asyncio.gather(*(_bring_back(swarm, one, args) for one in part))
            for item, outcome in zip(part, outcomes, strict=True):
                _tell(item, outcome, args)
                refused += not isinstance(outcome, str)
                replayed += isinstance(outcome, str)
        gone = 0
        if args.all and not args.work_type and not args.cause:
            # Counted with those that are in the records only.
            gone = (await count_by_status(swarm, args.timeout)).get("dead", 0)
            gone -= len(wanted) if args.dry_run else refused
    verb = "would replay" if args.dry_run else "replayed"
    common.note(f"{verb} {replayed}, refused {refused}")
    if gone > 0:
        common.note(
            f"{gone} more have been dead for so long that they are in the records only: they "
            "cannot be brought back; submit them anew"
        )
    return FAILED if refused else DONE


async def _wanted(
    swarm: Swarm, args: argparse.Namespace
) -> AsyncIterator[WorkItem | tuple[str, Refusal | NoAnswer]]:
    if not args.ids:
        async for item in _dead(swarm, args, archived=False):
            yield item
    for name in dict.fromkeys(args.ids):
        try:
            yield await swarm.get(name, timeout_s=args.timeout)
        except (Refusal, NoAnswer) as error:
            yield name, error


async def _bring_back(
    swarm: Swarm, item: WorkItem | tuple[str, Refusal | NoAnswer], args: argparse.Namespace
) -> str | Refusal | NoAnswer:
    """The item's status then, or why it was not brought back."""
    if not isinstance(item, WorkItem):
        return item[1]
    if item.status != "dead":
        hint = "; `swarm work retry` queues it now" if item.status == "scheduled" else ""
        return Refusal("bad_request", f"it is {item.status}, not dead{hint}")
    if args.dry_run:
        return "dead"
    try:
        return (await swarm.retry(item.work_item_id, timeout_s=args.timeout)).status
    except (Refusal, NoAnswer) as error:
        return error


def _tell(
    item: WorkItem | tuple[str, Refusal | NoAnswer],
    outcome: str | Refusal | NoAnswer,
    args: argparse.Namespace,
) -> None:
    name = item.work_item_id if isinstance(item, WorkItem) else item[0]
    if not isinstance(outcome, str):
        if args.json:
            error = common.describe_error(outcome)
            common.print_json({"work_item_id": name, "error": error})
        else:
            common.note(f"{name}: {outcome}")
        return
    assert isinstance(item, WorkItem), "only items are brought back"
    if args.json:
        common.print_json(
            {
                "work_item_id": name,
                "work_type": item.work_type,
                "cause": item.cause,
                "error": item.error,
                "replays": item.replays + (not args.dry_run),
                "status": outcome,
                "dry_run": args.dry_run,
            }
        )
    else:
        would = "would be queued again" if args.dry_run else outcome
        print(f"{name} {would} ({item.work_type}, {item.cause}: {item.error or 'no reason'})")
