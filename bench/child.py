"""What every process of a session needs: its job, a connection, a clock."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.plan import Job, Measured
from swarm.hosting.process import run, stop_with_stdin, unless

#: How long a load waits for its system.
STAND_BY_S = 60.0
#: A load whose work does not advance for this long has failed.
STALLED_S = 15.0
#: As many as a queue of this benchmark ever holds: a drop would be an error of the load.
PENDING_MESSAGES = 4_000_000
PENDING_BYTES = 1 << 30


class Failed(Exception):
    """A system did not do what was asked of it; its figures are worth nothing."""


#: One process of a system; a cancelled one cleans up.
Role = Callable[[Job], Awaitable[None]]


def main(roles: Mapping[str, Role]) -> None:
    """Run `<module> <role> <job as JSON>` until it is done or stdin ends."""
    name, job = sys.argv[1], msgspec.json.decode(sys.argv[2], type=Job)

    async def child() -> None:
        stop = asyncio.Event()
        stop_with_stdin(stop.set)

        async def work() -> None:
            await roles[name](job)

        if not await unless(stop, work()) and name == "load":
            raise Failed("stopped before the work was done")

    run(child())


def say(line: bytes) -> None:
    """One line for the process that started us."""
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def say_ready() -> None:
    """A system takes requests; a load stands by."""
    say(b"ready")


def say_measured(measured: Measured) -> None:
    """The last line of a load."""
    say(msgspec.json.encode(measured))


class Errors:
    """Of the connection, collected: none may occur in a session."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def on_error(self, error: Exception) -> None:
        """For nats-py, which must not get an exception from here."""
        self.seen.append(f"{type(error).__name__}: {error}")

    def check(self) -> None:
        """Raise `Failed` if there was one."""
        if self.seen:
            raise Failed(f"{len(self.seen)} connection errors, the first: {self.seen[0]}")


async def connect(job: Job, name: str, errors: Errors) -> Client:
    """A connection that fails rather than reconnects."""
    return await nats.connect(job.url, name=name, allow_reconnect=False, error_cb=errors.on_error)


async def stand_by(client: Client, job: Job) -> None:
    """For a load: all that is needed is loaded; return when the system is ready, too."""
    go = await client.subscribe(go_subject(job))
    await client.flush()
    say_ready()
    try:
        await go.next_msg(timeout=STAND_BY_S)
    except nats.errors.TimeoutError:
        raise Failed(f"the system was not ready after {STAND_BY_S:.0f} s") from None


def go_subject(job: Job) -> str:
    """Where a load is told to begin."""
    return f"{job.prefix}.go"


class Inbox:
    """The callback only appends; whoever works takes the whole list."""

    def __init__(self) -> None:
        self._messages: list[Msg] = []
        self._arrived = asyncio.Event()

    async def listen(self, client: Client, subject: str) -> None:
        """Take in all messages to `subject`."""
        await client.subscribe(
            subject,
            cb=self.on_message,
            pending_msgs_limit=PENDING_MESSAGES,
            pending_bytes_limit=PENDING_BYTES,
        )

    async def on_message(self, message: Msg) -> None:
        """For nats-py."""
        self._messages.append(message)
        self._arrived.set()

    async def take(self, timeout_s: float | None = None) -> list[Msg]:
        """All that arrived; waits for the first, [] when none comes for `timeout_s`."""
        if not self._messages:
            self._arrived.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        messages, self._messages = self._messages, []
        return messages

    async def take_some(self) -> list[Msg]:
        """All that arrived; raises `Failed` when nothing comes for too long."""
        messages = await self.take(STALLED_S)
        if not messages:
            raise Failed(f"nothing arrived for {STALLED_S:.0f} s")
        return messages


class Meter:
    """Counts what is done; the clock runs from `warm` to `items`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.done = 0
        self._from: tuple[int, float, dict[str, float]] | None = None
        self._measured: Measured | None = None

    @property
    def finished(self) -> bool:
        """Everything is done."""
        return self._measured is not None

    @property
    def measured(self) -> Measured:
        """What was measured; only once `finished`."""
        assert self._measured is not None, "read before the end"
        return self._measured

    def count(self, number: int) -> None:
        """So many more are done."""
        self.done += number
        if self._from is None:
            if self.done >= self._job.warm:
                self._from = (self.done, time.perf_counter(), cpu_seconds(self._job.pids))
        elif self.done >= self._job.items and self._measured is None:
            done, started, cpu_s = self._from
            seconds = time.perf_counter() - started
            after = cpu_seconds(self._job.pids)
            used = {role: round(after[role] - cpu_s[role], 3) for role in after}
            self._measured = Measured(self.done - done, seconds, used, {})


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds that each process has used so far; {} where there is no /proc."""
    own = Path("/proc/self/stat")
    if not own.exists():
        return {}
    paths = {role: Path(f"/proc/{pid}/stat") for role, pid in pids.items()} | {"load": own}
    return {role: _cpu_s(path.read_text()) for role, path in paths.items()}


def _cpu_s(stat: str) -> float:
    # The command in parentheses may hold blanks; user and system time are the 14th and
    # 15th field of all, the 12th and 13th after it.
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def check(wanted: Mapping[str, int], found: Mapping[str, int]) -> dict[str, int]:
    """`found`, if every count is what it must be; else `Failed` that names all others."""
    wrong = [
        f"{name} is {found.get(name)}, must be {count}"
        for name, count in wanted.items()
        if found.get(name) != count
    ]
    if wrong:
        raise Failed("; ".join(wrong))
    return dict(found)
