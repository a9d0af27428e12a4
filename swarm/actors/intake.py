"""What clients and agents ask of a coordinator: submissions, sessions, outcomes, heartbeats.

Handlers are plain functions: they decide, say (`Outgoing`) and hand on to shard workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from swarm.actors.answers import error_body
from swarm.actors.cluster_copy import ClusterCopy
from swarm.actors.moves import Moves
from swarm.actors.ownership import Ownership
from swarm.actors.requests import Request, decode_body
from swarm.actors.sending import Outgoing
from swarm.actors.surroundings import Surroundings
from swarm.actors.unheard import PAGE, Unheard
from swarm.bus.base import Message
from swarm.core.admission import admit
from swarm.core.balancing import RoutersSeen
from swarm.core.checks import command_text_bytes
from swarm.core.decide import VERB, claim_session
from swarm.core.sessions import Sessions
from swarm.errors import BadInput, Refusal
from swarm.messages import (
    Ack,
    Attach,
    Attention,
    Control,
    Heartbeat,
    ItemCommand,
    NewItem,
    Next,
    Probe,
    Pulse,
    Recall,
    Recalled,
    ShardSubmit,
    Submit,
    SubmitReply,
    Work,
)
from swarm.subjects import check_token, parse_item_id

_encode = msgspec.json.Encoder().encode

_submit = msgspec.json.Decoder(Submit)
_attach = msgspec.json.Decoder(Attach)
_next = msgspec.json.Decoder(Next)
_heartbeat = msgspec.json.Decoder(Heartbeat)
_attention = msgspec.json.Decoder(Attention)
_probe = msgspec.json.Decoder(Probe)
_recall = msgspec.json.Decoder(Recall)

#: Routers are forgotten after so many missing probes.
PROBES_MISSED = 3


class Intake:
    """See the module's docstring."""

    def __init__(
        self,
        around: Surroundings,
        instance: str,
        cluster: ClusterCopy,
        shards: Ownership,
        sessions: Sessions,
        say: Outgoing,
        draining: Callable[[], bool],
    ) -> None:
        self._bus = around.bus
        self._runtime = around.runtime
        self._subjects = around.subjects
        self._pool = around.pool
        self._me = around.coordinator
        self._instance = instance
        self._cluster = cluster
        self._shards = shards
        self._sessions = sessions
        self._say = say
        self._draining = draining
        self._hearing = around.hearing
        interval_ms = around.settings.health_check_interval_ms
        #: Routers, and which of the agents that they sent have arrived here.
        self.routers = RoutersSeen(max(5.0, PROBES_MISSED * interval_ms / 1000))
        self._clock = asyncio.get_running_loop().time
        self._moves = Moves(around, cluster, self._hand_on)
        self._unheard = Unheard(around, cluster)

    @property
    def handlers(self) -> dict[str, Callable[[Message, str], None]]:
        """What to do with a message of clients, routers and agents, by its verb."""
        return {
            "submit": self.on_submit,
            "health": self.on_health,
            "attach": self.on_attach,
            "next": self.on_next,
            "heartbeat": self.on_heartbeat,
            "attached": self.on_attached,
            "recall": self.on_recall,
        }

    # --- submissions -------------------------------------------------------------------

    def on_submit(self, message: Message, sender: str) -> None:
        limit = self._bus.max_payload // 2
        if len(message.data) > limit:
            raise Refusal(
                "too_large",
                f"the batch has {len(message.data)} bytes, at most {limit} are allowed; "
                "submit fewer items at once",
            )
        submit: Submit = decode_body(_submit, message.data)
        submit.command_id = submit.command_id or self._runtime.new_id()
        map_, adopted = self._cluster.map, self._moves.adopted()
        limit = self._bus.max_payload // 4
        admitted = admit(submit, sender, map_, limit, adopted, message.headers)
        for start in range(0, len(admitted.refused) if message.reply else 0, PAGE):
            part = admitted.refused[start : start + PAGE]
            self._say(message.reply, _encode(SubmitReply(part, submit.command_id)))
        if admitted.unheard:
            self._unheard.settle(message.reply, submit.command_id, admitted.unheard)
        for shard, items in admitted.parts.items():
            asks = admitted.asks.get(shard)
            if asks is None:
                size, specs = admitted.sizes[shard], admitted.specs[shard]
                self._hand_on(shard, items, size, sender, message.reply, specs)
            else:
                self._moves.ask(shard, items, asks, sender, message.reply)

    def _hand_on(
        self,
        shard: int,
        items: ShardSubmit,
        size: int,
        sender: str,
        reply: str,
        specs: list[NewItem] | None = None,
    ) -> None:
        """To the shard's owner, which answers the sender."""
        worker = self._shards.get(shard)
        if worker is not None:
            worker.put(Request("submit", sender, items, reply, size=size, specs=specs))
        else:
            subject = self._subjects.shard(shard, "submit", sender)
            self._say(subject, _encode(items), reply)

    async def stop(self) -> None:
        """Ask nothing more; senders will ask again."""
        await self._moves.stop()
        await self._unheard.stop()

    # --- agents ------------------------------------------------------------------------

    def on_health(self, message: Message, sender: str) -> None:
        """A probe: answered in its turn, so that it tells how long anything takes here."""
        probe: Probe = decode_body(_probe, message.data or b"{}")
        if probe.router:
            self.routers.heard(check_token("router", probe.router), 0, self._clock())
        why = "" if self._hearing() else "its own beats do not come back"
        why = "it is about to leave" if self._draining() else why
        if message.reply:
            pulse = Pulse(self._me, self._instance, not why, why)
            self._say(message.reply, _encode(pulse))

    def on_attach(self, message: Message, sender: str) -> None:
        headers = message.headers or {}
        router, _, number = headers.get("Swarm-Router", "").rpartition(".")
        if router and number.isascii() and number.isdigit():
            # Whether the agent is accepted or not: it has arrived.
            self.routers.heard(check_token("router", router), int(number), self._clock())
        if self._draining():
            raise Refusal("unavailable", f"{self._me} is about to leave; attach again", retry=True)
        attach: Attach = decode_body(_attach, message.data)
        session = attach.session or headers.get("Swarm-Session", "") or self._runtime.new_name("s")
        check_token("session", session)
        attached, attention = self._sessions.attach(sender, session, attach, self._clock())
        self._say(self._subjects.attached(sender), _encode(attention))
        if message.reply:
            self._say(message.reply, _encode(attached))

    def on_attached(self, message: Message, sender: str) -> None:
        heard: Attention = decode_body(_attention, message.data)
        for session, control in self._sessions.attention(sender, heard, self._clock()):
            self._say(self._subjects.agent_control(sender, session), _encode(control))
        self._dispute(sender, heard.session)

    def _dispute(self, agent: str, session: str) -> None:
        attention = self._sessions.dispute(agent, session)
        if attention is not None:
            self._say(self._subjects.attached(agent), _encode(attention))

    def on_next(self, message: Message, sender: str) -> None:
        next_: Next = decode_body(_next, message.data)
        session = next_.session
        slots = self._pool.sessions.get((sender, session))
        if slots is not None:
            # The names that the pool has: found by their identity wherever they are looked up.
            sender, session = slots.agent, slots.session
        for command in next_.done:
            try:
                shard, number = parse_item_id(command.work_item_id)
            except BadInput:
                self._refuse_command(command, sender, session)
                continue
            worker = self._shards.get(shard)
            verb = VERB[type(command)]
            if worker is not None:
                size = command_text_bytes(command)
                worker.put(Request(verb, sender, command, "", session, size, number))
            else:
                subject = self._subjects.shard(shard, verb, sender)
                self._say(subject, _encode(command), headers={"Swarm-Session": session})
        if slots is None:
            if next_.slots:
                control = Control("reattach", reason=f"{self._me} does not know this session")
                self._say(self._subjects.agent_control(sender, session), _encode(control))
        else:
            self._pool.update(slots, next_.number, next_.slots, next_.received, self._clock())

    def _refuse_command(self, command: ItemCommand, agent: str, session: str) -> None:
        refusal = Refusal("bad_request", f"{command.work_item_id[:80]!r} is no work item id")
        ack = Ack(command.command_id, command.work_item_id, error=error_body(refusal))
        self._say(self._subjects.agent_work(agent, session), _encode(Work([], [ack])))

    def on_recall(self, message: Message, sender: str) -> None:
        recall: Recall = decode_body(_recall, message.data)
        session = claim_session(recall.command_id)
        # A hint only, as it may tell of what is not durable yet: the shard itself answers the
        # claim, in its turn.
        held = [worker.number for worker in self._shards if (sender, session) in worker.holders]
        if message.reply:
            self._say(message.reply, _encode(Recalled(self._shards.owned(), held)))

    def on_heartbeat(self, message: Message, sender: str) -> None:
        heartbeat: Heartbeat = decode_body(_heartbeat, message.data)
        control = self._sessions.heartbeat(sender, heartbeat, self._clock())
        if control is not None:
            subject = self._subjects.agent_control(sender, heartbeat.session)
            self._say(subject, _encode(control))
        if heartbeat.coordinator != self._me and not heartbeat.leaving:
            self._dispute(sender, heartbeat.session)
        by_shard: dict[int, list[tuple[str, str]]] = {}
        for work_item_id, token in heartbeat.held:
            by_shard.setdefault(parse_item_id(work_item_id)[0], []).append((work_item_id, token))
        holder = sender, heartbeat.session
        for worker in self._shards:
            if holder in worker.holders or worker.number in by_shard:
                listed = by_shard.get(worker.number, [])
                part = msgspec.structs.replace(heartbeat, held=listed)
                worker.put(Request("heartbeat", sender, part))
