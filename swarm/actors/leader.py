"""The leader: the coordinator that owns the cluster log, and answers control requests.

Leadership is in the log, as ownership of a shard is: to lead is to have written the last
`Opened` entry of the cluster log.  The first live coordinator opens it when nobody who
lives shows that it leads.  Work goes on without a leader; only what holds for the whole
swarm cannot be changed meanwhile.

A request is decided, appended, copied to the shared state, and answered, in this order.
A leader that was deposed finds out by its next append, and falls silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import structlog

from swarm.actors.actor import Actor, Mailbox
from swarm.actors.answers import error_reply
from swarm.actors.cluster_copy import MAP_KEY, RULES_KEY, ClusterCopy, store_copy
from swarm.actors.opening import CLUSTER_KEY, Opening
from swarm.actors.rebalancing import Rebalancing
from swarm.actors.requests import decode_body
from swarm.actors.sending import unsubscribe
from swarm.actors.surroundings import Surroundings
from swarm.bus.base import Message, Subscription
from swarm.bus.log import FencedLog
from swarm.bus.log_reader import LogReader
from swarm.core import cluster as core
from swarm.core.cluster import Cluster, ClusterBatch
from swarm.core.edits import CONFLICT_BYTES, Asked, in_turn
from swarm.core.envelope import CLUSTER_LOG
from swarm.core.placement import leads_next
from swarm.errors import BusError, Deposed, Refusal, SwarmError, Undecodable
from swarm.messages import Beat, Conflict, Look, Resize, Round, SetRules, TellConflict
from swarm.subjects import reply_allowed, sender_of, verb_of

log = structlog.get_logger()

#: Pause before a log that could not be opened, or was lost, is tried again; doubled up to
#: the longest.
REOPEN_S = 2.0
REOPEN_LONGEST_S = 15.0
#: Requests that wait, at most.
REQUESTS_MAX = 1000
#: A request, or all of an entry but the last, takes at most this part of the largest message.
REQUEST_PART = 8
#: What a remembered answer adds to an entry.
ANSWER_BYTES = 400

_encode = msgspec.json.Encoder().encode
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "rules": msgspec.json.Decoder(SetRules),
    "conflict": msgspec.json.Decoder(TellConflict),
    "resize": msgspec.json.Decoder(Resize),
    "look": msgspec.json.Decoder(Look),
}
CONTROL_VERBS: tuple[str, ...] = tuple(_DECODERS)


class _Answers:
    """What leaves once the entry is durable."""

    def __init__(self) -> None:
        self.ready: list[tuple[str, bytes]] = []
        #: Reply subjects of those who want to see all that there is.
        self.looks: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.ready or self.looks)


class Leader(Actor):
    """Leads when it is this coordinator's turn.

    `copy`: what the process knows, which the leader is the first to change.  `news` is
    called when beats have something new to say.
    """

    def __init__(self, around: Surroundings, copy: ClusterCopy, news: Callable[[], None]) -> None:
        super().__init__(f"{around.coordinator} leads")
        self._around = around
        self._bus = around.bus
        self._copy = copy
        self._news = news
        self._clock = asyncio.get_running_loop().time
        self._mailbox: Mailbox[Message] = Mailbox(REQUESTS_MAX)
        self._subscription: Subscription | None = None
        self._opening: asyncio.Task[None] | None = None
        self._fenced: FencedLog | None = None
        self._cluster = Cluster()
        self._rebalancing = Rebalancing(around, self._note)
        #: Rounds of rebalancing that are not in the log yet.
        self._rounds: list[Round] = []
        #: The latest one in the log of which it is known here.
        self.round = Round()
        self._live: dict[str, Beat] = {}
        self._not_before = float("-inf")
        self._pause_s = REOPEN_S
        self._log_time_off_s = 0.0
        #: Whether the copies in the shared state may be behind.
        self._copies_old = False
        self._conflict_counts: dict[str, dict[str, int]] = {}
        #: Why the cluster log cannot be opened; "" = it can, as far as is known.
        self.why_not = ""
        #: Requests dropped for a reply subject that is not the sender's inbox.
        self.bad_replies = 0

    @property
    def epoch(self) -> int:
        """Under which it leads; 0 when it does not."""
        return self._fenced.epoch if self._fenced is not None and self.running else 0

    @property
    def conflict_counts(self) -> dict[str, dict[str, int]] | None:
        """How many conflicts there were, by kind and policy, as far as that is durable; None
        where this is not the leader."""
        return self._conflict_counts if self.epoch else None

    def look_around(self, live: dict[str, Beat], settled: bool, draining: bool) -> None:
        """Begin to lead if it is our turn; fall silent if somebody leads after us.

        `settled`: everybody who lives has been heard of.
        """
        self._live = live
        if self._opening is not None and not self._opening.done():
            return
        me = self._around.coordinator
        latest = max((beat.leads for name, beat in live.items() if name != me), default=0)
        if self._fenced is not None:
            if latest > self._fenced.epoch:
                self._later(self._fall_silent("another coordinator leads"))
            elif draining:
                self._later(self._fall_silent("it is about to leave"))
            else:
                if self.epoch:
                    self._rebalancing.look(live, self._copy.map.shard_count)
                self._mailbox.wake()
            return
        if draining or latest or self._clock() < self._not_before:
            return
        if leads_next(me, live, self._around.settings.coordinator_names, settled):
            self._later(self._open())

    async def stop(self) -> None:
        """Lead no more."""
        opening, self._opening = self._opening, None
        if opening is not None and opening is not asyncio.current_task():
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        await self._end()

    def _later(self, what: Coroutine[Any, Any, None]) -> None:
        self._opening = asyncio.create_task(what, name=f"{self.name}: a change")

    # --- beginning and ending ---------------------------------------------------------------

    async def _open(self) -> None:
        around = self._around
        reader = LogReader(self._bus, around.subjects.cluster_log(), Cluster, CLUSTER_LOG)
        version = self._copy.map.version
        opening = Opening(
            around, around.subjects.cluster_log(), CLUSTER_KEY, version, reader, kind=CLUSTER_LOG
        )
        try:
            fenced = await opening.run()
            self._log_time_off_s = self._around.server_clock.now() - self._clock()
            self._cluster, self._fenced = reader.state, fenced
            if self._cluster.map is None:
                batch = self._new_batch()
                core.take_over(self._copy.map, batch)
                await self._append(batch)
            self._subscription = await self._bus.subscribe(
                around.subjects.control("*", "*"), self._on_message
            )
        except Deposed as deposed:
            self._note_other(deposed, "which came second")
            await self._fall_silent(str(deposed))
            return
        except (SwarmError, AssertionError) as error:
            self._cannot(str(error) or repr(error))
            await self._fall_silent(self.why_not)
            return
        self.why_not, self._pause_s = "", REOPEN_S
        self._copies_old = True
        self._know()
        log.info("leading", coordinator=around.coordinator, epoch=fenced.epoch)
        await super().start()
        self._mailbox.wake()
        self._news()

    async def _fall_silent(self, why: str) -> None:
        if self.epoch:
            log.warning("leads no more", coordinator=self._around.coordinator, why=why)
        self._not_before = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, REOPEN_LONGEST_S)
        await self._end()

    async def _end(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await unsubscribe([subscription])
        await self._rebalancing.stop()
        await super().stop()
        self._fenced, self._cluster = None, Cluster()
        self._mailbox.clear()
        self._rounds.clear()
        self.round = Round()
        self._news()

    # --- serving ----------------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        sender = sender_of(message.subject)
        if message.reply and not reply_allowed(message.reply, sender):
            self.bad_replies += 1
            log.warning("dropped: the reply subject is no inbox of the sender", sender=sender)
        elif not self._mailbox.put(message) and message.reply:
            busy = Refusal("overloaded", "the leader has too much to do", retry=True)
            self._around.send.soon(message.reply, error_reply(busy))

    async def _run(self) -> None:
        while True:
            await self._mailbox.wait()
            try:
                await self._round()
            except (Deposed, BusError, Undecodable) as error:
                if isinstance(error, Deposed):
                    self._note_other(error, f"epoch {self.epoch}")
                else:
                    self._cannot(str(error))
                self._later(self._fall_silent(str(error)))
                return
            if self._mailbox:
                self._mailbox.wake()

    async def _failed(self, error: Exception) -> bool:
        """A bug: the decided state is void."""
        self._cannot(f"internal error: {error!r}")
        self._later(self._fall_silent(self.why_not))
        return False

    def _note_other(self, deposed: Deposed, me: str) -> None:
        if deposed.by:
            dropped = f"{self._around.coordinator}, {me}"
            conflict = Conflict("opening", "the cluster log", deposed.by, dropped)
            self._around.disagreed(conflict)

    def _cannot(self, why: str) -> None:
        self.why_not = why
        log.error("nobody leads", coordinator=self._around.coordinator, why=why)

    async def _round(self) -> None:
        batch, answers = self._new_batch(), _Answers()
        for asked in in_turn(self._read(answers), batch):
            self._take(asked, batch, answers)
        while self._rounds:
            core.note_round(self._rounds.pop(0), batch)
        if not batch.events and not answers:
            if core.is_long(self._cluster):
                await self._shorten(batch)
        else:
            await self._append(batch)
            self._copies_old = self._copies_old or bool(batch.events)
        self._know()
        await self._store_copies()
        await self._around.send.all(answers.ready)
        if answers.looks:
            assert self._fenced is not None, "it has just appended"
            seen = _encode(self._cluster.view(self._fenced.epoch, self._fenced.position.at))
            await self._around.send.all((to, seen) for to in answers.looks)

    def _note(self, done: Round) -> None:
        """Shards were moved: into the log with it."""
        self._rounds.append(done)
        self._mailbox.wake()

    def _new_batch(self) -> ClusterBatch:
        assert self._fenced is not None, "it leads"
        self._cluster.seq = self._fenced.position.at + 1
        now = max(self._clock() + self._log_time_off_s, self._fenced.position.now)
        settings = self._around.settings
        # Who knows of shard maps at all says which one it knows.
        old = [name for name, beat in self._live.items() if not beat.map_version]
        return ClusterBatch(
            self._cluster,
            self._fenced.owner,
            now,
            settings.coordinator_names,
            old,
            settings.dedupe_window_s,
            settings.routing_key,
            settings.conflict_resolution,
            self._around.runtime.rng.random,
        )

    def _read(self, answers: _Answers) -> list[Asked]:
        """The commands that are to be in the next entry."""
        asked, size = [], 0
        while self._mailbox and size < self._bus.max_payload // REQUEST_PART:
            message = self._mailbox.pop()
            size += len(message.data) + ANSWER_BYTES
            one = self._decode(message, answers)
            if one is None:
                continue
            asked.append(one)
            if not isinstance(one.command, TellConflict) and one.command.based_on:
                size += CONFLICT_BYTES
        return asked

    def _decode(self, message: Message, answers: _Answers) -> Asked | None:
        """None where there is nothing to be carried out."""
        verb, sender = verb_of(message.subject), sender_of(message.subject)
        try:
            decoder = _DECODERS.get(verb)
            if decoder is None:
                known = ", ".join(CONTROL_VERBS)
                raise Refusal("bad_request", f"unknown verb {verb!r}; the leader knows {known}")
            if len(message.data) > self._bus.max_payload // REQUEST_PART:
                most = self._bus.max_payload // REQUEST_PART
                raise Refusal("too_large", f"a control request has at most {most} bytes")
            command = decode_body(decoder, message.data or b"{}")
            if isinstance(command, Look):
                if message.reply:
                    answers.looks.append(message.reply)
                return None
            command.command_id = command.command_id or self._around.runtime.new_id()
            return Asked(verb, command, sender, message.reply)
        except Refusal as refusal:
            if message.reply:
                answers.ready.append((message.reply, error_reply(refusal)))
            return None

    def _take(self, asked: Asked, batch: ClusterBatch, answers: _Answers) -> None:
        try:
            data = _encode(core.control(asked.verb, asked.command, asked.sender, batch))
        except Refusal as refusal:
            data = error_reply(refusal)
        if asked.reply:
            answers.ready.append((asked.reply, data))

    async def _append(self, batch: ClusterBatch) -> None:
        assert self._fenced is not None, "it leads"
        # It says nothing without an append, so having had nothing to say is no silence.
        self._fenced.proven_at = self._clock()
        await self._fenced.append(batch.events, batch.now, self._around.format())

    async def _shorten(self, batch: ClusterBatch) -> None:
        """State everything again, and drop what came before."""
        core.restate(batch)
        if len(_encode(batch.events)) > self._bus.max_payload * 3 // 4:
            return  # there is no room for it in one entry: the log stays longer
        await self._append(batch)
        try:
            await self._bus.purge(self._around.subjects.cluster_log(), self._cluster.stated_at)
        except BusError as error:
            # It is purged the next time.
            log.info("the cluster log was not purged", why=str(error))

    # --- telling ----------------------------------------------------------------------------

    def _know(self) -> None:
        """What is durable holds from here on; beats tell of it."""
        if self._cluster.map is not None:
            self._copy.take(self._cluster.map, self._cluster.rules)
            self.round = self._cluster.round
        self._conflict_counts = self._cluster.counted()

    async def _store_copies(self) -> None:
        """Bring the copies in the shared state up to date; what fails is tried again."""
        cluster = self._cluster
        if not self._copies_old or cluster.map is None:
            return
        try:
            await store_copy(self._bus, MAP_KEY, cluster.map)
            if cluster.rules.version:
                await store_copy(self._bus, RULES_KEY, cluster.rules)
            self._copies_old = False
        except (BusError, msgspec.MsgspecError) as error:
            log.warning("the copies of map and rules are behind", why=str(error))
