"""The router: sends submissions and new agents to a coordinator; holds nothing.

Any number of routers share a queue group.  A router forwards the bytes as they came,
with the sender's reply subject, so the answer goes straight back: it decodes no payload
and waits for nothing.  All that it knows is who beats, and who answers its probes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
import structlog

from swarm.actors.actor import Actor, Mailbox
from swarm.actors.answers import error_reply
from swarm.actors.cluster_copy import ClusterCopy
from swarm.actors.probing import Prober
from swarm.actors.sending import Sender, unsubscribe
from swarm.bus.base import Bus, Message, Subscription
from swarm.config import Settings
from swarm.core.balancing import Balancer
from swarm.core.envelope import FORMAT
from swarm.core.headers import HEADER_OF
from swarm.core.health import Health
from swarm.core.membership import Members
from swarm.core.routing import Routing
from swarm.core.rules import parse_rules
from swarm.errors import BadConfig, Refusal
from swarm.messages import Beat, Description, RoutingReport, ShardMap
from swarm.runtime import Runtime
from swarm.subjects import MIXED, Subjects, reply_allowed, sender_of, work_type_of

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
        self.cluster = ClusterCopy(bus, shard_map, self._cluster_changed)
        self._runtime = runtime or Runtime()
        self._subjects = Subjects(settings.prefix)
        self._clock = asyncio.get_running_loop().time
        self._mailbox: Mailbox[Message] = Mailbox(settings.mailbox_size)
        self._members = Members(settings.missed_s)
        #: Of this process: several routers may speak as the same sender.
        self.id = self._runtime.new_name("r")
        health = Health(
            settings.health_check_interval_ms / 1000,
            settings.health_check_timeout_ms / 1000,
            settings.health_check_rise,
            settings.health_check_fall,
        )
        self._balancer = Balancer(
            settings.lb_strategy,
            self.id,
            settings.slow_start_s,
            health.response_s,
            settings.agents_per_coordinator,
        )
        #: What it chooses, and has chosen.
        self.routing = Routing(self._balancer, health)
        if settings.routing_enabled:
            rules = parse_rules(settings.routing_rules, settings.routing_key)
            self.routing.set_rules(rules, version=0)
        self._prober = Prober(bus, self._subjects, health, self.id, self._live, self._runtime.wall)
        self._subscriptions: list[Subscription] = []
        #: Requests dropped for a reply subject that is not the sender's inbox.
        self.bad_replies = 0
        #: Requests dropped because the mailbox was full and no reply was wanted.
        self.dropped = 0

    def live(self) -> list[Beat]:
        """The latest beat of each live coordinator, by name."""
        return list(self._live().values())

    def _live(self) -> dict[str, Beat]:
        return self._members.live(self._clock())

    @property
    def forwarded(self) -> dict[str, int]:
        """Messages forwarded, by coordinator."""
        routing = self.routing
        names = {*routing.submissions, *routing.sessions}
        return {
            name: routing.submissions.get(name, 0) + routing.sessions.get(name, 0)
            for name in sorted(names)
        }

    def report(self) -> RoutingReport:
        """What it has chosen since its start."""
        report = self.routing.report(self._live(), self._settings.routing_enabled)
        if report.version:
            report.by, report.at = self.cluster.rules.by, self.cluster.rules.at
        return report

    def _cluster_changed(self) -> None:
        """The swarm's rules hold from here on, whatever the settings say."""
        stored = self.cluster.rules
        if not self._settings.routing_enabled or stored.version <= self.routing.version:
            return
        try:
            rules = parse_rules(stored.text, stored.key)
        except BadConfig as error:
            # Of a later version: the leader has checked them.
            log.error("routing rules cannot be used", version=stored.version, why=str(error))
            return
        self.routing.set_rules(rules, stored.version)
        log.info("routing rules", version=stored.version, rules=len(rules.all), by=stored.by)

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
            # Every router answers this one.
            await subscribe(subjects.routes("*"), self._on_message),
        ]
        await super().start()

    async def stop(self) -> None:
        """Take nothing more; what was forwarded is answered by others."""
        subscriptions, self._subscriptions = self._subscriptions, []
        await unsubscribe(subscriptions)
        await self._prober.stop()
        await self.cluster.stop()
        await super().stop()

    def _on_beat(self, message: Message) -> None:
        try:
            beat = _beat.decode(message.data)
        except msgspec.MsgspecError as error:
            log.warning("a beat cannot be read", subject=message.subject, error=str(error))
            return
        now = self._clock()
        if self._members.heard(beat, now):
            self._balancer.heard(beat, now)
            self._prober.look()
        self.cluster.heard(beat)

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
            match kind:
                case "describe":
                    await self._describe(message)
                case "routes":
                    await self._tell_routes(message)
                case "attach":
                    await self._attach(message, sender)
                case _:
                    await self._submit(message, sender)
        except Refusal as refusal:
            if message.reply:
                await self._send(message.reply, error_reply(refusal))

    async def _submit(self, message: Message, sender: str) -> None:
        work_type = work_type_of(message.subject)
        target = self.routing.submission(work_type, message.headers, self._live(), self._clock())
        subject = self._subjects.coordinator(_alive(target), "submit", sender)
        headers = self._handed_on(work_type, message.headers)
        await self._send(subject, message.data, message.reply, headers)

    def _handed_on(
        self, work_type: str, headers: Mapping[str, str] | None
    ) -> dict[str, str] | None:
        """What the coordinator is to compare the items with: that by which they were routed."""
        found = {}
        if headers:
            found = {name: headers[name] for name in HEADER_OF.values() if name in headers}
        rules = self.routing.rules
        if rules.all and rules.key == "work_type" and work_type != MIXED:
            found[HEADER_OF["work_type"]] = work_type
        return found or None

    async def _attach(self, message: Message, sender: str) -> None:
        target = _alive(self.routing.session(self._live(), self._clock()))
        headers = {
            "Swarm-Session": self._runtime.new_name("s"),
            "Swarm-Router": f"{self.id}.{self._balancer.number(target)}",
        }
        subject = self._subjects.coordinator(target, "attach", sender)
        await self._send(subject, message.data, message.reply, headers)

    async def _describe(self, message: Message) -> None:
        described = Description(self._settings.prefix, FORMAT, self.cluster.map, self.live())
        if message.reply:
            await self._send(message.reply, _encode(described))

    async def _tell_routes(self, message: Message) -> None:
        if message.reply:
            await self._send(message.reply, _encode(self.report()))


def _alive(target: str | None) -> str:
    if target is None:
        raise Refusal("unavailable", "no coordinator is alive; start one, or wait", retry=True)
    return target
