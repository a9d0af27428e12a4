"""More shards, or fewer, on a live swarm: nothing is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from msgspec import structs

from swarm.core import rebalance
from swarm.core.envelope import decode_entry
from swarm.core.sharding import shard_of
from swarm.errors import Refusal
from swarm.messages import NewItem, ShardMap, Submit, Submitted
from swarm.subjects import parse_item_id
from tests.actors.cluster import SETTINGS, Cluster, on_cluster, until
from tests.builders import command_id, new_item


def accepted(cluster: Cluster) -> list[tuple[int, bytes]]:
    """(shard, item) of everything that any log has accepted."""
    found = []
    for shard in range(64):
        log = f"swarmlog.{shard}"
        try:
            entries = cluster.world.log_entries(log)
        except Exception:  # noqa: BLE001 - there is no such shard
            break
        for stored in entries:
            entry = decode_entry(log, stored.seq, stored.data)
            for event in entry.events if entry is not None else ():
                if isinstance(event, Submitted):
                    found += [(shard, bytes(raw)) for raw in event.items]
    return found


async def settled(cluster: Cluster, shards: int, version: int) -> None:
    """Every coordinator acts by this map, and every shard has an owner."""
    places = cluster.coordinators.values()
    await until(lambda: all(one.cluster.map.version == version for one in places))
    await until(lambda: cluster.router.cluster.map.version == version)
    await until(lambda: sum(len(one.owned) for one in places) == shards)


def shards_of(outcomes: Iterable[Any]) -> list[int]:
    return [parse_item_id(outcome.work_item_id)[0] for outcome in outcomes]


def test_a_live_swarm_grows_and_shrinks() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await until(lambda: cluster.coordinators["c1"].leader.epoch)
        items = [{"work_type": "t", "payload": number} for number in range(60)]
        first = await cluster.swarm.submit_many(items)
        assert set(shards_of(first)) == {0, 1}
        assert (await cluster.swarm.resize(6)).map_version == 2
        await settled(cluster, 6, 2)
        second = await cluster.swarm.submit_many(items)
        assert set(shards_of(second)) == set(range(6))
        await cluster.swarm.resize(3)
        await settled(cluster, 6, 3)
        third = await cluster.swarm.submit_many(items)
        assert set(shards_of(third)) == set(range(3))
        counts: dict[int, Any] = dict(await cluster.swarm.stats())
        assert sum(one.submitted for one in counts.values()) == 180
        everything: list[Any] = [*first, *second, *third]
        for outcome in everything:
            seen = await cluster.swarm.get(outcome.work_item_id)
            assert seen.status == "queued", "what a shard has, it keeps"

    on_cluster(scenario)


def test_what_is_sent_again_after_a_change_is_known() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await until(lambda: cluster.coordinators["c1"].leader.epoch)
        bus = cluster.world.connect("lisa")
        items = [new_item("t", payload=number) for number in range(40)]
        keyed = [new_item("t", idempotency_key=f"k{number}") for number in range(40)]
        now = cluster.world.time()
        batches = [
            Submit(items, command_id(1, now)),
            Submit(keyed, command_id(2, now)),
        ]
        before = [await answers(bus, batch) for batch in batches]
        await cluster.swarm.resize(7)
        await settled(cluster, 7, 2)
        for batch, known in zip(batches, before, strict=True):
            assert await answers(bus, structs.replace(batch, retry=1)) == known
        # Another command under the same keys: the same items.
        assert await answers(bus, Submit(keyed, command_id(3, now))) == before[1]
        assert len(accepted(cluster)) == 80

    on_cluster(scenario)


async def answers(bus: Any, batch: Submit) -> dict[int, str]:
    """Ids by index, asked for until all are there."""
    found: dict[int, str] = {}

    def take(message: Any) -> None:
        for result in msgspec.json.decode(message.data).get("results", []):
            if "work_item_id" in result:
                found[result["index"]] = result["work_item_id"]

    inbox = bus.inbox()
    subscription = await bus.subscribe(inbox, take)
    async with asyncio.timeout(20.0):
        while len(found) < len(batch.items):
            await bus.publish("swarm.submit.t.lisa", msgspec.json.encode(batch), inbox)
            await asyncio.sleep(0.5)  # virtual time
            batch = structs.replace(batch, retry=batch.retry + 1)
    await subscription.unsubscribe()
    return found


def test_a_part_that_was_lost_before_the_change_is_accepted_after_it() -> None:
    """Of one batch, one shard had accepted its part when the other one's was lost."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await until(lambda: cluster.coordinators["c1"].leader.epoch)
        bus = cluster.world.connect("lisa")
        items = [new_item("t", payload=number) for number in range(40)]
        made = command_id(1, cluster.world.time())
        batch = Submit(items, made)
        first = [
            index
            for index in range(40)
            if shard_of(NewItem("t"), made, index, "lisa", cluster.map) == 0
        ]
        part = {
            "command_id": made,
            "items": [items[index] for index in first],
            "indexes": first,
            "map_version": 1,
        }
        assert 5 < len(first) < 35
        subject = "swarm.shard.0.submit.lisa"
        answer = await bus.request(subject, msgspec.json.encode(part), 2.0)
        had = {
            one["index"]: one["work_item_id"] for one in msgspec.json.decode(answer.data)["results"]
        }
        await cluster.swarm.resize(5)
        await settled(cluster, 5, 2)
        found = await answers(bus, structs.replace(batch, retry=1))
        assert found.items() >= had.items()
        assert len(accepted(cluster)) == 40
        assert await answers(bus, structs.replace(batch, retry=2)) == found

    on_cluster(scenario)


