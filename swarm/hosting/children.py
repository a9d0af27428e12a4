"""Child processes that are started again when they end, and never outlive their parent.

A child reads from a pipe whose other end its parent holds (`swarm.hosting.node.stop_with_stdin`):
however the parent ends, kill -9 included, the child sees the end and stops.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

log = structlog.get_logger()

#: First pause before a child is started again, doubled up to the longest.
RESTART_FIRST_S = 0.2
RESTART_LONGEST_S = 10.0
#: A child that lived this long has recovered: the next pause is the first one again.
HEALTHY_S = 30.0
#: A log file that has grown beyond this is moved aside when its child starts.
LOG_BYTES_MAX = 16 * 1024 * 1024
#: Exit code of a child whose arguments or settings are wrong: starting again is no use.
WRONG_USE = 2


class Child:
    """One supervised `swarm …` process, its output in a file."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log_path: Path,
        env: Mapping[str, str],
        on_wrong_use: Callable[[str], None],
    ) -> None:
        """`on_wrong_use` gets the message of a child that says it was started wrongly."""
        self.name = name
        self._command = [sys.executable, "-m", "swarm", *arguments]
        self._log_path = log_path
        self._env = dict(env)
        self._on_wrong_use = on_wrong_use
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        #: Where in the log file the output of the present process begins.
        self._log_from = 0
        #: How often it was started again.
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start it and watch over it."""
        self._process = await self._spawn()
        self._task = asyncio.create_task(self._watch(), name=f"watch {self.name}")

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, SIGKILL after `grace_s`; safe to call twice."""
        self._stopping = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            log.warning("killed: it did not stop in time", child=self.name, grace_s=grace_s)
            _kill_group(process)
            await process.wait()

    async def _watch(self) -> None:
        pause_s = RESTART_FIRST_S
        clock = asyncio.get_running_loop().time
        while True:
            process, started_at = self._process, clock()
            assert process is not None, "started before it is watched"
            code = await process.wait()
            if self._stopping:
                return
            said = last_words(self._log_path, self._log_from)
            if code == WRONG_USE:
                self._on_wrong_use(f"{self.name}: {said}")
                return
            if clock() - started_at > HEALTHY_S:
                pause_s = RESTART_FIRST_S
            log.warning(
                "a process ended; it is started again",
                child=self.name,
                how=describe_code(code),
                said=said,
                pause_s=pause_s,
                log=str(self._log_path),
            )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RESTART_LONGEST_S)
            self._process = await self._spawn()
            self.restarts += 1

    async def _spawn(self) -> asyncio.subprocess.Process:
        if self._log_path.exists() and self._log_path.stat().st_size > LOG_BYTES_MAX:
            self._log_path.replace(self._log_path.with_suffix(".log.1"))
        with self._log_path.open("ab") as output:
            self._log_from = output.tell()
            return await asyncio.create_subprocess_exec(
                *self._command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._env,
                # A Ctrl-C in the terminal is for the parent, which stops its children in order.
                start_new_session=True,
            )


def describe_code(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def last_words(path: Path, from_byte: int = 0) -> str:
    """The last message for people in a child's output since `from_byte`, else its last line."""
    try:
        with path.open("rb") as file:
            file.seek(max(from_byte, path.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError as error:
        return f"(its log cannot be read: {error.strerror})"
    lines = [line for line in lines if line.strip()]
    spoken = [line.removeprefix("swarm: ") for line in lines if line.startswith("swarm: ")]
    return (spoken or lines or ["nothing"])[-1][:500]


def _kill_group(process: asyncio.subprocess.Process) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended meanwhile
