"""A coordinator: admits submissions, holds agents' sessions, hosts shard workers.

Everything that reaches it goes through its mailbox; `_HANDLERS` is the list of what it
understands.  Four times a second it beats, looks who is alive, opens the shards that are
its to own, and asks for free slots where work is ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from swarm.actors.actor import Actor, Mailbox
from swarm.actors.answers import error_body, error_reply
from swarm.actors.lending import SEEK_S, Lending
from swarm.actors.ownership import Ownership
from swarm.actors.requests import Request, decode_body
from swarm.actors.sending import Outgoing, Sender, unsubscribe
from swarm.actors.shard_worker import Surroundings
from swarm.actors.storage_watch import StorageWatch
from swarm.bus.base import Bus, Message, Subscription
from swarm.config import Settings
from swarm.core.admission import admit
from swarm.core.checks import command_text_bytes
from swarm.core.credits import CreditPool
from swarm.core.decide import VERB
from swarm.core.envelope import FORMAT
from swarm.core.membership import Members
from swarm.core.sessions import Sessions
from swarm.errors import BadInput, Refusal
from swarm.messages import (
    Ack,
    Attach,
    Attention,
    Beat,
    Control,
    Gone,
    Heartbeat,
    ItemCommand,
    Next,
    ShardMap,
    ShardStats,
    Submit,
    SubmitReply,
    Work,
)
from swarm.runtime import Runtime
from swarm.subjects import (
    Subjects,
    check_token,
    parse_item_id,
    reply_allowed,
    sender_of,
    shard_of_id,
)

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode

_submit = msgspec.json.Decoder(Submit)
_attach = msgspec.json.Decoder(Attach)
_next = msgspec.json.Decoder(Next)
_beat = msgspec.json.Decoder(Beat)
_heartbeat = msgspec.json.Decoder(Heartbeat)
_attention = msgspec.json.Decoder(Attention)

#: Refused items answered in one message: each comes with a sentence.
REFUSED_PAGE = 100


class Coordinator(Actor):
    """One coordinator.  See the module's docstring."""

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        coordinator_id: str,
        shard_map: ShardMap,
        runtime: Runtime | None = None,
    ) -> None:
        super().__init__(check_token("coordinator id", coordinator_id))
        self._bus = bus
        self._settings = settings
        self._map = shard_map
        self._runtime = runtime or Runtime()
        self._subjects = Subjects(settings.prefix)
        self._clock = asyncio.get_running_loop().time
        self._instance = self._runtime.new_name("")
        self._mailbox: Mailbox[Message] = Mailbox(settings.mailbox_size)
        self._send = Sender(bus)
        self._say = Outgoing(self._send)
        self._pool = CreditPool()
        self._members = Members(settings.missed_s)
        self._sessions = Sessions(
            self.name, self._pool, self._members, settings.lease_s, settings.heartbeat_s
        )
        #: How full the storage is.
        self.storage = StorageWatch(bus, self.name, self._owned_logs, settings.storage_soft_limit)
        around = Surroundings(
            bus=bus,
            send=self._send,
            settings=settings,
            runtime=self._runtime,
            subjects=self._subjects,
            coordinator=self.name,
            pool=self._pool,
            hearing=self._hearing,
            ended=self._shard_lost,
            committed=self._look_for_takers,
            format=self._format,
            nearly_full=self.storage.nearly_full,
        )
        self._shards = Ownership(around, shard_map)
        self._lending = Lending(self.name, self._pool, self._shards, self._say, self._subjects)
        self._takers_wanted = False
        self._tick_wanted = False
        self._subscriptions: list[Subscription] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._beat_number = 0
        #: When our own latest beat came back to us: proof that we hear.
        self._heard_self_at = float("-inf")
        #: Takes no new sessions or shards.
        self.draining = False
        #: Requests dropped for a reply subject that is not the sender's inbox.
        self.bad_replies = 0
        #: The latest beat.
        self._shown = self._make_beat()

    # --- life -----------------------------------------------------------------------

    @property
    def owned(self) -> list[int]:
        """Shards opened and served here."""
        return self._shards.owned()

    @property
    def shown(self) -> list[ShardStats]:
        """Counts of the shards served here, of a moment ago at most."""
        return [worker.shown for worker in self._shards]

    def _owned_logs(self) -> dict[int, str]:
        return {shard: self._subjects.log(shard) for shard in self.owned}

    @property
    def closed(self) -> dict[int, str]:
        """Shards that cannot be opened, and why."""
        return self._shards.closed

    @property
    def beating(self) -> bool:
        """Whether its beats go out and come back."""
        return self._hearing()

    async def start(self) -> None:
        """Subscribe, begin to beat, and open shards as they fall to this coordinator."""
        if self.running:
            return
        for subject in (
            self._subjects.coordinator(self.name, "*", "*"),
            self._subjects.beat("*"),
            self._subjects.heartbeat("*"),
            self._subjects.attached("*"),
        ):
            self._subscriptions.append(await self._bus.subscribe(subject, self._on_message))
        await super().start()
        for name, work in (("beats", self._beat_forever()), ("storage", self.storage.run())):
            self._tasks.append(asyncio.create_task(work, name=f"{self.name} {name}"))

    async def stop(self) -> None:
        """Leave: no more beats, all shards fall silent; what agents hold stays theirs."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._shards.stop()
        subscriptions, self._subscriptions = self._subscriptions, []
        await unsubscribe(subscriptions)
        await super().stop()

    def _format(self) -> int:
        """Of log entries: the highest that every live coordinator reads."""
        live = self._members.live(self._clock())
        return min([FORMAT, *(beat.protocol for beat in live.values())])

    def _hearing(self) -> bool:
        silent_s = self._clock() - self._heard_self_at
        return self._bus.connected and silent_s < self._settings.missed_s

    # --- the mailbox ------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        if not self._mailbox.put(message) and message.reply:
            refusal = Refusal("overloaded", f"{self.name} has too much to do", retry=True)
            if reply_allowed(message.reply, sender_of(message.subject)):
                self._send.soon(message.reply, error_reply(refusal))

    async def _run(self) -> None:
        while True:
            await self._mailbox.wait()
            while self._mailbox:
                self._take(self._mailbox.pop())
            tick, self._tick_wanted = self._tick_wanted, False
            for worker in self._shards:
                worker.look_for_slots()
                if tick:
                    # From here, as every heartbeat that has arrived is with its worker now.
                    worker.tick()
            live = self._members.live(self._clock())
            self._lending.give_back()
            self._lending.offer(live)
            if self._takers_wanted and len(live) > 1:
                self._seek_takers(live)
            self._tell_news()
            await self._say.flush()

    def _take(self, message: Message) -> None:
        # <prefix>.coordinator.<id>.<verb>.<sender>, or <prefix>.<verb>.<sender>
        _, verb, sender = message.subject.rsplit(".", 2)
        if message.reply and not reply_allowed(message.reply, sender):
            self.bad_replies += 1
            log.warning("dropped: the reply subject is no inbox of the sender", sender=sender)
            return
        try:
            handler = _HANDLERS.get(verb)
            if handler is None:
                known = ", ".join(_HANDLERS)
                raise Refusal("bad_request", f"unknown verb {verb!r}; a coordinator knows {known}")
            handler(self, message, sender)
        except (Refusal, BadInput) as error:
            refusal = error if isinstance(error, Refusal) else Refusal("bad_request", str(error))
            if message.reply:
                self._say(message.reply, error_reply(refusal))

    # --- submissions -------------------------------------------------------------------

    def _on_submit(self, message: Message, sender: str) -> None:
        limit = self._bus.max_payload // 2
        if len(message.data) > limit:
            raise Refusal(
                "too_large",
                f"the batch has {len(message.data)} bytes, at most {limit} are allowed; "
                "submit fewer items at once",
            )
        submit: Submit = decode_body(_submit, message.data)
        submit.command_id = submit.command_id or self._runtime.new_id()
        admitted = admit(submit, sender, self._map, self._bus.max_payload // 4)
        for start in range(0, len(admitted.refused) if message.reply else 0, REFUSED_PAGE):
            part = admitted.refused[start : start + REFUSED_PAGE]
            self._say(message.reply, _encode(SubmitReply(part, submit.command_id)))
        for shard, items in admitted.parts.items():
            worker = self._shards.get(shard)
            if worker is not None:
                size = admitted.sizes[shard]
                worker.put(Request("submit", sender, items, message.reply, size=size))
            else:
                subject = self._subjects.shard(shard, "submit", sender)
                self._say(subject, _encode(items), message.reply)

    # --- agents ------------------------------------------------------------------------

    def _on_attach(self, message: Message, sender: str) -> None:
        attach: Attach = decode_body(_attach, message.data)
        minted = message.headers.get("Swarm-Session", "") if message.headers else ""
        session = attach.session or minted or self._runtime.new_name("s")
        check_token("session", session)
        attached, attention = self._sessions.attach(sender, session, attach, self._clock())
        self._say(self._subjects.attached(sender), _encode(attention))
        if message.reply:
            self._say(message.reply, _encode(attached))

    def _on_attached(self, message: Message, sender: str) -> None:
        heard: Attention = decode_body(_attention, message.data)
        for session, control in self._sessions.attention(sender, heard, self._clock()):
            self._say(self._subjects.agent_control(sender, session), _encode(control))

    def _on_next(self, message: Message, sender: str) -> None:
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
                control = Control("reattach", reason=f"{self.name} does not know this session")
                self._say(self._subjects.agent_control(sender, session), _encode(control))
        else:
            self._pool.update(slots, next_.number, next_.slots, next_.received, self._clock())
            if self._pool.wished():
                self._lending.grant_wishes()

    def _refuse_command(self, command: ItemCommand, agent: str, session: str) -> None:
        refusal = Refusal("bad_request", f"{command.work_item_id[:80]!r} is no work item id")
        ack = Ack(command.command_id, command.work_item_id, error=error_body(refusal))
        self._say(self._subjects.agent_work(agent, session), _encode(Work([], [ack])))

    def _on_heartbeat(self, message: Message, sender: str) -> None:
        heartbeat: Heartbeat = decode_body(_heartbeat, message.data)
        control = self._sessions.heartbeat(sender, heartbeat, self._clock())
        if control is not None:
            subject = self._subjects.agent_control(sender, heartbeat.session)
            self._say(subject, _encode(control))
        by_shard: dict[int, list[tuple[str, str]]] = {}
        for work_item_id, token in heartbeat.held:
            by_shard.setdefault(parse_item_id(work_item_id)[0], []).append((work_item_id, token))
        for worker in self._shards:
            listed = by_shard.get(worker.number, [])
            if listed or worker.knows(sender, heartbeat.session):
                part = msgspec.structs.replace(heartbeat, held=listed)
                worker.put(Request("heartbeat", sender, part))
        self._lending.grant_wishes()

    def _shard_lost(self, shard: int, why: str, alarm: bool) -> None:
        self._shards.lost(shard, why, alarm)

    def _look_for_takers(self) -> None:
        """A shard has committed: there may be ready work that nobody here can take."""
        self._takers_wanted = True
        self._mailbox.wake()

    def _seek_takers(self, live: dict[str, Beat]) -> None:
        if self._lending.seek(live):
            self._takers_wanted = False
            return
        # Too early: once more a little later.  Waking up twice does no harm.
        asyncio.get_running_loop().call_later(SEEK_S, self._mailbox.wake)

    def _on_borrow(self, message: Message, sender: str) -> None:
        self._lending.on_borrow(message.data, sender)

    def _on_lend(self, message: Message, sender: str) -> None:
        self._lending.on_lend(message.data, sender)

    # --- beats --------------------------------------------------------------------------

    def _on_beat(self, message: Message, sender: str) -> None:
        beat: Beat = decode_body(_beat, message.data)
        if beat.coordinator == self.name and beat.instance == self._instance:
            self._heard_self_at = self._clock()
        else:
            # It may have the free slots that ready work here is waiting for.
            self._takers_wanted = True
        self._members.heard(beat, self._clock())

    async def _beat_forever(self) -> None:
        while True:
            self._beat()
            self._look_around()
            await self._say.flush()
            await asyncio.sleep(self._settings.beat_s)

    def _tell_news(self) -> None:
        """Beat at once when others must know: a type is newly ready or served, a shard owned."""
        shown = self._shown
        newly_ready = any(work_type not in shown.ready for work_type in self._shards.ready())
        newly_served = shown.idle.keys() != self._pool.served.keys()
        if newly_ready or newly_served or shown.owns != self.owned:
            self._beat()

    def _beat(self) -> None:
        self._beat_number += 1
        self._shown = self._make_beat()
        self._say(self._subjects.beat(self.name), _encode(self._shown))

    def _make_beat(self) -> Beat:
        return Beat(
            self.name,
            self._instance,
            FORMAT,
            self._beat_number,
            sessions=len(self._pool.sessions),
            owns=self.owned,
            idle=self._pool.idle(),
            ready=self._shards.ready(),
            closed={str(shard): why for shard, why in self.closed.items()},
            draining=self.draining,
            storage=round(self.storage.part, 3),
        )

    def _look_around(self) -> None:
        now = self._clock()
        self._sessions.drop_silent(now)
        self._pool.expire(now)
        # Who hears nothing must not take the others for dead.
        if self._hearing():
            for name in self._members.newly_dead(now):
                self._say(self._subjects.gone(name), _encode(Gone(name, self.name)))
            live = self._members.live(now)
            if not self.draining:
                self._shards.open_what_is_ours(live)
            self._takers_wanted = True
        self._tick_wanted = True
        self._mailbox.wake()


_HANDLERS: dict[str, Callable[[Coordinator, Message, str], None]] = {
    "submit": Coordinator._on_submit,
    "attach": Coordinator._on_attach,
    "next": Coordinator._on_next,
    "borrow": Coordinator._on_borrow,
    "lend": Coordinator._on_lend,
    "beat": Coordinator._on_beat,
    "heartbeat": Coordinator._on_heartbeat,
    "attached": Coordinator._on_attached,
}
