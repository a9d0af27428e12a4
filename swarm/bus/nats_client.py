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
- Publishing went through four coroutines that wait for nothing.  Here it is one function.
- Every message was a buffer of its own for the system: a quarter of a busy coordinator's
  CPU time went into writing a hundred small ones at once.  Here they are joined first.
- Every message took a queue and a task switch per subscription.  Here the parser
  (`nats_parser`) calls the receiver, which costs a quarter and keeps the order between
  subscriptions.  Nothing queues up inside the client, so nothing is dropped there: a process
  that is too slow is held back by TCP, and disconnected by the server in the end.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any
from urllib.parse import urlsplit

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from swarm.bus.base import Message
from swarm.bus.nats_buffer import encode_headers
from swarm.bus.nats_parser import MessageParser
from swarm.errors import BadInput, BusUnavailable

log = structlog.get_logger()

#: Called by the read loop for every message of one subscription.
Receive = Callable[[Message], None]

#: A connection without a sign of life is given up after three of these.
PING_INTERVAL_S = 3
#: Batched direct reads, which logs are read with, exist from this version on.
VERSION_MIN = (2, 11)


#: How addresses begin to which nats-py has another transport.
WEBSOCKET = ("ws://", "wss://")

#: Subjects whose lines are remembered: an agent's is the same for each item.
BEGINS_MAX = 8192

#: A message below this is put together at once, of more bytes each part is kept.
SMALL = 4096
#: Would end the subject early, or the line.
BLANK = re.compile(r"\s")


class ConnectionLost(Exception):
    """The connection ended while an answer was awaited."""


class JoiningTransport(TcpTransport):
    """A TCP connection that hands what is written at once to the system in one piece."""

    def writelines(self, payload: list[bytes]) -> None:
        """Write all of it."""
        assert self._io_writer is not None, "connected first"
        self._io_writer.write(b"".join(payload))

    def __bool__(self) -> bool:
        # Whether there is one; nats-py makes its own where there is none.
        return True


class NatsClient(Client):
    """A connected client; made by `Target.dial`."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = MessageParser(self)
        #: Done once the connection is of no more use.
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: The last thing that went wrong.
        self.problem: Exception | None = None
        self._receivers: dict[int, Receive] = {}
        #: Of messages sent lately: how their line begins, by subject.
        self._begins: dict[str, bytes] = {}
        self._room: asyncio.Future[Any] | None = None

    def send(
        self, subject: str, data: bytes, reply: str, headers: Mapping[str, str] | None
    ) -> None:
        """Buffer a message; nothing is waited for, and sizes are the caller's business.

        Raises `ConnectionLost`; ValueError for what would break the protocol.
        """
        if self.lost.done():
            raise ConnectionLost
        size = len(data)
        known = self._begins.get(subject) if not (reply or headers) else None
        if known is not None and size < SMALL:
            message = b"%b%d\r\n%b\r\n" % (known, size, data)
            self._pending.append(message)
            self._pending_data_size += len(message)
        else:
            self._pend(subject, data, reply, headers)
        queue = self._flush_queue
        assert queue is not None, "only connected clients are handed out"
        if queue.empty():
            queue.put_nowait(asyncio.get_running_loop().create_future())

    def _pend(
        self, subject: str, data: bytes, reply: str, headers: Mapping[str, str] | None
    ) -> None:
        size = len(data)
        if headers:
            head = encode_headers(headers)
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
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        try:
            await self.close()
        except (OSError, nats.errors.Error):
            return  # closed by others, which is as good

    def _lose(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def _watch_tasks(self) -> None:
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

    async def receive_with_headers(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        """As `receive`."""
        try:
            parsed = await self._process_headers(headers)
        except Exception:
            log.exception("message_dropped", subject=repr(subject))
        else:
            self.receive(sid, subject, reply, data, parsed)

    async def _process_pong(self) -> None:
        self._pings_outstanding = 0
        if not self._pongs:
            return
        pong = self._pongs.pop(0)
        if not pong.done():
            pong.set_result(True)

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        self._pending.append(b"PING\r\n")
        self._pending_data_size += 6
        await self._flush_pending()


@dataclass(slots=True, kw_only=True)
class Target:
    """Whom to connect to (one of `urls`, all of one scheme, credentials inside), as whom."""

    urls: list[str]
    sender: str
    #: Shown in NATS's monitoring; default: the sender.
    name: str = ""

    async def dial(self, timeout_s: float) -> NatsClient:
        """Connect to one of the servers, each tried at most twice.

        Raises `BusUnavailable` if none can be reached, lets us in and is of use; `BadInput`
        for an address that is none.
        """
        client = NatsClient()
        try:
            async with asyncio.timeout(timeout_s):
                await self._connect(client, timeout_s)
            client._watch_tasks()
            _check_version(client)
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await client.abandon()
            raise _dial_error(self.urls, client.problem or error) from error
        except BaseException:
            await client.abandon()
            raise
        return client

    async def _connect(self, client: NatsClient, timeout_s: float) -> None:
        if client._transport is None and not self.urls[0].startswith(WEBSOCKET):
            client._transport = JoiningTransport()  # type: ignore[no-untyped-call]
        await client.connect(
            self.urls,
            name=self.name or self.sender,
            inbox_prefix=f"_INBOX.{self.sender}",
            error_cb=client.note_problem,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            # Of several servers one that swallows everything must not use up the time.
            connect_timeout=min(ceil(timeout_s), 2),
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=2,
            # No limits, so that nothing is ever waited for (see the top).
            pending_size=0,
            flusher_queue_size=0,
        )


def _dial_error(urls: list[str], error: Exception) -> BusUnavailable | BadInput:
    where = " or ".join(without_secrets(url) for url in urls)
    text = str(error) or type(error).__name__
    if "invalid" in text and "connect url" in text:
        return BadInput(f"{where} is no NATS address; one looks like nats://127.0.0.1:4222")
    if isinstance(error, TimeoutError):
        text = "no answer in time"
    return BusUnavailable(f"no connection to NATS at {where}: {text}")


def _check_version(client: NatsClient) -> None:
    version = client.connected_server_version
    try:
        found = (version.major, version.minor)
    except ValueError:
        # Somebody's own build; what it lacks will show.
        log.warning("nats_version_unknown", version=str(version))
        return
    if found < VERSION_MIN:
        need = ".".join(map(str, VERSION_MIN))
        raise BusUnavailable(f"the NATS server is {version}, need {need} or newer")


def without_secrets(url: str) -> str:
    """`url` without user name, password or token, for people to read."""
    if "@" not in url:
        return url
    scheme, _, rest = url.rpartition("://")
    return f"{scheme or 'nats'}://{rest.rpartition('@')[2]}"


def with_credentials(address: str, like: str) -> str:
    """`address` (host:port) as a URL with the scheme and credentials of the URL `like`."""
    parts = urlsplit(like if "://" in like else f"nats://{like}")
    credentials, at, _ = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{credentials}{at}{address}"
