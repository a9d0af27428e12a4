"""The router: sends submissions and new agents to a coordinator; holds nothing.

Any number of routers share a queue group.  A router forwards the bytes as they came,
with the sender's reply subject, so the answer goes straight back: it decodes no payload
and waits for nothing.  All that it knows is who beats.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from swarm.actors.actor import Actor, Mailbox
from swarm.actors.answers import error_reply
from swarm.actors.cluster_copy import ClusterCopy
from swarm.actors.sending import Sender, unsubscribe
from swarm.bus.base import Bus, Message, Subscription
from swarm.config import Settings
from swarm.core.envelope import FORMAT
from swarm.core.membership import Members
from swarm.core.routing import choose, least_connections, parse_rules
from swarm.errors import Refusal
from swarm.messages import Beat, Description, ShardMap
from swarm.runtime import Runtime
from swarm.subjects import Subjects, reply_allowed, sender_of, work_type_of

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode
_beat = msgspec.json.Decoder(Beat)

#: All routers of a swarm share it.
QUEUE_GROUP = "router"


class Router(Actor):
    """See the module's docstring."""

    def __init__(
        self, bus: Bus, settings: Settings, shard_map: ShardMap, runtime: Runtime | None = None
    ) -> None:
        super().__init__("router")
        self._bus = bus
        self._send = Sender(bus)
        self._settings = settings
        #: What holds for the whole swarm, as far as is known here.
        self.cluster = ClusterCopy(bus, shard_map)
        self._runtime = runtime or Runtime()
        self._subjects = Subjects(settings.prefix)
        self._clock = asyncio.get_running_loop().time
        self._mailbox: Mailbox[Message] = Mailbox(settings.mailbox_size)
        self._members = Members(settings.missed_s)
        self._rules = parse_rules(settings.routing_rules) if settings.routing_enabled else {}
        self._subscriptions: list[Subscription] = []
        #: Sent to each coordinator since its latest beat.
        self._given: dict[str, int] = {}
        #: Messages forwarded, by coordinator.
        self.forwarded: dict[str, int] = {}
        #: Requests dropped for a reply subject that is not the sender's inbox.
        self.bad_replies = 0
        #: Requests dropped because the mailbox was full and no reply was wanted.
        self.dropped = 0

    def live(self) -> list[Beat]:
        """The latest beat of each live coordinator, by name."""
        return list(self._members.live(self._clock()).values())

    async def start(self) -> None:
        """Subscribe and begin to route."""
        if self.running:
            return
        subscribe, subjects = self._bus.subscribe, self._subjects
        self._subscriptions = [
            await subscribe(subjects.beat("*"), self._on_beat),
            await subscribe(subjects.submit("*", "*"), self._on_message, QUEUE_GROUP),
            await subscribe(subjects.attach("*"), self._on_message, QUEUE_GROUP),
            await subscribe(subjects.describe("*"), self._on_message, QUEUE_GROUP),
        ]
        await super().start()

    async def stop(self) -> None:
        """Take nothing more; what was forwarded is answered by others."""
        subscriptions, self._subscriptions = self._subscriptions, []
        await unsubscribe(subscriptions)
        await self.cluster.stop()
        await super().stop()

    def _on_beat(self, message: Message) -> None:
        try:
            beat = _beat.decode(message.data)
        except msgspec.MsgspecError as error:
            log.warning("a beat cannot be read", subject=message.subject, error=str(error))
            return
        self._members.heard(beat, self._clock())
        self.cluster.heard(beat)
        self._given.pop(beat.coordinator, None)

    def _on_message(self, message: Message) -> None:
        if not self._mailbox.put(message):
            # The sender gets no answer and asks again: there is no room even to say so.
            self.dropped += 1

    async def _run(self) -> None:
        while True:
            await self._mailbox.wait()
            while self._mailbox:
                await self._take(self._mailbox.pop())

    async def _take(self, message: Message) -> None:
        sender = sender_of(message.subject)
        if message.reply and not reply_allowed(message.reply, sender):
            self.bad_replies += 1
            log.warning("dropped: the reply subject is no inbox of the sender", sender=sender)
            return
        kind = message.subject[len(self._settings.prefix) + 1 :].split(".", 1)[0]
        try:
            if kind == "describe":
                await self._describe(message)
            elif kind == "attach":
                await self._attach(message, sender)
            else:
                await self._submit(message, sender)
        except Refusal as refusal:
            if message.reply:
                await self._send(message.reply, error_reply(refusal))

    async def _submit(self, message: Message, sender: str) -> None:
        live = self._members.live(self._clock())
        target = choose(self._rules, work_type_of(message.subject), live, self._given)
        subject = self._subjects.coordinator(self._alive(target), "submit", sender)
        await self._send(subject, message.data, message.reply)

    async def _attach(self, message: Message, sender: str) -> None:
        target = self._alive(least_connections(self._members.live(self._clock()), self._given))
        self._given[target] = self._given.get(target, 0) + 1
        headers = {"Swarm-Session": self._runtime.new_name("s")}
        subject = self._subjects.coordinator(target, "attach", sender)
        await self._send(subject, message.data, message.reply, headers)

    async def _describe(self, message: Message) -> None:
        described = Description(self._settings.prefix, FORMAT, self.cluster.map, self.live())
        if message.reply:
            await self._send(message.reply, _encode(described))

    def _alive(self, target: str | None) -> str:
        if target is None:
            raise Refusal("unavailable", "no coordinator is alive; start one, or wait", retry=True)
        self.forwarded[target] = self.forwarded.get(target, 0) + 1
        return target
