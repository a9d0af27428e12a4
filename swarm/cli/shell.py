"""`swarm claim|heartbeat|progress|complete|fail|release|wait`: agents that are shell scripts.

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

from swarm.cli import common
from swarm.cli.main import DONE, FAILED
from swarm.errors import BadInput
from swarm.messages import NULL

if TYPE_CHECKING:
    from msgspec import Raw

    from swarm.messages import Ack
    from swarm.sdk.client import Swarm
    from swarm.sdk.items import ClaimedItem


def add_parser(subparsers: Any) -> None:
    """All of these commands."""
    _add_claim(subparsers)
    _add_item(subparsers, "heartbeat", "keep a claimed item")
    progress = _add_item(subparsers, "progress", "report progress on a claimed item")
    progress.add_argument("percent", type=_percent, help="0 to 100")
    progress.add_argument("note", nargs="*", help="for people")
    _add_checkpoint(progress)
    complete = _add_item(subparsers, "complete", "finish a claimed item with its result")
    complete.add_argument("--result", metavar="JSON", default="null", help="any JSON, or @FILE")
    fail = _add_item(subparsers, "fail", "an attempt at a claimed item has failed")
    fail.add_argument("--error", default="", help="what went wrong")
    again = fail.add_mutually_exclusive_group()
    again.add_argument(
        "--retry-after",
        dest="retry_after_s",
        type=common.duration,
        metavar="TIME",
        help="try again after this time (default: the item's backoff)",
    )
    again.add_argument("--final", action="store_true", help="do not try again")
    release = _add_item(subparsers, "release", "hand a claimed item back unworked")
    release.add_argument("--reason", default="", help="for people")
    _add_checkpoint(release)
    wait = _add_item(subparsers, "wait", "a claimed item waits for an answer from outside")
    wait.add_argument(
        "--for",
        dest="waits_for",
        metavar="JSON",
        required=True,
        help="what it waits for, for whoever is to answer: any JSON, or @FILE",
    )
    wait.add_argument(
        "--expires",
        dest="expires_s",
        type=common.duration,
        default=0.0,
        metavar="TIME",
        help="after this time it is not waited for any more (default: the swarm's)",
    )
    wait.add_argument(
        "--on-expiry",
        choices=("dead", "resume"),
        default="dead",
        help="what becomes of the item then (default: dead)",
    )
    _add_checkpoint(wait)


def _add_claim(subparsers: Any) -> None:
    claim = subparsers.add_parser(
        "claim",
        help="take one work item (for shell agents)",
        description="Take the most urgent ready item of these types.  Prints its id and the "
        "token that every command about it must show; what was left for it (a checkpoint, an "
        "answer, results of its dependencies) is told on stderr, and by --json.  Exit 1 when "
        "there is nothing to do.",
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


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        metavar="JSON",
        default="null",
        help="for whoever works on it next: any JSON, or @FILE",
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


# --- claiming -------------------------------------------------------------------------------


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
            "checkpoint": claimed.checkpoint,
            "answer": claimed.answer,
            "answered_by": claimed.answered_by,
            "waits": claimed.waits,
            "depends": claimed.depends,
        }
        common.print_json(described)
        return DONE
    print(claimed.work_item_id, claimed.token)
    _tell(claimed)
    return DONE


def _tell(claimed: ClaimedItem) -> None:
    item = claimed.item
    common.note(
        f"{item.work_type}, {item.priority}, attempt {claimed.attempt}, "
        f"held for {claimed.lease_s:g} s: {item.description or 'no description'}"
    )
    common.note(f"payload: {_text(item.payload)}")
    if claimed.checkpoint != NULL:
        common.note(f"checkpoint: {_text(claimed.checkpoint)}")
    if claimed.answered_by:
        common.note(f"answer, by {claimed.answered_by}: {_text(claimed.answer)}")
    elif claimed.waits:
        common.note("answer: none came in time")
    for name, known in claimed.depends.items():
        result = "too large, see `swarm work get`" if known.omitted else _text(known.result)
        common.note(f"depends on {name}: {known.status or 'has not ended'}, {result}")


def _text(raw: Raw) -> str:
    return bytes(raw).decode()


# --- what is said of a claimed item -----------------------------------------------------------

Act = Callable[["Swarm"], Awaitable["Ack"]]


def _heartbeat(args: argparse.Namespace) -> Act:
    return lambda swarm: swarm.renew(args.work_item_id, args.token, timeout_s=args.timeout)


def _progress(args: argparse.Namespace) -> Act:
    checkpoint = _checkpoint(args)
    return lambda swarm: swarm.progress(
        args.work_item_id,
        args.token,
        args.percent,
        " ".join(args.note),
        checkpoint=checkpoint,
        timeout_s=args.timeout,
    )


def _complete(args: argparse.Namespace) -> Act:
    result = common.read_json(args.result, "--result")
    return lambda swarm: swarm.complete(
        args.work_item_id, args.token, result, timeout_s=args.timeout
    )


def _fail(args: argparse.Namespace) -> Act:
    return lambda swarm: swarm.fail(
        args.work_item_id,
        args.token,
        args.error,
        retry_after_s=args.retry_after_s,
        final=args.final,
        timeout_s=args.timeout,
    )


def _release(args: argparse.Namespace) -> Act:
    checkpoint = _checkpoint(args)
    return lambda swarm: swarm.release(
        args.work_item_id, args.token, args.reason, checkpoint=checkpoint, timeout_s=args.timeout
    )


def _wait(args: argparse.Namespace) -> Act:
    what = common.read_json(args.waits_for, "--for")
    if what == NULL:
        raise BadInput("--for null says nothing; say what the item waits for")
    checkpoint = _checkpoint(args)
    return lambda swarm: swarm.wait(
        args.work_item_id,
        args.token,
        what,
        expires_s=args.expires_s,
        on_expiry=args.on_expiry,
        checkpoint=checkpoint,
        timeout_s=args.timeout,
    )


def _checkpoint(args: argparse.Namespace) -> Raw | None:
    checkpoint = common.read_json(args.checkpoint, "--checkpoint")
    return None if checkpoint == NULL else checkpoint


_ACTIONS: dict[str, Callable[[argparse.Namespace], Act]] = {
    "heartbeat": _heartbeat,
    "progress": _progress,
    "complete": _complete,
    "fail": _fail,
    "release": _release,
    "wait": _wait,
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
