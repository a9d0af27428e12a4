"""`swarm work …`: look at work items, and say what is to become of them."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

from swarm.cli import common
from swarm.cli.main import DONE, FAILED
from swarm.errors import BusError, NoAnswer, Refusal
from swarm.messages import ENDED, PRIORITIES, ShardStats, Status, WorkItem
from swarm.subjects import parse_item_id

if TYPE_CHECKING:
    from swarm.messages import Ack
    from swarm.sdk.client import Swarm

#: Items that a list shows, unless told otherwise.
LIMIT = 100
STATES: tuple[str, ...] = get_args(Status)

Act = Callable[["Swarm", str], Awaitable["Ack"]]


def add_parser(subparsers: Any) -> None:
    """`swarm work` and its verbs."""
    parser = subparsers.add_parser("work", help="look at work items, and manage them")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    get = verbs.add_parser("get", help="all about one work item")
    get.add_argument("work_item_id", metavar="ID")
    common.add_connection(get)
    _add_list(verbs)
    _add_watch(verbs)
    _add_acts(verbs)


def _add_list(verbs: Any) -> None:
    list_ = verbs.add_parser(
        "list",
        help="the items, oldest first in each shard",
        description="List work items.  With --json one object a line.",
    )
    list_.add_argument("--status", "--state", dest="status", choices=STATES, help="only these")
    list_.add_argument("--type", dest="work_type", type=common.token, metavar="TYPE")
    list_.add_argument("--count", action="store_true", help="print only how many there are")
    list_.add_argument(
        "--archived",
        action="store_true",
        help="list finished items, too, that are in the records only "
        "(without this, only if --status is completed, dead or cancelled)",
    )
    list_.add_argument(
        "--limit",
        type=common.whole(0),
        default=LIMIT,
        metavar="N",
        help=f"at most so many (default: {LIMIT}; 0: all)",
    )
    common.add_connection(list_)


def _add_watch(verbs: Any) -> None:
    watch = verbs.add_parser(
        "watch",
        help="show an item as it is, and again whenever it changes, until it has ended",
        description="Print a line for every change of these items until all have ended.  Exit 1 "
        "unless all completed.  With --json the whole item, one object a line.",
    )
    watch.add_argument("ids", nargs="+", metavar="ID")
    watch.add_argument(
        "--for",
        dest="for_s",
        type=common.duration,
        metavar="TIME",
        help="how long to watch (default: until they have ended)",
    )
    common.add_connection(watch)


def _add_acts(verbs: Any) -> None:
    cancel = verbs.add_parser(
        "cancel",
        help="these items are not wanted any more",
        description="Cancel items.  One that is held ends when its agent stops, or completes it "
        "within the grace time; after that the item is cancelled whatever its agent does.",
    )
    cancel.add_argument("ids", nargs="+", metavar="ID")
    cancel.add_argument("--reason", default="", help="for people, and the agent")
    cancel.add_argument(
        "--grace",
        dest="grace_s",
        type=common.duration,
        default=10.0,
        metavar="TIME",
        help="how long its agent has to finish or tidy up (default: 10s; 0: no time)",
    )
    common.add_connection(cancel)
    retry = verbs.add_parser(
        "retry", help="queue dead items again, or scheduled and blocked ones now"
    )
    retry.add_argument("ids", nargs="+", metavar="ID")
    common.add_connection(retry)
    prioritize = verbs.add_parser("prioritize", help="make items more, or less, urgent")
    prioritize.add_argument("priority", choices=PRIORITIES, metavar="|".join(PRIORITIES))
    prioritize.add_argument("ids", nargs="+", metavar="ID")
    common.add_connection(prioritize)
    answer = verbs.add_parser(
        "answer",
        help="give a waiting item what it waits for",
        description="Give a waiting item what it waits for: it is queued again, for any agent.  "
        "The first answer counts.",
    )
    answer.add_argument("ids", nargs=1, metavar="ID")
    answer.add_argument("answer", metavar="JSON", help="any JSON, or @FILE")
    answer.add_argument(
        "--wait",
        type=common.whole(0),
        default=0,
        metavar="N",
        help="which time of waiting is meant, as `work get` shows it (default: whichever it is)",
    )
    common.add_connection(answer)


def run(args: argparse.Namespace) -> int:
    """Do what was chosen."""
    for name in getattr(args, "ids", None) or [getattr(args, "work_item_id", "0-1")]:
        parse_item_id(name)
    if args.verb == "get":
        return common.run_async(_get(args))
    if args.verb == "list":
        return common.run_async(_count(args) if args.count else _list(args))
    if args.verb == "watch":
        return common.run_async(_watch(args))
    return common.run_async(_act_on_all(args, _ACTS[args.verb](args)))


# --- looking --------------------------------------------------------------------------------


async def _get(args: argparse.Namespace) -> int:
    async with common.connect(args) as swarm:
        item = await swarm.get(args.work_item_id, timeout_s=args.timeout)
    if args.json:
        common.print_json(item)
    else:
        from swarm.cli.showing import print_item

        print_item(item)
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
        # The shards keep these counts, of archived items, too; no need to page through them.
        counts = await count_by_status(swarm, args.timeout)
        return sum(count for status, count in counts.items() if args.status in (None, status))
    number = 0
    async for _ in _found(swarm, args, _with_archived(args)):
        number += 1
    return number


async def count_by_status(swarm: Swarm, timeout_s: float) -> dict[str, int]:
    """Items of the whole swarm; raises what a shard that does not answer raises."""
    counts: dict[str, int] = {}
    for answer in (await swarm.stats(timeout_s=timeout_s)).values():
        if not isinstance(answer, ShardStats):
            raise answer
        for status, count in answer.counts.items():
            counts[status] = counts.get(status, 0) + count
    return counts


def _with_archived(args: argparse.Namespace) -> bool:
    return args.archived or args.status in ENDED


def _found(swarm: Swarm, args: argparse.Namespace, archived: bool) -> AsyncIterator[WorkItem]:
    status: Status | Literal[""] = args.status or ""
    return swarm.list(
        status=status, work_type=args.work_type or "", archived=archived, timeout_s=args.timeout
    )


async def _list(args: argparse.Namespace) -> int:
    shown: list[WorkItem] = []
    more, unread = False, ""
    async with common.connect(args) as swarm:
        try:
            async for item in _found(swarm, args, _with_archived(args)):
                if args.limit and len(shown) == args.limit:
                    more = True
                    break
                shown.append(item)
        except BusError as error:
            if not _with_archived(args):
                raise
            unread = str(error)
    if args.json:
        for item in shown:
            common.print_json(item)
    elif shown:
        from swarm.cli.showing import print_items

        print_items(shown)
    else:
        common.note("no such work items")
    if more:
        common.note(f"… and more; --limit 0 shows all, --limit N the first N (now {args.limit})")
    if unread:
        common.note(f"swarm: not all are listed, as the finished records cannot be read: {unread}")
    return FAILED if unread else DONE


async def _watch(args: argparse.Namespace) -> int:
    ends: list[str] = []

    async def watch(name: str) -> None:
        status = ""
        async for item in swarm.watch(name, timeout=args.for_s):
            _show_change(item, args.json)
            status = item.status
        ends.append(status)

    async with common.connect(args) as swarm:
        watching = [asyncio.create_task(watch(name)) for name in dict.fromkeys(args.ids)]
        try:
            await asyncio.gather(*watching)
        finally:
            for task in watching:
                task.cancel()
    return DONE if all(status == "completed" for status in ends) else FAILED


def _show_change(item: WorkItem, as_json: bool) -> None:
    import time

    if as_json:
        common.print_json(item)
        common.flush()
        return
    from swarm.cli.showing import json_text, pause

    now = time.time()
    words = [time.strftime("%H:%M:%S"), item.work_item_id, item.status]
    if item.status == "claimed":
        words += [f"by {item.agent_id}", f"{item.progress:.0f} %", item.note]
        words += ["(asked to stop)"] if item.ask is not None else []
    words += [text for text in (item.cause, pause(item, now), item.error) if text]
    if item.status in ("queued", "scheduled") and item.history:
        words.append(f"(attempt {item.attempt} {item.history[-1].how}: {item.history[-1].error})")
    if item.status == "completed":
        words.append(json_text(item.result))
    print(" ".join(word for word in words if word), flush=True)


# --- acting ---------------------------------------------------------------------------------


def _cancel(args: argparse.Namespace) -> Act:
    return lambda swarm, name: swarm.cancel(
        name, args.reason, grace_s=args.grace_s, timeout_s=args.timeout
    )


def _retry(args: argparse.Namespace) -> Act:
    return lambda swarm, name: swarm.retry(name, timeout_s=args.timeout)


def _prioritize(args: argparse.Namespace) -> Act:
    return lambda swarm, name: swarm.prioritize(name, args.priority, timeout_s=args.timeout)


def _answer(args: argparse.Namespace) -> Act:
    answer = common.read_json(args.answer, "the answer")
    return lambda swarm, name: swarm.answer(name, answer, wait=args.wait, timeout_s=args.timeout)


_ACTS: dict[str, Callable[[argparse.Namespace], Act]] = {
    "cancel": _cancel,
    "retry": _retry,
    "prioritize": _prioritize,
    "answer": _answer,
}


async def _act_on_all(args: argparse.Namespace, act: Act) -> int:
    """One after the other; what is wrong with one does not keep the others from theirs."""
    refused = 0
    async with common.connect(args) as swarm:
        for name in dict.fromkeys(args.ids):
            try:
                ack = await act(swarm, name)
            except (Refusal, NoAnswer) as error:
                if len(args.ids) == 1 and not args.json:
                    raise
                refused += 1
                if args.json:
                    error_ = common.describe_error(error)
                    common.print_json({"work_item_id": name, "error": error_})
                else:
                    common.note(f"{name}: {error}")
                continue
            if args.json:
                common.print_json(ack)
            else:
                asked = args.verb == "cancel" and ack.status == "claimed"
                print(f"{name} {ack.status}{' (its agent was asked to stop)' if asked else ''}")
    return FAILED if refused else DONE
