"""Nodes as processes of their own, against a NATS server that runs already."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from bench.child import Failed
from swarm.sdk.client import Swarm

ROOT = Path(__file__).resolve().parent.parent
#: Of the environment, what nodes get; settings come from nobody but the benchmark.
KEPT = ("PATH", "HOME", "LANG", "SWARM_NATS_SERVER")


LOG_LINES = 15


class Nodes:
    """`swarm node` processes with one set of settings, and clients of them.

    `settings`: by environment name.  What each process says goes to a file below `logs`.
    """

    def __init__(self, url: str, logs: Path, coordinators: Sequence[str], **settings: str) -> None:
        self._url = url
        self._logs = logs
        self._env = {name: os.environ[name] for name in KEPT if name in os.environ}
        self._env |= {
            "PYTHONPATH": str(ROOT),
            "NATS_URL": url,
            "COORDINATORS": " ".join(coordinators),
            **settings,
        }
        self._nodes: dict[str, asyncio.subprocess.Process] = {}

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of those that run, by name."""
        return {name: node.pid for name, node in self._nodes.items()}

    async def start(self, name: str, role: str = "coordinator") -> None:
        """Start a node; `role` as for `swarm node --role`."""
        assert name not in self._nodes, f"{name} runs already"
        arguments = ("node", "--role", role, "--id", name, "--no-http", "--with-stdin")
        with (self._logs / f"{name}.log").open("ab") as output:
            self._nodes[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "swarm", *arguments),
                env=self._env,
                cwd=self._logs,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
            )

    async def kill(self, name: str) -> None:
        """kill -9, and wait for its end."""
        node = self._nodes.pop(name)
        # It may have ended by itself; whoever waits for its answers finds out.
        if node.returncode is None:
            node.kill()
        await node.wait()

    async def stop(self) -> None:
        """End all; safe to call twice."""
        for name in list(self._nodes):
            await self.kill(name)

    async def pause(self, seconds: float) -> None:
        """Sleep, and raise `Failed` if a node has ended meanwhile."""
        await asyncio.sleep(seconds)
        for name, node in self._nodes.items():
            if node.returncode is not None:
                log = (self._logs / f"{name}.log").read_text("utf-8").splitlines()[-LOG_LINES:]
                said = "\n  ".join(log)
                raise Failed(f"{name} has ended with exit code {node.returncode}:\n  {said}")

    def connect(self, prefix: str = "swarm") -> AbstractAsyncContextManager[Swarm]:
        """A client."""
        return Swarm.connect(self._url, prefix=prefix)


@asynccontextmanager
async def running(
    url: str, logs: Path, roles: dict[str, str], **settings: str
) -> AsyncIterator[Nodes]:
    """Nodes by name and role; ended afterwards."""
    coordinators = [name for name, role in roles.items() if "coordinator" in role]
    nodes = Nodes(url, logs, coordinators, **settings)
    try:
        for name, role in roles.items():
            await nodes.start(name, role)
        yield nodes
    finally:
        await nodes.stop()
