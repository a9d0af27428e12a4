"""`swarm submit`: work items from a JSON-lines file, from stdin, or one by options."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from swarm.cli import common, settings
from swarm.cli.main import DONE, FAILED
from swarm.errors import BadInput, SwarmError
from swarm.messages import PRIORITIES
from swarm.subjects import item_id, parse_item_id

if TYPE_CHECKING:
    from swarm.sdk.client import Handle


def add_parser(subparsers: Any) -> None:
    """`swarm submit`."""
    parser = subparsers.add_parser(
        "submit",
        help="submit work items",
        description="Submit the work items of a file with one JSON object a line, or one item "
        "described by options.  Prints the id of a single item; with --json one line for each.  A "
        "line has the fields that docs/protocol.md names, and may have `delay_s` and `depends_on`: "
        "a list of ids, and of numbers of earlier lines of the file.",
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE.jsonl",
        help="'-' reads stdin; what comes through a pipe is submitted after BATCH_TIMEOUT at the "
        "latest",
    )
    settings.add_config(parser)
    _add_item(parser)
    _add_life(parser)
    parser.add_argument(
        "--wait", action="store_true", help="wait for the result(s); exit 1 unless all completed"
    )
    parser.add_argument(
        "--wait-timeout", type=common.duration, metavar="TIME", help="how long (default: for ever)"
    )
    common.add_connection(parser)


def _add_item(parser: argparse.ArgumentParser) -> None:
    one = parser.add_argument_group("one item")
    one.add_argument("--type", dest="work_type", type=common.token, metavar="TYPE")
    one.add_argument("--description", default=None)
    one.add_argument("--priority", default=None, choices=PRIORITIES)
    one.add_argument("--payload", metavar="JSON", help="any JSON, or @FILE")
    one.add_argument("--team", default=None)
    one.add_argument("--label", dest="labels", type=common.label, action="append", metavar="N=V")
    one.add_argument("--story-points", type=common.whole(0, 1_000_000), metavar="N")
    one.add_argument(
        "--idempotency-key", metavar="KEY", help="the same key again yields the same item"
    )
    one.add_argument(
        "--lease",
        dest="lease_s",
        type=common.duration,
        metavar="TIME",
        help="how long a claim holds without a heartbeat",
    )


def _add_life(parser: argparse.ArgumentParser) -> None:
    life = parser.add_argument_group("when, how often, after what")
    life.add_argument(
        "--delay",
        dest="delay_s",
        type=common.duration,
        metavar="TIME",
        help="not claimed before this time has passed",
    )
    life.add_argument(
        "--not-before", type=common.moment, metavar="WHEN", help="2030-01-31T12:00, or 2h from now"
    )
    life.add_argument(
        "--deadline",
        type=common.moment,
        metavar="WHEN",
        help="dead if it has not completed by then: 2030-01-31T12:00, or 2h from now",
    )
    life.add_argument(
        "--max-attempts",
        type=common.whole(1, 1_000_000),
        metavar="N",
        help="failed attempts after which it is dead (default: the swarm's)",
    )
    life.add_argument(
        "--backoff",
        dest="backoff_s",
        type=common.duration,
        metavar="TIME",
        help="pause after the first failed attempt, doubled with each (default: the swarm's)",
    )
    life.add_argument(
        "--progress-within",
        dest="progress_s",
        type=common.duration,
        metavar="TIME",
        help="a claim without a report of progress for this long ends",
    )
    life.add_argument(
        "--depends-on",
        type=_ids,
        action="extend",
        metavar="ID",
        help="items that must complete first; one, several with commas, or repeated",
    )
    life.add_argument(
        "--on-dependency-failure",
        choices=("block", "cancel", "run"),
        help="what to do when one of them is dead or cancelled (default: block)",
    )


def _ids(text: str) -> list[str]:
    try:
        return [item_id(*parse_item_id(name)) for name in text.split(",")]
    except BadInput as error:
        raise argparse.ArgumentTypeError(str(error)) from error


_ONE = {
    "work_type": "--type",
    "description": "--description",
    "priority": "--priority",
    "payload": "--payload",
    "team": "--team",
    "labels": "--label",
    "story_points": "--story-points",
    "idempotency_key": "--idempotency-key",
    "lease_s": "--lease",
    "delay_s": "--delay",
    "not_before": "--not-before",
    "deadline": "--deadline",
    "max_attempts": "--max-attempts",
    "backoff_s": "--backoff",
    "progress_s": "--progress-within",
    "depends_on": "--depends-on",
    "on_dependency_failure": "--on-dependency-failure",
}


def run(args: argparse.Namespace) -> int:
    """Submit."""
    given = {name: getattr(args, name) for name in _ONE if getattr(args, name) is not None}
    if args.file is not None:
        if given:
            options = ", ".join(_ONE[name] for name in given)
            raise BadInput(f"{options} cannot be given beside a file: its lines say all")
        from swarm.cli.lines import is_pipe
        from swarm.cli.submit_file import submit_file

        with ExitStack() as stack:
            file, wait_s = _open(args.file, stack), 0.0
            if is_pipe(file):
                wait_s = settings.read_settings(args)[0].batch_timeout_ms / 1000
            return common.run_async(submit_file(args, file, wait_s))
    if "work_type" not in given:
        raise BadInput("nothing to submit: name a file ('-' for stdin), or give --type")
    if "payload" in given:
        given["payload"] = common.read_json(given["payload"], "--payload")
    if "labels" in given:
        given["labels"] = dict(given["labels"])
    return common.run_async(_submit_one(args, given))


def _open(name: str, stack: ExitStack) -> BinaryIO:
    if name == "-":
        return sys.stdin.buffer
    try:
        return stack.enter_context(Path(name).open("rb"))
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror}") from error


async def _submit_one(args: argparse.Namespace, given: dict[str, Any]) -> int:
    async with common.connect(args) as swarm:
        handle = await swarm.submit(given.pop("work_type"), **given, timeout_s=args.timeout)
        if not args.wait:
            if args.json:
                common.print_json({"work_item_id": handle.work_item_id})
            else:
                print(handle.work_item_id)
            return DONE
        common.note(f"submitted {handle.work_item_id}, waiting for its result")
        outcome = await wait_for(handle, args.wait_timeout)
        if args.json:
            common.print_json({"work_item_id": handle.work_item_id, **outcome})
        elif "result" in outcome:
            common.print_json(outcome["result"])
        else:
            common.note(f"{handle.work_item_id}: {outcome['error']}")
        return DONE if "result" in outcome else FAILED


async def wait_for(handle: Handle, timeout_s: float | None) -> dict[str, Any]:
    """What became of the item: its `result`, or the `error` that says why there is none."""
    try:
        return {"result": await handle.result(timeout=timeout_s)}
    except (SwarmError, TimeoutError) as error:
        return {"error": str(error) or f"no result within {timeout_s:g} s"}
