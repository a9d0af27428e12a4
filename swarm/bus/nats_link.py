"""The messages half of a bus on NATS: a connection that is made again whenever it is lost.

One client at a time (`nats_client`).  When it is lost, for whatever reason, a supervisor
dials a new one, with growing pauses and jitter, for ever; it subscribes to everything
again, sends what was published meanwhile, and only then is the link connected.

Answers come through one subscription, ``_INBOX.<sender>.<link>.*``, and are told apart by
the last token.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from random import SystemRandom
from typing import Any, Final, TypeVar

import nats.errors
import structlog

from swarm.bus.base import Handler, Message, Subscription, check_size
from swarm.bus.memory_routes import check_pattern
from swarm.bus.nats_answers import Answers, check_responders, fail, settle
from swarm.bus.nats_buffer import BUFFER_MAX, Buffer, check_line
from swarm.bus.nats_client import SMALL, ConnectionLost, NatsClient
from swarm.bus.nats_dialing import Target, with_credentials
from swarm.bus.nats_headers import encode_headers
from swarm.bus.nats_listener import Listener
from swarm.errors import BusTimeout, BusUnavailable, SwarmError

log = structlog.get_logger()

T = TypeVar("T")

#: Calls without a time-out of their own: subscribing, flushing, and what logs need.
CALL_TIMEOUT_S: Final = 5.0
#: How long `publish` waits for room while connected.
ROOM_TIMEOUT_S: Final = 10.0
#: How long `close` tries to get rid of what is still unsent.
CLOSE_TIMEOUT_S: Final = 2.0
#: Pauses between attempts to connect, doubling; each is drawn from half of it to all of it.
PAUSE_MIN_S: Final = 0.05
PAUSE_MAX_S: Final = 2.0


class NatsLink:
    """See `swarm.bus.base.Bus` for what its methods promise.

    Beyond the contract: a subject or pattern that NATS would not take raises ValueError.
    """

    def __init__(self, target: Target, max_payload: int) -> None:
        """`open` has to be called next, with a connected client."""
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._rng = SystemRandom()
        self._number = f"{self._rng.getrandbits(64):016x}"
        self._inboxes = itertools.count(1)
        self._answers = Answers(f"_INBOX.{target.sender}.{self._number}.")
        self._max_payload = max_payload
        self._reconnects = 0
        self._closing = False
        #: The connected client, with everything subscribed on it.
        self._client: NatsClient | None = None
        #: Done while there is such a client.
        self._up: asyncio.Future[None] = self._loop.create_future()
        self._listeners: dict[Listener, None] = {}
        self._buffer = Buffer()
        self._supervisor: asyncio.Task[None] | None = None
        #: Lost clients that are being closed.
        self._cleaning: set[asyncio.Task[None]] = set()

    async def open(self, client: NatsClient) -> None:
        """Start on `client`; raises `BusUnavailable` if it is lost at once."""
        answers = Listener(self._listeners, self._answers.pattern, "", self._answers.receive)
        self._listeners[answers] = None
        try:
            await self._restore(client)
        except (ConnectionLost, TimeoutError, nats.errors.Error) as error:
            raise BusUnavailable(f"the connection to NATS was lost at once: {error}") from error
        self._supervisor = self._loop.create_task(self._supervise(client))

    @property
    def sender(self) -> str:
        """Who this connection speaks as."""
        return self._target.sender

    @property
    def max_payload(self) -> int:
        """Largest message in bytes, headers included, that the server takes."""
        return self._max_payload

    @property
    def connected(self) -> bool:
        """Whether messages can be sent and received right now, as far as is known.

        A connection that died in silence is found out within some 10 s.
        """
        return self._client is not None and not self._client.lost.done()

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and made again."""
        return self._reconnects

    # --- messages ---

    async def publish(
        self, subject: str, data: bytes, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """See `Bus.publish`."""
        while not self._try_publish(subject, data, reply, headers):
            await self._make_room()

    def _try_publish(
        self, subject: str, data: bytes, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> bool:
        """As `publish`; False, and nothing is sent, where that would have to wait for room.

        All that this bus sends goes through here, or is too usual for that.
        """
        if self._closing:
            raise BusUnavailable(f"the connection of {self.sender} is closed")
        head = encode_headers(headers) if headers else b""
        if len(head) + len(data) > self._max_payload:
            check_size(self._max_payload, subject, data, headers)
        if len(subject) + len(reply) > 1000:
            check_line(subject, reply)
        client = self._client
        if client is None:
            self._buffer.add(subject, data, reply, head)
            return True
        if client.pending_data_size > BUFFER_MAX:
            return False
        try:
            client.send(subject, data, reply, head)
        except ConnectionLost:
            # Just now, and it is not noted in `_client` yet.
            self._buffer.add(subject, data, reply, head)
        return True

    def publish_usual(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """See `Bus.publish_usual`."""
        client = self._client
        if client is None or self._closing or self._max_payload < SMALL:
            return 0
        return 0 if client.pending_data_size > BUFFER_MAX else client.send_usual(messages)

    async def _make_room(self) -> None:
        """Wait until the client has sent what it holds, or is lost."""
        client = self._client
        if client is None:
            return
        try:
            await client.room(ROOM_TIMEOUT_S)
        except ConnectionLost:
            self._disconnected(client)
        except TimeoutError:
            raise BusUnavailable(
                f"{BUFFER_MAX} bytes wait to be sent and the server has taken nothing for "
                f"{ROOM_TIMEOUT_S:.0f} s; try again later"
            ) from None

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """See `Bus.subscribe`; raises `BusUnavailable` when the server cannot be reached."""
        check_pattern(subject)
        if any(map(str.isspace, queue)):
            raise ValueError(f"a queue group's name has no blanks: {queue!r}")
        self._check_open()
        listener = Listener(self._listeners, subject, queue, handler)
        self._listeners[listener] = None
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._register(listener)
        except TimeoutError:
            await listener.unsubscribe()
            raise BusUnavailable(f"subscribing to {subject}: the server did not answer") from None
        except BaseException:
            await listener.unsubscribe()
            raise
        return listener

    async def _register(self, listener: Listener) -> None:
        """Have the server know of `listener`, over lost connections if need be."""
        while True:
            client = await self._connected_client()
            try:
                if listener.client is not client:
                    await listener.attach(client)
                await client.round_trip(CALL_TIMEOUT_S)
            except (ConnectionLost, nats.errors.Error):
                await asyncio.sleep(0)
                continue
            return

    async def request(
        self,
        subject: str,
        data: bytes,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """See `Bus.request`."""
        answer: asyncio.Future[Message] = self._loop.create_future()
        receive = partial(settle, answer)
        message = await self.ask(subject, data, timeout_s, headers, receive, answer)
        check_responders(message, subject)
        return message

    async def ask(
        self,
        subject: str,
        data: bytes,
        timeout_s: float,
        headers: Mapping[str, str] | None,
        receive: Handler,
        done: asyncio.Future[T],
        *,
        fragile: bool = False,
    ) -> T:
        """Send with an inbox of its own, hand answers to `receive` until `done` is done.

        While there is no connection it waits for one, and then sends.  Raises what `done`
        does, `BusTimeout` after `timeout_s`, if `fragile` also when the connection is lost
        meanwhile; `BusUnavailable` when closed.
        """
        self._check_open()
        if self._client is not None and self._client.lost.done():
            # Told in a moment anyway.  Else this would be kept for the next connection, and go
            # out even if nobody waits for the answer any more.
            self._disconnected(self._client)
        inbox = self._answers.expect(receive, done, fragile)
        late = BusTimeout(f"{subject}: no answer within {timeout_s:g} s")
        timer = self._loop.call_later(timeout_s, fail, done, late)
        try:
            if self._client is None:
                either: set[asyncio.Future[Any]] = {self._up, done}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                await self.publish(subject, data, inbox, headers)
            return await done
        finally:
            timer.cancel()
            self._answers.forget(inbox)

    def inbox(self) -> str:
        """See `Bus.inbox`."""
        return f"_INBOX.{self.sender}.{self._number}-{next(self._inboxes)}"

    async def flush(self) -> None:
        """See `Bus.flush`; raises `BusUnavailable` when the server cannot be reached."""
        self._check_open()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                client = await self._connected_client()
                await client.round_trip(CALL_TIMEOUT_S)
        except (TimeoutError, ConnectionLost) as error:
            raise BusUnavailable("a flush: the server did not answer") from error

    async def close(self) -> None:
        """See `Bus.close`.  What is still waited for fails; what cannot be sent is lost."""
        if self._closing:
            return
        self._closing = True
        client = self._client
        if client is not None:
            try:
                await client.round_trip(CLOSE_TIMEOUT_S)
            except (ConnectionLost, TimeoutError):
                log.warning("bus_closed_unflushed", sender=self.sender)
        self._client = None
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
        self._answers.fail_all(f"the connection of {self.sender} was closed meanwhile")
        settle(self._up, None)  # whoever waits for a connection finds the link closed
        self._listeners.clear()
        if client is not None:
            await client.abandon()
        if self._cleaning:
            await asyncio.wait(self._cleaning, timeout=CLOSE_TIMEOUT_S)

    def _check_open(self) -> None:
        if self._closing:
            raise BusUnavailable(f"the connection of {self.sender} is closed")

    # --- the connection ---

    async def _connected_client(self) -> NatsClient:
        """The client, once there is one; `BusUnavailable` when closed meanwhile."""
        while True:
            client = self._client
            if client is not None:
                return client
            # Shielded: others wait for it, too.
            await asyncio.shield(self._up)
            self._check_open()

    async def _supervise(self, client: NatsClient) -> None:
        """Replace the client whenever it is lost, until this task is cancelled."""
        while True:
            await asyncio.wait({client.lost})
            log.warning(
                "bus_disconnected",
                sender=self.sender,
                reason=str(client.problem or client.last_error or "closed by the server"),
            )
            # Beside: whatever holds up the old one must not hold up the new one.
            cleaning = self._loop.create_task(client.abandon())
            self._cleaning.add(cleaning)
            cleaning.add_done_callback(self._cleaning.discard)
            client = await self._reconnect()
            self._reconnects += 1
            log.info("bus_reconnected", sender=self.sender, reconnects=self._reconnects)

    def _disconnected(self, client: NatsClient) -> None:
        """`client` is lost: buffer from now on, and fail who cannot be answered any more."""
        if self._client is not client:
            return
        self._client = None
        self._up = self._loop.create_future()
        self._answers.fail_fragile()

    async def _reconnect(self) -> NatsClient:
        pause_s = PAUSE_MIN_S
        why = ""
        while True:
            # Thousands of clients must not come back in step with one another.
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
            try:
                return await self._dial_and_restore()
            except (SwarmError, ConnectionLost, TimeoutError, nats.errors.Error) as error:
                # Once per reason: this may go on for hours.
                if str(error) != why:
                    why = str(error)
                    log.warning("bus_not_reconnected", sender=self.sender, error=why)
            except Exception:
                log.exception("bus_not_reconnected", sender=self.sender)

    async def _dial_and_restore(self) -> NatsClient:
        client = await self._target.dial(CALL_TIMEOUT_S)
        try:
            await self._restore(client)
        except BaseException:
            await client.abandon()
            raise
        return client

    async def _restore(self, client: NatsClient) -> None:
        """Subscribe to everything, send what was kept, and let everybody use `client`."""
        await self._attach_all(client)
        await client.round_trip(CALL_TIMEOUT_S)
        self._max_payload = client.max_payload
        while True:
            await self._attach_all(client)
            unsent = self._buffer.take()
            if unsent is None:
                break
            client.send(*unsent)
        # From here to the end nothing is awaited, so nothing can be added unseen.
        self._learn_urls(client)
        self._client = client
        settle(self._up, None)
        client.lost.add_done_callback(lambda _: self._disconnected(client))

    async def _attach_all(self, client: NatsClient) -> None:
        for listener in list(self._listeners):
            if listener.client is not client:
                await listener.attach(client)

    def _learn_urls(self, client: NatsClient) -> None:
        """Remember the cluster's other servers, so that one of them will do later."""
        known = self._target.urls
        for uri in client.discovered_servers:
            url = with_credentials(uri.netloc, known[0])
            if url not in known:
                known.append(url)
