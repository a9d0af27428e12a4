"""Shards and sessions that move while everybody lives: handoffs, and coordinators that leave."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import msgspec
import pytest

from swarm.actors.coordinator import Coordinator
from swarm.actors.handoff import PAUSE_S, Handoffs
from swarm.actors.sending import Sender
from swarm.errors import Refusal
from swarm.messages import Complete, Handoff, HandoffReply, ShardStats
from swarm.sdk.client import Handle
from tests.actors.cluster import SETTINGS, Cluster, HandAgent, on_cluster, pass_time, until
from tests.actors.test_standby import THREE, crash, owner_of, standing_by

DRAIN_S = 8.0


async def moved(cluster: Cluster, shard: int, to: str = "") -> dict[str, Any]:
    """An operator's `move`."""
    bus = cluster.world.connect("olga")
    owner = owner_of(cluster, shard).name
    body = {"shard": shard, "to": to}
    return await cluster.ask(bus, f"swarm.coordinator.{owner}.move.olga", body)


async def longest_wait(cluster: Cluster, shard: int, during: Any) -> float:
    """The longest that a command to the shard waited while `during` went on."""
    clock = asyncio.get_running_loop().time
    bus = cluster.world.connect("prober")
    waits: list[float] = []
    done = False

    async def probe() -> None:
        while not done:
            began = clock()
            await bus.request(f"swarm.shard.{shard}.stats.prober", b"{}", 30.0)
            waits.append(clock() - began)
            await asyncio.sleep(0.002)  # virtual time

    probing = asyncio.create_task(probe())
    await during
    await pass_time(0.5)
    done = True
    await probing
    return max(waits)


# --- one shard ---------------------------------------------------------------------------


def test_a_shard_moves_to_its_standby_and_hardly_pauses() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2", "c3", owned=3)
        handles = await cluster.swarm.submit_many([{"work_type": "build"}] * 30)
        await pass_time(3.0)
        (standby,) = standing_by(cluster)[0]
        replies: list[dict[str, Any]] = []

        async def move() -> None:
            replies.append(await moved(cluster, 0))

        # Every way takes a millisecond here; a retry would show as a second.
        assert await longest_wait(cluster, 0, move()) < 0.1
        assert replies == [{"shard": 0, "coordinator": standby}]
        assert owner_of(cluster, 0).name == standby
        await pass_time(5.0)
        assert owner_of(cluster, 0).name == standby, "and stays there"
        assert sum(0 in c.owned for c in cluster.coordinators.values()) == 1
        for handle in handles:
            assert isinstance(handle, Handle)
            assert (await handle.get()).status == "queued"

    on_cluster(scenario, settings=THREE)


def test_what_waits_at_the_old_owner_is_answered_by_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach(concurrency=9)
        await agent.next(9)
        handles = await cluster.swarm.submit_many([{"work_type": "build"}] * 9)
        await until(lambda: len(agent.assigned()) == 9)
        await pass_time(2.0)
        old = owner_of(cluster, 0)
        mine = [(item, token) for item, token in agent.assigned() if item.startswith("0-")]
        first = next(h for h in handles if isinstance(h, Handle) and h.work_item_id == mine[0][0])
        waiting = asyncio.create_task(first.result(timeout=20.0))
        await pass_time(0.5)
        (heir,) = [c for c in cluster.coordinators.values() if c is not old]
        original, asked = heir._handoffs._take, asyncio.Event()

        async def take(handoff: Handoff, owner: str) -> HandoffReply:
            if handoff.now:
                asked.set()
                await asyncio.sleep(0.05)  # virtual time
            return await original(handoff, owner)

        monkeypatch.setattr(heir._handoffs, "_take", take)
        moving = asyncio.create_task(moved(cluster, 0))
        await asked.wait()
        # The owner decides nothing now.  What comes here waits, as does the long poll.
        done = [
            Complete(cluster.runtime(70 + number).new_id(), item, token, msgspec.Raw(b"7"))
            for number, (item, token) in enumerate(mine)
        ]
        agent.coordinator = old.name
        await agent.next(0, *done)
        bus = cluster.world.connect("you")
        listed = asyncio.create_task(bus.request("swarm.shard.0.list.you", b"{}", 30.0))
        clock = asyncio.get_running_loop().time
        began = clock()
        await pass_time(0.02)
        assert agent.work[-1].acks == []
        assert (await moving)["coordinator"] == heir.name
        assert await waiting == 7
        assert msgspec.json.decode((await listed).data)["items"]
        await until(lambda: sum(len(work.acks) for work in agent.work) == len(mine))
        assert all(ack.status == "completed" for work in agent.work for ack in work.acks)
        assert clock() - began < 0.2, "nobody had to ask again"

    on_cluster(scenario)


