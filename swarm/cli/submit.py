"""`swarm submit`: work items from a JSON-lines file, from stdin, or one by options."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
from msgspec import Raw

from swarm.cli import common
from swarm.cli.main import DONE, FAILED
from swarm.errors import BadInput, NoAnswer, Refusal, SwarmError
from swarm.messages import PRIORITIES

if TYPE_CHECKING:
    from swarm.sdk.client import Handle, Swarm

#: Lines read and submitted at once; keeps memory bounded however long the file is.
CHUNK = 10_000
#: Bad lines named one by one; of more, only their number is said.
COMPLAINTS_MAX = 20
#: Results waited for at the same time.
WAITS_MAX = 200

_line_decoder = msgspec.json.Decoder(dict[str, Raw])


def add_parser(subparsers: Any) -> None:
    """`swarm submit`."""
    parser = subparsers.add_parser(
        "submit",
        help="submit work items",
        description="Submit the work items of a file with one JSON object a line, or one item "
        "described by options.  Prints the id of a single item; with --json one line for each.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE.jsonl", help="'-' reads stdin")
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
    parser.add_argument(
        "--wait", action="store_true", help="wait for the result(s); exit 1 unless all completed"
    )
    parser.add_argument(
        "--wait-timeout", type=common.duration, metavar="TIME", help="how long (default: for ever)"
    )
    common.add_connection(parser)


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
}


def run(args: argparse.Namespace) -> int:
    """Submit."""
    given = {name: getattr(args, name) for name in _ONE if getattr(args, name) is not None}
    if args.file is not None:
        if given:
            options = ", ".join(_ONE[name] for name in given)
            raise BadInput(f"{options} cannot be given beside a file: its lines say all")
        with ExitStack() as stack:
            return common.run_async(_submit_file(args, _open(args.file, stack)))
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
        outcome = await _wait(handle, args.wait_timeout)
        if args.json:
            common.print_json({"work_item_id": handle.work_item_id, **outcome})
        elif "result" in outcome:
            common.print_json(outcome["result"])
        else:
            common.note(f"{handle.work_item_id}: {outcome['error']}")
        return DONE if "result" in outcome else FAILED


async def _wait(handle: Handle, timeout_s: float | None) -> dict[str, Any]:
    """What became of the item: its `result`, or the `error` that says why there is none."""
    try:
        return {"result": await handle.result(timeout=timeout_s)}
    except (SwarmError, TimeoutError) as error:
        return {"error": str(error) or f"no result within {timeout_s:g} s"}


# --- files -------------------------------------------------------------------------------


@dataclass
class _Tally:
    """What became of the lines of a file."""

    json: bool
    accepted: int = 0
    completed: int = 0
    bad: int = 0
    #: Accepted items that are to be waited for: (line number, handle).
    handles: list[tuple[int, Handle]] = field(default_factory=list)

    def accept(self, line: int, handle: Handle, keep: bool) -> None:
        self.accepted += 1
        if keep:
            self.handles.append((line, handle))
        elif self.json:
            common.print_json({"line": line, "work_item_id": handle.work_item_id})

    def refuse(self, line: int, error: Refusal | NoAnswer) -> None:
        self.bad += 1
        if self.json:
            common.print_json({"line": line, "error": common.describe_error(error)})
        if self.bad <= COMPLAINTS_MAX:
            common.note(f"line {line}: {error}")
        elif self.bad == COMPLAINTS_MAX + 1:
            common.note("… more bad lines follow; they are counted, not listed")


async def _submit_file(args: argparse.Namespace, file: BinaryIO) -> int:
    tally = _Tally(args.json)
    # Read before connecting: an empty file is found out without a swarm.
    lines = _numbered(file)
    first = next(lines, None)
    if first is None:
        raise BadInput(f"{args.file} holds no work item; write one JSON object a line")
    lines = itertools.chain([first], lines)
    async with common.connect(args) as swarm:
        try:
            while chunk := list(itertools.islice(lines, CHUNK)):
                await _submit_chunk(swarm, chunk, tally, args)
        finally:
            common.note(f"accepted {tally.accepted}, refused {tally.bad}")
        if args.wait:
            await _wait_for_all(tally, args)
    done = tally.bad == 0 and (not args.wait or tally.completed == tally.accepted)
    return DONE if done else FAILED


def _numbered(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, numbered from 1."""
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield number, line.strip()


async def _submit_chunk(
    swarm: Swarm, chunk: list[tuple[int, bytes]], tally: _Tally, args: argparse.Namespace
) -> None:
    numbers: list[int] = []
    items: list[dict[str, Raw]] = []
    for number, line in chunk:
        try:
            items.append(_line_decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            refusal = Refusal("bad_request", f"a line must be one JSON object: {error}")
            tally.refuse(number, refusal)
        else:
            numbers.append(number)
    outcomes = await swarm.submit_many(items, timeout_s=args.timeout)
    for number, outcome in zip(numbers, outcomes, strict=True):
        if isinstance(outcome, Refusal | NoAnswer):
            tally.refuse(number, outcome)
        else:
            tally.accept(number, outcome, keep=args.wait)


async def _wait_for_all(tally: _Tally, args: argparse.Namespace) -> None:
    """Wait for every accepted item's result; failures are named."""
    slots = asyncio.Semaphore(WAITS_MAX)
    failed = 0

    async def wait(line: int, handle: Handle) -> None:
        nonlocal failed
        async with slots:
            outcome = await _wait(handle, args.wait_timeout)
        if args.json:
            common.print_json({"line": line, "work_item_id": handle.work_item_id, **outcome})
        if "result" in outcome:
            tally.completed += 1
            return
        failed += 1
        if failed <= COMPLAINTS_MAX:
            common.note(f"line {line}, {handle.work_item_id}: {outcome['error']}")

    async with asyncio.TaskGroup() as tasks:
        for line, handle in tally.handles:
            tasks.create_task(wait(line, handle))
    common.note(f"completed {tally.completed}, failed {failed}")
