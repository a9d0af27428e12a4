"""The leader: who leads, what is asked of it, what others know of it."""

from __future__ import annotations

import msgspec
import pytest

from swarm.actors import cluster_copy
from swarm.actors.opening import CLUSTER_KEY
from swarm.bus.log import FencedLog
from swarm.core import cluster as core
from swarm.core.cluster import Cluster as ClusterState
from swarm.core.envelope import CLUSTER_LOG, decode_as
from swarm.errors import Deposed, NoAnswer, Refusal
from swarm.messages import Conflict, MapChanged, Opened, RoutingRules, SetRules, ShardMap
from tests.actors.cluster import Cluster, on_cluster, pass_time, until
from tests.builders import command_id

LOG = "swarmlog.cluster"


def leading(cluster: Cluster) -> list[str]:
    return [name for name, one in cluster.coordinators.items() if one.leader.epoch]


async def led(cluster: Cluster) -> str:
    """Who leads, once somebody does."""
    await until(lambda: leading(cluster))
    (name,) = leading(cluster)
    return name


def events(cluster: Cluster) -> list[object]:
    """All that the cluster log says."""
    found: list[object] = []
    for stored in cluster.world.log_entries(LOG):
        entry = decode_as(CLUSTER_LOG, LOG, stored.seq, stored.data)
        found += entry.events if entry is not None else []
    return found


def test_the_first_coordinator_leads_and_takes_over_the_map() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        assert await led(cluster) == "c1"
        opened, changed = events(cluster)
        assert opened == Opened("c1")
        assert isinstance(changed, MapChanged)
        assert (changed.map.version, changed.map.shard_count) == (1, 2)
        await until(lambda: cluster.world.state("map"))
        stored = cluster.world.state("map")
        assert stored is not None
        assert msgspec.json.decode(stored, type=ShardMap) == changed.map
        shown = {beat.coordinator: beat.leads for beat in cluster.router.live()}
        assert shown == {"c1": 1, "c2": 0}

    on_cluster(scenario)


def test_a_stored_map_of_an_earlier_version_is_taken_over_as_it_is() -> None:
    async def scenario(cluster: Cluster) -> None:
        bus = cluster.swarm.bus
        assert await bus.state_create("map", msgspec.json.encode(cluster.map))
        await cluster.start("c1")
        await led(cluster)
        seen = await cluster.swarm.cluster()
        assert (seen.leader, seen.epoch, seen.map) == ("c1", 1, cluster.map)
        assert seen.rules == RoutingRules(0)

    on_cluster(scenario)


def test_rules_are_known_to_all_and_in_the_shared_state() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await led(cluster)
        reply = await cluster.swarm.set_rules("build -> c2:4000")
        assert reply.rules_version == 1
        stored = await cluster.swarm.bus.state_get("rules")
        assert stored is not None
        assert msgspec.json.decode(stored)["text"] == "build -> c2:4000"
        copies = [cluster.router.cluster, *(one.cluster for one in cluster.coordinators.values())]
        await until(lambda: all(copy.rules.version == 1 for copy in copies), 2.0)
        assert {copy.rules.text for copy in copies} == {"build -> c2:4000"}
        assert {copy.rules.by for copy in copies} == {"me"}

    on_cluster(scenario)


def test_who_missed_a_change_catches_up_by_the_beats() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await led(cluster)
        await cluster.swarm.set_rules("build -> c2")
        late = await cluster.start_coordinator("c2x")
        await until(lambda: late.cluster.rules.version == 1, 3.0)

    on_cluster(scenario)


def test_a_copy_that_cannot_be_read_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await led(cluster)
        cluster.world.cut_log("r1")
        await cluster.swarm.set_rules("build -> c2")
        await pass_time(6.0)
        assert cluster.router.cluster.rules.version == 0
        cluster.world.heal("r1")
        await until(lambda: cluster.router.cluster.rules.version == 1, 10.0)

    monkeypatch.setattr(cluster_copy, "READ_AGAIN_S", 0.1)
    on_cluster(scenario)


def test_another_coordinator_leads_when_the_leader_dies() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        assert await led(cluster) == "c1"
        await cluster.swarm.set_rules("build -> c2")
        cluster.world.partition("c1")
        await until(lambda: cluster.coordinators["c2"].leader.epoch == 2, 10.0)
        seen = await cluster.swarm.cluster()
        assert (seen.leader, seen.epoch, seen.rules.text) == ("c2", 2, "build -> c2")
        cluster.world.heal("c1")
        await until(lambda: leading(cluster) == ["c2"], 10.0)
        await pass_time(5.0)
        assert leading(cluster) == ["c2"], "a live leader is not replaced"
        assert (await cluster.swarm.set_rules("")).rules_version == 2

    on_cluster(scenario)


def test_a_leader_that_leaves_gives_up_leading_first() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        assert await led(cluster) == "c1"
        await cluster.coordinators["c1"].drain(5.0)
        await until(lambda: leading(cluster) == ["c2"], 3.0)

    on_cluster(scenario)


def test_a_deposed_leader_answers_nothing() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await led(cluster)
        old = cluster.coordinators["c1"]
        # Nobody hears that it leads: the other one takes over while it goes on.
        cluster.world.stall("c1", 3.0)
        await until(lambda: cluster.coordinators["c2"].leader.epoch == 2, 10.0)
        seen = await cluster.swarm.cluster()
        assert seen.epoch == 2
        await until(lambda: not old.leader.epoch, 5.0)

    on_cluster(scenario)