@pytest.mark.parametrize("to", ["c9", "c1"])
def test_a_shard_moves_to_other_live_coordinators_only(to: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        assert owner_of(cluster, 0).name == "c1"
        answer = await moved(cluster, 0, to)
        assert answer["error"]["code"] == "bad_request"
        assert "alive: c1, c2" in answer["error"]["message"]
        bus = cluster.world.connect("olga")
        answer = await cluster.ask(bus, "swarm.coordinator.c2.move.olga", {"shard": 0})
        assert "does not own shard 0" in answer["error"]["message"]

    on_cluster(scenario)


def test_without_a_standby_the_receiver_reads_the_log_first_and_then_takes_it() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        for _ in range(20):
            await cluster.swarm.submit_many([{"work_type": "build"}] * 5)
        assert standing_by(cluster) == {0: [], 1: []}

        async def move() -> None:
            assert (await moved(cluster, 0, "c2"))["coordinator"] == "c2"

        assert await longest_wait(cluster, 0, move()) < 0.1
        await pass_time(10.0)
        assert standing_by(cluster) == {0: [], 1: []}

    on_cluster(scenario, settings=msgspec.structs.replace(SETTINGS, standbys=0))


@pytest.mark.parametrize("when", ["asked", "opening"])
def test_if_the_receiver_dies_the_owner_goes_on(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await pass_time(3.0)
        heir = cluster.coordinators["c2"]
        original = heir._handoffs._take

        async def take(handoff: Any, owner: str) -> Any:
            if when == "asked" or handoff.now:
                cluster.world.crash("c2")
                await asyncio.sleep(100.0)  # virtual time
            return await original(handoff, owner)

        monkeypatch.setattr(heir._handoffs, "_take", take)

        async def move() -> None:
            await asyncio.wait_for(_ignore(moved(cluster, 0)), 10.0)

        assert await longest_wait(cluster, 0, move()) < PAUSE_S + 0.2
        assert owner_of(cluster, 0).name == "c1"
        cluster.coordinators.pop("c2")
        await heir.stop()

    on_cluster(scenario)


async def _ignore(answer: Any) -> None:
    # The operator may wait longer than the test.
    await asyncio.gather(answer, return_exceptions=True)


@pytest.mark.parametrize("when", ["asked", "opening", "opened"])
def test_if_the_owner_dies_the_shard_has_an_owner_soon(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await pass_time(3.0)
        dying, heir = cluster.coordinators["c1"], cluster.coordinators["c2"]
        original = heir._handoffs._take
        struck = asyncio.Event()

        async def take(handoff: Any, owner: str) -> Any:
            if when == "asked" or (handoff.now and when == "opening"):
                cluster.world.crash("c1")
                struck.set()
            reply = await original(handoff, owner)
            if handoff.now and when == "opened":
                cluster.world.crash("c1")
                struck.set()
            return reply

        monkeypatch.setattr(heir._handoffs, "_take", take)
        moving = asyncio.create_task(_ignore(moved(cluster, 0)))
        await struck.wait()
        await until(lambda: 0 in heir.owned, deadline_s=SETTINGS.missed_s + 0.5)
        assert isinstance((await cluster.swarm.stats())[0], ShardStats)
        moving.cancel()
        cluster.coordinators.pop("c1")
        await dying.stop()

    on_cluster(scenario)


def test_if_the_answer_is_lost_the_owner_learns_it_from_the_beat() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await pass_time(3.0)
        heir = cluster.coordinators["c2"]
        lost: list[str] = []

        class Swallowing(Sender):
            async def __call__(self, subject: str, data: bytes, *more: Any) -> None:
                if b'"epoch"' in data and subject.startswith("_INBOX.c1."):
                    lost.append(subject)
                    return
                await super().__call__(subject, data, *more)

        heir._handoffs._around.send = Swallowing(heir._bus)

        async def move() -> None:
            assert (await moved(cluster, 0))["coordinator"] == "c2"

        assert await longest_wait(cluster, 0, move()) < PAUSE_S + 0.2
        assert lost
        assert owner_of(cluster, 0).name == "c2"

    on_cluster(scenario)


def test_a_receiver_does_not_take_what_its_owner_has_gone_on_with() -> None:
    """A `Handoff` that was delayed: the owner has decided more since."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await pass_time(3.0)
        worker = next(w for w in cluster.coordinators["c1"]._shards if w.number == 0)
        stale = {"shard": 0, "epoch": worker.epoch, "sequence": worker.sequence, "now": True}
        for _ in range(3):
            await cluster.swarm.submit_many([{"work_type": "build"}] * 5)
        bus = cluster.world.connect("c1", node="forger")
        answer = await cluster.ask(bus, "swarm.coordinator.c2.handoff.c1", stale)
        assert answer["error"]["code"] == "unavailable"
        # Nor for somebody who is not the owner.
        fresh = {**stale, "sequence": worker.sequence}
        bus = cluster.world.connect("c7")
        answer = await cluster.ask(bus, "swarm.coordinator.c2.handoff.c7", fresh)
        assert "hands of c1" in answer["error"]["message"]
        assert owner_of(cluster, 0).name == "c1"
        await pass_time(2.0)
        assert standing_by(cluster)[0] == ["c2"]

    on_cluster(scenario)


# --- leaving -----------------------------------------------------------------------------


async def leave(cluster: Cluster, name: str) -> float:
    """Drain and stop, as SIGTERM does; how long it took."""
    clock = asyncio.get_running_loop().time
    began = clock()
    coordinator = cluster.coordinators.pop(name)
    await coordinator.drain(DRAIN_S)
    await coordinator.stop()
    return clock() - began


def test_who_leaves_hands_over_its_shards_and_sessions() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2", "c3", owned=3)
        agents = [HandAgent(cluster, f"a{number}", "build") for number in range(9)]
        for agent in agents:
            await agent.attach(concurrency=4)
            await agent.next(2)
        await cluster.swarm.submit_many([{"work_type": "build"}] * 18)
        await until(lambda: sum(len(agent.assigned()) for agent in agents) == 18)
        await pass_time(2.0)
        for agent in agents:
            await agent.heartbeat(*agent.assigned())
        told: list[str] = []
        watcher = cluster.world.connect("w")
        await watcher.subscribe("swarm.gone.*", lambda message: told.append(message.subject))
        reattaching = asyncio.create_task(_reattach(agents, "c1"))
        took_s = 0.0

        async def leaving() -> None:
            nonlocal took_s
            took_s = await leave(cluster, "c1")

        assert await longest_wait(cluster, 0, leaving()) < 0.1
        assert took_s < 2.0
        await reattaching
        assert told == [], "it left nothing behind"
        assert {agent.coordinator for agent in agents} == {"c2", "c3"}
        assert sorted(cluster.coordinators["c2"].owned + cluster.coordinators["c3"].owned) == [
            0, 1, 2,
        ]  # fmt: skip
        stats = (await cluster.swarm.stats()).values()
        found = [one for one in stats if isinstance(one, ShardStats)]
        assert sum(one.counts["claimed"] for one in found) == 18, "agents keep what they hold"

    on_cluster(scenario, settings=THREE)


async def _reattach(agents: list[HandAgent], leaving: str) -> None:
    """What the SDK does when it is told so."""
    for agent in agents:
        if agent.coordinator == leaving:
            await until(lambda: agent.controls, deadline_s=5.0)  # noqa: B023 - awaited here
            assert agent.controls[0]["kind"] == "reattach"
            await agent.attach(session=agent.session)


def test_who_leaves_accepts_no_sessions_and_no_shards() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        leaving = cluster.coordinators["c1"]
        draining = asyncio.create_task(leaving.drain(DRAIN_S))
        await pass_time(0.05)
        bus = cluster.world.connect("a1")
        answer = await cluster.ask(bus, "swarm.coordinator.c1.attach.a1", {"work_types": ["x"]})
        assert answer["error"]["code"] == "unavailable"
        assert answer["error"]["retry"] is True
        agent = HandAgent(cluster, "a2", "build")
        await agent.attach()
        assert agent.coordinator == "c2"
        await draining
        worker = next(iter(cluster.coordinators["c2"]._shards))
        handoff = {"shard": worker.number, "epoch": worker.epoch, "sequence": worker.sequence}
        bus = cluster.world.connect("c2", node="forger")
        answer = await cluster.ask(bus, "swarm.coordinator.c1.handoff.c2", handoff)
        assert "about to leave" in answer["error"]["message"]

    on_cluster(scenario)


def test_the_only_coordinator_just_stops() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", owned=2)
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach()
        assert await leave(cluster, "c1") < 0.5

    on_cluster(scenario)


@pytest.mark.parametrize("apart_s", [0.0, 0.01, 0.1])
def test_all_that_leave_at_once_are_gone_at_once(apart_s: float) -> None:
    """Whoever stops a whole swarm does not wait for shards that go round in a circle."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2", "c3", owned=3)
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach()
        await pass_time(3.0)
        opened = [len(cluster.world.log_entries(f"swarmlog.{shard}")) for shard in range(3)]

        async def later(number: int, name: str) -> float:
            await asyncio.sleep(number * apart_s)
            return await leave(cluster, name)

        took = await asyncio.gather(*(later(n, name) for n, name in enumerate(("c1", "c2", "c3"))))
        assert max(took) < 1.0
        more = [len(cluster.world.log_entries(f"swarmlog.{shard}")) for shard in range(3)]
        assert sum(more) - sum(opened) <= 12, "no merry-go-round"

    on_cluster(scenario, settings=THREE)


def test_what_could_not_be_given_away_in_time_is_opened_by_others_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await pass_time(3.0)

        async def stuck(self: Handoffs, shard: int, to: str = "") -> str:
            await asyncio.sleep(1000.0)  # virtual time
            raise Refusal("unavailable", "never")

        told: list[str] = []
        watcher = cluster.world.connect("w")
        await watcher.subscribe("swarm.gone.*", lambda message: told.append(message.subject))
        with monkeypatch.context() as patch:
            patch.setattr(Handoffs, "give", stuck)
            took_s = await leave(cluster, "c1")
        assert DRAIN_S <= took_s < DRAIN_S + 0.5
        await until(lambda: cluster.coordinators["c2"].owned == [0, 1], deadline_s=0.4)
        await until(lambda: told == ["swarm.gone.c1"], deadline_s=0.4)

    on_cluster(scenario)


def test_a_rolling_restart_of_all_loses_nothing_and_keeps_nobody_waiting() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2", "c3", owned=3)
        await pass_time(3.0)
        handles: list[Handle] = []
        waits: list[float] = []
        stop = False
        clock = asyncio.get_running_loop().time

        async def submit() -> None:
            while not stop:
                began = clock()
                for handle in await cluster.swarm.submit_many([{"work_type": "build"}] * 3):
                    assert isinstance(handle, Handle)
                    handles.append(handle)
                waits.append(clock() - began)
                await asyncio.sleep(0.01)  # virtual time

        submitting = asyncio.create_task(submit())
        for name in ("c1", "c2", "c3"):
            await leave(cluster, name)
            await pass_time(0.5)
            await cluster.start_coordinator(name)
            await pass_time(3.0)
        stop = True
        await submitting
        assert max(waits) < 1.1, "one retry at the most"
        owned = sorted(shard for c in cluster.coordinators.values() for shard in c.owned)
        assert owned == [0, 1, 2]
        found = list((await cluster.swarm.stats()).values())
        assert all(isinstance(one, ShardStats) for one in found)
        queued = sum(one.counts["queued"] for one in found if isinstance(one, ShardStats))
        assert queued == len(handles) == len({handle.work_item_id for handle in handles})

    on_cluster(scenario, settings=THREE)


def test_a_crash_during_a_drain_is_like_any_other() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2", "c3", owned=3)
        await pass_time(3.0)
        leaving: Coordinator = cluster.coordinators["c1"]
        draining = asyncio.create_task(leaving.drain(DRAIN_S))
        await pass_time(0.16)
        await crash(cluster, "c1")
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        c2, c3 = cluster.coordinators["c2"], cluster.coordinators["c3"]
        await until(lambda: sorted(c2.owned + c3.owned) == [0, 1, 2], deadline_s=2.0)

    on_cluster(scenario, settings=THREE)


def test_the_memory_of_a_shard_that_is_gone_is_freed() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await cluster.swarm.submit_many([{"work_type": "build"}] * 30)
        await pass_time(3.0)
        old = owner_of(cluster, 0)
        state = weakref.ref(next(worker for worker in old._shards if worker.number == 0).state)
        assert (await moved(cluster, 0))["coordinator"] != old.name
        await pass_time(1.0)
        # The simulated loop keeps ended tasks for a while.
        asyncio.get_running_loop()._prune_tasks()  # type: ignore[attr-defined]
        gc.collect()
        assert state() is None

    on_cluster(scenario)
