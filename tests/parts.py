"""Real programs that some tests need, each run by the test that needs it."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

DEADLINE_S = 20.0
POLL_S = 0.02


def program(name: str) -> str:
    """Where it is.  Without it: fails if SWARM_REQUIRE_PARTS=1, else skips, loudly."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if path is not None:
        return path
    if os.environ.get("SWARM_REQUIRE_PARTS") == "1":
        pytest.fail(f"SWARM_REQUIRE_PARTS=1: there is no {name}; `make test-deps` installs it")
    pytest.skip(f"NOT TESTED against a real {name}: there is none; `make test-deps` installs it")


def make_authority(folder: Path) -> ssl.SSLContext:
    """A server's certificate, and ``ca.crt`` in `folder` that vouches for it."""
    key, certificate = folder / "key.pem", folder / "ca.crt"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = [program("openssl"), *words.split(), *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@asynccontextmanager
async def running(
    *command: str, ready: Callable[[], Awaitable[bool]]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program, from when it is ready to its end."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not await ready():
                assert process.returncode is None, f"{command[0]} ended: {process.returncode}"
                await asyncio.sleep(POLL_S)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def until(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Wait for it, with a deadline."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - conditions of any kind
            await asyncio.sleep(POLL_S)
