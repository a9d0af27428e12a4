"""Messages of a memory world: who gets which, when, and whether at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from swarm.bus.base import Handler, Message
from swarm.bus.memory_faults import TICK_S, Wire
from swarm.bus.memory_node import Node, settle
from swarm.bus.memory_routes import Routes
from swarm.errors import NoResponders

#: Called with node, subject, data, reply and headers.
PublishHook = Callable[[str, str, bytes, str, Mapping[str, str] | None], None]
#: Called with node, subject and data.
DeliverHook = Callable[[str, str, bytes], None]


class Receiver:
    """A subscription, or the waiting end of a request (which has an `answer`).

    `number`: of the subscription, in order of creation; of a request, the connection's.
    """

    __slots__ = (
        "answer",
        "closed",
        "handler",
        "last_arrival_s",
        "node",
        "number",
        "queue",
        "subject",
    )

    def __init__(
        self,
        node: Node,
        subject: str,
        handler: Handler,
        number: int,
        queue: str = "",
        answer: asyncio.Future[Message] | None = None,
    ) -> None:
        self.node = node
        self.subject = subject
        self.handler = handler
        self.queue = queue
        self.number = number
        self.answer = answer
        self.closed = False
        #: By connection that messages come from: these stay in order.
        self.last_arrival_s: dict[int, float] = {}


class Switch:
    """The server's part in messages: takes them, matches them, sends them on."""

    def __init__(self, wire: Wire) -> None:
        self.on_publish: list[PublishHook] = []
        self.on_arrive: list[DeliverHook] = []
        self.on_deliver: list[DeliverHook] = []
        self._wire = wire
        self._routes: Routes[Receiver] = Routes()
        #: Running requests, by reply subject.
        self._requests: dict[str, Receiver] = {}

    def subscribe(self, receiver: Receiver) -> None:
        """Route messages to a subscription from now on."""
        self._routes.add(receiver.subject, receiver)

    def unsubscribe(self, receiver: Receiver) -> None:
        """Route no more to it; nothing happens if it is not there."""
        self._routes.remove(receiver.subject, receiver)

    def expect_reply(self, request: Receiver) -> None:
        """A request waits for its reply."""
        self._requests[request.subject] = request

    def forget_reply(self, request: Receiver) -> None:
        """A request waits no more."""
        self._requests.pop(request.subject, None)

    def announce(self, node: Node, message: Message) -> None:
        """A sender publishes; whether it gets anywhere is another matter."""
        self._wire.note("publish", node.name, message.subject, message.data)
        for hook in self.on_publish:
            self._wire.guard(
                hook, node.name, message.subject, message.data, message.reply, message.headers
            )

    def route(self, origin: int, message: Message) -> None:
        """Take a message from connection number `origin` and send it to whom it concerns."""
        request = self._requests.get(message.subject)
        plan = self._routes.plan(message.subject, remember=request is None)
        for receiver in plan.singles:
            self._send(origin, receiver, message)
        for members in plan.groups:
            member = members[0] if len(members) == 1 else self._wire.rng.choice(members)
            self._send(origin, member, message)
        if request is not None:
            self._send(origin, request, message)
        elif message.reply and not plan.singles and not plan.groups:
            asking = self._requests.get(message.reply)
            # A message that is forwarded in somebody's name gets no such answer.
            if asking is not None and asking.number == origin:
                self._refuse(asking, message.subject)

    def _send(self, origin: int, receiver: Receiver, message: Message) -> None:
        wire, faults, link = self._wire, self._wire.faults, receiver.node.link
        if wire.chance(faults.loss):
            wire.note("lost", receiver.node.name, message.subject)
            return
        arrival_s = wire.loop.time() + wire.between(faults.latency_s)
        if wire.chance(faults.duplicate):
            again_s = arrival_s + wire.between(faults.delay_s)
            wire.note("duplicated", receiver.node.name, message.subject, f"at {again_s:.6f}")
            wire.at(again_s, self._arrive, receiver, link, message)
        if wire.chance(faults.delay):
            arrival_s += wire.between(faults.delay_s)
            wire.note("delayed", receiver.node.name, message.subject, f"to {arrival_s:.6f}")
        else:
            last_s = receiver.last_arrival_s.get(origin, 0.0)
            arrival_s = max(arrival_s, last_s + TICK_S)
            receiver.last_arrival_s[origin] = arrival_s
        wire.at(arrival_s, self._arrive, receiver, link, message)

    def _arrive(self, receiver: Receiver, link: int, message: Message) -> None:
        node = receiver.node
        if not node.reaches(link, log=False):
            self._wire.note("lost", node.name, message.subject, "on a cut connection")
        elif node.full:
            self._wire.note("lost", node.name, message.subject, "the receiver is too slow")
        else:
            for hook in self.on_arrive:
                self._wire.guard(hook, node.name, message.subject, message.data)
            node.enter(self._hand, receiver, message)

    def _hand(self, receiver: Receiver, message: Message) -> None:
        if receiver.closed:
            return
        node = receiver.node.name
        self._wire.note("deliver", node, message.subject)
        for hook in self.on_deliver:
            self._wire.guard(hook, node, message.subject, message.data)
        self._wire.guard(receiver.handler, message)

    def _refuse(self, request: Receiver, subject: str) -> None:
        """Tell a request that nobody listens."""
        wire, node = self._wire, request.node
        if wire.chance(wire.faults.loss):
            wire.note("lost", node.name, subject, "nobody listens")
            return
        delay_s = wire.between(wire.faults.latency_s)
        wire.later(delay_s, self._arrive_refusal, request, node.link, subject)

    def _arrive_refusal(self, request: Receiver, link: int, subject: str) -> None:
        if request.answer is None or not request.node.reaches(link, log=False):
            return
        self._wire.note("no responders", request.node.name, subject)
        request.node.enter(settle, request.answer, NoResponders(f"nobody listens on {subject}"))
