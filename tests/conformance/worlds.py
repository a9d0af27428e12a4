"""What the conformance suite needs of an implementation, and how it waits.

A new implementation adds a `World` here and its name in `conftest.py`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar

import nats

from swarm.bus import jetstream
from swarm.bus.base import Bus, Entry
from swarm.bus.memory import MemoryWorld
from swarm.errors import BusError

T = TypeVar("T")

#: For what is certain to come; only a failing test waits so long.
DEADLINE_S = 10.0
#: For an append or record that nothing stands in the way of.
TIMEOUT_S = 5.0
#: Between two looks at the end of a log, which nothing signals.
POLL_S = 0.01


class World(ABC):
    """Buses that can reach one another."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._buses: list[Bus] = []

    async def connect(self, sender: str = "a") -> Bus:
        """A new connection."""
        bus = await self._connect(sender)
        self._buses.append(bus)
        return bus

    async def close(self) -> None:
        """Close every connection."""
        for bus in self._buses:
            await bus.close()

    def log(self, number: int = 0) -> str:
        """The name of a log that no other test uses."""
        return f"{self.prefix}log.{number}"

    def subject(self, rest: str) -> str:
        """A subject that no other test uses."""
        return f"{self.prefix}.{rest}"

    # What an operator can do:

    @abstractmethod
    async def delete_log(self, number: int = 0) -> None: ...

    @abstractmethod
    async def delete_records(self, name: str) -> None: ...

    @abstractmethod
    async def delete_state(self) -> None: ...

    @abstractmethod
    async def _connect(self, sender: str) -> Bus: ...


class InMemoryWorld(World):
    """`swarm.bus.memory`, without faults, on the wall clock."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        self._world: MemoryWorld | None = None

    async def _connect(self, sender: str) -> Bus:
        if self._world is None:
            self._world = MemoryWorld.on_wall_clock()  # needs the running loop
        return self._world.connect(sender)

    @property
    def _there(self) -> MemoryWorld:
        assert self._world is not None, "connect first"
        return self._world

    async def delete_log(self, number: int = 0) -> None:
        self._there.delete_log(self.log(number))

    async def delete_records(self, name: str) -> None:
        self._there.delete_records(name)

    async def delete_state(self) -> None:
        self._there.delete_state()


class JetStreamWorld(World):
    """`swarm.bus.jetstream` on a real server."""

    def __init__(self, prefix: str, url: str) -> None:
        super().__init__(prefix)
        self._url = url

    async def _connect(self, sender: str) -> Bus:
        bus = await jetstream.connect(self._url, sender, prefix=self.prefix)
        if not self._buses:
            await bus.open_state()
        return bus

    async def delete_log(self, number: int = 0) -> None:
        await self._delete(f"{self.prefix}log_{number}")

    async def delete_records(self, name: str) -> None:
        await self._delete(name.replace(".", "_"))

    async def delete_state(self) -> None:
        await self._delete(f"KV_{self.prefix}-state")

    async def _delete(self, stream: str) -> None:
        client = await nats.connect(self._url)
        await client.jetstream().delete_stream(stream)
        await client.close()


class Seen(Generic[T]):
    """A handler that keeps what it is given, and can be waited for."""

    def __init__(self) -> None:
        self.all: list[T] = []
        self._changed = asyncio.Event()

    def __call__(self, one: T) -> None:
        self.all.append(one)
        self._changed.set()

    async def count(self, count: int) -> list[T]:
        """All of them, once there are `count`."""
        return await self.until(lambda seen: len(seen) >= count)

    async def until(self, holds: Callable[[list[T]], bool]) -> list[T]:
        """All of them, once `holds(all)`."""
        async with asyncio.timeout(DEADLINE_S):
            while not holds(self.all):
                self._changed.clear()
                await self._changed.wait()
        return self.all


async def filled(bus: Bus, log: str, count: int) -> None:
    """Make a log with the entries b"1", b"2", …"""
    await bus.create_log(log)
    for seq in range(count):
        assert await bus.append(log, str(seq + 1).encode(), seq, TIMEOUT_S) == seq + 1


@asynccontextmanager
async def reading(bus: Bus, log: str, from_seq: int = 1) -> AsyncIterator[Seen[Entry]]:
    """What somebody sees who reads on in a log until this ends, whatever fails meanwhile."""
    seen: Seen[Entry] = Seen()

    async def read_on() -> None:
        next_seq = from_seq
        while True:
            found = await outcome(bus.read(log, next_seq, 100))
            if isinstance(found, BusError) or not found:
                await asyncio.sleep(POLL_S)
                continue
            for entry in found:
                seen(entry)
            next_seq = found[-1].seq + 1

    task = asyncio.create_task(read_on())
    try:
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):  # asked for just now
            await task


async def settled(*buses: Bus) -> None:
    """Return once what `buses` have published before is with every handler.

    Each flush is answered after what the server had to send to that connection before.
    """
    for bus in buses:
        await bus.flush()
    for bus in buses:
        await bus.flush()


def ignore(one: object) -> None:
    """A handler for what does not matter."""


async def outcome(call: Awaitable[T]) -> T | BusError:
    """What `call` returns, or which of the bus's errors it raises."""
    try:
        return await call
    except BusError as error:
        return error
