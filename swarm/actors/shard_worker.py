"""The owner of one shard: collects commands, decides them, makes them durable, answers.

One round: all that is in the mailbox is decided against the state (`swarm.actors.deciding`), one
entry with all events is appended, and only when it is durable are the answers sent.  Meanwhile
nothing is decided, answered or shown.  A round with answers only (reads, refusals, repetitions)
appends an empty entry: a deposed owner that does not know it must not answer from memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Mapping

import structlog

from swarm.actors.actor import Actor, Mailbox
from swarm.actors.answers import Answers, error_reply
from swarm.actors.counting import Counting
from swarm.actors.deciding import Deciding
from swarm.actors.finished import FinishedItems
from swarm.actors.keeping import Keeping
from swarm.actors.lapsing import Lapsing
from swarm.actors.requests import Request
from swarm.actors.sending import let_out, unsubscribe
from swarm.actors.serving import EVENT_BYTES, Serving
from swarm.actors.surroundings import Surroundings
from swarm.actors.waiters import Waiters
from swarm.bus.base import Message, Subscription
from swarm.bus.log import FencedLog
from swarm.core import decide
from swarm.core.edge_book import EdgeBook
from swarm.core.grouping import Grouping
from swarm.core.leases import Leases
from swarm.core.shard import Shard
from swarm.core.usage import UsageCounter
from swarm.errors import BusError, Deposed, Refusal, Undecodable
from swarm.messages import ShardStats
from swarm.subjects import reply_allowed, sender_of, verb_of

log = structlog.get_logger()


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
        #: Added to the monotonic clock, gives the log's time.  The wall clock is looked at
        #: once, when it was found right: later it may be set, by hours, either way.
        self._log_time_off_s = around.server_clock.now() - self._clock()
        self._leases = Leases()
        self._subscription: Subscription | None = None
        self._ticked = False
        self._map_version = fenced.map_version
        settings = around.settings
        self._finished = FinishedItems(
            around.bus,
            around.send,
            around.subjects.records(shard.number),
            shard,
            settings.finished_retention_s,
            again=self.put,
            archived=self._archived,
        )
        self._keeping = Keeping(
            around.bus,
            around.subjects.log(shard.number),
            shard,
            self._finished,
            floor_bytes=settings.log_floor_bytes,
            kept=max(1, settings.cache_max_size // settings.shards),
            dead_kept_s=settings.dead_retention_s,
        )
        refused: dict[str, int] = {}
        usage = UsageCounter(around.coordinator, self._clock())
        self._counting = Counting(shard, fenced, self._keeping, refused, usage, around.hosted)
        self._deciding = Deciding(
            shard=shard,
            leases=self._leases,
            waiters=Waiters(),
            edges=EdgeBook(shard),
            clock=self._clock,
            max_payload=around.bus.max_payload,
            thaw=self._finished.thaw,
            again=self.put,
            stats=self._counting.stats,
            refused=refused,
            usage=usage,
        )
        place = around.place(self._mailbox.wake)
        self._serving = Serving(shard, around.pool, place, usage, self._clock)
        #: Held while a round is under way; whoever else holds it keeps the worker from deciding.
        self.turn = asyncio.Lock()
        #: Ready items by work type, as of the last durable batch.
        self.ready: dict[str, int] = dict(shard.lanes.ready)
        #: Who holds something here, as (agent, session).
        self.holders: Container[tuple[str, str]] = shard.held
        #: Requests dropped for a reply subject that is not the sender's inbox.
        self.bad_replies = 0
        self._lapsing = Lapsing(
            around.bus, shard, self._leases, self._deciding, self._clock, around.hearing
        )
        #: Unlike the loop's clock it goes on while something is being decided.
        self._wall = around.runtime.wall
        self._grouping = Grouping()

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
        """Its coordinator."""
        return self._around.coordinator

    @property
    def epoch(self) -> int:
        """The shard's epoch under this owner."""
        return self._fenced.epoch

    @property
    def shown(self) -> ShardStats:
        """Its counts, of a moment ago at most."""
        return self._counting.shown

    @property
    def heads(self) -> Mapping[str, float]:
        """The scores of its most urgent ready items, by work type: decided, for ordering only."""
        return self._serving.place.heads

    @property
    def refused(self) -> dict[str, int]:
        """Commands refused since this owner opened the shard, by error code."""
        return self._deciding.refused

    @property
    def sequence(self) -> int:
        """Of the last entry that this owner knows."""
        return self._fenced.position.at

    async def start(self) -> None:
        """Serve: from here on requests are taken."""
        if self._subscription is None:
            await self._keeping.start()
            subject = self._around.subjects.shard(self.number, "*", "*")
            self._subscription = await self._bus.subscribe(subject, self._on_message)
            self._serving.place.join()
        await super().start()

    async def stop(self) -> None:
        """Fall silent; the shard stays as the log has it."""
        await self._go_silent()
        await super().stop()

    async def hand_over(self) -> list[Request]:
        """Fall silent; returns what has not been answered, to be asked of the next owner."""
        await self._fall_silent()
        left = [self._mailbox.pop() for _ in range(len(self._mailbox))]
        left += self._deciding.waiters.taken(self._clock())
        await super().stop()
        return left

    def put(self, request: Request) -> None:
        """Take a request from the hosting coordinator."""
        if self._fenced.full:
            # Nothing can be decided before there is room, and nothing of this was looked at.
            self._refuse_now(request, Refusal("storage_full", "the storage is full", retry=True))
        elif not self._mailbox.put(request):
            busy = Refusal("overloaded", f"shard {self.number} has too much to do", retry=True)
            self._refuse_now(request, busy)

    def adopt(self, map_version: int) -> None:
        """Items are placed by this map, or a later one, from the next round on."""
        self._map_version = max(self._map_version, map_version)

    def tick(self) -> None:
        """Look at leases, waiters and the age of the last proof; about four times a second."""
        self._ticked = True
        self._mailbox.wake()

    def look_for_work(self, work_types: list[str]) -> None:
        """Slots for these types are free: wake up if there is ready work for one of them."""
        if any(map(self.ready.get, work_types)):
            self._mailbox.wake()

    # --- intake -----------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        sender = sender_of(message.subject)
        if message.reply and not reply_allowed(message.reply, sender):
            self.bad_replies += 1
            log.warning("dropped: the reply subject is no inbox of the sender", sender=sender)
            return
        session = message.headers.get("Swarm-Session", "") if message.headers else ""
        self.put(Request(verb_of(message.subject), sender, message.data, message.reply, session))

    def _refuse_now(self, request: Request, refusal: Refusal) -> None:
        """The sender is told at once, as nothing of the request was looked at."""
        # An agent that was not listened to has been heard of all the same.
        self._lapsing.deaf = self._lapsing.deaf or request.verb == "heartbeat"
        if request.reply:
            self._around.send.soon(request.reply, error_reply(refusal))

    # --- the round ----------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                since = self._wall()
                await self._mailbox.wait()
                self._grouping.idle_s = self._wall() - since
                more = True
                while more:
                    async with self.turn:
                        more = await self._round()
        except Deposed as deposed:
            await self._end(str(deposed), alarm=False, by=deposed.by)
        except (BusError, Undecodable) as error:
            await self._end(str(error), alarm=True)

    async def _failed(self, error: Exception) -> bool:
        # The decided state may differ from the log: only the log can tell now.
        await self._end(f"internal error: {error!r}", alarm=True)
        return False

    async def _end(self, why: str, alarm: bool, by: str = "") -> None:
        await self._go_silent()
        self._around.ended(self.number, why, alarm, by)

    async def _fall_silent(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await unsubscribe([subscription])
        self._serving.place.leave()
        await self._keeping.stop()

    async def _go_silent(self) -> None:
        await self._fall_silent()
        self._mailbox.clear()
        self._deciding.waiters.clear()

    async def _round(self) -> bool:
        """Decide, append, answer; returns whether there is more to do at once."""
        if not self._has_work():
            return False
        batch = self._new_batch()
        answers = Answers()
        ticked, self._ticked = self._ticked, False
        if ticked:
            self._deciding.expire_waiters(self.put)
        room = self._bus.max_payload * 7 // 8
        # First: what comes after its time must not count.
        self._deciding.look_after_time(batch, answers)
        part = self._part(ticked)
        used = self._decide_requests(batch, answers, part)
        self._lapsing.look(batch, answers, in_full=ticked and not self._mailbox)
        used += self._keeping.say(batch, used, room - used, ticked)
        # Again: what has come, or come back, may have a deadline that is over.
        self._deciding.look_after_time(batch, answers)
        self._deciding.tell_asked(batch, answers)
        # As many claims as requests: who is answered in the next round is served in it, too.
        self._serving.serve(batch, answers, min(room - used, EVENT_BYTES * (part or room)))
        self._deciding.tell_edges(batch, answers, ticked)
        if not batch.events and not answers and not (ticked and self._proof_is_old()):
            self._counting.walk(0, ticked=ticked, as_of=self.sequence)
            self._counting.durable(ticked=ticked)
            return bool(self._mailbox)
        started = self._clock()
        append = asyncio.ensure_future(self._fenced.append(batch.events, batch.now, batch.format))
        try:
            await let_out(begun=True)
            # While it is under way nothing is decided, but what follows can be prepared.
            subjects, size = self._around.subjects, self._bus.max_payload
            ready = answers.encoded(subjects, self.owner, self.number, size)
            settled = self._deciding.settled(batch.events)
            self._serving.count()
            self._counting.walk(len(batch.events), ticked=ticked, as_of=self.sequence + 1)
            waits = self._wall()
            seq = await append
            self._grouping.logged(self._wall() - waits)
        finally:
            if not append.done():
                append.cancel()
                await asyncio.wait([append])
            _ = append.cancelled() or append.exception()  # whoever stops us need not know
        # What is durable is said before anything else, so that others can begin with it.
        await self._around.send.all(ready)
        if ready:
            await let_out()
        self._deciding.durable(settled, self._clock(), answers)
        self._account(batch, started)
        self._counting.durable(ticked=ticked)
        await self._around.send.all(answers.readings(seq))
        self._around.committed()
        return bool(self._mailbox) or bool(self._serving.wanted())

    def _has_work(self) -> bool:
        """Whether a round has anything to decide: others may have taken what woke us up."""
        # What comes with time alone is looked at with a tick.
        waits = self._ticked or self._mailbox or self._keeping.archived
        return bool(waits or self._serving.wanted())

    def _part(self, ticked: bool) -> int:
        """How many of the requests that wait are decided now; 0: all."""
        # A tick looks at leases, for which all heartbeats must be in.  And while one of several
        # shards waits for its agents, the others are at work.
        if ticked or not self._serving.place.alone:
            return 0
        return self._grouping.part(len(self._mailbox), self._shard.tally.counts["claimed"])

    def _new_batch(self) -> decide.Batch:
        around = self._around
        self._shard.seq = self._fenced.position.at + 1
        self._fenced.map_version = self._map_version
        return decide.Batch(
            self._shard,
            self._fenced.owner,
            self._now(),
            self._fenced.map_version,
            around.format(),
            around.runtime.rng.random,
            around.nearly_full(self.number),
            around.settings.conflict_resolution,
        )

    def _now(self) -> float:
        """The log's time, which never goes back."""
        return max(self._clock() + self._log_time_off_s, self._fenced.position.now)

    def _proof_is_old(self) -> bool:
        return self._clock() - self._fenced.proven_at > self._around.settings.lease_s / 3

    def _decide_requests(self, batch: decide.Batch, answers: Answers, part: int) -> int:
        """As many requests as fit into one entry; returns the bytes that they may take.

        `part`: no more than these; 0: all.
        """
        take, pop, texts = self._deciding.take, self._mailbox.pop, 0
        # The largest request takes half of an entry, so this leaves room for slots.
        room = self._bus.max_payload // 4
        waiting = len(self._mailbox)
        for _ in range(min(part or waiting, waiting, self._around.settings.batch_size)):
            if EVENT_BYTES * len(batch.events) + texts > room:
                break
            request = pop()
            take(request, batch, answers)
            texts += request.size
        return EVENT_BYTES * len(batch.events) + texts

    def _account(self, batch: decide.Batch, started: float) -> None:
        """The batch is durable: conflicts are told, counts may be shown, upkeep goes on."""
        now = self._clock()
        for conflict in batch.conflicts:
            self._around.disagreed(conflict)
        if now - started > self._around.settings.missed_s:
            self._leases.restart(now)
        self.ready = dict(self._shard.lanes.ready)
        self._keeping.durable(self._fenced.entry_bytes, batch.now, batch.format)

    # --- upkeep ------------------------------------------------------------------------------

    def _archived(self, ended: list[tuple[int, float]]) -> None:
        """These are in the finished records: say so in the log."""
        self._keeping.archived += ended
        self._mailbox.wake()
