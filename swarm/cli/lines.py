"""The lines of a file, or of a pipe as they come: what a pipe has brought is not kept for ever."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import stat
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import BinaryIO

#: Bytes taken from a pipe at once.
BLOCK = 1 << 16


async def chunks(file: BinaryIO, most: int, wait_s: float) -> AsyncGenerator[list[bytes], None]:
    """Its lines, at most so many at a time.

    Of a pipe, a line waits at most `wait_s` seconds for others to come with it.
    """
    assert most > 0, "nothing would ever be read"
    if is_pipe(file):
        async with aclosing(_of_pipe(file, most, wait_s)) as found:
            async for lines in found:
                yield lines
        return
    while lines := list(itertools.islice(file, most)):
        yield lines


def is_pipe(file: BinaryIO) -> bool:
    """Whether more of it may come, some time."""
    try:
        mode = os.fstat(file.fileno()).st_mode
    except io.UnsupportedOperation:
        return False  # in memory: all of it is there
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


async def _of_pipe(file: BinaryIO, most: int, wait_s: float) -> AsyncGenerator[list[bytes], None]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    waiting: list[bytes] = []
    rest, due = b"", 0.0
    reading = asyncio.ensure_future(reader.read(BLOCK))
    try:
        while True:
            left_s = max(0.0, due - loop.time()) if waiting else None
            await asyncio.wait({reading}, timeout=left_s)
            if reading.done():
                block = reading.result()
                if not block:
                    break
                reading = asyncio.ensure_future(reader.read(BLOCK))
                *lines, rest = (rest + block).split(b"\n")
                if lines and not waiting:
                    due = loop.time() + wait_s
                waiting += lines
            while len(waiting) >= most:
                yield waiting[:most]
                del waiting[:most]
                due = loop.time() + wait_s
            if waiting and loop.time() >= due:
                yield waiting
                waiting = []
        waiting += [rest] if rest else []
        for first in range(0, len(waiting), most):
            yield waiting[first : first + most]
    finally:
        reading.cancel()
        transport.close()
