"""A shard's log with everything in it that this version writes, made by the real actors.

Two coordinators own the shard one after the other, items go every way that they can go,
and somebody else writes into the log.  Runs on the deterministic bus and clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import msgspec
from msgspec import Raw, Struct, structs

from swarm import messages as m
from swarm.actors.coordinator import Coordinator
from swarm.actors.router import Router
from swarm.bus.base import Entry, Message
from swarm.bus.memory import MemoryBus, MemoryWorld
from swarm.config import Settings
from swarm.core.envelope import decode_entry, encode_entry
from swarm.core.placement import first_choices
from swarm.runtime import Runtime
from swarm.subjects import Subjects
from swarm.testing.loop import run

LOG = "swarmlog.0"
SEED = 20
NAMES = ["coordinator-1", "coordinator-2"]
#: Owns the one shard until it dies.
FIRST = first_choices(1, NAMES)[0]
#: So small that finished items are archived, and the log is compacted and purged.
SETTINGS = Settings(
    shard_count=1,
    coordinators=NAMES,
    lease_s=4.0,
    heartbeat_s=1.0,
    cache_max_size=2,
    log_floor_bytes=1500,
)
MAP = m.ShardMap(1, 1, "hash", "consistent_hash", NAMES)
DEADLINE_S = 60.0

_encode = msgspec.json.encode


class Sender:
    """Somebody who writes messages by hand."""

    def __init__(self, scenario: Scenario, name: str) -> None:
        self.name = name
        self._new_id = scenario.runtime.new_id
        self._bus: MemoryBus = scenario.world.connect(name, node=name)
        self._subjects = Subjects()
        self._number = 0
        self.attached = m.Attached("", "", 0.0, 0.0)
        self.received: list[m.Assignment] = []
        self.acks: dict[str, m.Ack] = {}

    async def ask(self, subject: str, body: object) -> bytes:
        """Send it; the answer."""
        return (await self._bus.request(subject, _encode(body), DEADLINE_S)).data

    async def submit(self, *items: dict[str, Any]) -> list[str]:
        """Submit a batch; the ids of the items in order, "" for a refused one."""
        ids: dict[int, str] = {}
        inbox = self._bus.inbox()

        def on_reply(message: Message) -> None:
            for result in msgspec.json.decode(message.data, type=m.SubmitReply).results:
                ids[result.index] = result.work_item_id

        subscription = await self._bus.subscribe(inbox, on_reply)
        command = m.Submit([Raw(_encode(item)) for item in items], self._new_id())
        await self._bus.publish(self._subjects.submit("_", self.name), _encode(command), inbox)
        await until(lambda: len(ids) == len(items))
        await subscription.unsubscribe()
        return [ids[index] for index in range(len(items))]

    async def claim(self, work_type: str, lease_s: float = 0.0) -> m.Assignment:
        """Claim by name."""
        command = m.Claim(self._new_id(), [work_type], lease_s)
        reply = await self.ask(self._subjects.shard(0, "claim", self.name), command)
        return msgspec.json.decode(reply, type=m.Assignment)

    async def tell(self, verb: str, held: m.Assignment, **fields: Any) -> None:
        """Say something of a held item to the owner, who agrees."""
        body = {"command_id": self._new_id(), "work_item_id": held.work_item_id}
        body |= {"token": held.token, **fields}
        answer = await self.ask(self._subjects.shard(0, verb, self.name), body)
        assert msgspec.json.decode(answer, type=m.Ack).error is None, answer

    async def control(self, verb: str, work_item_id: str, **fields: Any) -> str:
        """Say something of an item that the owner agrees to; the item's status then."""
        body = {"command_id": self._new_id(), "work_item_id": work_item_id, **fields}
        answer = await self.ask(self._subjects.shard(0, verb, self.name), body)
        ack = msgspec.json.decode(answer, type=m.Ack)
        assert ack.error is None, answer
        return ack.status

    async def item(self, work_item_id: str) -> m.WorkItem:
        """The item as it is now."""
        get = m.Get(work_item_id)
        answer = await self.ask(self._subjects.shard(0, "get", self.name), get)
        return msgspec.json.decode(answer, type=m.WorkItem)

    async def reaches(self, work_item_id: str, status: str) -> None:
        """Wait for the item to have this status."""
        async with asyncio.timeout(DEADLINE_S):
            status_now = ""
            while status_now != status:
                await asyncio.sleep(0.1)  # virtual time
                status_now = (await self.item(work_item_id)).status

    async def attach(self, *work_types: str) -> None:
        """Attach to the shard's owner, so that nothing has to travel on, and listen."""
        await self._bus.subscribe(f"swarm.agent.{self.name}.*.work", self._on_work)
        subject = self._subjects.coordinator(FIRST, "attach", self.name)
        reply = await self.ask(subject, m.Attach(list(work_types)))
        self.attached = msgspec.json.decode(reply, type=m.Attached)

    def _on_work(self, message: Message) -> None:
        work = msgspec.json.decode(message.data, type=m.Work)
        self.received += work.items
        self.acks |= {ack.command_id: ack for ack in work.acks}

    async def work(self, *done: m.ItemCommand) -> m.Assignment:
        """Say these outcomes and that one slot is free; the item that comes for it."""
        count = len(self.received)
        await self._publish_next(1, done)
        await until(lambda: len(self.received) > count)
        return self.received[-1]

    async def finish(self, *done: m.ItemCommand) -> None:
        """Say these outcomes, no more slots; wait for the acknowledgements."""
        await self._publish_next(0, done)
        await until(lambda: all(command.command_id in self.acks for command in done))

    async def _publish_next(self, slots: int, done: tuple[m.ItemCommand, ...]) -> None:
        self._number += 1
        next_ = m.Next(self.attached.session, self._number, slots, len(self.received), list(done))
        to = self._subjects.coordinator(self.attached.coordinator, "next", self.name)
        await self._bus.publish(to, _encode(next_))

    async def heartbeat(self, *held: m.Assignment, coordinator: str = "") -> None:
        """A heartbeat without free slots that lists these."""
        heartbeat = m.Heartbeat(
            session=self.attached.session,
            coordinator=coordinator or self.attached.coordinator,
            number=self._number,
            slots=0,
            work_types=["review"],
            received=len(self.received),
            held=[(one.work_item_id, one.token) for one in held],
        )
        await self._bus.publish(self._subjects.heartbeat(self.name), _encode(heartbeat))

    def command(self, kind: type[Struct], held: m.Assignment, **fields: Any) -> Any:
        """A command about a held item."""
        return kind(self._new_id(), held.work_item_id, held.token, **fields)


