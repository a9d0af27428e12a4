"""A swarm that follows a script: answers each request by a function of its verb."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from swarm.bus.base import Bus, Message
from swarm.bus.memory import MemoryWorld
from swarm.messages import Ack, Assignment, Attached, Control, ErrorBody, Gone, NewItem, Work
from swarm.runtime import Runtime, no_cpu
from swarm.sdk.agent import Agent
from swarm.sdk.client import Swarm
from swarm.sdk.runners import InlineRunner
from tests.unit.sims import leave_running, pass_time

T = TypeVar("T")

#: Given the request's body and how many of the verb came before: the reply, several, or None.
Answer = Callable[[dict[str, Any], int], Any]


@dataclass(slots=True)
class Asked:
    """One message to the swarm."""

    verb: str
    subject: str
    body: dict[str, Any]
    reply: str
    at: float


@dataclass(slots=True)
class Scripted:
    """Listens to everything below the prefix; `answers` says what is answered."""

    bus: Bus
    prefix: str = "swarm"
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    async def start(self) -> Scripted:
        await self.bus.subscribe(f"{self.prefix}.>", self._on_message)
        return self

    def of(self, verb: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.verb == verb]

    def bodies(self, verb: str) -> list[dict[str, Any]]:
        return [asked.body for asked in self.of(verb)]

    def send(self, subject: str, body: object) -> None:
        leave_running(self.bus.publish(subject, msgspec.json.encode(body)))

    def _on_message(self, message: Message) -> None:
        tokens = message.subject.split(".")
        verb = tokens[3] if tokens[1] in ("shard", "coordinator") else tokens[1]
        if tokens[1] in ("agent", "gone"):
            return
        body = json.loads(message.data)
        number = len(self.of(verb))
        now = asyncio.get_running_loop().time()
        self.asked.append(Asked(verb, message.subject, body, message.reply, now))
        answer = self.answers.get(verb)
        found = None if answer is None else answer(body, number)
        for reply in found if isinstance(found, list) else [found]:
            if reply is not None and message.reply:
                self.send(message.reply, reply)


def error(code: str, *, retry: bool = False) -> dict[str, Any]:
    """A reply that refuses."""
    return {"error": {"code": code, "message": f"scripted {code}", "retry": retry}}


def refused(code: str, *, retry: bool = False) -> ErrorBody:
    """The error of an `Ack` or of one item."""
    return ErrorBody(code, f"scripted {code}", retry)


async def eventually(condition: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait in virtual time; fails when the condition does not come true."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not condition():
        assert loop.time() < deadline, "the condition did not come true in time"
        await pass_time(0.01)


def runtime(world: MemoryWorld, seed: int = 1) -> Runtime:
    return Runtime(world.time, random.Random(seed), no_cpu)


async def client(world: MemoryWorld) -> tuple[Swarm, Scripted]:
    """A client, and the scripted swarm that it talks to."""
    swarm = Swarm(world.connect("client"), runtime(world))
    return swarm, await Scripted(world.connect("server")).start()


# --- agents --------------------------------------------------------------------------


class NoLine:
    """The agent's end of a context's line in tests without an agent."""

    item_bytes_max = 262_144

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def progress(self, *report: Any) -> None:
        self.said.append(report)

    def checkpoint(self, *left: Any) -> None:
        self.said.append(left)

    def result(self, work_item_id: str) -> Future[Any]:
        raise AssertionError(f"nobody asked for {work_item_id}")

    def may_block(self) -> bool:
        return True


def assignment(
    work_item_id: str = "0-1",
    token: str = "1.n.s1",
    payload: object = None,
    work_type: str = "feature",
    **left: Any,
) -> Assignment:
    item = NewItem(work_type, payload=Raw(json.dumps(payload).encode()))
    return Assignment(work_item_id, token, 1, 30.0, Raw(msgspec.json.encode(item)), **left)


class ScriptedCoordinator(Scripted):
    """Coordinator c1 (then c2, …) of one agent: attaches it, acknowledges, assigns."""

    agent = "a1"
    session = "s1"
    attached = 0
    acknowledges = True
    #: Commands that came with `Next`, in order.
    done: list[dict[str, Any]]

    async def start(self) -> ScriptedCoordinator:
        self.done = []
        self.answers.setdefault("attach", self._on_attach)
        self.answers.setdefault("next", self._on_next)
        await super().start()
        return self

    def _on_attach(self, body: dict[str, Any], number: int) -> Attached:
        self.attached += 1
        return Attached(self.session, f"c{self.attached}", 30.0, 5.0)

    def _on_next(self, body: dict[str, Any], number: int) -> None:
        self.done += body.get("done", [])
        if self.acknowledges:
            acks = [Ack(done["command_id"], done["work_item_id"]) for done in body.get("done", [])]
            if acks:
                self.work(acks=acks)

    def work(self, *items: Assignment, acks: list[Ack] | None = None) -> None:
        self.send(f"swarm.agent.{self.agent}.{self.session}.work", Work(list(items), acks or []))

    def control(
        self, kind: Any, work_item_id: str = "", token: str = "", grace_s: float = 0.0
    ) -> None:
        control = Control(kind, work_item_id, token, f"scripted {kind}", grace_s)
        self.send(f"swarm.agent.{self.agent}.{self.session}.control", control)

    def gone(self, coordinator: str) -> None:
        self.send(f"swarm.gone.{coordinator}", Gone(coordinator, "test"))

    def verbs(self) -> list[str]:
        return [done["verb"] for done in self.done]


async def coordinator(world: MemoryWorld) -> ScriptedCoordinator:
    return await ScriptedCoordinator(world.connect("server")).start()


def agent(world: MemoryWorld, **settings: Any) -> Agent:
    """An agent for the simulated loop; handlers are declared by the test."""
    settings.setdefault("concurrency", 2)
    return Agent(agent_id="a1", runner=InlineRunner(), runtime=runtime(world, 2), **settings)


def run_agent(agent: Agent, world: MemoryWorld) -> asyncio.Task[None]:
    return asyncio.create_task(agent.run(world.connect("a1")))


async def give_up_on(task: asyncio.Task[T]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
