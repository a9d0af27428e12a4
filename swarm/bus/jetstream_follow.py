"""Following a log: a push consumer that is made anew whenever it falls silent or skips.

The consumer lives in the server's memory and acknowledges nothing.  It numbers what it
delivers; a number out of turn, a missing heartbeat or a lost connection ends it, and the
next one begins after the last entry that was handed on.  So entries come in order and once,
and nothing is left out but what has been purged.

Each consumer has an inbox of its own.  One that could not be deleted is forgotten by the
server, because nobody listens on that inbox any more.

While no consumer can be had (a cluster without a majority still answers direct reads),
the log is read page by page instead.
"""

from __future__ import annotations

import asyncio
from random import SystemRandom
from typing import TYPE_CHECKING, Final

import structlog

from swarm.bus.base import Entry, EntryHandler, Message, Subscription
from swarm.errors import BusError, BusUnavailable

if TYPE_CHECKING:
    from swarm.bus.jetstream import JetStreamBus

log = structlog.get_logger()

HEARTBEAT_S: Final = 1.0
#: Without a word for this long, a consumer is taken for dead.
SILENCE_MAX_S: Final = 3.5
#: How long the server keeps a consumer whose inbox nobody listens on.
UNUSED_S: Final = 5.0
#: How long to wait for the deletion of one; it goes by itself after `UNUSED_S`.
DELETE_TIMEOUT_S: Final = 1.0
PAGE: Final = 256
PAUSE_MIN_S: Final = 0.05
PAUSE_MAX_S: Final = 1.0
NANOSECONDS: Final = 1_000_000_000


class _Consumer:
    """One consumer on the server, and how far it has delivered."""

    __slots__ = ("broken", "delivered", "heard", "inbox", "name", "subscription")

    def __init__(self, name: str, inbox: str) -> None:
        self.name = name
        self.inbox = inbox
        self.subscription: Subscription | None = None
        #: Its own count of what it has delivered.
        self.delivered = 0
        #: Whether anything has come from it lately.
        self.heard = True
        #: Set once it is of no more use.
        self.broken = asyncio.Event()