class Scenario:
    """The world, two coordinators, and what happens."""

    def __init__(self) -> None:
        self.world = MemoryWorld(Random(SEED))
        self.runtime = Runtime(wall=self.world.time, rng=Random(SEED))
        self.coordinators: list[Coordinator] = []
        #: The whole log, also what has been purged from it.
        self.entries: list[Entry] = []
        self.world.on_append(self._on_append)

    def _on_append(self, log: str, entry: Entry, node: str) -> None:
        if log == LOG:
            self.entries.append(entry)

    async def play(self) -> list[Entry]:
        """All of it; the log."""
        await self._start()
        client, shell = Sender(self, "lisa"), Sender(self, "sh")
        ada, bob = Sender(self, "ada"), Sender(self, "bob")
        await self._submissions(client)
        await self._by_hand(shell)
        await self._with_a_session(ada)
        await self._failures(client, shell)
        waiting = await self._dependencies(client, shell)
        await self._unlisted(bob)
        await self._takeover(bob, client)
        await self._lapse(shell)
        await self._cancellations(client, shell)
        await client.control("answer", waiting, answer={"approved": True})
        await self._upkeep(client, shell)
        await self._as_it_ends(client, shell)
        return self.entries

    async def _start(self) -> None:
        bus = self.world.connect("router", node="router")
        await Router(bus, SETTINGS, MAP, self.runtime).start()
        for name in sorted(NAMES, key=lambda name: name != FIRST):
            bus = self.world.connect(name, node=name)
            coordinator = Coordinator(bus, SETTINGS, name, MAP, self.runtime)
            await coordinator.start()
            self.coordinators.append(coordinator)
        await until(lambda: self.coordinators[0].owned == [0])

    async def _submissions(self, client: Sender) -> None:
        keyed = {"work_type": "feature", "idempotency_key": "words/7", "lease_s": 8}
        ids = await client.submit(
            {"work_type": "feature", "priority": "critical", "payload": {"n": [1, 2.5, None]}},
            {"work_type": "feature", "priority": "at once"},
            keyed,
            {"work_type": "review", "description": "Zähle die Wörter 🐝", "story_points": 5},
            keyed,
        )
        assert ids[1] == "", "refused"
        assert ids[2] == ids[4], "the same key"
        ids = await client.submit(
            *({"work_type": kind} for kind in ("review", "feature", "review"))
        )
        assert all(ids), ids

    async def _by_hand(self, shell: Sender) -> None:
        held = await shell.claim("feature", 120.0)
        await shell.tell("progress", held, percent=50, note="half way")
        await shell.tell("complete", held, result={"words": 2})

    async def _with_a_session(self, ada: Sender) -> None:
        await ada.attach("feature")
        held = await ada.work()
        # Handed back, it comes again: the next in its lane.
        release = ada.command(m.Release, held, reason="no free slot")
        again = await ada.work(release)
        assert again.work_item_id == held.work_item_id
        progress = ada.command(m.Progress, again, percent=80.0, checkpoint=Raw(b'{"page":7}'))
        await ada.finish(progress, ada.command(m.Fail, again, error="disk full", final=True))
        # Somebody who should not writes into the log; the owner steps over it.
        self.world.inject(LOG, b"hello from a script\n")

    async def _unlisted(self, bob: Sender) -> None:
        await bob.attach("review")
        lost = await bob.work()

        def resent() -> bool:
            return sum(one.token == lost.token for one in bob.received) > 1

        await self._beat_until(bob.heartbeat, resent)
        released = self._released()
        await self._beat_until(bob.heartbeat, lambda: self._released() > released)

    async def _failures(self, client: Sender, shell: Sender) -> None:
        now = self.world.time()
        tried, late, slow = await client.submit(
            {"work_type": "draft", "not_before": now + 1.0, "max_attempts": 2},
            {"work_type": "draft", "not_before": now + 600.0, "deadline": now + 2.0},
            {"work_type": "slow", "progress_s": 1.0},
        )
        for status in ("scheduled", "dead"):
            await client.reaches(tried, "queued")
            held = await shell.claim("draft", 60.0)
            await shell.tell("fail", held, error="disk full")
            await client.reaches(tried, status)
        await client.control("retry", tried)
        await shell.tell("complete", await shell.claim("draft", 60.0), result=[1])
        await client.reaches(late, "dead")
        await shell.claim("slow", 60.0)
        await client.reaches(slow, "queued")
        again = await shell.claim("slow", 60.0)
        assert again.attempt == 2, "no progress in time costs an attempt"
        await shell.tell("complete", again, result="slowly")

    async def _dependencies(self, client: Sender, shell: Sender) -> str:
        """The id of an item that waits for an answer."""
        [first] = await client.submit({"work_type": "plan"})
        [second] = await client.submit({"work_type": "plan", "dependencies": [first]})
        held = await shell.claim("plan", 60.0)
        asked = {"waits_for": {"approve": "budget"}, "checkpoint": {"page": 8}}
        await shell.tell("wait", held, expires_s=600.0, **asked)
        await client.control("answer", first, answer={"approved": True}, wait=1)
        again = await shell.claim("plan", 60.0)
        assert bytes(again.answer) == b'{"approved":true}'
        await shell.tell("complete", again, result={"plan": "b"})
        await client.reaches(second, "queued")
        last = await shell.claim("plan", 60.0)
        assert list(last.depends) == [first]
        await shell.tell("wait", last, waits_for="a date", on_expiry="resume")
        return second

    async def _cancellations(self, client: Sender, shell: Sender) -> None:
        ids = await client.submit(*({"work_type": "draft"} for _ in range(4)))
        await client.control("prioritize", ids[2], priority="critical")
        held = await shell.claim("draft", 60.0)
        assert held.work_item_id == ids[2], "the most urgent one"
        status = await client.control("cancel", ids[2], reason="not wanted", grace_s=1.0)
        assert status == "claimed", "its holder is asked first"
        await client.reaches(ids[2], "cancelled")
        assert await client.control("cancel", ids[0]) == "cancelled"
        held = await shell.claim("draft", 60.0)
        await shell.tell("wait", held, waits_for="an approval", expires_s=1.0)
        await client.reaches(held.work_item_id, "dead")

    async def _upkeep(self, client: Sender, shell: Sender) -> None:
        """Work until everything of before has been stated again, and the log was purged."""
        oldest = self.entries[-1].seq
        async with asyncio.timeout(DEADLINE_S):
            while self.world.log_entries(LOG)[0].seq <= oldest:
                await client.submit({"work_type": "chore"})
                await shell.tell("complete", await shell.claim("chore", 60.0))
                await asyncio.sleep(0.3)  # virtual time

    async def _as_it_ends(self, client: Sender, shell: Sender) -> None:
        """When the log ends there are items in every status."""
        later = self.world.time() + 86_400.0
        [first] = await client.submit({"work_type": "plan", "not_before": later})
        await client.submit({"work_type": "plan", "dependencies": [first]})
        resumed = await shell.claim("plan", 600.0)
        await shell.tell("wait", resumed, waits_for={"sign": "contract"}, expires_s=600.0)
        some = await client.submit(*({"work_type": "review"} for _ in range(3)))
        await client.control("prioritize", some[2], priority="critical")
        await client.control("prioritize", some[0], priority="low")
        # Known by its key and different: refused.
        [clash] = await client.submit({"work_type": "review", "idempotency_key": "words/7"})
        assert clash == "", "another item has the key"
        held = await shell.claim("draft", 600.0)
        await client.control("cancel", held.work_item_id, reason="not wanted", grace_s=600.0)
        await shell.tell("progress", await shell.claim("feature", 600.0), percent=12.5, note="…")

    async def _takeover(self, bob: Sender, client: Sender) -> None:
        held = await bob.work()
        await bob.heartbeat(held)
        self.world.crash(FIRST)

        async def beat() -> None:
            await bob.heartbeat(held)

        await self._beat_until(beat, lambda: self.coordinators[1].owned == [0])
        # Too late: the fence of the deposed owner should have stopped it.
        by_owner = (decode_entry(LOG, one.seq, one.data) for one in self.entries)
        stale = [one for one in by_owner if one is not None and one.epoch == 1][-1]
        last = self.entries[-1]
        late = structs.replace(stale, batch=stale.batch + 1, previous=last.seq, events=[])
        self.world.inject(LOG, encode_entry(late))
        # A claim of the first owner holds under the second.
        await bob.tell("complete", held, result=None)
        assert (await client.item(held.work_item_id)).status == "completed"

    async def _lapse(self, shell: Sender) -> None:
        await shell.claim("review", 2.0)
        released = self._released()
        await until(lambda: self._released() > released)

    async def _beat_until(
        self, beat: Callable[[], Awaitable[None]], done: Callable[[], bool]
    ) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not done():
                await beat()
                await asyncio.sleep(SETTINGS.heartbeat_s)  # virtual time

    def _released(self) -> int:
        """`Released` events in the log so far."""
        return sum(b'"t":"released"' in entry.data for entry in self.entries)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - costs nothing on the virtual clock
            await asyncio.sleep(0.01)  # virtual time


def record() -> list[Entry]:
    """The log of the scenario."""

    async def main() -> list[Entry]:
        return await Scenario().play()

    return run(main, seed=SEED)