def test_a_repeated_request_is_answered_as_the_first_time() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await led(cluster)
        bus, first = cluster.world.connect("me"), command_id(1, cluster.world.time())
        command = SetRules("build -> c1", first)
        subject = "swarm.control.rules.me"
        answer = await cluster.ask(bus, subject, command)
        assert answer == {"command_id": first, "map_version": 1, "rules_version": 1}
        await cluster.swarm.set_rules("")
        cluster.world.partition("c1")
        await until(lambda: cluster.coordinators["c2"].leader.epoch == 2, 10.0)
        assert await cluster.ask(bus, subject, command) == answer
        assert cluster.coordinators["c2"].leader._cluster.rules.version == 2

    on_cluster(scenario)


def test_what_cannot_be_done_is_refused_by_name() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await led(cluster)
        bus = cluster.world.connect("me")
        with pytest.raises(Refusal, match="no coordinator of this swarm; there are: c1, c2"):
            await cluster.swarm.set_rules("build -> nowhere")
        answer = await cluster.ask(bus, "swarm.control.dance.me", {})
        assert "the leader knows rules, conflict, resize, look" in answer["error"]["message"]
        answer = await cluster.ask(bus, "swarm.control.rules.me", {"text": 1})
        assert answer["error"]["code"] == "bad_request"
        long = {"text": "#" * 200_000}
        answer = await cluster.ask(bus, "swarm.control.rules.me", long)
        assert answer["error"]["code"] == "too_large"
        mine = cluster.coordinators["c1"].leader
        await bus.publish("swarm.control.look.me", b"", reply="swarmlog.0")
        await until(lambda: mine.bad_replies == 1)

    on_cluster(scenario)


def test_conflicts_are_told_and_seen() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await led(cluster)
        told = Conflict("settings", "LEASE_S", "4", "5")
        await cluster.swarm.tell_conflict(told)
        seen = await cluster.swarm.cluster()
        (kept,) = seen.conflicts
        assert (kept.kept, kept.dropped, kept.by) == ("4", "5", "me")
        assert seen.conflict_counts == {"settings": {"log": 1}}

    on_cluster(scenario)


def test_nothing_is_answered_before_it_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        await led(cluster)

        async def refused(self: FencedLog, *_: object) -> int:
            raise Deposed("somebody else owns it")

        with monkeypatch.context() as patch:
            patch.setattr(FencedLog, "append", refused)
            with pytest.raises(NoAnswer):
                await cluster.swarm.set_rules("build -> c1", timeout_s=1.5)
            assert not leading(cluster)
        await until(lambda: leading(cluster), 10.0)
        seen = await cluster.swarm.cluster()
        assert seen.rules.version == 0, "what was decided is void"

    on_cluster(scenario)


def test_a_long_log_is_stated_again_and_purged(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await led(cluster)
        for number in range(10):
            await cluster.swarm.set_rules(f"build -> c1\n# {number}")
        await until(lambda: cluster.world.log_entries(LOG)[0].seq > 5, 5.0)
        assert len(cluster.world.log_entries(LOG)) < 8
        cluster.world.partition("c1")
        await until(lambda: cluster.coordinators["c2"].leader.epoch == 2, 10.0)
        assert (await cluster.swarm.cluster()).rules.version == 10

    monkeypatch.setattr(core, "RESTATE_AFTER", 5)
    on_cluster(scenario)


def test_what_does_not_fit_into_an_entry_is_not_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        await led(cluster)
        for number in range(40):
            await cluster.swarm.set_rules(f"# {number}")
        await pass_time(2.0)
        entries = cluster.world.log_entries(LOG)
        assert len(entries) > 30, "it was too much for one entry"
        assert leading(cluster) == ["c1"]

    monkeypatch.setattr(core, "RESTATE_AFTER", 35)
    on_cluster(scenario, max_payload=8192)


def test_a_cluster_log_that_was_deleted_is_an_alarm_and_work_goes_on() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await led(cluster)
        cluster.world.delete_log(LOG)
        with pytest.raises((NoAnswer, Refusal)):
            await cluster.swarm.set_rules("", timeout_s=3.0)
        await until(lambda: all(one.leader.why_not for one in cluster.coordinators.values()), 40.0)
        why = cluster.coordinators["c1"].leader.why_not
        assert "Restore the stream from a backup" in why
        assert f"nats kv del swarm-state {CLUSTER_KEY}" in why
        assert not leading(cluster)
        handle = await cluster.swarm.submit("build")
        assert handle.work_item_id
        # The way out that the message names.
        cluster.world.delete_key(CLUSTER_KEY)
        await until(lambda: leading(cluster), 40.0)
        assert (await cluster.swarm.cluster()).map == cluster.map

    on_cluster(scenario)


def test_a_copy_in_the_shared_state_is_never_older_than_another() -> None:
    async def scenario(cluster: Cluster) -> None:
        bus = cluster.swarm.bus
        newer, older = RoutingRules(5, "a -> c1"), RoutingRules(4, "a -> c2")
        for rules in (older, newer, older):
            await cluster_copy.store_copy(bus, "rules", rules)
        stored = await bus.state_get("rules")
        assert stored is not None
        assert msgspec.json.decode(stored, type=RoutingRules) == newer

    on_cluster(scenario)


def test_the_state_that_leads_is_that_of_the_log() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1")
        await led(cluster)
        for number in range(5):
            await cluster.swarm.set_rules(f"# {number}")
        folded = ClusterState()
        for stored in cluster.world.log_entries(LOG):
            entry = decode_as(CLUSTER_LOG, LOG, stored.seq, stored.data)
            assert entry is not None
            folded.seq = stored.seq
            for event in entry.events:
                folded.apply(event, entry.now, entry.owner)
        mine = cluster.coordinators["c1"].leader._cluster
        assert (folded.rules, folded.map, folded.commands) == (mine.rules, mine.map, mine.commands)

    on_cluster(scenario)
