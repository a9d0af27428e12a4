"""The messages half of a connection to a memory world, and how it waits for the server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from swarm.bus.base import Handler, Message, Subscription, check_size, headers_size
from swarm.bus.memory_disk import Disk
from swarm.bus.memory_faults import Wire
from swarm.bus.memory_logs import Logs
from swarm.bus.memory_messages import Receiver, Switch
from swarm.bus.memory_node import Node, Waiting, settle
from swarm.bus.memory_process import in_this_process
from swarm.bus.memory_records import Records
from swarm.bus.memory_routes import check_pattern
from swarm.errors import BusError, BusTimeout, BusUnavailable, StateMissing

T = TypeVar("T")

#: Called with the log, the data and the node that begins to append them.
SendHook = Callable[[str, bytes, str], None]
#: Called with the node that asks for the server's time.
LookHook = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Server:
    """What connections share.  `wall`: the clock, seconds since the epoch."""

    wire: Wire
    wall: Callable[[], float]
    switch: Switch
    logs: Logs
    records: Records
    disk: Disk
    max_payload: int
    call_timeout_s: float
    buffer_max: int
    #: None once it has been deleted.
    state: dict[str, bytes] | None = field(default_factory=dict)
    #: Of the values in it.
    revisions: dict[str, int] = field(default_factory=dict)
    last_number: int = 0
    on_send: list[SendHook] = field(default_factory=list)
    on_look: list[LookHook] = field(default_factory=list)

    def known_state(self) -> dict[str, bytes]:
        """The shared state; raises `StateMissing`."""
        if self.state is None:
            raise StateMissing("the shared state does not exist: somebody has deleted it")
        return self.state

    def next_number(self) -> int:
        """A number for a connection or subscription: unique, in order of creation."""
        self.last_number += 1
        return self.last_number


class _Subscription:
    def __init__(self, bus: MemoryLink, receiver: Receiver) -> None:
        self._bus = bus
        self._receiver = receiver

    async def unsubscribe(self) -> None:
        """Stop; safe to call twice."""
        self._bus._forget(self._receiver)


class MemoryLink:
    """See `swarm.bus.base.Bus` for what its methods promise.

    Beyond the contract: a subject or pattern that NATS would not take raises ValueError,
    and after its node has crashed every call raises `BusUnavailable`, whereas what it was
    waiting for at that moment never comes.
    """

    def __init__(self, server: Server, sender: str, node: Node) -> None:
        self.node = node
        self.number = server.next_number()
        self._server = server
        self._wire = server.wire
        self._switch = server.switch
        self._sender = sender
        self._closed = False
        self._reconnects_before = node.reconnects
        self._inboxes = 0
        self._receivers: dict[int, Receiver] = {}
        #: What is waited for, and what it raises without an answer: it may have been done.
        self._pending: dict[asyncio.Future[Any], type[BusError]] = {}
        self._buffer: deque[Waiting] = deque()
        self._buffered = 0

    @property
    def sender(self) -> str:
        """Who this connection speaks as."""
        return self._sender

    @property
    def max_payload(self) -> int:
        """Largest message in bytes, headers included."""
        return self._server.max_payload

    @property
    def connected(self) -> bool:
        """Whether the node takes itself for connected."""
        return self.node.connected and not self.node.dead and not self._closed

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and made again."""
        return self.node.reconnects - self._reconnects_before

    # --- messages ---

    async def publish(
        self,
        subject: str,
        data: bytes,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """See `Bus.publish`: there is room always, or never."""
        self._check_open()
        check_size(self._server.max_payload, subject, data, headers)
        self._publish(Message(subject, data, reply, dict(headers) if headers else None))

    def publish_usual(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """See `Bus.publish_usual`: a closer look costs nothing here."""
        return 0

    def _publish(self, message: Message) -> None:
        size = len(message.subject) + len(message.data) + headers_size(message.headers)
        if not self.node.connected:
            self._check_buffer(size)
        self._switch.announce(self.node, message)
        self.node.leave(self, size, self._switch.route, self.number, message)

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """See `Bus.subscribe`; raises `BusUnavailable` when the server cannot be reached."""
        check_pattern(subject)
        receiver = Receiver(
            self.node, subject, in_this_process(handler), self._server.next_number(), queue
        )

        def register() -> None:
            # It may have been given up, or its process ended, while this was under way.
            if not (receiver.closed or self._closed or self.node.dead):
                self._receivers[receiver.number] = receiver
                self._switch.subscribe(receiver)

        try:
            await self._call(f"subscribing to {subject}", register, error=BusUnavailable)
        except BaseException:
            self._forget(receiver)
            raise
        return _Subscription(self, receiver)

    def _forget(self, receiver: Receiver) -> None:
        receiver.closed = True
        if self._receivers.pop(receiver.number, None) is not None:
            self._switch.unsubscribe(receiver)

    async def request(
        self,
        subject: str,
        data: bytes,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """See `Bus.request`."""
        self._check_open()
        check_size(self._server.max_payload, subject, data, headers)
        answer: asyncio.Future[Message] = self._wire.loop.create_future()

        def settle_answer(message: Message) -> None:
            settle(answer, message)

        request = Receiver(self.node, self.inbox(), settle_answer, self.number, answer=answer)
        self._switch.expect_reply(request)
        try:
            head = dict(headers) if headers else None
            self._publish(Message(subject, data, request.subject, head))
            return await self._wait(answer, timeout_s, f"a request to {subject}", BusTimeout)
        finally:
            request.closed = True
            self._switch.forget_reply(request)

    def inbox(self) -> str:
        """See `Bus.inbox`."""
        self._inboxes += 1
        return f"_INBOX.{self._sender}.{self.number}-{self._inboxes}"

    async def flush(self) -> None:
        """See `Bus.flush`; raises `BusUnavailable` when the server cannot be reached."""
        await self._call("a flush", lambda: None, error=BusUnavailable)

    async def close(self) -> None:
        """See `Bus.close`.  What is still waited for fails; what is still buffered is lost."""
        if self._closed:
            return
        self._closed = True
        self._wire.note("close", self.node.name, self._sender)
        self.deafen()
        for receiver in list(self._receivers.values()):
            self._forget(receiver)
        self._buffer.clear()
        self.node.connections.remove(self)
        if self.node.dead:
            return
        for answer, error in list(self._pending.items()):
            settle(answer, error(f"the connection of {self._sender} was closed meanwhile"))

    # --- for the node ---

    def buffer(self, size: int, waiting: Waiting) -> None:
        """Keep what is sent while disconnected; `BusUnavailable` when there is no room."""
        self._check_buffer(size)
        if self._closed:
            return
        self._buffered += size
        self._buffer.append(waiting)

    def listen(self) -> None:
        """Connected again: subscribe again, then send the buffer."""
        for receiver in self._receivers.values():
            self._switch.subscribe(receiver)
        self._buffered = 0
        while self._buffer:
            callback, args = self._buffer.popleft()
            self._wire.guard(callback, *args)

    def deafen(self) -> None:
        """The server has dropped the connection and its subscriptions."""
        for receiver in self._receivers.values():
            self._switch.unsubscribe(receiver)

    # --- waiting for the server ---

    async def _call(
        self,
        what: str,
        serve: Callable[[], T],
        *,
        log: bool = False,
        error: type[BusError] = BusTimeout,
    ) -> T:
        """Have the server do something, and wait for what it returns or raises."""
        self._check_open()
        answer: asyncio.Future[T] = self._wire.loop.create_future()
        self.node.leave(self, 0, self._call_sets_out, serve, answer, log)
        return await self._wait(answer, self._server.call_timeout_s, what, error)

    def _call_sets_out(
        self, serve: Callable[[], object], answer: asyncio.Future[Any], log: bool
    ) -> None:
        delay_s = self._wire.between(self._wire.faults.latency_s)
        self._wire.later(delay_s, self._call_arrives, self.node.link, serve, answer, log)

    def _call_arrives(
        self, link: int, serve: Callable[[], object], answer: asyncio.Future[Any], log: bool
    ) -> None:
        if not self.node.reaches(link, log):
            return
        outcome: object
        try:
            outcome = serve()
        except BusError as error:
            outcome = error
        delay_s = self._wire.between(self._wire.faults.latency_s)
        self._wire.later(delay_s, self._call_returns, link, outcome, answer, log)

    def _call_returns(
        self, link: int, outcome: object, answer: asyncio.Future[Any], log: bool
    ) -> None:
        if self.node.reaches(link, log):
            self.node.enter(settle, answer, outcome)

    async def _wait(
        self, answer: asyncio.Future[T], timeout_s: float, what: str, error: type[BusError]
    ) -> T:
        def give_up() -> None:
            if not answer.done():
                self._wire.note("timeout", self.node.name, what)
                answer.set_exception(error(f"{what}: no answer within {timeout_s} s"))

        # A timer of the process: it is held back with the process, not with its messages.
        timer = self._wire.loop.call_later(timeout_s, self.node.due, give_up)
        self._pending[answer] = error
        try:
            return await answer
        finally:
            timer.cancel()
            self._pending.pop(answer, None)

    def _check_open(self) -> None:
        if self._closed:
            raise BusUnavailable(f"the connection of {self._sender} is closed")
        if self.node.dead:
            raise BusUnavailable(f"the node {self.node.name} has crashed")

    def _check_buffer(self, size: int) -> None:
        if self._buffered + size > self._server.buffer_max:
            raise BusUnavailable(
                f"{self._sender} is not connected and its buffer of {self._server.buffer_max} "
                "bytes is full; try again once it is connected"
            )
