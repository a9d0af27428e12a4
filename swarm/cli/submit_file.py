"""Submitting a file of work items, however long: one JSON object a line."""

from __future__ import annotations

import argparse
import asyncio
import re
from array import array
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
from msgspec import Raw

from swarm.cli import common
from swarm.cli.lines import chunks
from swarm.cli.main import DONE, FAILED
from swarm.cli.submit import wait_for
from swarm.errors import BadInput, NoAnswer, Refusal
from swarm.sdk.describing import EXTRA
from swarm.subjects import item_id, parse_item_id

if TYPE_CHECKING:
    from swarm.sdk.client import Handle, Swarm

#: Most lines read and submitted at once; keeps memory bounded however long the file is.
CHUNK = 10_000
#: Bad lines named one by one; of more, only their number is said.
COMPLAINTS_MAX = 20
#: Results waited for at the same time.
WAITS_MAX = 200
#: An item's id in eight bytes: what is kept of each line, as later ones may depend on it.
NUMBER_BITS = 48
NUMBER_MASK = (1 << NUMBER_BITS) - 1

_line_decoder = msgspec.json.Decoder(dict[str, Raw])


@dataclass
class _Tally:
    """What became of the lines of a file."""

    json: bool
    accepted: int = 0
    completed: int = 0
    bad: int = 0
    #: Accepted items that are to be waited for: (line number, handle).
    handles: list[tuple[int, Handle]] = field(default_factory=list)
    #: Shard and number of each line's item, as one number; 0: there is none.
    _stored: array[int] = field(default_factory=lambda: array("Q"))

    def id_of(self, line: int) -> str:
        """Id of the item of an earlier line; empty if that was refused."""
        stored = self._stored[line] if 0 <= line < len(self._stored) else 0
        return item_id(stored >> NUMBER_BITS, stored & NUMBER_MASK) if stored else ""

    def accept(self, line: int, handle: Handle, keep: bool) -> None:
        self.accepted += 1
        shard, number = parse_item_id(handle.work_item_id)
        self._stored.extend([0] * (line - len(self._stored)))
        self._stored.append(shard << NUMBER_BITS | number)
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


async def submit_file(args: argparse.Namespace, file: BinaryIO, wait_s: float) -> int:
    """Submit all lines; one that comes through a pipe waits at most `wait_s` for others."""
    tally = _Tally(args.json)
    # Read before connecting: an empty file is found out without a swarm.
    numbered = _numbered(file, wait_s)
    chunk = await anext(numbered, None)
    if chunk is None:
        raise BadInput(f"{args.file} holds no work item; write one JSON object a line")
    async with common.connect(args) as swarm:
        try:
            while chunk is not None:
                await _submit_chunk(swarm, chunk, tally, args)
                common.flush()
                chunk = await anext(numbered, None)
        finally:
            common.note(f"accepted {tally.accepted}, refused {tally.bad}")
        if args.wait:
            await _wait_for_all(tally, args)
    done = tally.bad == 0 and (not args.wait or tally.completed == tally.accepted)
    return DONE if done else FAILED


async def _numbered(file: BinaryIO, wait_s: float) -> AsyncIterator[list[tuple[int, bytes]]]:
    """The lines that are not blank, numbered from 1, some at a time."""
    before = 0
    async for lines in chunks(file, CHUNK, wait_s):
        numbered = [(n, line.strip()) for n, line in enumerate(lines, before + 1) if line.strip()]
        before += len(lines)
        if numbered:
            yield numbered


async def _submit_chunk(
    swarm: Swarm, chunk: list[tuple[int, bytes]], tally: _Tally, args: argparse.Namespace
) -> None:
    positions: dict[int, int] = {}
    items: list[dict[str, Any]] = []
    for number, line in chunk:
        try:
            item = _read(line)
            if "depends_on" in item:
                item["depends_on"] = _refer(item["depends_on"], number, positions, tally)
        except Refusal as refusal:
            tally.refuse(number, refusal)
        else:
            positions[number] = len(items)
            items.append(item)
    outcomes = await swarm.submit_many(items, timeout_s=args.timeout)
    lines = list(positions)
    for number, outcome in zip(positions, outcomes, strict=True):
        if isinstance(outcome, Refusal):
            # What is a position in this chunk is a line to whoever wrote the file.
            said = re.sub(
                r"item (\d+) of this call",
                lambda match: f"line {lines[int(match[1])]}",
                outcome.message,
            )
            tally.refuse(number, Refusal(outcome.code, said, outcome.retry))
        elif isinstance(outcome, NoAnswer):
            tally.refuse(number, outcome)
        else:
            tally.accept(number, outcome, keep=args.wait)


def _read(line: bytes) -> dict[str, Any]:
    """The object in a line, its values encoded but for those that stand for others."""
    try:
        item: dict[str, Any] = dict(_line_decoder.decode(line))
        for name in EXTRA:
            if name in item:
                item[name] = msgspec.json.decode(item[name])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal("bad_request", f"a line must be one JSON object: {error}") from error
    return item


def _refer(
    named: Any, number: int, positions: dict[int, int], tally: _Tally
) -> list[str | int] | Any:
    """Numbers of lines as ids, or as positions in this chunk."""
    if not isinstance(named, list):
        return named
    found: list[str | int] = []
    for one in named:
        if not isinstance(one, int) or isinstance(one, bool):
            found.append(one)
        elif one in positions:
            found.append(positions[one])
        elif tally.id_of(one):
            found.append(tally.id_of(one))
        else:
            raise Refusal(
                "bad_request",
                f"it depends on line {one}, of which there is no item; allowed are ids, and lines "
                f"before {number} that were accepted",
            )
    return found


async def _wait_for_all(tally: _Tally, args: argparse.Namespace) -> None:
    """Wait for every accepted item's result; failures are named."""
    slots = asyncio.Semaphore(WAITS_MAX)
    failed = 0

    async def wait(line: int, handle: Handle) -> None:
        nonlocal failed
        async with slots:
            outcome = await wait_for(handle, args.wait_timeout)
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
