"""One session: a system started fresh, a load beside it, and what the load measured."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import IO

import msgspec
from nats.aio.client import Client

from bench.child import Failed, go_subject
from bench.plan import PLAIN, SESSION_S, Job, Measured, System

ROOT = Path(__file__).resolve().parent.parent
#: A process that was told to stop is killed after this long.
STOP_S = 10.0
READY_S = 30.0
ERROR_LINES = 15


class Process:
    """A child of ours: its stdin is the leash, its stdout what it says."""

    def __init__(self, process: asyncio.subprocess.Process, what: str, errors: IO[bytes]) -> None:
        self._process = process
        self._what = what
        self._errors = errors

    @classmethod
    async def start(cls, system: System, role: str, job: Job, log_dir: Path) -> Process:
        """Start `role` ("system" or "load") of a system."""
        errors = (log_dir / f"{job.prefix}-{role}.log").open("w+b")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            system.module,
            role,
            msgspec.json.encode(job).decode(),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
        return cls(process, f"{system.title}, {role}", errors)

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
    system: System, job: Job, server_pid: int, client: Client, log_dir: Path
) -> Measured:
    """Start system and load, let the load work, stop both; raises `Failed`."""
    processes: list[Process] = []
    pids = {"nats": server_pid}
    try:
        if system != PLAIN:
            processes.append(await Process.start(system, "system", job, log_dir))
            pids["system"] = processes[0].pid
        job = msgspec.structs.replace(job, pids=pids)
        load = await Process.start(system, "load", job, log_dir)
        processes.append(load)
        for process in processes:
            line = await process.line(READY_S)
            assert line == b"ready", f"the first line of every process, not {line!r}"
        await client.publish(go_subject(job), b"")
        return msgspec.json.decode(await load.line(SESSION_S), type=Measured)
    finally:
        for process in processes:
            await process.stop()