class Follower:
    """A running `follow`; a `swarm.bus.base.Subscription`."""

    def __init__(
        self,
        bus: JetStreamBus,
        name: str,
        stream: str,
        from_seq: int,
        handler: EntryHandler,
        registry: dict[Follower, None],
    ) -> None:
        self._bus = bus
        self._log = name
        self._stream = stream
        self._handler = handler
        self._registry = registry
        self._rng = SystemRandom()
        #: The next entry to hand on; those before it have been, or were never asked for.
        self._next_seq = max(from_seq, 1)
        self._closed = False
        #: Why there is no consumer, "" when there is one.
        self._interruption = ""
        self._consumer: _Consumer | None = None
        self._task: asyncio.Task[None] | None = None
        #: Acknowledgements of flow control under way.
        self._sending: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin; raises `LogMissing`, `BusTimeout`, `BusUnavailable`."""
        self._registry[self] = None
        try:
            await self._make_consumer()
        except BaseException:
            await self.unsubscribe()
            raise
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def unsubscribe(self) -> None:
        """Stop; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._registry.pop(self, None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._drop_consumer()

    def renew(self) -> None:
        """Make a new consumer: the present one cannot be trusted any more."""
        if self._consumer is not None:
            self._consumer.broken.set()

    async def _run(self) -> None:
        """Keep a consumer alive, until cancelled."""
        pause_s = PAUSE_MIN_S
        while True:
            if self._consumer is not None:
                await self._watch(self._consumer)
                pause_s = PAUSE_MIN_S
            await self._drop_consumer()
            try:
                await self._make_consumer()
                self._interruption = ""
                continue
            except BusError as error:
                self._note_interruption(str(error))
            except Exception:
                # A follower must not stop in silence, whatever happens.
                log.exception("follow_interrupted", log=self._log)
            await self._drop_consumer()
            await self._read_on()
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    def _note_interruption(self, why: str) -> None:
        """Log it once, however often it is tried again."""
        if why != self._interruption:
            log.warning("follow_interrupted", log=self._log, error=why)
        self._interruption = why

    async def _watch(self, consumer: _Consumer) -> None:
        """Return once `consumer` is of no more use."""
        while True:
            consumer.heard = False
            try:
                async with asyncio.timeout(SILENCE_MAX_S):
                    await consumer.broken.wait()
                return
            except TimeoutError:
                if not consumer.heard:
                    log.debug("follow_silent", log=self._log, next_seq=self._next_seq)
                    return

    async def _make_consumer(self) -> None:
        inbox = self._bus.inbox()
        # Unique: the inbox is.
        name = inbox.removeprefix("_INBOX.").replace(".", "-")
        consumer = self._consumer = _Consumer(name, inbox)

        def receive(message: Message) -> None:
            self._receive(consumer, message)

        consumer.subscription = await self._bus.subscribe(inbox, receive)
        config = {
            "name": consumer.name,
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._next_seq,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT_S * NANOSECONDS),
            "inactive_threshold": int(UNUSED_S * NANOSECONDS),
            "mem_storage": True,
            "num_replicas": 1,
        }
        await self._bus.api(
            f"following {self._log}",
            f"CONSUMER.CREATE.{self._stream}.{consumer.name}",
            {"stream_name": self._stream, "config": config},
        )

    async def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None or consumer.subscription is None:
            return
        await consumer.subscription.unsubscribe()
        if not self._bus.connected:
            return
        request = f"CONSUMER.DELETE.{self._stream}.{consumer.name}"
        try:
            what = f"no longer following {self._log}"
            await self._bus.api(what, request, timeout_s=DELETE_TIMEOUT_S)
        except BusError as error:
            # The server deletes it by itself, as nobody listens any more.
            log.debug("consumer_not_deleted", log=self._log, error=str(error))

    async def _read_on(self) -> None:
        """Hand on what can be read now."""
        while True:
            try:
                entries = await self._bus.read(self._log, self._next_seq, PAGE)
            except BusError as error:
                # The next round tries again.
                self._note_interruption(str(error))
                return
            for entry in entries:
                self._hand_on(entry)
            if not entries:
                return

    # --- what the consumer sends ---

    def _receive(self, consumer: _Consumer, message: Message) -> None:
        if consumer is not self._consumer or consumer.broken.is_set():
            return
        consumer.heard = True
        if not message.reply.startswith("$JS.ACK."):
            self._control(consumer, message)
            return
        tokens = message.reply.split(".")
        # $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<times>.<seq>.<count>.<time>.<left>
        first = 2 if len(tokens) == 9 else 4
        count = int(tokens[first + 4])
        if count != consumer.delivered + 1:
            consumer.broken.set()
            return
        consumer.delivered = count
        time = int(tokens[first + 5]) / NANOSECONDS
        self._hand_on(Entry(int(tokens[first + 3]), message.data, time))

    def _control(self, consumer: _Consumer, message: Message) -> None:
        headers = message.headers or {}
        last = headers.get("Nats-Last-Consumer")
        # Anything but a heartbeat or flow control says that the consumer is at its end; and
        # if it has sent more than we have, that never came.
        if headers.get("Status") != "100" or (last and int(last) != consumer.delivered):
            consumer.broken.set()
            return
        # Asked to say how far we are: everything before this message has been handed on.
        answer_to = message.reply or headers.get("Nats-Consumer-Stalled", "")
        if answer_to:
            sending = asyncio.get_running_loop().create_task(self._go_on(answer_to))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)

    async def _go_on(self, answer_to: str) -> None:
        try:
            await self._bus.publish(answer_to, b"")
        except BusUnavailable as error:
            # A consumer without this answer stalls, and is then replaced.
            log.debug("flow_control_unanswered", log=self._log, error=str(error))

    def _hand_on(self, entry: Entry) -> None:
        if entry.seq < self._next_seq or self._closed:
            return
        self._next_seq = entry.seq + 1
        self._handler(entry)
