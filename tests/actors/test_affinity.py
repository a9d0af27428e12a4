"""Whose work the free slots of agents are for: SHARD_AFFINITY, without herd or starvation."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from swarm.config import Settings
from swarm.core.sharding import jump_hash, stable_hash
from swarm.messages import Complete
from tests.actors.cluster import Cluster, HandAgent, on_cluster, pass_time, until

#: Agents say nothing for long, and are not forgotten.
BASE = Settings(shard_count=2, coordinators=["c1", "c2"], standbys=0)


def with_(base: Settings = BASE, **fields: Any) -> Settings:
    return msgspec.structs.replace(base, **fields)


async def agent_at(cluster: Cluster, home: str, name: str = "a1", slots: int = 1) -> HandAgent:
    """An agent that is attached to this coordinator, with so many free slots."""
    agent = HandAgent(cluster, name, "build")
    body = msgspec.json.encode({"work_types": ["build"], "session": f"s{name}"})
    reply = await agent.bus.request(f"swarm.coordinator.{home}.attach.{name}", body, 2.0)
    assert msgspec.json.decode(reply.data)["coordinator"] == home
    agent.session, agent.coordinator = f"s{name}", home
    await agent.bus.subscribe(
        f"swarm.agent.{name}.s{name}.work", lambda message: agent._on_work(message.data)
    )
    await agent.next(slots)
    await pass_time(0.5)
    return agent


async def submit_to(cluster: Cluster, owner: str, count: int) -> list[str]:
    """So many items in shards of this coordinator; their ids."""
    shards = cluster.settings.shard_count
    keys = (f"{owner}-{number}" for number in range(100_000))
    owned = cluster.coordinators[owner].owned
    chosen = [key for key in keys if jump_hash(stable_hash(key), shards) in owned][:count]
    items = [{"work_type": "build", "idempotency_key": key} for key in chosen]
    handles = await cluster.swarm.submit_many(items)
    return [handle.work_item_id for handle in handles if not isinstance(handle, Exception)]


async def work_off(cluster: Cluster, agent: HandAgent, count: int) -> list[str]:
    """The agent takes and completes so many items one by one; who owned their shards."""
    owners: list[str] = []
    for number in range(count):
        await until(lambda: len(agent.assigned()) > number)  # noqa: B023 - awaited here
        item, token = agent.assigned()[number]
        shard = int(item.split("-")[0])
        owners += [name for name, one in cluster.coordinators.items() if shard in one.owned]
        await agent.next(1, Complete(cluster.runtime(1000 + number).new_id(), item, token))
    return owners


@pytest.mark.parametrize(("affinity", "low", "high"), [("local", 25, 32), ("none", 17, 23)])
def test_while_both_have_work_own_shards_go_first_but_others_do_not_starve(
    affinity: str, low: int, high: int
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await submit_to(cluster, "c1", 60)
        await submit_to(cluster, "c2", 60)
        agent = await agent_at(cluster, "c1")
        owners = Counter(await work_off(cluster, agent, 40))
        assert low <= owners["c1"] <= high
        assert owners["c2"] >= 8

    on_cluster(scenario, settings=with_(shard_affinity=affinity))


@pytest.mark.parametrize(("c2_has", "moved"), [(60, 0), (300, 10)])
def test_coordinators_that_are_both_busy_do_not_exchange_slots(c2_has: int, moved: int) -> None:
    # Both have an agent that does ten items a second; only a much longer wait is a reason.
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await submit_to(cluster, "c1", 100)
        await submit_to(cluster, "c2", c2_has + 40)
        agents = [await agent_at(cluster, "c1", "a1"), await agent_at(cluster, "c2", "a2")]

        async def work(agent: HandAgent, first: int, last: int) -> None:
            for number in range(first, last):
                await until(lambda: len(agent.assigned()) > number)  # noqa: B023 - awaited here
                item, token = agent.assigned()[number]
                await pass_time(0.1)
                command = Complete(cluster.runtime(1000 + number).new_id(), item, token)
                await agent.next(1, command)

        # Until both know how fast theirs goes, and what was asked for before is forgotten.
        await asyncio.gather(*(work(agent, 0, 40) for agent in agents))
        lent: list[str] = []
        cluster.world.on_publish(
            lambda node, subject, *rest: lent.append(subject) if ".lend." in subject else None
        )
        await asyncio.gather(*(work(agent, 40, 60) for agent in agents))
        assert len(lent) <= moved
        assert bool(lent) is bool(moved)

    on_cluster(scenario, settings=BASE)


@pytest.mark.parametrize("affinity", ["local", "none"])
def test_work_without_an_agent_at_its_coordinator_is_done_by_others(affinity: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = await agent_at(cluster, "c1")
        await submit_to(cluster, "c2", 10)
        assert Counter(await work_off(cluster, agent, 10)) == {"c2": 10}

    on_cluster(scenario, settings=with_(shard_affinity=affinity))


def test_strict_agents_work_for_their_own_coordinator_only() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        moved: list[str] = []
        cluster.world.on_publish(
            lambda node, subject, *rest: (
                moved.append(subject) if subject.split(".")[3:4] in (["lend"], ["borrow"]) else None
            )
        )
        agent = await agent_at(cluster, "c1", slots=20)
        await submit_to(cluster, "c2", 5)
        own = await submit_to(cluster, "c1", 5)
        await pass_time(5.0)
        assert sorted(item for item, _ in agent.assigned()) == sorted(own)
        assert moved == []
        await agent_at(cluster, "c2", "a2", slots=5)
        await until(lambda: not cluster.coordinators["c2"]._shards.ready())

    on_cluster(scenario, settings=with_(shard_affinity="strict"))


def test_a_strict_coordinator_sends_back_what_a_peer_lends_it() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        got: list[Any] = []
        peer = cluster.world.connect("c9")
        await peer.subscribe(
            "swarm.coordinator.c9.lend.*", lambda m: got.append(msgspec.json.decode(m.data))
        )
        credit = {"agent": "a1", "session": "s1", "slots": 2, "work_types": ["build"]}
        lend = msgspec.json.encode({"credits": [credit], "expires_s": 2.0})
        await peer.publish("swarm.coordinator.c1.lend.c9", lend)
        await peer.publish("swarm.coordinator.c1.borrow.c9", b'{"ready":{"build":9}}')
        await until(lambda: got)
        assert got == [{"credits": [credit], "expires_s": 0.0}]
        assert not cluster.coordinators["c1"]._pool.has_free("build")

    on_cluster(scenario, settings=with_(shard_affinity="strict"))


def test_strict_says_which_work_only_others_could_do() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await agent_at(cluster, "c1")
        await submit_to(cluster, "c2", 3)
        await pass_time(3.0)
        assert "build" in cluster.coordinators["c2"]._lending._stranded
        assert cluster.coordinators["c1"]._lending._stranded == {}

    on_cluster(scenario, settings=with_(shard_affinity="strict"))


# --- no herd -----------------------------------------------------------------------------------

EIGHT = [f"c{number}" for number in range(1, 9)]


@pytest.mark.parametrize("local", [True, False])
def test_one_item_for_a_thousand_idle_agents_causes_few_messages(local: bool) -> None:
    """Eight coordinators with agents, or seven while the owner of the item's shard has none."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.start(*EIGHT)
        homes = EIGHT if local else EIGHT[1:]
        crowd = cluster.world.connect("crowd")
        for number in range(1000):
            home, agent = homes[number % len(homes)], f"a{number}"
            attach = {"work_types": ["build"], "session": f"s{number}"}
            at = f"swarm.coordinator.{home}"
            await crowd.publish(f"{at}.attach.{agent}", msgspec.json.encode(attach))
            free = {"session": f"s{number}", "number": 1, "slots": 1, "received": 0}
            await crowd.publish(f"{at}.next.{agent}", msgspec.json.encode(free))
        work: list[str] = []
        await crowd.subscribe("swarm.agent.*.*.work", lambda message: work.append(message.subject))
        await until(
            lambda: (
                sum(one._pool.idle().get("build", 0) for one in cluster.coordinators.values())
                == 1000
            )
        )
        await pass_time(2.0)
        published: list[str] = []
        cluster.world.on_publish(lambda node, subject, *rest: published.append(subject))
        body = {"command_id": "", "items": [{"work_type": "build", "idempotency_key": key_of(8)}]}
        await crowd.publish("swarm.submit.build.crowd", msgspec.json.encode(body))
        await until(lambda: work)
        await pass_time(0.2)
        messages = [subject for subject in published if ".beat." not in subject]
        # Submitted and forwarded (3), asked, offered, lent, given back, assigned.
        assert len(messages) <= 12, messages
        assert len(work) == 1
        news = [subject for subject in published if ".beat." in subject]
        assert len(news) <= 3 * len(EIGHT), "beats go on, one more each at most"

    settings = with_(BASE, shard_count=8, coordinators=EIGHT)
    on_cluster(scenario, settings=settings)


