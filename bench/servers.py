"""The nats-servers of a run: as `swarm up` starts one, and with NATS's own defaults.

And one for those who do without us: it syncs always, and for the rest has NATS's defaults, which
suit them better than what `swarm up` does to leave cores to coordinators.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from bench.child import Failed
from bench.plan import NO_SYNC, SYNC
from swarm.bus import leash
from swarm.bus.embedded import EmbeddedServer, find_binary

START_S = 30.0
STOP_S = 5.0
LOOK_S = 0.02


def leashed(command: list[str]) -> subprocess.Popen[bytes]:
    """A server that ends with this process, however that ends."""
    mode = "signal" if sys.platform == "linux" else "watch"
    leash_command = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), mode]
    return subprocess.Popen(leash_command + command, stdin=subprocess.PIPE)


class Server(Protocol):
    """A nats-server that runs."""

    @property
    def url(self) -> str:
        """Where it listens."""

    @property
    def pid(self) -> int:
        """Its process."""


#: The server on which others are measured where ours is on `SYNC`.
SYNC_BARE = "sync, bare"


def for_others(server: str) -> str:
    """Where others run when we run on `server`."""
    return SYNC_BARE if server == SYNC else server


class DefaultServer:
    """nats-server with JetStream, file storage and no setting of ours but `sync_always`."""

    def __init__(self, *, sync_always: bool = False) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._sync_always = sync_always
        self.url = ""

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, "started before"
        return self._process.pid

    async def start(self, directory: Path) -> None:
        """Return once it listens; raises `Failed`.  The server makes the directory."""
        command = [find_binary(), "-js", "-sd", str(directory), "-a", "127.0.0.1", "-p", "-1"]
        if self._sync_always:
            config = directory.with_suffix(".conf")
            config.write_text("jetstream { sync_interval: always }\n", "utf-8")
            command += ["-c", str(config)]
        command += ["--ports_file_dir", str(directory), "-l", f"{directory}.log"]
        self._process = leashed(command)
        give_up_at = time.monotonic() + START_S
        while not (found := _urls(directory)):
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise Failed(f"nats-server did not start, see {directory}.log")
            await asyncio.sleep(LOOK_S)
        self.url = found

    async def stop(self) -> None:
        """End it; safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _urls(directory: Path) -> str:
    """From the file that a server writes once it listens."""
    for ports in directory.glob("*.ports"):
        text = ports.read_text("utf-8")
        if '"nats"' in text and text.rstrip().endswith("}"):
            return "nats://" + text.partition("nats://")[2].partition('"')[0]
    return ""


@asynccontextmanager
async def started(directory: Path) -> AsyncIterator[dict[str, Server]]:
    """All, by name (`SYNC`, `NO_SYNC`, `SYNC_BARE`): one that is not used does next to nothing."""
    sync, default, bare = EmbeddedServer(), DefaultServer(), DefaultServer(sync_always=True)
    try:
        await sync.start(directory / SYNC, port=0)
        await default.start(directory / NO_SYNC)
        await bare.start(directory / "bare")
        yield {SYNC: sync, NO_SYNC: default, SYNC_BARE: bare}
    finally:
        await bare.stop()
        await default.stop()
        await sync.stop()
