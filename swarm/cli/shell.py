"""`swarm claim|heartbeat|progress|complete|fail`: agents that are shell scripts.

``claim`` prints ``ID TOKEN``; whoever claimed proves it with both, and with the same
agent name::

    read -r id token < <(swarm claim --type build --agent me --lease 1h --wait 60)
    make && swarm complete "$id" --token "$token" --agent me --result '"built"'
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from swarm.cli import common
from swarm.cli.main import DONE, FAILED

if TYPE_CHECKING:
    from swarm.messages import Ack
    from swarm.sdk.client import Swarm


def add_parser(subparsers: Any) -> None:
    """All five commands."""
    claim = subparsers.add_parser(
        "claim",
        help="take one work item (for shell agents)",
        description="Take the most urgent ready item of these types.  Prints its id and the "
        "token that every command about it must show; exit 1 when there is nothing to do.",
    )
    claim.add_argument(
        "--type",
        dest="types",
        type=common.tokens,
        action="extend",
        required=True,
        metavar="TYPE",
        help="one, several with commas, or repeated",
    )
    claim.add_argument(
        "--lease",
        dest="lease_s",
        type=common.duration,
        default=0.0,
        metavar="TIME",
        help="how long the claim holds without a heartbeat (default: the item's, or the swarm's)",
    )
    claim.add_argument(
        "--wait",
        dest="wait_s",
        type=common.duration,
        default=0.0,
        metavar="TIME",
        help="how long to wait for work (default: not at all)",
    )
    _add_agent(claim)
    common.add_connection(claim)

    _add_item(subparsers, "heartbeat", "keep a claimed item")
    progress = _add_item(subparsers, "progress", "report progress on a claimed item")
    progress.add_argument("percent", type=_percent, help="0 to 100")
    progress.add_argument("note", nargs="*", help="for people")
    complete = _add_item(subparsers, "complete", "finish a claimed item with its result")
    complete.add_argument("--result", metavar="JSON", default="null", help="any JSON, or @FILE")
    fail = _add_item(subparsers, "fail", "end a claimed item as failed")
    fail.add_argument("--error", default="", help="what went wrong")


def _add_item(subparsers: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=text)
    parser.add_argument("work_item_id", metavar="ID")
    parser.add_argument(
        "--token",
        default=os.environ.get("SWARM_TOKEN") or None,
        required=not os.environ.get("SWARM_TOKEN"),
        help="as printed by `swarm claim` (default: SWARM_TOKEN)",
    )
    _add_agent(parser)
    common.add_connection(parser)
    return parser


def _add_agent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--agent",
        type=common.token,
        default=os.environ.get("SWARM_AGENT_ID") or None,
        required=not os.environ.get("SWARM_AGENT_ID"),
        metavar="NAME",
        help="who holds the item (default: SWARM_AGENT_ID)",
    )


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage; write 0 to 100")
    return value


def run(args: argparse.Namespace) -> int:
    """Do the one that was chosen."""
    if args.command == "claim":
        return common.run_async(_claim(args))
    act = _ACTIONS[args.command](args)
    return common.run_async(_about_item(args, act))


async def _claim(args: argparse.Namespace) -> int:
    async with common.connect(args, args.agent) as swarm:
        claimed = await swarm.claim(
            args.types, lease_s=args.lease_s, wait_s=args.wait_s, timeout_s=args.timeout
        )
    if claimed is None:
        waited = f" within {args.wait_s:g} s" if args.wait_s else ""
        common.note(f"swarm: nothing to claim{waited} among {', '.join(args.types)}")
        return FAILED
    if args.json:
        described = {
            "work_item_id": claimed.work_item_id,
            "token": claimed.token,
            "attempt": claimed.attempt,
            "lease_s": claimed.lease_s,
            "item": claimed.item,
        }
        common.print_json(described)
        return DONE
    print(claimed.work_item_id, claimed.token)
    item = claimed.item
    common.note(
        f"{item.work_type}, {item.priority}, attempt {claimed.attempt}, "
        f"held for {claimed.lease_s:g} s: {item.description or 'no description'}"
    )
    common.note(f"payload: {bytes(item.payload).decode()}")
    return DONE


Act = Callable[["Swarm"], Awaitable["Ack"]]


def _heartbeat(args: argparse.Namespace) -> Act:
    return lambda swarm: swarm.renew(args.work_item_id, args.token, timeout_s=args.timeout)


def _progress(args: argparse.Namespace) -> Act:
    return lambda swarm: swarm.progress(
        args.work_item_id, args.token, args.percent, " ".join(args.note), timeout_s=args.timeout
    )


def _complete(args: argparse.Namespace) -> Act:
    result: msgspec.Raw = common.read_json(args.result, "--result")
    return lambda swarm: swarm.complete(
        args.work_item_id, args.token, result, timeout_s=args.timeout
    )


def _fail(args: argparse.Namespace) -> Act:
    return lambda swarm: swarm.fail(
        args.work_item_id, args.token, args.error, timeout_s=args.timeout
    )


_ACTIONS: dict[str, Callable[[argparse.Namespace], Act]] = {
    "heartbeat": _heartbeat,
    "progress": _progress,
    "complete": _complete,
    "fail": _fail,
}


async def _about_item(args: argparse.Namespace, act: Act) -> int:
    async with common.connect(args, args.agent) as swarm:
        ack = await act(swarm)
    if args.json:
        common.print_json(ack)
        return DONE
    held = f", held for {ack.lease_s:g} s more" if ack.lease_s else ""
    print(f"{args.work_item_id} {ack.status or 'done'}{held}")
    return DONE
