"""The leader moves shards by itself: by what the beats measure, in rounds that are on record."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import structs

from swarm.actors.handoff import Handoffs
from swarm.core import affinity, rebalance
from swarm.core.envelope import CLUSTER_LOG, decode_as
from swarm.core.rebalancer import HOLD_S, MOVES_MAX, PAUSE_S, STEADY_S
from swarm.core.sharding import jump_hash, stable_hash
from swarm.errors import Refusal
from swarm.messages import Beat, Rebalanced, ShardStats
from tests.actors.cluster import SETTINGS, Cluster, HandAgent, on_cluster, pass_time, until

AUTO = structs.replace(
    SETTINGS, shard_count=8, auto_rebalance_enabled=True, rebalance_threshold=0.2
)


def counts(cluster: Cluster) -> dict[str, int]:
    return {name: len(one.owned) for name, one in cluster.coordinators.items()}


def beats(cluster: Cluster) -> dict[str, Beat]:
    return {beat.coordinator: beat for beat in cluster.router.live()}


def rounds_in_log(cluster: Cluster) -> list[Rebalanced]:
    found: list[Rebalanced] = []
    log = "swarmlog.cluster"
    for stored in cluster.world.log_entries(log):
        entry = decode_as(CLUSTER_LOG, log, stored.seq, stored.data)
        events = entry.events if entry is not None else []
        found += [event for event in events if isinstance(event, Rebalanced)]
    return found


async def lopsided(cluster: Cluster) -> None:
    """All shards at c1; then c2 comes."""
    await cluster.start("c1")
    await cluster.start_coordinator("c2")
    await until(lambda: cluster.coordinators["c1"].leader.epoch)
    assert counts(cluster) == {"c1": 8, "c2": 0}


async def stats_of(cluster: Cluster) -> dict[int, ShardStats]:
    found = await cluster.swarm.stats()
    return {shard: one for shard, one in found.items() if isinstance(one, ShardStats)}


# --- rounds -------------------------------------------------------------------------------------


def test_shards_move_to_a_coordinator_that_has_come_and_stay_there() -> None:
    async def scenario(cluster: Cluster) -> None:
        await lopsided(cluster)
        await cluster.swarm.submit_many([{"work_type": "t"}] * 40)
        await pass_time(STEADY_S - 2.0)
        assert counts(cluster) == {"c1": 8, "c2": 0}, "not while it has only just come"
        await until(lambda: counts(cluster) == {"c1": 4, "c2": 4}, STEADY_S + HOLD_S)
        await until(lambda: cluster.coordinators["c1"].leader.round.number == 1, 2.0)
        last = (await cluster.swarm.cluster()).round
        assert [(move.source, move.to) for move in last.moves] == [("c1", "c2")] * MOVES_MAX
        assert (last.before, last.after, last.failed, last.moved) == (2.0, 1.0, "", 4)
        assert last.why == "c1 has 2 of an even part of the load; allowed are 1.2"
        assert [event.round for event in rounds_in_log(cluster)] == [last]
        await until(lambda: beats(cluster)["c1"].rounds == 1, 2.0)
        assert (beats(cluster)["c1"].moved, beats(cluster)["c2"].rounds) == (4, 0)
        await pass_time(3 * PAUSE_S)
        assert counts(cluster) == {"c1": 4, "c2": 4}
        assert len(rounds_in_log(cluster)) == 1
        found = await stats_of(cluster)
        assert sum(one.counts["queued"] for one in found.values()) == 40, "nothing is lost"

    on_cluster(scenario, settings=AUTO)


def test_it_is_off_unless_it_is_asked_for() -> None:
    async def scenario(cluster: Cluster) -> None:
        await lopsided(cluster)
        await pass_time(STEADY_S + HOLD_S + PAUSE_S)
        assert counts(cluster) == {"c1": 8, "c2": 0}
        assert rounds_in_log(cluster) == []

    on_cluster(scenario, settings=structs.replace(AUTO, auto_rebalance_enabled=False))


def test_ready_work_that_piles_up_moves_shards() -> None:
    """Each has four shards, and all that waits is in those of c1."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await until(lambda: cluster.coordinators["c1"].leader.epoch)
        mine = cluster.coordinators["c1"].owned
        assert counts(cluster) == {"c1": 4, "c2": 4}
        types = [f"t{number}" for number in range(200)]
        hot = [name for name in types if jump_hash(stable_hash(name), 8) in mine]
        await cluster.swarm.submit_many([{"work_type": name} for name in hot * 8])
        found = await stats_of(cluster)
        assert sum(found[shard].counts["queued"] for shard in mine) == 8 * len(hot)
        await until(lambda: counts(cluster)["c1"] < 4, STEADY_S + HOLD_S + 5.0)
        await until(lambda: cluster.coordinators["c1"].leader.round.number == 1, 2.0)
        moved = cluster.coordinators["c1"].leader.round.moves
        assert {move.source for move in moved} == {"c1"}

    on_cluster(scenario, settings=structs.replace(AUTO, shard_key="work_type"))


def test_a_coordinator_whose_processor_is_busy_gives_shards_away() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await until(lambda: cluster.coordinators["c1"].leader.epoch)
        clock = asyncio.get_running_loop().time
        cluster.coordinators["c2"]._runtime.cpu = lambda: 0.9 * clock()
        await until(lambda: beats(cluster)["c2"].cpu > 0.85, 30.0)
        await until(lambda: counts(cluster) == {"c1": 5, "c2": 3}, STEADY_S + HOLD_S + 5.0)

    # Three quarters go by number: with all processor time the load is 1.25 of an even part.
    on_cluster(scenario, settings=AUTO)


