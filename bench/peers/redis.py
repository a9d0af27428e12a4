"""A redis-server of our own, as it comes: snapshots, no append-only file."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

from bench.child import Failed
from bench.servers import leashed
from swarm.testing.ports import free_ports

START_S = 10.0
STOP_S = 5.0
LOOK_S = 0.02


class Redis:
    """One redis-server on a free port."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, "started before"
        return self._process.pid

    async def start(self) -> None:
        """Return once it answers; raises `Failed`."""
        self._directory.mkdir()
        (self._port,) = free_ports(1)
        command = [self._program, "--bind", "127.0.0.1", "--port", str(self._port)]
        command += ["--dir", str(self._directory), "--logfile", str(self._directory / "log")]
        self._process = leashed(command)
        give_up_at = time.monotonic() + START_S
        while await self._said(b"PING\r\n") != b"+PONG":
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise Failed(f"redis-server did not start, see {self._directory / 'log'}")
            await asyncio.sleep(LOOK_S)

    async def wipe(self) -> None:
        """Every session begins with an empty one."""
        if await self._said(b"FLUSHALL\r\n") != b"+OK":
            raise Failed("redis-server did not forget what it holds")

    async def stop(self) -> None:
        """End it; safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        await asyncio.to_thread(process.wait, STOP_S)
        if process.stdin is not None:
            process.stdin.close()

    async def _said(self, line: bytes) -> bytes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return b""
        writer.write(line)
        answer = await reader.readline()
        writer.close()
        return answer.strip()