def test_a_coordinator_that_knows_only_the_earlier_map_is_refused() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await until(lambda: cluster.coordinators["c1"].leader.epoch)
        await cluster.swarm.resize(4)
        await settled(cluster, 4, 2)
        made = command_id(1, cluster.world.time())
        stale = {"command_id": made, "items": [new_item("t")], "indexes": [0], "map_version": 1}
        answer = await cluster.ask(cluster.world.connect("x"), "swarm.shard.0.submit.x", stale)
        assert (answer["error"]["code"], answer["error"]["retry"]) == ("stale_map", True)

    on_cluster(scenario)


def test_what_depends_on_a_new_shard_is_not_refused_for_good_by_who_does_not_know_it() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await until(lambda: cluster.coordinators["c1"].leader.epoch)
        ignorant = cluster.coordinators["c2"].cluster
        assert ignorant.map.version == 1

        async def read_on() -> None:
            await asyncio.Event().wait()

        # Its reading takes for ever, as when the state's replica that it asks is behind.
        ignorant._read_on = read_on  # type: ignore[method-assign]
        await cluster.swarm.resize(8)
        await until(lambda: cluster.coordinators["c1"].cluster.map.version == 2)
        subject, bus = "swarm.coordinator.c2.submit.x", cluster.world.connect("x")

        async def refusal(depends_on: str, number: int) -> dict[str, Any]:
            item = {"work_type": "t", "dependencies": [depends_on]}
            made = command_id(number, cluster.world.time())
            body = {"command_id": made, "items": [item], "retry": 9}
            error: dict[str, Any] = (await cluster.ask(bus, subject, body))["results"][0]["error"]
            return error

        new = await refusal("7-1", 1)
        assert (new["code"], new["retry"]) == ("stale_map", True)
        none = await refusal("8-1", 2)
        assert (none["code"], none["retry"]) == ("bad_request", False)
        assert "shards 0 to 7" in none["message"]
        # Nobody can say which shards there are: nothing is refused for good.
        await cluster.coordinators["c1"].leader.stop()
        nobody = await refusal("8-1", 3)
        assert (nobody["code"], nobody["retry"]) == ("stale_map", True)
        assert "does not answer" in nobody["message"]

    on_cluster(scenario)


def test_who_starts_with_an_old_map_takes_shards_and_keeps_them() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await until(lambda: cluster.coordinators["c1"].leader.epoch)
        await cluster.swarm.resize(4)
        await settled(cluster, 4, 2)
        for name in ("c1", "c2"):
            await cluster.coordinators.pop(name).stop()
        assert isinstance(cluster.map, ShardMap)
        assert cluster.map.version == 1
        for name in ("c1", "c2"):
            await cluster.start_coordinator(name)
        await settled(cluster, 4, 2)
        outcomes = await cluster.swarm.submit_many([{"work_type": "t"}] * 40)
        assert set(shards_of(outcomes)) == {0, 1, 2, 3}

    on_cluster(scenario, settings=SETTINGS)


def test_an_earlier_shard_that_does_not_answer_is_waited_for() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await until(lambda: cluster.coordinators["c1"].leader.epoch)
        keyed = [{"work_type": "t", "idempotency_key": f"k{number}"} for number in range(20)]
        before: list[Any] = list(await cluster.swarm.submit_many(keyed))
        await cluster.swarm.resize(7)
        await settled(cluster, 7, 2)
        owner = next(one for one in cluster.coordinators.values() if 0 in one.owned)
        cluster.world.partition(owner.name)
        after: list[Any] = list(await cluster.swarm.submit_many(keyed, timeout_s=30.0))
        assert [one.work_item_id for one in after] == [one.work_item_id for one in before]
        assert len(accepted(cluster)) == 20

    on_cluster(scenario)


def test_shards_move_as_a_plan_says() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        await cluster.start_coordinator("c2")
        await cluster.swarm.submit_many([{"work_type": "t"}] * 40)
        assert len(cluster.coordinators["c1"].owned) == 8
        stats: dict[int, Any] = dict(await cluster.swarm.stats())
        load = rebalance.loads({shard: one.submitted for shard, one in stats.items()})
        owners = {shard: one.coordinator for shard, one in stats.items()}
        plan = rebalance.plan(owners, load, ["c1", "c2"], 0.1, 8)
        assert plan.before == 2.0
        for move in plan.moves:
            moved = await cluster.swarm.move(move.shard, move.source, move.to)
            assert moved.coordinator == "c2"
        places = cluster.coordinators
        assert sorted(places["c1"].owned + places["c2"].owned) == list(range(8))
        had = {name: sum(load[shard] for shard in places[name].owned) for name in places}
        assert max(had.values()) * 2 <= 1.1
        with pytest.raises(Refusal, match="does not own shard"):
            await cluster.swarm.move(plan.moves[0].shard, "c1", "c2")

    on_cluster(scenario, settings=structs.replace(SETTINGS, shard_count=8))
