"""Standbys: they follow, take over without a replay, and free what they need no more."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from swarm.actors.coordinator import Coordinator
from swarm.actors.standby import LOOK_LONGEST_S, WORTH, Standby, next_pause
from swarm.bus.log_reader import LogReader
from swarm.messages import ShardStats
from tests.actors.cluster import SETTINGS, Cluster, HandAgent, on_cluster, pass_time, until

THREE = msgspec.structs.replace(SETTINGS, coordinators=["c1", "c2", "c3"], shard_count=3)


def standby_of(coordinator: Coordinator, shard: int) -> Standby:
    return coordinator._shards.standbys._standbys[shard]


def standing_by(cluster: Cluster) -> dict[int, list[str]]:
    """Who follows each shard."""
    return {
        shard: [
            name
            for name, coordinator in cluster.coordinators.items()
            if shard in coordinator._shards.standbys
        ]
        for shard in range(cluster.settings.shard_count)
    }


def owner_of(cluster: Cluster, shard: int) -> Coordinator:
    return next(c for c in cluster.coordinators.values() if shard in c.owned)


def positions(coordinator: Coordinator) -> dict[int, int]:
    standbys = coordinator._shards.standbys._standbys.values()
    return {standby.shard: standby.reader.position.at for standby in standbys}


async def crash(cluster: Cluster, name: str) -> None:
    died = cluster.coordinators.pop(name)
    cluster.world.crash(name)
    await died.stop()


@pytest.mark.parametrize("standbys", [0, 1, 2])
def test_as_many_follow_each_shard_as_the_setting_says(standbys: int) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2", "c3")
        await pass_time(5.0)
        following = standing_by(cluster)
        for shard, names in following.items():
            assert len(names) == standbys
            assert owner_of(cluster, shard).name not in names
        # Everybody can see it, and how far they are.
        for beat in cluster.router.live():
            shown = [shard for shard, names in following.items() if beat.coordinator in names]
            assert sorted(map(int, beat.standby)) == shown
            assert all(0 <= behind_s <= 2.0 for behind_s in beat.standby.values())

    on_cluster(scenario, settings=msgspec.structs.replace(THREE, standbys=standbys))


def test_a_standby_has_the_state_of_the_owner() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await cluster.swarm.submit_many([{"work_type": "build"}] * 30)
        await pass_time(2.0)
        for shard in (0, 1):
            owner = owner_of(cluster, shard)
            other = next(c for c in cluster.coordinators.values() if c is not owner)
            theirs = standby_of(other, shard).reader.state
            mine = next(worker for worker in owner._shards if worker.number == shard)._shard
            assert theirs.items == mine.items
            assert theirs.items, "there is something to compare"
            theirs.validate()

    on_cluster(scenario)


def test_a_takeover_reads_only_what_came_last() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        for _ in range(20):
            await cluster.swarm.submit_many([{"work_type": "build"}] * 10)
        await pass_time(2.0)
        last = len(cluster.world.log_entries("swarmlog.0"))
        assert last > 10
        read: list[tuple[str, int]] = []
        heir = cluster.coordinators["c2"]
        standby = heir._shards.standbys._standbys[0]
        await until(lambda: standby.reader.position.at == last, deadline_s=1.5)
        original = heir._bus.read

        async def watched(log: str, from_seq: int, limit: int) -> Any:
            read.append((log, from_seq))
            return await original(log, from_seq, limit)

        heir._bus.read = watched  # type: ignore[method-assign]
        await crash(cluster, "c1")
        await until(lambda: heir.owned == [0, 1], deadline_s=2.0)
        # The last one is read again: it shows that the log is still the one that was followed.
        assert min(seq for log, seq in read if log == "swarmlog.0") == last
        assert await cluster.swarm.stats(timeout_s=1.0)
        # It follows nobody now, and nobody follows it: there is no other.
        await pass_time(2.0)
        assert heir._shards.standbys.shards() == []

    on_cluster(scenario)


def test_without_standbys_the_log_is_read_from_its_beginning() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        handle = await cluster.swarm.submit("build")
        assert standing_by(cluster) == {0: [], 1: []}
        await crash(cluster, "c1")
        await until(lambda: cluster.coordinators["c2"].owned == [0, 1], deadline_s=3.0)
        assert (await handle.get()).status == "queued"

    on_cluster(scenario, settings=msgspec.structs.replace(SETTINGS, standbys=0))


def test_the_shard_is_served_again_soon_after_its_owner_died() -> None:
    """Clients ask again when it is served, not at some later time."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        handles = await cluster.swarm.submit_many([{"work_type": "build"}] * 30)
        lost = next(h for h in handles if h.work_item_id.startswith("0-"))  # type: ignore[union-attr]
        await pass_time(2.0)
        clock = cluster.coordinators["c2"]._clock
        assert owner_of(cluster, 0).name == "c1"
        died_at = clock()
        await crash(cluster, "c1")
        # From before the takeover on: it meets silence first.
        assert (await lost.get()).status == "queued"  # type: ignore[union-attr]
        assert clock() - died_at < SETTINGS.missed_s + 0.3

    on_cluster(scenario)


