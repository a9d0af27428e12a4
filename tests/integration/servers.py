"""What the tests with servers of their own share."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

#: For what is certain to come; only a failing test waits so long.
DEADLINE_S = 20.0
#: Between two looks at a condition that nothing signals.
POLL_S = 0.01


async def until(holds: Callable[[], object], what: str) -> None:
    """Return once `holds()`."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                if holds():
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"not within {DEADLINE_S} s: {what}") from None


def wait_for_end(pid: int) -> None:
    """Return once the process has ended (or there is none)."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ended, _, _ = select.select([process], [], [], DEADLINE_S)
        assert ended, f"process {pid} is still there after {DEADLINE_S} s"
    finally:
        os.close(process)


def port_of(url: str) -> int:
    """The port in a NATS URL."""
    return int(url.rpartition(":")[2])


def _spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


@asynccontextmanager
async def server_with(binary: str, directory: Path, config: str) -> AsyncIterator[str]:
    """A nats-server with a configuration of the test's own; gives host:port."""
    path = directory / "own.conf"
    path.write_text(f'listen: "127.0.0.1:-1"\nports_file_dir: "{directory}"\n{config}\n')
    server = _spawn([binary, "-c", str(path)], directory / "own.log")
    try:
        ports = directory / f"{Path(binary).name}_{server.pid}.ports"

        def address() -> str:
            try:
                found = msgspec.json.decode(ports.read_bytes(), type=dict[str, list[str]])
            except (FileNotFoundError, msgspec.DecodeError):
                assert server.poll() is None, (directory / "own.log").read_text()
                return ""
            return found["nats"][0].removeprefix("nats://")

        await until(address, "the server listens")
        yield address()
    finally:
        server.kill()
        server.wait()
