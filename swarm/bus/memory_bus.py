"""One connection to a memory world: messages over a `MemoryLink`, logs, records and state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from swarm.bus.base import (
    Entry,
    LogInfo,
    StateValue,
    Storage,
    check_record_age,
    check_record_key,
    check_size,
)
from swarm.bus.memory_link import MemoryLink, Server
from swarm.bus.memory_node import Node
from swarm.bus.memory_write import Write
from swarm.errors import BusError, BusTimeout, OutcomeUnknown, StateMissing

T = TypeVar("T")


class MemoryBus(MemoryLink):
    """A `swarm.bus.base.Bus`; made by `MemoryWorld.connect`."""

    def __init__(self, server: Server, sender: str, node: Node) -> None:
        super().__init__(server, sender, node)
        #: By log or store: what one connection sends there arrives in the order it sent it.
        self._last_arrival_s: dict[str, float] = {}

    # --- logs ---

    async def create_log(self, log: str, max_bytes: int = 0) -> None:
        """See `Bus.create_log`; raises `BusTimeout`."""
        await self._call(
            f"creating {log}", lambda: self._server.logs.create(log, max_bytes), log=True
        )

    async def append(self, log: str, data: bytes, expected_seq: int, timeout_s: float) -> int:
        """See `Bus.append`."""
        self._check_open()
        # As on the wire: the fence travels in headers.
        fence = {"Nats-Expected-Last-Sequence": str(expected_seq), "Nats-Expected-Stream": log}
        check_size(self._server.max_payload, log, data, fence)
        for hook in self._server.on_send:
            self._wire.guard(hook, log, data, self.node.name)
        return await self._write(
            "append",
            log,
            f"{log}#{expected_seq + 1}",
            data,
            lambda: self._server.logs.append(log, data, expected_seq, self.node.name),
            f"an append to {log} after {expected_seq}",
            timeout_s,
            OutcomeUnknown,
        )

    async def read(self, log: str, from_seq: int, limit: int) -> list[Entry]:
        """See `Bus.read`."""
        return await self._call(
            f"reading {log}",
            lambda: self._server.logs.read(log, from_seq, limit, self.node.name),
            log=True,
        )

    async def log_info(self, log: str) -> LogInfo:
        """See `Bus.log_info`."""
        return await self._call(
            f"looking at {log}", lambda: self._server.logs.info(log, self.node.name), log=True
        )

    async def purge(self, log: str, below_seq: int) -> None:
        """See `Bus.purge`; faults befall it as they do appends."""
        self._check_open()
        await self._write(
            "purge",
            # Not in order with appends: a server takes it in by another way.
            f"{log} purge",
            f"{log}#{below_seq}",
            b"",
            lambda: self._server.logs.purge(log, below_seq, self.node.name),
            f"purging {log}",
            self._server.call_timeout_s,
            BusTimeout,
        )

    # --- records ---

    async def create_records(self, name: str, max_age_s: float) -> None:
        """See `Bus.create_records`; raises `BusTimeout`, `BadInput`."""
        check_record_age(max_age_s)
        await self._call(
            f"creating {name}", lambda: self._server.records.create(name, max_age_s), log=True
        )

    async def put_record(self, name: str, key: str, data: bytes, timeout_s: float) -> int:
        """See `Bus.put_record`; faults befall it as they do appends."""
        check_record_key(key)
        self._check_open()
        check_size(self._server.max_payload, f"{name}.{key}", data, {"Nats-Expected-Stream": name})
        number: int = await self._write(
            "record",
            name,
            f"{name}.{key}",
            data,
            lambda: self._server.records.put(name, key, data, self.node.name),
            f"putting a record to {name}.{key}",
            timeout_s,
            OutcomeUnknown,
        )
        return number

    async def get_records(self, name: str, key: str, as_of: int = 0) -> list[bytes]:
        """See `Bus.get_records`; faults befall it as they do reads of logs."""
        check_record_key(key)
        return await self._call(
            f"reading {name}.{key}",
            lambda: self._server.records.get(name, key, as_of, self.node.name),
            log=True,
        )

    async def storage(self) -> Storage:
        """See `Bus.storage`."""
        return await self._call("looking at the storage", self._server.disk.figures, log=True)

    # --- clock and shared state ---

    async def server_time(self) -> float:
        """See `Bus.server_time`; raises `BusTimeout`."""

        def tell() -> float:
            self._server.known_state()
            for hook in self._server.on_look:
                self._wire.guard(hook, self.node.name)
            return self._server.wall()

        return await self._call("the server's time", tell, log=True)

    async def open_state(self) -> None:
        """See `Bus.open_state`; raises `BusTimeout`.  A world begins with its state made."""
        await self._call("opening the shared state", self._open_state, log=True)

    def _open_state(self) -> None:
        server = self._server
        if server.state is not None:
            return
        names = server.logs.names()
        if names:
            raise StateMissing(
                f"the shared state is gone, but there are logs ({', '.join(names)}): restore it, "
                "or delete the logs, too"
            )
        server.state = {}

    async def state_get(self, key: str) -> bytes | None:
        """See `Bus.state_get`; raises `BusTimeout`."""
        return await self._call(
            f"reading {key}", lambda: self._server.known_state().get(key), log=True
        )

    async def state_create(self, key: str, value: bytes) -> bool:
        """See `Bus.state_create`; raises `BusTimeout`: then it may have been stored."""
        check_size(self._server.max_payload, key, value)

        def create() -> bool:
            state = self._server.known_state()
            if key in state:
                return False
            self._server.disk.take(f"creating {key}", len(key) + len(value))
            self._put_state(key, value)
            return True

        return await self._call(f"creating {key}", create, log=True)

    async def state_read(self, key: str) -> StateValue | None:
        """See `Bus.state_read`; raises `BusTimeout`."""

        def read() -> StateValue | None:
            value = self._server.known_state().get(key)
            return None if value is None else StateValue(value, self._server.revisions[key])

        return await self._call(f"reading {key}", read, log=True)

    async def state_update(self, key: str, value: bytes, revision: int) -> bool:
        """See `Bus.state_update`; raises `BusTimeout`: then it may have been stored."""
        check_size(self._server.max_payload, key, value)

        def update() -> bool:
            server = self._server
            if key not in server.known_state() or server.revisions[key] != revision:
                return False
            server.disk.take(f"updating {key}", len(value))
            server.disk.give(len(server.known_state()[key]))
            self._put_state(key, value)
            return True

        return await self._call(f"updating {key}", update, log=True)

    def _put_state(self, key: str, value: bytes) -> None:
        self._server.known_state()[key] = value
        self._server.revisions[key] = self._server.next_number()
        self._wire.note("state", self.node.name, key, value)

    async def _write(
        self,
        kind: str,
        order: str,
        label: str,
        data: bytes,
        perform: Callable[[], T],
        what: str,
        timeout_s: float,
        unknown: type[BusError],
    ) -> T:
        """Have the server change something that lasts, with the faults that befall it."""
        if not self.node.connected:
            self._check_buffer(len(data))
        answer: asyncio.Future[T] = self._wire.loop.create_future()
        write = Write(
            self._wire,
            self.node,
            self._last_arrival_s,
            kind,
            order,
            label,
            perform,
            timeout_s,
            answer,
        )
        self._wire.note(kind, self.node.name, label, data)
        self.node.leave(self, len(data), write.set_out)
        return await self._wait(answer, timeout_s, what, unknown)
