"""One connection to a NATS server, from dialling to its loss; it never connects again.

nats-py speaks the protocol.  What is replaced here is what makes it unfit for a long-lived
service, each thing measured or read in nats-py 2.16:

- A client whose read loop has ended still calls itself connected, and a client that has
  been told an error is closed for ever.  Here every end, of the socket or of one of the
  client's three tasks, sets `lost`; whoever holds the client dials a new one.
- A PONG that comes after its waiter gave up ended the read loop.  Here it is dropped.
- PING went to the socket past what was still buffered, so that its PONG proved nothing
  about what had been published.  Here it waits its turn.
- A full send buffer made `publish` wait for a flush without a limit, and swallow its own
  cancellation.  Here the client never waits; `room` does, when its caller wants it.
- What was published took a future, a queue and a task to get out.  Here the loop is asked to
  write in its next turn; nats-py's task writes, and waits, only when the system takes no more.
- Publishing went through four coroutines that wait for nothing.  Here it is one function.
- Every piece that came took a task switch, and every message a queue and another one per
  subscription.  Here the loop calls the parser (`nats_transport`, `nats_parser`), and that the
  receiver, which costs a quarter and keeps the order between subscriptions.  Nothing queues up
  inside the client, so nothing is dropped there: a process that is too slow is held back by
  TCP, and disconnected by the server in the end.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from swarm.bus.base import Message
from swarm.bus.nats_headers import decode_headers
from swarm.bus.nats_parser import MessageParser
from swarm.bus.nats_transport import DirectTransport

log = structlog.get_logger()

#: Called by the read loop for every message of one subscription.
Receive = Callable[[Message], None]

#: Subjects whose lines are remembered: an agent's is the same for each item.
BEGINS_MAX = 8192

#: What the system has not taken yet, in bytes, before more is kept back (asyncio's own limit).
BACKLOG_MAX = 65_536

#: A message below this is put together at once, of more bytes each part is kept.
SMALL = 4096
#: Of small messages so much is taken before it is asked again whether there is room.
AT_ONCE_MAX = 256 * 1024
#: Would end the subject early, or the line.
BLANK = re.compile(r"\s")


class ConnectionLost(Exception):
    """The connection ended while an answer was awaited."""


class NatsClient(Client):
    """A connected client; made by `nats_dialing.Target`."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = self._parser = MessageParser(self)
        #: Done once the connection is of no more use.
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: The last thing that went wrong.
        self.problem: Exception | None = None
        self._receivers: dict[int, Receive] = {}
        self._turns = asyncio.get_running_loop()
        #: Whether the loop will write in its next turn.
        self._will_write = False
        self._heeding: set[asyncio.Task[None]] = set()
        #: Tells how much the transport holds; None if it must be waited for every time.
        self._backlog: Callable[[], int] | None = None
        #: Of messages sent lately: how their line begins, by subject.
        self._begins: dict[str, bytes] = {}
        self._room: asyncio.Future[Any] | None = None

    def send(self, subject: str, data: bytes, reply: str, head: bytes) -> None:
        """Buffer a message with its encoded headers, if any; nothing is waited for.

        Sizes are the caller's business.

        Raises `ConnectionLost`; ValueError for what would break the protocol.
        """
        if self.lost.done():
            raise ConnectionLost
        size = len(data)
        known = self._begins.get(subject) if not (reply or head) else None
        if known is not None and size < SMALL:
            message = b"%b%d\r\n%b\r\n" % (known, size, data)
            self._pending.append(message)
            self._pending_data_size += len(message)
        else:
            self._pend(subject, data, reply, head)
        self._write_soon()

    def send_usual(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """Buffer the first of these (subject, data), up to one that is new or large; how many.

        And no more than `AT_ONCE_MAX` bytes.
        """
        if self.lost.done():
            return 0
        begins, pend, size, count = self._begins, self._pending.append, 0, 0
        for subject, data in messages:
            begin = begins.get(subject)
            if begin is None or len(data) >= SMALL or size > AT_ONCE_MAX:
                break
            message = b"%b%d\r\n%b\r\n" % (begin, len(data), data)
            pend(message)
            size += len(message)
            count += 1
        if count:
            self._pending_data_size += size
            self._write_soon()
        return count

    def _write_soon(self) -> None:
        if not self._will_write:
            self._will_write = True
            self._turns.call_soon(self._write)

    def _write(self) -> None:
        """Hand all that is pending to the system, or to nats-py's task if it must wait."""
        self._will_write = False
        if self.lost.done() or not self._pending:
            return
        assert self._transport is not None, "only connected clients are handed out"
        assert self._flush_queue is not None, "as above"
        if self._backlog is None or self._backlog() > BACKLOG_MAX:
            if self._flush_queue.empty():
                self._flush_queue.put_nowait(self._turns.create_future())
            return
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        try:
            self._transport.writelines(pending)
        except (OSError, RuntimeError) as error:
            self._fail(error)

    def _pend(self, subject: str, data: bytes, reply: str, head: bytes) -> None:
        size = len(data)
        if head:
            begin = b"H%b%d " % (self._begin(subject, reply), len(head))
            start = b"%b%d\r\n%b" % (begin, len(head) + size, head)
        else:
            start = b"%b%d\r\n" % (self._begin(subject, reply), size)
        # Large data is not copied here; it is once when all that is pending is written.
        self._pending += (start, data, b"\r\n")
        self._pending_data_size += len(start) + size + 2

    def _begin(self, subject: str, reply: str) -> bytes:
        """How a message's line begins; remembered for what has no reply subject."""
        if not subject or BLANK.search(subject) or BLANK.search(reply):
            raise ValueError(f"no subject to publish to: {subject!r}, with reply {reply!r}")
        begin = f"PUB {subject} {reply} ".encode()
        if not reply:
            if len(self._begins) >= BEGINS_MAX:
                self._begins.clear()
            self._begins[subject] = begin
        return begin

    async def listen(self, subject: str, queue: str, receive: Receive) -> Subscription:
        """Subscribe; on the server once a `round_trip` that began later has ended."""
        # The number is known beforehand: the first message may come within `subscribe`.
        sid = self._sid + 1
        self._receivers[sid] = receive
        try:
            return await self.subscribe(subject, queue=queue)
        except BaseException:
            del self._receivers[sid]
            raise

    async def silence(self, subscription: Subscription) -> None:
        """Unsubscribe; the receiver is not called again from this moment on."""
        self._receivers.pop(subscription._id, None)
        try:
            await subscription.unsubscribe()
        except nats.errors.Error:
            # Closed, so the server has forgotten the subscription by itself.
            return

    async def round_trip(self, timeout_s: float) -> None:
        """Return once the server has processed all that was sent before.

        Raises `ConnectionLost`, TimeoutError.
        """
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        await self._send_ping(pong)
        await self._first_of(pong, timeout_s)

    async def room(self, timeout_s: float) -> None:
        """Return once all that is buffered now has been handed to the system.

        Raises `ConnectionLost`, TimeoutError.
        """
        assert self._flush_queue is not None, "only connected clients are handed out"
        room = self._room
        if room is None or room.done():
            room = self._room = asyncio.get_running_loop().create_future()
            await self._flush_queue.put(room)
        await self._first_of(room, timeout_s)

    async def _first_of(self, answer: asyncio.Future[Any], timeout_s: float) -> None:
        # `wait` leaves a future alone that it gave up on, as `wait_for` would not.
        await asyncio.wait(
            {answer, self.lost}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if answer.done():
            return
        if self.lost.done():
            raise ConnectionLost(str(self.problem or self.last_error or "closed"))
        raise TimeoutError

    async def abandon(self) -> None:
        """End the connection at once; what is still unsent is dropped."""
        self._lose()
        if self._flush_queue is None:
            return  # it never came to a connection
        self._pending.clear()
        self._pending_data_size = 0
        # A graceful end would wait until a dead peer has taken what the system still holds.
        if isinstance(self._transport, DirectTransport):
            self._transport.abort()
        try:
            await self.close()
        except (OSError, nats.errors.Error):
            return  # closed by others, which is as good

    def take_over(self) -> None:
        """The handshake is over: read and write without nats-py's tasks where that can be."""
        transport = self._transport
        self._backlog = getattr(transport, "backlog", None)
        hear = getattr(transport, "hear", None)
        if hear is not None:
            hear(self._feed)

    def _feed(self, data: bytes) -> None:
        if self.lost.done():
            return  # what comes after something that is no protocol is none, either
        try:
            self._parser.feed(data)
        except ProtocolError as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.problem = error
        self._lose()

    def _lose(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def watch_tasks(self) -> None:
        """Take the end of any of the client's tasks for the end of the connection."""
        for task in (self._reading_task, self._flusher_task, self._ping_interval_task):
            assert task is not None, "a connected client has all three"
            task.add_done_callback(lambda _: self._lose())

    async def note_problem(self, error: Exception) -> None:
        """Remember what the server or nats-py complains about; never raises."""
        self.problem = error
        if "permissions violation" in str(error):
            # The one thing that nobody would notice: the connection goes on without it.
            log.error("nats_permission_denied", error=str(error))

    # --- what nats-py calls ---

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        # Said at once: closing can take as long as the system believes in a dead peer.
        self._lose()
        await super()._close(status, do_cbs)

    def receive(
        self,
        sid: int,
        subject: bytes,
        reply: bytes,
        data: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Hand on a message; one for a subscription that has ended is dropped."""
        receive = self._receivers.get(sid)
        if receive is None:
            return
        try:
            receive(Message(subject.decode(), data, reply.decode(), headers))
        except Exception:
            log.exception("message_dropped", subject=repr(subject))

    def receive_with_headers(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        """As `receive`."""
        self.receive(sid, subject, reply, data, decode_headers(headers) or None)

    def control(self, line: bytes) -> None:
        """Heed a line that is no message; raises `ProtocolError`."""
        if line.startswith(b"PING"):
            self._pending.append(b"PONG\r\n")
            self._pending_data_size += 6
            self._write_soon()
        elif line.startswith(b"PONG"):
            self._pings_outstanding = 0
            pong = self._pongs.pop(0) if self._pongs else None
            if pong is not None and not pong.done():
                pong.set_result(True)
        elif line.startswith((b"INFO ", b"-ERR")):
            # Rare, and nats-py may have to wait for what it does about it.
            task = self._turns.create_task(self._heed(line))
            self._heeding.add(task)
            task.add_done_callback(self._heeding.discard)
        elif not line.startswith(b"+OK"):
            raise ProtocolError(f"no protocol: {line[:80]!r}")

    async def _heed(self, line: bytes) -> None:
        parser = Parser(self)
        try:
            await parser.parse(line)
            if parser.buf:
                raise ProtocolError(f"no protocol: {line[:80]!r}")
        except ProtocolError as error:
            self._fail(error)

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        self._pending.append(b"PING\r\n")
        self._pending_data_size += 6
        await self._flush_pending()