def test_a_move_that_fails_ends_the_round_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        await lopsided(cluster)
        given: list[int] = []
        give = Handoffs.give

        async def once(self: Handoffs, shard: int, to: str = "") -> str:
            given.append(shard)
            if len(given) > 1:
                raise Refusal("unavailable", "not today", retry=True)
            return await give(self, shard, to)

        monkeypatch.setattr(Handoffs, "give", once)
        leader = cluster.coordinators["c1"].leader
        await until(lambda: leader.round.number == 1, STEADY_S + HOLD_S + 10.0)
        assert len(leader.round.moves) == 1
        assert leader.round.failed == f"shard {given[1]} stays at c1: not today"
        assert counts(cluster) == {"c1": 7, "c2": 1}
        assert len(given) == 2, "the others were not tried"

    on_cluster(scenario, settings=AUTO)


def test_a_round_ends_when_somebody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        await lopsided(cluster)
        give, began = Handoffs.give, asyncio.Event()

        async def slowly(self: Handoffs, shard: int, to: str = "") -> str:
            began.set()
            await asyncio.sleep(3.0)  # virtual time
            return await give(self, shard, to)

        monkeypatch.setattr(Handoffs, "give", slowly)
        await began.wait()
        await cluster.start_coordinator("c3")
        leader = cluster.coordinators["c1"].leader
        await until(lambda: leader.round.number == 1, 20.0)
        assert leader.round.failed == "coordinators come or go"
        assert len(leader.round.moves) == 1

    on_cluster(scenario, settings=structs.replace(AUTO, coordinators=["c1", "c2", "c3"]))


def test_the_next_leader_knows_of_earlier_rounds() -> None:
    async def scenario(cluster: Cluster) -> None:
        await lopsided(cluster)
        first = cluster.coordinators["c1"].leader
        await until(lambda: first.round.number == 1, STEADY_S + HOLD_S + 10.0)
        seen = first.round
        await cluster.coordinators["c1"].drain(5.0)
        second = cluster.coordinators["c2"].leader
        await until(lambda: second.epoch, 10.0)
        assert second.round == seen
        assert first.round.number == 0, "it does not lead"

    on_cluster(scenario, settings=AUTO)


# --- what is measured ---------------------------------------------------------------------------


def test_beats_tell_of_ready_items_and_operations() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        stop = False

        async def submit() -> None:
            while not stop:
                await cluster.swarm.submit_many([{"work_type": "t"}] * 20)
                await asyncio.sleep(0.1)  # virtual time

        submitting = asyncio.create_task(submit())
        await pass_time(20.0)
        shown = beats(cluster)
        rate = sum(beat.operations for beat in shown.values())
        assert 100 < rate < 220, "200 items a second at most, each one operation"
        by_shard = {shard: one for beat in shown.values() for shard, one in beat.load.items()}
        assert sorted(by_shard) == ["0", "1"]
        assert sum(rate for _, rate in by_shard.values()) == pytest.approx(rate, abs=0.3)
        stop = True
        await submitting
        await pass_time(60.0)
        found = await stats_of(cluster)
        queued = {shard: one.counts["queued"] for shard, one in found.items()}
        load = {shard: one for beat in beats(cluster).values() for shard, one in beat.load.items()}
        assert {int(shard): ready for shard, (ready, _) in load.items()} == queued
        assert sum(beat.operations for beat in beats(cluster).values()) < 1.0

    on_cluster(scenario)


async def agent_at(cluster: Cluster, name: str, slots: int) -> HandAgent:
    """An agent that is attached there, whatever a router would choose."""
    agent = HandAgent(cluster, f"a-{name}", "t")
    answer = await cluster.ask(
        agent.bus,
        f"swarm.coordinator.{name}.attach.{agent.id}",
        {"work_types": ["t"], "concurrency": slots},
    )
    agent.coordinator, agent.session = name, answer["session"]
    at = f"swarm.agent.{agent.id}.{agent.session}"
    await agent.bus.subscribe(f"{at}.work", lambda message: agent._on_work(message.data))
    await agent.next(slots)
    return agent


def test_use_is_counted_by_where_it_comes_from_and_placement_follows_it() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        owner = {shard: name for name, c in cluster.coordinators.items() for shard in c.owned}
        away = next(shard for shard, name in owner.items() if name == "c1")
        agent = await agent_at(cluster, "c2", 400)
        await pass_time(1.0)
        await cluster.swarm.submit_many([{"work_type": "t"}] * 100)
        await until(lambda: len(agent.assigned()) == 100)
        found = await stats_of(cluster)
        usage = {shard: one.usage for shard, one in found.items()}
        assert sum(one.assigned.get("c2", 0) for one in usage.values()) == 100
        assert all(one.sessions == {"c2": 1} for one in usage.values())
        for one in usage.values():
            submitted = one.local + one.remote
            assert one.operations == submitted + one.assigned["c2"]
        # Where its items are done is where the shard should be.
        load = rebalance.loads(dict.fromkeys(owner, 0))
        assigned: dict[int, Any] = {shard: one.assigned for shard, one in usage.items()}
        plan = affinity.optimize(owner, assigned, load, ["c1", "c2"], 1.0, 8)
        assert [(move.shard, move.to) for move in plan.moves] == [(away, "c2")]
        assert plan.after == 1.0
        await cluster.swarm.move(away, "c1", "c2")
        assert (await stats_of(cluster))[away].usage.assigned == {}, "its new owner begins anew"

    on_cluster(scenario)
