"""The processes of a run: started, hit, started again; none outlives the run."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from swarm.bus import leash
from swarm.hosting.children import describe_code, last_words

log = structlog.get_logger()

#: A member that ends by itself is started again after this long.
AGAIN_S = 1.0
#: One that does not stop in order within this time is killed.
STOP_S = 20.0
#: So young, a process may not listen to SIGTERM yet: the signal itself ends it, which is as good.
YOUNG_S = 5.0


class Member:
    """One process at one place."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        directory: Path,
        on_surprise: Callable[[str], None],
    ) -> None:
        """`on_surprise` hears of every end that nobody here has caused."""
        self.name = name
        self.env = dict(env)
        self._directory = directory
        # The kernel kills it when this process ends, however that comes.
        leashed = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), "signal"]
        self._command = [*leashed, *command]
        self._on_surprise = on_surprise
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        #: Whether its end is our doing.
        self._ending = False
        #: How often it was started, and when it was at last (monotonic).
        self.starts = 0
        self._started_at = 0.0

    @property
    def log_path(self) -> Path:
        """What it writes to stdout and stderr."""
        return self._directory / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it; nothing if it runs."""
        if self.running:
            return
        with self.log_path.open("ab") as output:
            process = self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.env,
                cwd=self._directory,
                # Ctrl-C is for the run, which ends its members in order.
                start_new_session=True,
            )
        self._ending = False
        self.starts += 1
        self._started_at = time.monotonic()
        self._watch = asyncio.create_task(self._look_after(process), name=f"watch {self.name}")

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._ending = True
        self._signal(signal.SIGKILL)
        await self._gone()

    async def end(self, grace_s: float = STOP_S) -> None:
        """SIGTERM; returns when it is gone.  A bad end is a surprise."""
        self._ending = True
        process = self._process
        if process is None or not self.running:
            return
        young = time.monotonic() - self._started_at < YOUNG_S
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            self._on_surprise(f"{self.name} did not end within {grace_s:.0f} s of SIGTERM")
            await self.kill()
            return
        if process.returncode and not (young and process.returncode == -signal.SIGTERM):
            self._on_surprise(f"{self.name} ended badly after SIGTERM: {self._last(process)}")

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    async def _gone(self) -> None:
        if self._process is not None:
            await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)

    async def _look_after(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        if self._ending:
            return
        self._on_surprise(f"{self.name} ended by itself: {self._last(process)}")
        await asyncio.sleep(AGAIN_S)
        if not self._ending:
            await self.start()

    def _last(self, process: asyncio.subprocess.Process) -> str:
        assert process.returncode is not None, "it has ended"
        return f"{describe_code(process.returncode)}: {last_words(self.log_path)}"