def test_who_comes_back_relieves_the_standby_only_once_it_has_caught_up() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2", "c3", owned=3)
        await cluster.swarm.submit_many([{"work_type": "build"}] * 30)
        await pass_time(3.0)
        shard, (first,) = next(
            (shard, names) for shard, names in standing_by(cluster).items() if names != ["c1"]
        )
        await crash(cluster, first)
        await pass_time(5.0)
        (second,) = standing_by(cluster)[shard]
        assert second != first
        kept = standby_of(cluster.coordinators[second], shard)
        both = False
        await cluster.start_coordinator(first)
        for _ in range(200):
            await pass_time(0.02)
            names = standing_by(cluster)[shard]
            both = both or set(names) == {first, second}
            assert names, "somebody stands by all the time"
        assert both
        assert standing_by(cluster)[shard] == [first]
        assert kept.reader.position.at == 0, "its memory is free"
        assert len(kept.reader.state.items) == 0

    on_cluster(scenario, settings=THREE)


def test_a_standby_that_missed_something_starts_over() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        handles = await cluster.swarm.submit_many([{"work_type": "build"}] * 20)
        await pass_time(2.0)
        standby = standby_of(cluster.coordinators["c2"], 0)
        # As if the log had been purged while it looked elsewhere.
        standby.reader.position.at += 2
        standby.reader.position.last += 1
        await cluster.swarm.submit_many([{"work_type": "build"}] * 20)
        await until(lambda: standby.reader.gaps or standby.reader.position.foreign)
        await crash(cluster, "c1")
        heir = cluster.coordinators["c2"]
        await until(lambda: heir.owned == [0, 1], deadline_s=5.0)
        for handle in handles:
            assert (await handle.get()).status == "queued"  # type: ignore[union-attr]

    on_cluster(scenario)


def test_a_standby_of_a_log_that_cannot_be_folded_says_so_and_harms_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        heir = cluster.coordinators["c2"]
        await until(lambda: 0 in heir._shards.standbys)

        def fail(self: LogReader[Any], stored: object) -> bool:
            raise AssertionError("an item that there is not")

        with monkeypatch.context() as patch:
            patch.setattr(LogReader, "fold", fail)
            await cluster.swarm.submit_many([{"work_type": "build"}] * 20)
            await pass_time(3.0)
            shown = next(beat for beat in cluster.router.live() if beat.coordinator == "c2")
            assert shown.standby["0"] == -1.0
        assert heir.owned == [1]
        await pass_time(40.0)
        assert 0 <= standby_of(heir, 0).behind_s < 2.0, "and it tries again"

    on_cluster(scenario)


def test_agents_work_on_through_a_takeover() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach(concurrency=4)
        await agent.next(4)
        await cluster.swarm.submit_many([{"work_type": "build"}] * 4)
        await until(lambda: len(agent.assigned()) == 4)
        await pass_time(1.0)
        other = "c1" if agent.coordinator == "c2" else "c2"
        await crash(cluster, other)
        await until(lambda: cluster.coordinators[agent.coordinator].owned == [0, 1])
        stats = await cluster.swarm.stats()
        found = [one for one in stats.values() if isinstance(one, ShardStats)]
        assert sum(one.counts["claimed"] for one in found) == 4

    on_cluster(scenario)


def test_a_busy_log_is_looked_at_more_often_and_an_idle_one_once_a_second() -> None:
    pause_s, pauses = LOOK_LONGEST_S, []
    for found in (10 * WORTH, WORTH, WORTH, WORTH, WORTH - 1, 0, 0, 0):
        pause_s = next_pause(pause_s, found)
        pauses.append(pause_s)
    assert pauses == [0.5, 0.25, 0.2, 0.2, 0.4, 0.8, 1.0, 1.0]
