"""What a peer's task does: say in a shared file when it started.  Standard library only.

One slot an item: when it was due to be submitted, when its task started first, how often it
started.  Times are the system's monotonic clock, the same for all processes.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

SLOT = struct.Struct("<ddI4x")
_START = struct.Struct("<d")
_COUNT = struct.Struct("<I")

_slots: mmap.mmap | None = None


def slots() -> mmap.mmap:
    """The file, opened when first needed: workers fork."""
    global _slots  # noqa: PLW0603 - one a process
    if _slots is None:
        with Path(os.environ["BENCH_HITS"]).open("r+b") as file:
            _slots = mmap.mmap(file.fileno(), 0)
    return _slots


def item(number: int) -> dict[str, str]:
    """91 bytes as JSON with a number of four digits."""
    return {
        "id": f"work_{number}",
        "work_type": "feature",
        "description": "Implement caching for coordinator",
    }


def hit(work_id: str) -> None:
    """The task of this item has started."""
    now = time.monotonic()
    view = slots()
    at = int(work_id[5:]) * SLOT.size
    (count,) = _COUNT.unpack_from(view, at + 16)
    if not count:
        _START.pack_into(view, at + 8, now)
    _COUNT.pack_into(view, at + 16, count + 1)


def _due(number: int, at: float) -> None:
    _START.pack_into(slots(), number * SLOT.size, at)


def say(seconds: float) -> None:
    """To whoever started this process."""
    print(json.dumps({"seconds": seconds}), flush=True)


def arguments() -> tuple[range, float]:
    """`FIRST COUNT [RATE]` of the command line; rate 0: as fast as it goes."""
    first, count, *rate = sys.argv[1:]
    numbers = range(int(first), int(first) + int(count))
    return numbers, float(rate[0]) if rate else 0.0


def submit_all(send: Callable[[dict[str, str]], object]) -> None:
    """For a client that blocks."""
    numbers, rate = arguments()
    began = time.monotonic()
    for position, number in enumerate(numbers):
        if rate:
            due = began + position / rate
            time.sleep(max(0.0, due - time.monotonic()))
            _due(number, due)
        send(item(number))
    say(time.monotonic() - began)


async def submit_all_async(
    send: Callable[[dict[str, str]], Awaitable[object]], at_once: int
) -> None:
    """For a client that does not: `at_once` calls gathered, or one at a time on schedule."""
    import asyncio  # noqa: PLC0415 - not for those that block

    numbers, rate = arguments()
    began = time.monotonic()
    if not rate:
        for start in range(0, len(numbers), at_once):
            await asyncio.gather(*(send(item(n)) for n in numbers[start : start + at_once]))
    for position, number in enumerate(numbers if rate else ()):
        due = began + position / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        _due(number, due)
        await send(item(number))
    say(time.monotonic() - began)
