"""One session: a system started fresh, a load beside it, and what the load measured."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec
import nats

from bench.child import Failed, go_subject
from bench.plan import PLAIN, SESSION_S, Job, Measured, System
from swarm.hosting.process import cancelled

ROOT = Path(__file__).resolve().parent.parent
#: A process that was told to stop is killed after this long.
STOP_S = 10.0
READY_S = 30.0
ERROR_LINES = 15
GO_AGAIN_S = 1.0


class Process:
    """A child of ours: its stdin is the leash, its stdout what it says."""

    def __init__(self, process: asyncio.subprocess.Process, what: str, errors: IO[bytes]) -> None:
        self._process = process
        self._what = what
        self._errors = errors

    @classmethod
    async def start(cls, module: str, role: str, job: Job, log_dir: Path) -> Process:
        """Start `role` ("system" or "load") of a module."""
        errors = (log_dir / f"{job.prefix}-{role}.log").open("w+b")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            role,
            msgspec.json.encode(job).decode(),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
        return cls(process, f"{module}, {role}", errors)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def line(self, timeout_s: float) -> bytes:
        """Its next line; `Failed` with what it logged when none comes."""
        assert self._process.stdout is not None, "started with a pipe"
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise Failed(f"{self._what}: no answer within {timeout_s:.0f} s{self._log()}") from None
        if not line:
            await self._process.wait()
            raise Failed(f"{self._what}: exit code {self._process.returncode}{self._log()}")
        return line.strip()

    async def stop(self) -> None:
        """End it; safe to call twice."""
        assert self._process.stdin is not None, "started with a pipe"
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._errors.close()

    def _log(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()[-ERROR_LINES:]
        return "".join(f"\n  {line}" for line in lines)


async def run_session(
    system: System,
    job: Job,
    server_pid: int,
    log_dir: Path,
    load: str = "",
    wait_s: float = SESSION_S,
) -> Measured:
    """Start system and load, let the load work, stop both; raises `Failed`.

    `load`: module of another load than the system's own.  `wait_s`: how long it may work.
    """
    pids = {"nats": server_pid}
    if system == PLAIN:
        job = msgspec.structs.replace(job, pids=pids)
        return await run_load(load or system.module, job, log_dir, wait_s)
    process = await Process.start(system.module, "system", job, log_dir)
    try:
        job = msgspec.structs.replace(job, pids=pids | {"system": process.pid})
        return await run_load(load or system.module, job, log_dir, wait_s, [process])
    finally:
        await process.stop()


async def run_load(
    module: str,
    job: Job,
    log_dir: Path,
    wait_s: float = SESSION_S,
    system: Sequence[Process] = (),
) -> Measured:
    """Let a load work on a system that runs, or begins to; raises `Failed`."""
    process = await Process.start(module, "load", job, log_dir)
    try:
        await ready([*system, process])
        going = asyncio.create_task(_say_go(job))
        try:
            return msgspec.json.decode(await process.line(wait_s), type=Measured)
        finally:
            await cancelled(going)
    finally:
        await process.stop()


async def _say_go(job: Job) -> None:
    """Tell the load to begin, until cancelled: more than once, over a connection of its own.

    Now and then the only one did not arrive, with a client that had had other things to do.
    """
    client = await nats.connect(job.url)
    try:
        while True:
            await client.publish(go_subject(job), b"")
            await asyncio.sleep(GO_AGAIN_S)
    finally:
        await client.close()


async def ready(processes: list[Process]) -> None:
    """Return once all say that they are; raises `Failed`."""
    for process in processes:
        line = await process.line(READY_S)
        assert line == b"ready", f"the first line of every process, not {line!r}"