def key_of(shards: int) -> str:
    """An idempotency key whose item goes to shard 0, which the first coordinator owns."""
    return next(f"k{n}" for n in range(1000) if jump_hash(stable_hash(f"k{n}"), shards) == 0)


def test_not_every_coordinator_offers_a_slot_for_the_same_item() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start(*EIGHT)
        for number, home in enumerate(EIGHT[1:]):
            await agent_at(cluster, home, f"a{number}", slots=10)
        await pass_time(1.0)
        lent: list[str] = []
        cluster.world.on_publish(
            lambda node, subject, *rest: lent.append(node) if ".lend." in subject else None
        )
        peer = cluster.world.connect("c9")
        beat = {"coordinator": "c9", "instance": "i", "protocol": 2, "number": 1}
        await peer.publish("swarm.beat.c9", msgspec.json.encode({**beat, "ready": {"build": 15}}))
        await pass_time(0.02)
        assert len(set(lent)) == 2, "two of them have what it lacks"

    settings = with_(BASE, shard_count=8, coordinators=EIGHT)
    on_cluster(scenario, settings=settings)


def test_a_peer_that_gave_slots_back_is_offered_none_before_its_next_beat() -> None:
    """What it said that it lacks is of a moment ago: it would give them back again and again."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        await agent_at(cluster, "c1", slots=10)
        got: list[Any] = []
        peer = cluster.world.connect("c9")
        await peer.subscribe(
            "swarm.coordinator.c9.lend.*", lambda m: got.append(msgspec.json.decode(m.data))
        )

        async def show(number: int) -> None:
            beat = {"coordinator": "c9", "instance": "i", "protocol": 2, "number": number}
            body = msgspec.json.encode({**beat, "ready": {"build": 500}})
            await peer.publish("swarm.beat.c9", body)

        await show(1)
        await until_soon(lambda: got)
        lent = got[0]["credits"]
        assert sum(credit["slots"] for credit in lent) == 10
        back = msgspec.json.encode({"credits": lent, "expires_s": 0.0})
        await peer.publish("swarm.coordinator.c1.lend.c9", back)
        pool = cluster.coordinators["c1"]._pool
        await until_soon(lambda: pool.idle()["build"] == 10)
        await pass_time(0.5)
        assert len(got) == 1
        await show(2)
        await until_soon(lambda: len(got) == 2)

    on_cluster(scenario, settings=with_(BASE, shard_count=1, coordinators=["c1"]))


# --- how soon ----------------------------------------------------------------------------------


def test_items_one_after_another_are_asked_slots_for_at_once() -> None:
    """Not in the next round of asking: what was needed before has been served since."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = await agent_at(cluster, "c1")
        loop = asyncio.get_running_loop()
        waits = []
        for number in range(10):
            began = loop.time()
            await cluster.swarm.submit("build", idempotency_key=keys_of(1, 10)[number])
            await until_soon(lambda: len(agent.assigned()) > number)  # noqa: B023 - awaited here
            waits.append(loop.time() - began)
            item, token = agent.assigned()[number]
            await agent.next(1, Complete(cluster.runtime(1000 + number).new_id(), item, token))
            await until_soon(lambda: agent.work[-1].acks)
        assert max(waits) < 0.015, waits

    on_cluster(scenario, settings=BASE)


def test_while_work_waits_slots_are_asked_for_again_and_not_without_end() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await agent_at(cluster, "c1", slots=0)
        asked: list[str] = []
        cluster.world.on_publish(
            lambda node, subject, *rest: asked.append(subject) if ".borrow." in subject else None
        )
        await submit_to(cluster, "c2", 50)
        await pass_time(1.0)
        assert 4 <= len(asked) <= 15, "with each beat at least, and at most every 0.1 s"

    on_cluster(scenario, settings=BASE)


def keys_of(shard: int, count: int) -> list[str]:
    """Idempotency keys whose items go to this one of two shards."""
    keys = (f"n{number}" for number in range(1000))
    return [key for key in keys if jump_hash(stable_hash(key), 2) == shard][:count]


async def until_soon(condition: Callable[[], object]) -> None:
    """As `until`, looking every 0.1 ms."""
    async with asyncio.timeout(10.0):
        while not condition():  # noqa: ASYNC110 - a condition of any kind, in virtual time
            await asyncio.sleep(0.0001)  # virtual time
