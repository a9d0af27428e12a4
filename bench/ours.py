"""Our system: a coordinator and a router in one process, and a load that speaks the protocol.

The load spends on an agent what the limit loop's load spends on one: one connection,
one subscription for all agents' work, an object an agent and no coroutine.  It keeps the
rules that an agent has to keep: attach once, heartbeats that list what is held, outcomes
resent until they are acknowledged, an assignment that comes twice done once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from msgspec import Struct
from nats.aio.client import Client

from bench.child import (
    Errors,
    Failed,
    Inbox,
    Meter,
    connect,
    main,
    say_measured,
    say_ready,
    stand_by,
)
from bench.plan import WORK_TYPE, Job
from bench.submitting import RESEND_S, Ids, Submitting
from bench.verifying import verify
from swarm.config import Settings
from swarm.hosting.logs import configure_logs
from swarm.hosting.node import Node, NodePlan
from swarm.messages import (
    Assignment,
    Attach,
    Complete,
    Control,
    ErrorBody,
    Heartbeat,
    ItemCommand,
    Next,
    Work,
)
from swarm.subjects import Subjects

COORDINATOR = "coordinator-1"
#: Between two looks at what was not answered and whose heartbeat is due.
TICK_S = 0.05
READY_S = 20.0
LOOK_S = 0.02


class _AttachAnswer(Struct):
    session: str = ""
    coordinator: str = ""
    lease_s: float = 0.0
    heartbeat_s: float = 0.0
    error: ErrorBody | None = None


_attach_answer = msgspec.json.Decoder(_AttachAnswer)
_work = msgspec.json.Decoder(Work)
_control = msgspec.json.Decoder(Control)
_encode = msgspec.json.Encoder().encode


# --- the system ----------------------------------------------------------------------


async def system(job: Job) -> None:
    """One process as `swarm node --role coordinator,router` runs it, default settings."""
    configure_logs()
    settings = Settings(
        prefix=job.prefix, shard_count=job.shards, coordinators=[COORDINATOR], parallel_workers=1
    )
    plan = NodePlan(
        node_id=COORDINATOR,
        roles=("coordinator", "router"),
        nats_url=job.url,
        settings=settings,
    )
    node = Node(plan)
    try:
        await node.start()
        async with asyncio.timeout(READY_S):
            while True:
                if node.ready()[0]:
                    break
                await asyncio.sleep(LOOK_S)
        say_ready()
        await asyncio.Event().wait()
    finally:
        await node.stop()


# --- the load ------------------------------------------------------------------------


async def load(job: Job) -> None:
    """Submit, then claim and complete everything; report what was measured."""
    errors = Errors()
    client = await connect(job, "bench load", errors)
    await stand_by(client, job)
    meter = Meter(job)
    ids = Ids()
    submitting = Submitting(client, job, ids, None if job.agents else meter)
    await submitting.run()
    noted = {"resent_batches": submitting.resent}
    if job.agents:
        agents = Agents(client, job, ids, meter)
        await agents.run()
        noted |= agents.noted()
    errors.check()
    measured = meter.measured
    measured.checked = await verify(client, job)
    measured.noted = noted
    say_measured(measured)
    await client.close()


class _Agent:
    """One agent session, and what it has in hand."""

    __slots__ = (
        "beat_at",
        "coordinator",
        "fresh",
        "held",
        "name",
        "next_subject",
        "number",
        "received",
        "sent_at",
        "session",
        "unanswered",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.session = ""
        self.coordinator = ""
        self.next_subject = ""
        self.number = 0
        self.received = 0
        #: Token by item: assigned, and no outcome acknowledged yet.
        self.held: dict[str, str] = {}
        #: Assigned, outcome not sent yet.
        self.fresh: list[tuple[str, str]] = []
        #: Outcomes sent and not acknowledged yet, by command id.
        self.unanswered: dict[str, ItemCommand] = {}
        self.sent_at = 0.0
        self.beat_at = 0.0


class Agents:
    """All agents of the load."""

    def __init__(
        self,
        client: Client,
        job: Job,
        ids: Ids,
        meter: Meter,
        assigned: Callable[[Assignment], None] = lambda _: None,
        names: str = "agent",
    ) -> None:
        """`assigned`: told of each assignment when it has been read.  `names`: how they begin."""
        self._client = client
        self._job = job
        self._ids = ids
        self._meter = meter
        self._assigned = assigned
        self._subjects = Subjects(job.prefix)
        self._clock = asyncio.get_running_loop().time
        self._agents = [_Agent(f"{names}-{number}") for number in range(job.agents)]
        self._by_subject: dict[str, _Agent] = {}
        self._work = Inbox()
        self._controls = Inbox()
        self._heartbeat_s = 0.0
        self._finished: dict[str, None] = {}
        #: Items assigned to anybody.
        self._given = 0
        self._messages = 0
        self._heartbeats = 0
        self._resent = 0
        self._again = 0

    def noted(self) -> dict[str, int]:
        """What happened on the way."""
        return {
            "next_messages": self._messages,
            "heartbeats": self._heartbeats,
            "resent_outcomes": self._resent,
            "assigned_again": self._again,
        }

    async def run(self) -> None:
        """Return once every item is completed and that is acknowledged."""
        await self.attach()
        async with self.beating():
            await self.ask()
            await self.work()

    async def attach(self) -> None:
        """All of them."""
        await self._work.listen(self._client, self._subjects.agent_work("*", "*"))
        await self._controls.listen(self._client, self._subjects.agent_control("*", "*"))
        await self._attach()

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Meanwhile heartbeats are sent, and outcomes resent."""
        beating = asyncio.create_task(self._tick_forever())
        try:
            yield
            if beating.done():
                beating.result()
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def ask(self) -> None:
        """All say how many slots they have free."""
        for agent in self._agents:
            await self._send(agent, self._next(agent))

    async def work(self) -> None:
        """Complete what is assigned; return once the meter has what it wants."""
        while not self._meter.finished:
            for message in await self._work.take_some():
                agent = self._by_subject[message.subject]
                self._on_work(agent, message.data)
                if len(agent.fresh) == self._job.slots:
                    await self._send(agent, self._next(agent))
            if self._given == self._job.items:
                # No more will come: whoever holds less than he can completes that.
                for agent in self._agents:
                    if agent.fresh:
                        await self._send(agent, self._next(agent))

    async def _attach(self) -> None:
        answers = Inbox()
        await answers.listen(self._client, "_INBOX.*.attached")
        by_reply = {f"_INBOX.{agent.name}.attached": agent for agent in self._agents}
        body = _encode(Attach([WORK_TYPE], self._job.slots))
        for reply, agent in by_reply.items():
            await self._client.publish(self._subjects.attach(agent.name), body, reply=reply)
        waiting = len(by_reply)
        while waiting:
            again: list[str] = []
            for message in await answers.take_some():
                if message.subject not in by_reply:
                    continue  # an agent's of another swarm
                answer = _attach_answer.decode(message.data)
                if answer.error is not None and answer.error.retry:
                    again.append(message.subject)
                    continue
                if answer.error is not None:
                    raise Failed(f"an agent was refused: {answer.error.message}")
                self._attached(by_reply[message.subject], answer)
                waiting -= 1
            if again:
                # Refused for now, as on a machine too busy for beats: asked once more.
                await asyncio.sleep(TICK_S)
            for reply in again:
                subject = self._subjects.attach(by_reply[reply].name)
                await self._client.publish(subject, body, reply=reply)

    def _attached(self, agent: _Agent, answer: _AttachAnswer) -> None:
        agent.session, agent.coordinator = answer.session, answer.coordinator
        agent.next_subject = self._subjects.coordinator(answer.coordinator, "next", agent.name)
        self._by_subject[self._subjects.agent_work(agent.name, agent.session)] = agent
        # Not all at once: agents do not start in the same instant.
        place = len(self._by_subject) / self._job.agents
        agent.beat_at = self._clock() + place * answer.heartbeat_s
        self._heartbeat_s = answer.heartbeat_s

    def _on_work(self, agent: _Agent, data: bytes) -> None:
        work = _work.decode(data)
        self._acknowledged(agent, work)
        for assignment in work.items:
            agent.received += 1
            if agent.held.get(assignment.work_item_id) == assignment.token:
                self._again += 1
                continue
            agent.held[assignment.work_item_id] = assignment.token
            agent.fresh.append((assignment.work_item_id, assignment.token))
            self._given += 1
            self._assigned(assignment)

    def _acknowledged(self, agent: _Agent, work: Work) -> None:
        done = 0
        for ack in work.acks:
            if ack.error is not None and ack.error.retry:
                continue  # refused for now: it is sent again when its time is over
            if agent.unanswered.pop(ack.command_id, None) is None:
                continue  # answered before: it was sent twice
            if ack.error is not None:
                raise Failed(f"a completion was refused: {ack.error.code}: {ack.error.message}")
            del agent.held[ack.work_item_id]
            if ack.work_item_id in self._finished:
                raise Failed(f"work item {ack.work_item_id} was completed twice")
            self._finished[ack.work_item_id] = None
            done += 1
        if done:
            self._meter.count(done)

    def _next(self, agent: _Agent) -> bytes:
        """The message that completes what is in hand, and asks for as much again."""
        done: list[ItemCommand] = []
        for work_item_id, token in agent.fresh:
            command = Complete(self._ids.new(), work_item_id, token)
            agent.unanswered[command.command_id] = command
            done.append(command)
        agent.fresh.clear()
        agent.number += 1
        return self._encoded(agent, done)

    def _encoded(self, agent: _Agent, done: list[ItemCommand]) -> bytes:
        free = self._job.slots - len(agent.fresh)
        return _encode(Next(agent.session, agent.number, free, agent.received, done))

    async def _send(self, agent: _Agent, body: bytes) -> None:
        agent.sent_at = self._clock()
        self._messages += 1
        await self._client.publish(agent.next_subject, body)

    # --- what happens by the clock ---

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for message in await self._controls.take(0):
                self._on_control(_control.decode(message.data))
            now = self._clock()
            for agent in self._agents:
                if agent.beat_at <= now:
                    await self._beat(agent, now)
                if agent.unanswered and now - agent.sent_at > RESEND_S:
                    await self._resend(agent)

    def _on_control(self, control: Control) -> None:
        # A stop for an item whose completion was on its way when the heartbeat listed it.
        if control.kind != "stop":
            raise Failed(f"an agent was told to {control.kind}: {control.reason}")

    async def _beat(self, agent: _Agent, now: float) -> None:
        agent.beat_at = now + self._heartbeat_s
        heartbeat = Heartbeat(
            agent.session,
            agent.coordinator,
            agent.number,
            self._job.slots - len(agent.fresh),
            [WORK_TYPE],
            agent.received,
            list(agent.held.items()),
        )
        self._heartbeats += 1
        await self._client.publish(self._subjects.heartbeat(agent.name), _encode(heartbeat))

    async def _resend(self, agent: _Agent) -> None:
        for command in agent.unanswered.values():
            command.retry += 1
        self._resent += len(agent.unanswered)
        await self._send(agent, self._encoded(agent, list(agent.unanswered.values())))


if __name__ == "__main__":
    main({"system": system, "load": load})
