"""What tests of simulated worlds share."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from swarm.bus.base import Message
from swarm.bus.memory import MemoryBus, MemoryWorld
from swarm.bus.memory_process import PROCESS
from swarm.errors import BusError
from swarm.testing.loop import run

T = TypeVar("T")


def sim(scenario: Callable[[MemoryWorld], Coroutine[Any, Any, T]], **settings: Any) -> T:
    """Run `scenario` in a world of its own."""

    async def main() -> T:
        return await scenario(MemoryWorld(random.Random(11), **settings))

    return run(main, seed=11)


async def pass_time(duration_s: float) -> None:
    """Let virtual time pass."""
    await asyncio.sleep(duration_s)


def loop_time() -> float:
    return asyncio.get_running_loop().time()


def is_connected(bus: MemoryBus) -> bool:
    """Whether it is now (a property, of which type checkers believe that it stays)."""
    return bus.connected


def leave_running(work: Coroutine[Any, Any, object]) -> None:
    """Start a task and leave it to the loop, which keeps it and ends it."""
    task = asyncio.create_task(work)
    assert not task.done()


def start_process(name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task that is a process of its own."""
    context = contextvars.copy_context()
    context.run(PROCESS.set, name)
    return asyncio.get_running_loop().create_task(work, name=name, context=context)


async def collect(bus: MemoryBus, subject: str, queue: str = "") -> list[bytes]:
    """Payloads that arrive on `subject`, as they do."""
    seen: list[bytes] = []
    await bus.subscribe(subject, lambda message: seen.append(message.data), queue)
    return seen


def read_on(bus: MemoryBus, log: str) -> list[int]:
    """Sequences that are found in a log, as they are, until the simulation ends."""
    found: list[int] = []

    async def read() -> None:
        next_seq = 1
        while True:
            with contextlib.suppress(BusError):  # the next look reads on
                for entry in await bus.read(log, next_seq, 100):
                    found.append(entry.seq)
                    next_seq = entry.seq + 1
            await pass_time(0.001)

    leave_running(read())
    return found


async def serve(bus: MemoryBus, subject: str) -> None:
    """Answer every request on `subject` with its own payload, until the simulation ends."""
    waiting: asyncio.Queue[Message] = asyncio.Queue()
    await bus.subscribe(subject, waiting.put_nowait)

    async def answer() -> None:
        while True:
            message = await waiting.get()
            await bus.publish(message.reply, message.data)

    leave_running(answer())
