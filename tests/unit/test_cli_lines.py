"""Lines of files and pipes: all of them, in order, and those of a pipe in time."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from swarm.cli.lines import BLOCK, chunks, is_pipe

DEADLINE_S = 20.0
#: No test takes so long.
NEVER_S = 3600.0


@contextmanager
def pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Its ends, to read from and to write to."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as read_end, os.fdopen(writing, "wb", buffering=0) as write_end:
        yield read_end, write_end


async def all_of(found: AsyncGenerator[list[bytes], None]) -> list[list[bytes]]:
    async with asyncio.timeout(DEADLINE_S):
        return [[line.strip() for line in lines] async for lines in found]


async def next_of(found: AsyncGenerator[list[bytes], None]) -> list[bytes]:
    async with asyncio.timeout(DEADLINE_S):
        return await anext(found)


async def test_a_file_comes_in_chunks(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"a\n\nb\nc\nd")
    with path.open("rb") as file:
        assert not is_pipe(file)
        assert await all_of(chunks(file, 2, 0.0)) == [[b"a", b""], [b"b", b"c"], [b"d"]]
    assert await all_of(chunks(io.BytesIO(b"a\nb"), 9, 0.0)) == [[b"a", b"b"]]


async def test_a_line_in_an_open_pipe_waits_no_longer_than_it_may() -> None:
    with pipe() as (file, source):
        assert is_pipe(file)
        async with aclosing(chunks(file, 1000, 0.05)) as found:
            for line in (b"a", b"b"):
                source.write(line + b"\n")
                assert await next_of(found) == [line], "though the pipe stays open"


async def test_lines_that_come_together_go_together() -> None:
    with pipe() as (file, source):
        async with aclosing(chunks(file, 3, NEVER_S)) as found:
            source.write(b"a\nb\nc\nd\ne")
            assert await next_of(found) == [b"a", b"b", b"c"], "as many as there may be do not wait"
            source.close()
            assert await next_of(found) == [b"d", b"e"], "nor does what is left at the end"
            with pytest.raises(StopAsyncIteration):
                await anext(found)


async def test_an_empty_pipe_has_no_lines() -> None:
    with pipe() as (file, source):
        source.close()
        assert await all_of(chunks(file, 3, NEVER_S)) == []


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, 5 * BLOCK + 3])
async def test_lines_of_any_length_come_whole(length: int) -> None:
    lines = [bytes([65 + number % 26]) * (length + number % 3) for number in range(20)]
    with pipe() as (file, source):
        writing = asyncio.create_task(asyncio.to_thread(_write, source, b"\n".join(lines)))
        found = await all_of(chunks(file, 7, NEVER_S))
        await writing
    assert [line for some in found for line in some] == lines
    assert [len(some) for some in found] == [7, 7, 6]


def _write(file: Any, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]
    file.close()
