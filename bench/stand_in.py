"""A stand-in for nats-server inside the process that is measured: no socket, no disk, no wait.

The shipped client (`swarm.bus.nats_client`) speaks to it through `Wire`, as it does to a
TCP connection.  It routes to the client's own subscriptions, acknowledges whatever is
appended to a log, keeps what is said to anybody else for the load to read, and counts
the CPU time that it takes itself, which is nobody's cost.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import ParseResult

import msgspec
from nats.aio.transport import Transport

from swarm.bus.base import Entry, LogInfo, StateValue, Storage
from swarm.bus.jetstream import JetStreamBus
from swarm.bus.memory_routes import Routes
from swarm.bus.nats_client import NatsClient
from swarm.bus.nats_dialing import Target

MAX_PAYLOAD: Final = 1 << 20
#: Bytes handed to the client at once, as a socket would.
READ_BYTES: Final = 65_536

_INFO: Final = {
    "server_id": "stand-in",
    "version": "2.15.1",
    "headers": True,
    "jetstream": True,
    "max_payload": MAX_PAYLOAD,
    "proto": 1,
}


class _Subscriber:
    """One subscription of the client."""

    queue = ""

    def __init__(self, number: int) -> None:
        self.number = number


@dataclass(slots=True)
class Log:
    """What is known of a log: how far it reaches, and its latest entry."""

    seq: int = 0
    size: int = 0
    last: bytes = b""


class Wire(Transport):
    """Both ends of the connection.  `own_s`: CPU seconds that the server's end has taken."""

    def __init__(self, prefix: str) -> None:
        self._log_stem = f"{prefix}log.".encode()
        self._routes: Routes[_Subscriber] = Routes()
        self._subscribers: dict[int, _Subscriber] = {}
        self._to_client: deque[bytes] = deque([b"INFO " + msgspec.json.encode(_INFO) + b"\r\n"])
        self._arrived = asyncio.Event()
        self._turns = asyncio.get_running_loop()
        self._hear: Callable[[bytes], None] | None = None
        self._unparsed = b""
        self.logs: dict[bytes, Log] = {}
        #: What the client said to others: (subject, data).
        self.said: list[tuple[bytes, bytes]] = []
        self._wanted: tuple[int, asyncio.Future[None]] | None = None
        self.own_s = 0.0

    # --- the load's side ---

    async def exchange(self, frames: bytes, answers: int) -> list[tuple[bytes, bytes]]:
        """Hand `frames` to the client; what it says, once that are so many messages."""
        said: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wanted = (answers, said)
        if frames:
            self._send(frames)
        if len(self.said) < answers:
            await said
        self._wanted = None
        messages, self.said = self.said, []
        return messages

    def frame(self, subject: str, data: bytes, reply: str = "", once: bool = False) -> bytes:
        """A message to the client, as the server would deliver it.

        `once`: on a subject that is not used again.
        """
        (subscriber,) = self._routes.plan(subject, remember=not once).singles
        between = f" {reply}" if reply else ""
        head = f"MSG {subject} {subscriber.number}{between} {len(data)}\r\n"
        return head.encode() + data + b"\r\n"

    # --- the server's side ---

    def _send(self, data: bytes) -> None:
        if self._hear is not None and not self._to_client:
            self._turns.call_soon(self._deliver)
        self._to_client.append(data)
        self._arrived.set()

    def _take(self, data: bytes) -> None:
        started = time.thread_time()
        data = self._unparsed + data
        at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            words = data[at:end].split(b" ")
            after = end + 2
            if words[0] in (b"PUB", b"HPUB"):
                size = int(words[-1])
                if after + size + 2 > len(data):
                    break
                self._published(words, data[after : after + size])
                after += size + 2
            else:
                self._command(words)
            at = after
        self._unparsed = data[at:]
        if self._wanted is not None:
            answers, said = self._wanted
            if len(self.said) >= answers and not said.done():
                said.set_result(None)
        self.own_s += time.thread_time() - started

    def _command(self, words: list[bytes]) -> None:
        if words[0] == b"PING":
            self._send(b"PONG\r\n")
        elif words[0] == b"SUB":
            number = int(words[-1])
            subscriber = self._subscribers[number] = _Subscriber(number)
            self._routes.add(words[1].decode(), subscriber)
        elif words[0] == b"UNSUB":
            self._subscribers.pop(int(words[1]), None)

    def _published(self, words: list[bytes], data: bytes) -> None:
        subject = words[1]
        if subject.startswith(self._log_stem):
            log = self.logs.setdefault(subject, Log())
            headers = int(words[-2]) if words[0] == b"HPUB" else 0
            log.last, log.size = data[headers:], log.size + len(data)
            log.seq += 1
            ack = b'{"stream":"log","seq":%d}' % log.seq
            self._send(self.frame(words[2].decode(), ack, once=True))
            return
        subscribers = self._routes.plan(subject.decode()).singles
        for _ in subscribers:
            self._send(self.frame(subject.decode(), data))
        if not subscribers and not subject.startswith(b"$JS."):
            self.said.append((subject, data))

    # --- what nats-py calls ---

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Connected already."""

    async def connect_tls(self, *_args: Any, **_named: Any) -> None:
        """Never asked for."""
        raise NotImplementedError("the stand-in speaks no TLS")

    def write(self, payload: bytes) -> None:
        """From the client."""
        self._take(payload)

    def writelines(self, payload: list[bytes]) -> None:
        """From the client."""
        self._take(b"".join(payload))

    async def read(self, buffer_size: int) -> bytes:
        """To the client: what has come, at most so many bytes as a socket would hold."""
        while not self._to_client:
            self._arrived.clear()
            await self._arrived.wait()
        return self._next_piece()

    def _next_piece(self) -> bytes:
        started = time.thread_time()
        data = b"".join(self._to_client)
        self._to_client.clear()
        if len(data) > READ_BYTES:
            self._to_client.append(data[READ_BYTES:])
            data = data[:READ_BYTES]
        self.own_s += time.thread_time() - started
        return data

    async def readline(self) -> bytes:
        """To the client, while it connects."""
        while not self._to_client:
            self._arrived.clear()
            await self._arrived.wait()
        return self._to_client.popleft()

    async def drain(self) -> None:
        """Nothing is held back."""

    def backlog(self) -> int:
        """Nothing is held back."""
        return 0

    def hear(self, hear: Callable[[bytes], None]) -> None:
        """From here on `hear` is called with all that comes, in a turn of its own."""
        self._hear = hear
        if self._to_client:
            self._turns.call_soon(self._deliver)

    def _deliver(self) -> None:
        assert self._hear is not None, "nobody listens"
        data = self._next_piece()
        if self._to_client:
            self._turns.call_soon(self._deliver)
        self._hear(data)

    async def wait_closed(self) -> None:
        """Nothing is left."""

    def close(self) -> None:
        """Nothing to close."""

    def at_eof(self) -> bool:
        """It never ends."""
        return False

    def __bool__(self) -> bool:
        return True


class _StandInTarget(Target):
    """Where the stand-in is to be reached."""

    async def dial_wire(self, wire: Wire) -> NatsClient:
        """A connected client."""
        client = NatsClient()
        client._transport = wire
        await self._connect(client, 5.0)
        client.watch_tasks()
        return client


class StandInBus(JetStreamBus):
    """The shipped bus; what streams are made and read with is left out."""

    def __init__(self, target: Target, prefix: str) -> None:
        super().__init__(target, MAX_PAYLOAD, prefix, 1, 0, None)
        self._values: dict[str, StateValue] = {}
        self.wire: Wire

    @classmethod
    async def make(cls, sender: str, prefix: str) -> StandInBus:
        """A bus that is open."""
        target = _StandInTarget(urls=["nats://127.0.0.1:4222"], sender=sender)
        wire = Wire(prefix)
        bus = cls(target, prefix)
        bus.wire = wire
        await bus.open(await target.dial_wire(wire))
        return bus

    async def create_log(self, log: str, max_bytes: int = 0) -> None:
        """It is there."""

    async def read(self, log: str, from_seq: int, limit: int) -> list[Entry]:
        """The latest entry, which owners look at; nothing else is ever read back."""
        found = self.wire.logs.get(log.encode(), Log())
        return [Entry(found.seq, found.last, time.time())] if 0 < from_seq == found.seq else []

    async def log_info(self, log: str) -> LogInfo:
        """As appended."""
        found = self.wire.logs.get(log.encode(), Log())
        return LogInfo(1, found.seq, found.size)

    async def purge(self, log: str, below_seq: int) -> None:
        """Its time is the server's."""

    async def create_records(self, name: str, max_age_s: float) -> None:
        """They are there."""

    async def put_record(self, name: str, key: str, data: bytes, timeout_s: float) -> int:
        """Its time is the server's."""
        return 1

    async def storage(self) -> Storage:
        """There is always room."""
        return Storage(0)

    async def server_time(self) -> float:
        """Ours."""
        return time.time()

    async def open_state(self) -> None:
        """It is there."""

    async def state_get(self, key: str) -> bytes | None:
        """As stored."""
        found = self._values.get(key)
        return None if found is None else found.value

    async def state_create(self, key: str, value: bytes) -> bool:
        """Stored here."""
        mine = StateValue(value, 1)
        return self._values.setdefault(key, mine) is mine

    async def state_read(self, key: str) -> StateValue | None:
        """As stored."""
        return self._values.get(key)

    async def state_update(self, key: str, value: bytes, revision: int) -> bool:
        """Stored here."""
        found = self._values.get(key)
        if found is None or found.revision != revision:
            return False
        self._values[key] = StateValue(value, revision + 1)
        return True
