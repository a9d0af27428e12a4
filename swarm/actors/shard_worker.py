"""The owner of one shard: collects commands, decides them, makes them durable, answers.

One round: everything in the mailbox is decided against the state (`swarm.core.decide`),
one entry with all events of the round is appended, and only when it is durable are its
answers sent.  While the append is in flight nothing is decided, answered or shown; what
arrives waits for the next round.  A round without events but with answers (reads,
refusals, repetitions) appends an empty entry all the same: a deposed owner that does not
know it yet must not answer from what it remembers.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from swarm.actors.actor import Actor, Mailbox
from swarm.actors.answers import Answers, error_body, error_reply
from swarm.actors.requests import Request, decode
from swarm.actors.sending import unsubscribe
from swarm.actors.surroundings import Surroundings
from swarm.actors.waiters import Waiters
from swarm.bus.base import Message, Subscription
from swarm.bus.log import FencedLog
from swarm.core import decide, read
from swarm.core.leases import Leases
from swarm.core.shard import Shard
from swarm.errors import BusError, Deposed, Refusal, Undecodable
from swarm.messages import (
    Ack,
    Claim,
    Claimed,
    Complete,
    Completed,
    Control,
    Died,
    Fail,
    Get,
    Heartbeat,
    List,
    Progress,
    Release,
    Released,
    Renew,
    ShardStats,
    ShardSubmit,
    Stats,
)
from swarm.subjects import item_id, parse_item_id, reply_allowed, sender_of, verb_of

log = structlog.get_logger()

#: At most the size of an event besides the texts that its command brought along.
EVENT_BYTES = 200
#: Most leases given up in one round.
LAPSES_MAX = 200


class ShardWorker(Actor):
    """Owns `shard` through `fenced`, from its `Opened` entry on."""

    def __init__(self, around: Surroundings, shard: Shard, fenced: FencedLog) -> None:
        super().__init__(f"shard-{shard.number}")
        self._around = around
        self._bus = around.bus
        self._shard = shard
        self._fenced = fenced
        self._clock = asyncio.get_running_loop().time
        self._mailbox: Mailbox[Request] = Mailbox(around.settings.mailbox_size)
        self._leases = Leases()
        self._waiters = Waiters()
        self._subscription: Subscription | None = None
        self._deaf = False
        self._reconnects = around.bus.reconnects
        self._ticked = False
        #: Held while a round is under way; whoever else holds it keeps the worker from deciding.
        self.turn = asyncio.Lock()
        #: Ready items by work type, as of the last durable batch.
        self.ready: dict[str, int] = dict(shard.lanes.ready)
        self.refused: dict[str, int] = {}
        #: Requests dropped for a reply subject that is not the sender's inbox.
        self.bad_replies = 0
        for number, hold in shard.holds():
            self._leases.start(number, hold.lease_s, self._clock())

    @property
    def number(self) -> int:
        """The shard's number."""
        return self._shard.number

    @property
    def state(self) -> Shard:
        """All that the shard is, decided but perhaps not durable: not to be shown."""
        return self._shard

    @property
    def owner(self) -> str:
        """The coordinator that owns the shard."""
        return self._around.coordinator

    @property
    def epoch(self) -> int:
        """The shard's epoch under this owner."""
        return self._fenced.epoch

    @property
    def sequence(self) -> int:
        """Of the last entry that this owner knows."""
        return self._fenced.position.at

    async def start(self) -> None:
        """Serve: from here on requests are taken."""
        if self._subscription is None:
            subject = self._around.subjects.shard(self.number, "*", "*")
            self._subscription = await self._bus.subscribe(subject, self._on_message)
        await super().start()

    async def stop(self) -> None:
        """Fall silent; the shard stays as the log has it."""
        await self._go_silent()
        await super().stop()

    async def hand_over(self) -> list[Request]:
        """Fall silent; returns what has not been answered, to be asked of the next owner."""
        await self._fall_silent()
        left = [self._mailbox.pop() for _ in range(len(self._mailbox))]
        left += self._waiters.taken(self._clock())
        await super().stop()
        return left

    def put(self, request: Request) -> None:
        """Take a request from the hosting coordinator."""
        if not self._mailbox.put(request):
            self._refuse_now(request)

    def tick(self) -> None:
        """Look at leases, waiters and the age of the last proof; about four times a second."""
        self._ticked = True
        self._mailbox.wake()

    def look_for_slots(self) -> None:
        """Slots may have come free: wake up if there is ready work for one of them."""
        if self._around.pool.wanted([name for name, count in self.ready.items() if count]):
            self._mailbox.wake()

    def knows(self, agent: str, session: str) -> bool:
        """Whether the session holds anything here."""
        return (agent, session) in self._shard.held

    # --- intake -----------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        sender = sender_of(message.subject)
        if message.reply and not reply_allowed(message.reply, sender):
            self.bad_replies += 1
            log.warning("dropped: the reply subject is no inbox of the sender", sender=sender)
            return
        session = message.headers.get("Swarm-Session", "") if message.headers else ""
        self.put(Request(verb_of(message.subject), sender, message.data, message.reply, session))

    def _refuse_now(self, request: Request) -> None:
        """A full mailbox: the sender is told at once, as nothing of it was looked at."""
        refusal = Refusal("overloaded", f"shard {self.number} has too much to do", retry=True)
        if request.reply:
            self._around.send.soon(request.reply, error_reply(refusal))

    # --- the round ----------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                await self._mailbox.wait()
                more = True
                while more:
                    async with self.turn:
                        more = await self._round()
        except Deposed as deposed:
            await self._end(str(deposed), alarm=False)
        except (BusError, Undecodable) as error:
            await self._end(str(error), alarm=True)

    async def _failed(self, error: Exception) -> bool:
        # The decided state may differ from the log: only the log can tell now.
        await self._end(f"internal error: {error!r}", alarm=True)
        return False

    async def _end(self, why: str, alarm: bool) -> None:
        await self._go_silent()
        self._around.ended(self.number, why, alarm)

    async def _fall_silent(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await unsubscribe([subscription])

    async def _go_silent(self) -> None:
        await self._fall_silent()
        self._mailbox.clear()
        self._waiters.clear()

    async def _round(self) -> bool:
        """Decide, append, answer; returns whether there is more to do at once."""
        fenced = self._fenced
        batch = decide.Batch(self._shard, fenced.owner, self._now(), fenced.map_version)
        answers = Answers()
        ticked, self._ticked = self._ticked, False
        bytes_used = self._decide_requests(batch, answers)
        self._look_after_leases(batch, ticked)
        if ticked:
            self._expire_waiters()
        self._serve_credits(batch, answers, self._bus.max_payload * 7 // 8 - bytes_used)
        if not batch.events and not answers and not (ticked and self._proof_is_old()):
            return False
        started = self._clock()
        append = asyncio.ensure_future(self._fenced.append(batch.events, batch.now))
        try:
            # While it is under way nothing is decided, but answers can be encoded.
            await asyncio.sleep(0)
            ready = answers.encoded(self._around.subjects, self._bus.max_payload)
            seq = await append
        finally:
            append.cancel()
        self._account(batch, answers, started)
        await self._around.send.all(ready)
        await self._around.send.all(answers.readings(seq))
        self._around.committed()
        return bool(self._mailbox) or bool(self._wanted())

    def _now(self) -> float:
        return max(self._around.runtime.wall(), self._fenced.position.now)

    def _proof_is_old(self) -> bool:
        return self._clock() - self._fenced.proven_at > self._around.settings.lease_s / 3

    def _decide_requests(self, batch: decide.Batch, answers: Answers) -> int:
        """As many requests as fit into one entry; returns the bytes that they may take."""
        bytes_used = EVENT_BYTES * len(batch.events)
        for _ in range(min(len(self._mailbox), self._around.settings.batch_size)):
            # The largest request takes half of an entry, so this leaves room for slots.
            if bytes_used > self._bus.max_payload // 4:
                break
            request = self._mailbox.pop()
            events = len(batch.events)
            try:
                body = decode(request)
                self._decide(request, body, batch, answers)
            except Refusal as refusal:
                self._refused(request, refusal, answers)
            bytes_used += EVENT_BYTES * (len(batch.events) - events) + request.size
        return bytes_used

    def _decide(
        self, request: Request, body: object, batch: decide.Batch, answers: Answers
    ) -> None:
        shard, sender = self._shard, request.sender
        match body:
            case Complete() | Fail() | Release() | Progress():
                ack = decide.item_command(shard, body, sender, batch)
                if isinstance(body, Progress) and ack.lease_s > 0:
                    self._leases.renew(parse_item_id(body.work_item_id)[1], self._clock())
                if request.session:
                    answers.ack(sender, request.session, ack)
                else:
                    answers.reply(request.reply, ack)
            case ShardSubmit():
                answers.reply(request.reply, decide.submit(shard, body, batch))
            case Heartbeat():
                self._heartbeat(sender, body, batch, answers)
            case Claim():
                answers.reply(request.reply, decide.claim(shard, body, sender, batch))
            case Renew():
                ack = decide.renew(shard, body, sender)
                self._leases.renew(parse_item_id(body.work_item_id)[1], self._clock())
                answers.reply(request.reply, ack)
            case Get():
                self._get(request, body, answers)
            case List():
                read.check_query(body)
                bytes_max = self._bus.max_payload // 2
                answers.reading(request.reply, lambda: read.page(shard, body, bytes_max))
            case Stats():
                answers.reading(request.reply, self._stats)
            case _:
                raise Refusal("bad_request", f"a shard does not understand {request.verb!r}")

    def _refused(self, request: Request, refusal: Refusal, answers: Answers) -> None:
        self.refused[refusal.code] = self.refused.get(refusal.code, 0) + 1
        if request.session and isinstance(request.body, Complete | Fail | Release | Progress):
            command = request.body
            ack = Ack(command.command_id, command.work_item_id, error=error_body(refusal))
            answers.ack(request.sender, request.session, ack)
            return
        answers.reply(request.reply, {"error": error_body(refusal)})

    def _account(self, batch: decide.Batch, answers: Answers, started: float) -> None:
        """The batch is durable: leases run, waiters are answered, counts may be shown."""
        now = self._clock()
        for event in batch.events:
            match event:
                case Claimed():
                    self._leases.start(event.n, event.lease_s, now)
                case Completed() | Died():
                    self._leases.end(event.n)
                    for request in self._waiters.ended(event.n):
                        self._read_item(request.reply, event.n, answers)
                case Released():
                    self._leases.end(event.n)
                case _:
                    pass
        if now - started > self._around.settings.missed_s:
            self._leases.restart(now)
        self.ready = dict(self._shard.lanes.ready)

    # --- agents ----------------------------------------------------------------------------

    def _wanted(self) -> list[str]:
        ready = self._shard.lanes.ready
        return self._around.pool.wanted([work_type for work_type in ready if ready[work_type]])

    def _serve_credits(self, batch: decide.Batch, answers: Answers, bytes_left: int) -> None:
        """Give ready items to waiting agents, best item first, longest waiting agent first."""
        shard, pool = self._shard, self._around.pool
        ready, now = shard.lanes.ready, self._clock()
        wanted = self._wanted()
        while wanted and bytes_left > 0:
            number = shard.lanes.best(wanted)
            assert number is not None, "there is ready work of every wanted type"
            work_type = shard.items[number].work_type
            slots = pool.take(work_type, now)
            if slots is not None:
                taken = decide.take(shard, number, slots.agent, slots.session, batch)
                answers.assign(slots.agent, slots.session, taken)
                bytes_left -= EVENT_BYTES
            if slots is None or not ready[work_type] or not pool.has_free(work_type):
                wanted = self._wanted()

    def _heartbeat(
        self, agent: str, heartbeat: Heartbeat, batch: decide.Batch, answers: Answers
    ) -> None:
        shard, session = self._shard, heartbeat.session
        held = shard.held.get((agent, session), {})
        listed: dict[int, None] = {}
        for work_item_id, token in heartbeat.held:
            number = parse_item_id(work_item_id)[1]
            hold = shard.items[number].hold if number in held else None
            if hold is not None and hold.token == token:
                listed[number] = None
            else:
                stop = Control("stop", work_item_id, token, "this claim has ended")
                answers.control(agent, session, stop)
        missing = self._leases.heartbeat(list(held), listed, self._clock())
        for number in missing.resend:
            item = shard.items[number]
            assert item.hold is not None, "only held items are missed"
            answers.assign(agent, session, decide.assignment(shard, item, item.hold))
        for number in missing.release:
            decide.give_up(shard, number, "unlisted", "its agent never listed it", batch)

    def _look_after_leases(self, batch: decide.Batch, ticked: bool) -> None:
        """Give up what lapsed; NATS trouble restarts all leases instead."""
        now = self._clock()
        if not self._around.hearing():
            self._deaf = True
            return
        if self._deaf or self._bus.reconnects != self._reconnects:
            self._deaf, self._reconnects = False, self._bus.reconnects
            self._leases.restart(now)
        if not ticked or self._mailbox:
            # A heartbeat may wait among what was not decided yet.
            return
        for number in self._leases.lapsed(now)[:LAPSES_MAX]:
            decide.give_up(self._shard, number, "lapsed", "its agent fell silent", batch)

    # --- reading ------------------------------------------------------------------------------

    def _get(self, request: Request, get: Get, answers: Answers) -> None:
        item = read.find(self._shard, get.work_item_id)
        if item.end is None and get.wait_s > 0:
            self._waiters.add(item.number, request, self._clock() + get.wait_s)
            return
        self._read_item(request.reply, item.number, answers)

    def _read_item(self, reply: str, number: int, answers: Answers) -> None:
        answers.reading(reply, lambda: read.item(self._shard, number))

    def _expire_waiters(self) -> None:
        """Whoever waited long enough asks once more, without waiting."""
        for number, request in self._waiters.expired(self._clock()):
            again = Get(item_id(self.number, number))
            self.put(msgspec.structs.replace(request, body=again))

    def _stats(self) -> ShardStats:
        stats = read.stats(self._shard)
        stats.epoch, stats.foreign = self._fenced.epoch, self._fenced.position.foreign
        stats.refused = dict(self.refused)
        return stats
