"""What clients and agents ask of a coordinator: submissions, sessions, outcomes, heartbeats.

Handlers are plain functions: they decide, say (`Outgoing`) and hand on to shard workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from swarm.actors.answers import error_body
from swarm.actors.cluster_copy import ClusterCopy
from swarm.actors.lending import Lending
from swarm.actors.moves import Moves
from swarm.actors.ownership import Ownership
from swarm.actors.requests import Request, decode_body
from swarm.actors.sending import Outgoing
from swarm.actors.surroundings import Surroundings
from swarm.bus.base import Message
from swarm.core.admission import admit
from swarm.core.checks import command_text_bytes
from swarm.core.decide import VERB
from swarm.core.sessions import Sessions
from swarm.errors import Refusal
from swarm.messages import (
    Ack,
    Attach,
    Attention,
    Control,
    Heartbeat,
    ItemCommand,
    Next,
    ShardSubmit,
    Submit,
    SubmitReply,
    Work,
)
from swarm.subjects import check_token, parse_item_id, shard_of_id

_encode = msgspec.json.Encoder().encode

_submit = msgspec.json.Decoder(Submit)
_attach = msgspec.json.Decoder(Attach)
_next = msgspec.json.Decoder(Next)
_heartbeat = msgspec.json.Decoder(Heartbeat)
_attention = msgspec.json.Decoder(Attention)

#: Refused items answered in one message: each comes with a sentence.
REFUSED_PAGE = 100


class Intake:
    """See the module's docstring."""

    def __init__(
        self,
        around: Surroundings,
        cluster: ClusterCopy,
        shards: Ownership,
        sessions: Sessions,
        lending: Lending,
        say: Outgoing,
        draining: Callable[[], bool],
    ) -> None:
        self._bus = around.bus
        self._runtime = around.runtime
        self._subjects = around.subjects
        self._pool = around.pool
        self._me = around.coordinator
        self._cluster = cluster
        self._shards = shards
        self._sessions = sessions
        self._lending = lending
        self._say = say
        self._draining = draining
        self._clock = asyncio.get_running_loop().time
        self._moves = Moves(around, cluster, self._hand_on)

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
        admitted = admit(submit, sender, map_, self._bus.max_payload // 4, adopted)
        for start in range(0, len(admitted.refused) if message.reply else 0, REFUSED_PAGE):
            part = admitted.refused[start : start + REFUSED_PAGE]
            self._say(message.reply, _encode(SubmitReply(part, submit.command_id)))
        for shard, items in admitted.parts.items():
            asks = admitted.asks.get(shard)
            if asks is None:
                self._hand_on(shard, items, admitted.sizes[shard], sender, message.reply)
            else:
                self._moves.ask(shard, items, asks, sender, message.reply)

    def _hand_on(self, shard: int, items: ShardSubmit, size: int, sender: str, reply: str) -> None:
        """To the shard's owner, which answers the sender."""
        worker = self._shards.get(shard)
        if worker is not None:
            worker.put(Request("submit", sender, items, reply, size=size))
        else:
            subject = self._subjects.shard(shard, "submit", sender)
            self._say(subject, _encode(items), reply)

    async def stop(self) -> None:
        """Ask nothing more; senders will ask again."""
        await self._moves.stop()

    # --- agents ------------------------------------------------------------------------

    def on_attach(self, message: Message, sender: str) -> None:
        if self._draining():
            raise Refusal("unavailable", f"{self._me} is about to leave; attach again", retry=True)
        attach: Attach = decode_body(_attach, message.data)
        minted = message.headers.get("Swarm-Session", "") if message.headers else ""
        session = attach.session or minted or self._runtime.new_name("s")
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
        for command in next_.done:
            shard = shard_of_id(command.work_item_id)
            worker = self._shards.get(shard)
            verb, size = VERB[type(command)], command_text_bytes(command)
            if worker is not None:
                worker.put(Request(verb, sender, command, session=session, size=size))
            elif shard >= 0:
                subject = self._subjects.shard(shard, verb, sender)
                self._say(subject, _encode(command), headers={"Swarm-Session": session})
            else:
                self._refuse_command(command, sender, session)
        slots = self._pool.sessions.get((sender, session))
        if slots is None:
            if next_.slots:
                control = Control("reattach", reason=f"{self._me} does not know this session")
                self._say(self._subjects.agent_control(sender, session), _encode(control))
        else:
            self._pool.update(slots, next_.number, next_.slots, next_.received, self._clock())
            if self._pool.wished():
                self._lending.grant_wishes()

    def _refuse_command(self, command: ItemCommand, agent: str, session: str) -> None:
        refusal = Refusal("bad_request", f"{command.work_item_id[:80]!r} is no work item id")
        ack = Ack(command.command_id, command.work_item_id, error=error_body(refusal))
        self._say(self._subjects.agent_work(agent, session), _encode(Work([], [ack])))

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
        for worker in self._shards:
            listed = by_shard.get(worker.number, [])
            if listed or worker.knows(sender, heartbeat.session):
                part = msgspec.structs.replace(heartbeat, held=listed)
                worker.put(Request("heartbeat", sender, part))
        self._lending.grant_wishes()
