"""A coordinator: admits submissions, holds agents' sessions, hosts shard workers.

Everything that reaches it goes through its mailbox; `_handlers` is the list of what it
understands.  Four times a second it beats, looks who is alive, opens the shards that are
its to own, and asks for free slots where work is ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from swarm.actors.actor import Actor, Mailbox
from swarm.actors.answers import error_reply
from swarm.actors.cluster_copy import ClusterCopy
from swarm.actors.disagreements import Disagreements
from swarm.actors.handoff import Handoffs
from swarm.actors.intake import Intake
from swarm.actors.leader import Leader
from swarm.actors.leaving import Leaving
from swarm.actors.lending import Lending
from swarm.actors.measuring import Measuring
from swarm.actors.ownership import Ownership
from swarm.actors.presence import Presence
from swarm.actors.requests import decode_body
from swarm.actors.sending import Outgoing, Sender, unsubscribe
from swarm.actors.server_clock import ServerClock
from swarm.actors.state_watch import StateWatch
from swarm.actors.storage_watch import StorageWatch
from swarm.actors.surroundings import Surroundings
from swarm.bus.base import Bus, Message, Subscription
from swarm.config import Settings
from swarm.core.credits import OWN_TURNS, CreditPool
from swarm.core.envelope import FORMAT
from swarm.core.sessions import Sessions
from swarm.errors import BadInput, Refusal
from swarm.messages import Beat, Gone, ShardMap, ShardStats
from swarm.runtime import Runtime
from swarm.subjects import Subjects, check_token, reply_allowed, sender_of

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode

_beat = msgspec.json.Decoder(Beat)

#: The death of a coordinator is said at the latest after this time, open shards or not.
GONE_S = 0.3
#: One that is to leave listens this long for who else is.
HEAR_S = 0.15


class Coordinator(Actor):
    """One coordinator.  See the module's docstring."""

    #: Where its process answers HTTP, for its beats; set before the start.
    http = ""

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
        self._runtime = runtime or Runtime()
        self._subjects = Subjects(settings.prefix)
        self._clock = asyncio.get_running_loop().time
        self._instance = self._runtime.new_name("")
        self._mailbox: Mailbox[Message] = Mailbox(settings.mailbox_size)
        self._send = Sender(bus)
        self._say = Outgoing(self._send)
        self._pool = CreditPool(OWN_TURNS[settings.shard_affinity])
        self._presence = Presence(bus, self._subjects, self._say, settings, self._describe)
        self._sessions = Sessions(
            self.name, self._pool, self._presence.members, settings.lease_s, settings.heartbeat_s
        )
        #: How full the storage is.
        self.storage = StorageWatch(bus, self.name, self._owned_logs, settings.storage_soft_limit)
        self._state = StateWatch(bus, self.name, settings.prefix)
        #: Conflicts met here, on their way to the leader.
        self.disagreements = Disagreements(bus, self._subjects, self._runtime)
        around = self._surroundings()
        #: What holds for the whole swarm, as far as is known here.
        self.cluster = ClusterCopy(bus, shard_map, self._cluster_changed)
        self.leader = Leader(around, self.cluster, self._mailbox.wake)
        self._shards = Ownership(around, shard_map, self._presence.live)
        self._measuring = Measuring(self._runtime, self._shards, self.leader)
        self._lending = Lending(
            around, self._shards, self._presence.members, self._say, self._mailbox.wake
        )
        self._intake = Intake(
            around,
            self._instance,
            self.cluster,
            self._shards,
            self._sessions,
            self._say,
            draining=lambda: self.draining,
        )
        self._handoffs = Handoffs(
            around,
            self._shards,
            self._presence.live,
            announce=self._announce,
            draining=lambda: self.draining,
        )
        self._leaving = Leaving(around, self._say, self._presence.live)
        #: What to do with a message, by its verb.
        self._handlers = self._verbs()
        self._tick_wanted = False
        self._subscriptions: list[Subscription] = []
        self._tasks: list[asyncio.Task[None]] = []
        #: Coordinators whose beats have stopped, and when that is to be said at the latest.
        self._gone: dict[str, float] = {}
        #: Takes no new sessions or shards.
        self.draining = False
        #: Requests dropped for a reply subject that is not the sender's inbox.
        self.bad_replies = 0

    def _verbs(self) -> dict[str, Callable[[Message, str], None]]:
        return {
            **self._intake.handlers,
            "handoff": self._handoffs.on_handoff,
            "move": self._handoffs.on_move,
            "borrow": self._lending.on_borrow,
            "lend": self._lending.on_lend,
            "beat": self._on_beat,
        }

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            bus=self._bus,
            send=self._send,
            settings=self._settings,
            runtime=self._runtime,
            subjects=self._subjects,
            coordinator=self.name,
            pool=self._pool,
            server_clock=ServerClock(self._bus, self._runtime),
            hearing=self._presence.hearing,
            ended=self._shard_lost,
            committed=self._look_for_takers,
            hosted=lambda: len(self._shards),
            format=self._format,
            nearly_full=self.storage.nearly_full,
            disagreed=self.disagreements.note,
        )

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
    def alarms(self) -> list[str]:
        """What else somebody must look at, in sentences."""
        return [self._state.missing] if self._state.missing else []

    def live(self) -> list[Beat]:
        """The latest beat of each live coordinator, by name."""
        return list(self._presence.live().values())

    @property
    def beating(self) -> bool:
        """Whether its beats go out and come back."""
        return self._presence.hearing()

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
        for name, work in (
            ("beats", self._beat_forever()),
            ("storage", self.storage.run()),
            ("state", self._state.run()),
            ("conflicts", self.disagreements.run()),
        ):
            self._tasks.append(asyncio.create_task(work, name=f"{self.name} {name}"))

    async def drain(self, limit_s: float) -> None:
        """Give away all shards and sessions; returns when done, or after the limit.

        At once when nobody is there to take them, or all others are about to leave, too.
        """
        self.draining = True
        await self._announce()
        # A whole swarm that is stopped is told so at about the same time.
        await asyncio.sleep(HEAR_S)
        if not self._leaving.stayers():
            return
        log.info("draining", coordinator=self.name, shards=self.owned)
        await asyncio.gather(self._handoffs.give_all(limit_s), self._leaving.send_away(limit_s))
        log.info("drained", coordinator=self.name, left=self.owned)

    async def stop(self) -> None:
        """Leave: no more beats, all shards fall silent; what agents hold stays theirs."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._lending.stop()
        await self._handoffs.stop()
        await self._intake.stop()
        await self.leader.stop()
        await self.cluster.stop()
        owned = self.owned
        await self._shards.stop()
        if tasks:
            self._presence.leave(owned)
            await self._say.flush()
        subscriptions, self._subscriptions = self._subscriptions, []
        await unsubscribe(subscriptions)
        await super().stop()

    def _format(self) -> int:
        """Of log entries: the highest that every live coordinator reads."""
        live = self._presence.live()
        return min([FORMAT, *(beat.protocol for beat in live.values())])

    # --- the mailbox ------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        if not self._mailbox.put(message) and message.reply:
            refusal = Refusal("overloaded", f"{self.name} has too much to do", retry=True)
            if reply_allowed(message.reply, sender_of(message.subject)):
                self._send.soon(message.reply, error_reply(refusal))

    async def _run(self) -> None:
        while True:
            await self._mailbox.wait()
            waiting = self._mailbox.waiting
            while waiting:
                self._take(waiting.popleft())
            ready = self._shards.ready()
            self._lending.look(ready)
            self._wake_workers()
            self._tell_gone()
            if self._is_news(ready):
                self._presence.beat()
            await self._say.flush()

    def _wake_workers(self) -> None:
        # A function of its own: no variable keeps a worker, and its state, when it has gone.
        tick, self._tick_wanted = self._tick_wanted, False
        waited_for = self._pool.waiting()
        if not tick and not waited_for:
            return
        for worker in self._shards:
            worker.look_for_work(waited_for)
            if tick:
                # From here, as every heartbeat that has arrived is with its worker now.
                worker.tick()

    def _take(self, message: Message) -> None:
        # <prefix>.coordinator.<id>.<verb>.<sender>, or <prefix>.<verb>.<sender>
        _, verb, sender = message.subject.rsplit(".", 2)
        if message.reply and not reply_allowed(message.reply, sender):
            self.bad_replies += 1
            log.warning("dropped: the reply subject is no inbox of the sender", sender=sender)
            return
        try:
            handler = self._handlers.get(verb)
            if handler is None:
                known = ", ".join(self._handlers)
                raise Refusal("bad_request", f"unknown verb {verb!r}; a coordinator knows {known}")
            handler(message, sender)
        except (Refusal, BadInput) as error:
            refusal = error if isinstance(error, Refusal) else Refusal("bad_request", str(error))
            if message.reply:
                self._say(message.reply, error_reply(refusal))

    def _shard_lost(self, shard: int, why: str, alarm: bool, by: str) -> None:
        self._shards.lost(shard, why, alarm, by)

    def _look_for_takers(self) -> None:
        """A shard has committed: there may be ready work that nobody here can take."""
        self._lending.wanted = True
        # Alone, there is nobody to ask: one pass less for each round of a shard.
        if len(self._presence.members) > 1 or self._is_news(self._shards.ready()):
            self._mailbox.wake()

    # --- beats --------------------------------------------------------------------------

    def _on_beat(self, message: Message, sender: str) -> None:
        beat = decode_body(_beat, message.data)
        self.cluster.heard(beat)
        if not self._presence.heard(beat) and not beat.told:
            # It tells its state: it may have the free slots that ready work here is waiting for.
            self._lending.wanted = True

    async def _beat_forever(self) -> None:
        while True:
            self._presence.beat()
            self._look_around()
            await self._say.flush()
            # The death of another is not to be noticed late.
            pause_s = self._settings.beat_s
            if self._presence.hearing():
                pause_s = min(pause_s, self._presence.members.missed_in(self._clock()))
            await asyncio.sleep(pause_s)

    def _is_news(self, ready: dict[str, int]) -> bool:
        """Whether others must know at once: a type is newly ready or served, a shard owned."""
        if self._presence.sync.is_news(ready.keys(), self._pool.served.keys()):
            return True
        return self._presence.shown.owns != self.owned or self._is_cluster_news()

    def _is_cluster_news(self) -> bool:
        shown, known = self._presence.shown, self.cluster
        now = (self.leader.epoch, known.map.version, known.rules.version)
        return (shown.leads, shown.map_version, shown.rules_version) != now

    def _cluster_changed(self) -> None:
        """Another map or other rules hold."""
        self._shards.adopt(self.cluster.map)
        self._mailbox.wake()

    def _tell_gone(self) -> None:
        """Say who is gone, once its shards are open here: then those who hear it ask again."""
        for name, latest_at in list(self._gone.items()):
            if not self._shards.opening or self._clock() >= latest_at:
                del self._gone[name]
                self._say(self._subjects.gone(name), _encode(Gone(name, self.name)))

    async def _announce(self) -> None:
        """Beat at once, and before anything that is said later."""
        self._presence.beat()
        await self._say.flush()

    def _describe(self) -> Beat:
        beat = Beat(
            self.name,
            self._instance,
            FORMAT,
            0,
            sessions=len(self._pool.sessions),
            agents_wanted=self._settings.agents_per_coordinator,
            owns=self.owned,
            idle=self._pool.idle(),
            ready=self._shards.ready(),
            closed={str(shard): why for shard, why in self.closed.items()},
            draining=self.draining,
            standby=self._shards.standbys.behind(),
            storage=round(self.storage.part, 3),
            alarms=self.alarms,
            leads=self.leader.epoch,
            cannot_lead=self.leader.why_not,
            map_version=self.cluster.map.version,
            rules_version=self.cluster.rules.version,
            routed=self._intake.routers.shown(self._clock()),
            http=self.http,
        )
        return self._measuring.fill(beat)

    def _look_around(self) -> None:
        now = self._clock()
        self._sessions.drop_silent(now)
        self._pool.expire(now)
        # Who hears nothing must not take the others for dead.
        if self._presence.hearing():
            for name in self._presence.members.newly_dead(now):
                self._gone.setdefault(name, now + GONE_S)
            self._shards.standbys.follow(()) if self.draining else self._shards.look_around()
            if self._shards.listened:
                live, settled = self._presence.live(), self._shards.settled
                self.leader.look_around(live, settled, self.draining)
            self._tell_gone()
            self._lending.wanted = True
        self._tick_wanted = True
        self._mailbox.wake()
