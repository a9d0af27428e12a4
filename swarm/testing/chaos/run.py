"""The course of a chaos run: start, faults, calm, end, and what is left to judge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import structlog

from swarm.bus.base import Bus
from swarm.bus.jetstream import connect
from swarm.errors import BusError, NoAnswer, Refusal, SwarmError
from swarm.hosting.process import cancelled
from swarm.messages import ShardStats
from swarm.sdk.client import Swarm
from swarm.subjects import Subjects
from swarm.testing.chaos.cast import CAST, PREFIX, RECORDER, Company
from swarm.testing.chaos.faults import Done, Mischief
from swarm.testing.chaos.machine import Busyness
from swarm.testing.chaos.net import Network, make_network, prove
from swarm.testing.chaos.plan import Fault, draw, draw_short
from swarm.testing.recorded import RecordedLogs

log = structlog.get_logger()

#: A cluster of three, its logs and all shards are there within this time.
START_S = 60.0
#: Everything must end within this time after the last fault.
CALM_S = 90.0
#: The recorder must have arrived at the end of the logs within this time.
RECORDED_S = 15.0
LOOK_S = 0.2
#: What a member says that gives up because of that; it is started again, as by any supervisor.
UNREACHED = "no connection to NATS"
PAGE = 256


@dataclass(frozen=True, kw_only=True)
class ChaosPlan:
    """What to run."""

    seed: int
    #: Of faults.
    seconds: float
    #: The essential faults once, whatever `seconds` says.
    short: bool
    directory: Path


@dataclass
class Traces:
    """What a run leaves behind, besides the records in its directory."""

    plan: list[Fault]
    done: list[Done] = field(default_factory=list)
    #: What went wrong that no fault explains; each fails the run.
    surprises: list[str] = field(default_factory=list)
    #: How often a member began while it could not reach NATS, and gave up.
    unreached: int = 0
    #: What makes the run worthless, whatever else it shows.
    void: list[str] = field(default_factory=list)
    #: Wall clock.
    faults_from: float = 0.0
    faults_to: float = 0.0
    busyness: Busyness = field(default_factory=Busyness)
    #: Entries that are in no log any more, as they were purged.
    purged: int = 0
    #: From the last fault's end until all clients knew everything.
    calm_s: float = 0.0


class Chaos:
    """One run."""

    def __init__(self, plan: ChaosPlan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._network: Network = make_network()
        rng = Random(f"chaos {plan.seed}")
        links = self._network.links
        faults = (
            draw_short(rng, CAST, links=links)
            if plan.short
            else draw(rng, CAST, plan.seconds, links=links)
        )
        self.traces = Traces(faults)
        self._company = Company(plan.directory, self._network, plan.seed, self._surprised)
        self._subjects = Subjects(PREFIX)

    @property
    def links(self) -> bool:
        """Whether links can be cut."""
        return self._network.links

    def _surprised(self, what: str) -> None:
        """A member has ended, and nobody here has caused it."""
        if UNREACHED in what:
            self.traces.unreached += 1
        else:
            self.traces.surprises.append(what)

    async def run(self) -> Traces:
        """Do it all; raises a `SwarmError` if it could not even begin."""
        members = self._company.members
        if self._network.links:
            prove(self._network)
        try:
            for name in [*CAST.servers, RECORDER, *CAST.coordinators, *CAST.routers, *CAST.agents]:
                await members[name].start()
            bus = await connect(
                self._company.urls, "chaos", prefix=PREFIX, connect_timeout_s=START_S
            )
            swarm = Swarm(bus, prefix=PREFIX)
            try:
                await self._until_ready(swarm)
                for name in CAST.clients:
                    await members[name].start()
                await self._faults(swarm)
                await self._calm()
                await self._check_records(bus)
            finally:
                await swarm.close()
                await bus.close()
            await self._end()
        finally:
            await asyncio.gather(*(member.kill() for member in members.values()))
        return self.traces

    async def _until_ready(self, swarm: Swarm) -> None:
        """All shards have owners."""
        give_up_at = time.monotonic() + START_S
        while True:
            try:
                stats = await swarm.stats(timeout_s=2.0)
                if all(isinstance(one, ShardStats) for one in stats.values()):
                    return
                why = str(next(one for one in stats.values() if not isinstance(one, ShardStats)))
            except (NoAnswer, Refusal) as error:
                why = str(error)
            if time.monotonic() > give_up_at:
                also = "; ".join(self.traces.surprises[:3])
                raise SwarmError(f"the swarm is not ready after {START_S:.0f} s: {why}; {also}")
            await asyncio.sleep(LOOK_S)

    async def _faults(self, swarm: Swarm) -> None:
        traces = self.traces
        mischief = Mischief(self._company, self._network, swarm)
        traces.done = mischief.done
        traces.faults_from = time.time()
        began = time.monotonic()

        def say(what: str) -> None:
            self._say(f"{time.monotonic() - began:7.1f} s  {what}")

        watch = asyncio.create_task(traces.busyness.watch())
        try:
            await mischief.perform(traces.plan, say)
        finally:
            await cancelled(watch)
        traces.faults_to = time.time()

    async def _calm(self) -> None:
        """Nothing is broken any more: the clients end when all that they began has ended."""
        self._say("calm: everything must end")
        began = time.monotonic()
        await asyncio.gather(*(self._company.members[name].end(CALM_S) for name in CAST.clients))
        self.traces.calm_s = time.monotonic() - began

    # --- the recorder ------------------------------------------------------------------

    async def _check_records(self, bus: Bus) -> None:
        """What was recorded is all that there is, and what every server has."""
        give_up_at = time.monotonic() + RECORDED_S
        while True:
            recorded = self._recorded()
            behind = await self._behind(bus, recorded)
            if not behind:
                break
            if time.monotonic() > give_up_at:
                self.traces.void.append(f"the recorder has not arrived at the end: {behind}")
                return
            await asyncio.sleep(LOOK_S)
        self.traces.void += [f"recorded too late: {what}" for what in recorded.missed]
        self.traces.surprises += recorded.conflicts
        await self._compare(bus, recorded)

    def _recorded(self) -> RecordedLogs:
        logs = {self._subjects.log(shard): shard for shard in range(CAST.shards)}
        return RecordedLogs(self._company.records, logs)

    async def _behind(self, bus: Bus, recorded: RecordedLogs) -> str:
        """Which log has entries that are not on record; "" for none."""
        purged = 0
        for shard in range(CAST.shards):
            name = self._subjects.log(shard)
            try:
                info = await bus.log_info(name)
            except BusError as error:
                return str(error)
            if info.last_seq > recorded.last(name):
                return f"{name} ends at {info.last_seq}, recorded: {recorded.last(name)}"
            purged += info.first_seq - 1
        self.traces.purged = purged
        return ""

    async def _compare(self, bus: Bus, recorded: RecordedLogs) -> None:
        """Every entry that a server still has must be the one on record."""
        # Each page comes from any of the servers.
        for _ in range(2 * len(CAST.servers)):
            for shard in range(CAST.shards):
                name = self._subjects.log(shard)
                try:
                    wrong = await _other_entry(bus, name, recorded)
                except BusError as error:
                    self.traces.surprises.append(f"{name} cannot be read in the calm: {error}")
                    return
                if wrong:
                    what = f"a server has another entry {wrong} in {name} than was recorded"
                    self.traces.surprises.append(what)
                    return

    async def _end(self) -> None:
        """Everybody leaves in order, in the order in which they need one another."""
        members = self._company.members
        for role in (CAST.agents, CAST.routers, CAST.coordinators, [RECORDER], CAST.servers):
            await asyncio.gather(*(members[name].end() for name in role))


async def _other_entry(bus: Bus, name: str, recorded: RecordedLogs) -> int:
    """Sequence of an entry that is not as on record; 0 if all are."""
    next_seq = 1
    while entries := await bus.read(name, next_seq, PAGE):
        known = {one.seq: one for one in await recorded.read(name, entries[0].seq, 2 * PAGE)}
        for entry in entries:
            if entry.seq in known and known[entry.seq].data != entry.data:
                return entry.seq
        next_seq = entries[-1].seq + 1
    return 0
