"""Routers on a bus: whom they probe and choose, what they hand on, what they tell."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from swarm.actors.actor import Actor
from swarm.actors.probing import Stopwatch
from swarm.actors.router import Router
from swarm.config import Settings
from swarm.errors import Refusal
from swarm.messages import NewItem
from tests.actors.cluster import SETTINGS, Cluster, on_cluster, pass_time, until
from tests.actors.test_standby import crash

FIVE = Settings(
    shard_count=5,
    coordinators=["c1", "c2", "c3", "c4", "c5"],
    standbys=0,
    heartbeat_s=60.0,
    lease_s=300.0,
    health_check_interval_ms=500,
    health_check_timeout_ms=200,
    health_check_rise=2,
    health_check_fall=2,
)


def changed(settings: Settings, **fields: Any) -> Settings:
    return msgspec.structs.replace(settings, **fields)


class Crowd:
    """Agents that attach and want no answer; sessions last, as heartbeats are rare."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.bus = cluster.world.connect("crowd")
        self.count = 0

    async def join(self, count: int) -> dict[str, int]:
        """So many join at once; returns where they are attached."""
        before = self.attached()
        for _ in range(count):
            self.count += 1
            await self.bus.publish(f"swarm.attach.a{self.count}", b'{"work_types":["build"]}')
        await until(lambda: sum(self.attached().values()) >= sum(before.values()) + count)
        after = self.attached()
        return {name: after[name] - before.get(name, 0) for name in after}

    def attached(self) -> dict[str, int]:
        coordinators = self.cluster.coordinators
        return {name: len(one._pool.sessions) for name, one in coordinators.items()}


async def hang(cluster: Cluster, name: str) -> None:
    """The coordinator beats, and takes nothing from its mailbox."""
    await Actor.stop(cluster.coordinators[name])


async def go_on(cluster: Cluster, name: str) -> None:
    await Actor.start(cluster.coordinators[name])


def healthy(router: Router, name: str) -> bool:
    return router.routing.health.healthy(name)


# --- health ----------------------------------------------------------------------------------


def test_a_coordinator_that_beats_and_takes_nothing_is_not_chosen_until_it_does() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start(*FIVE.coordinators)
        crowd = Crowd(cluster)
        assert set((await crowd.join(10)).values()) == {2}
        await hang(cluster, "c2")
        await until(lambda: not healthy(cluster.router, "c2"), deadline_s=3.0)
        assert "c2" in [beat.coordinator for beat in cluster.router.live()], "its beats come"
        joined = await crowd.join(12)
        assert joined == {"c1": 3, "c2": 0, "c3": 3, "c4": 3, "c5": 3}
        report = next(
            one for one in cluster.router.report().coordinators if one.coordinator == "c2"
        )
        assert (report.live, report.healthy) == (True, False)
        assert report.why == "no answer within 0.2 s"
        await go_on(cluster, "c2")
        await until(lambda: healthy(cluster.router, "c2"), deadline_s=3.0)
        assert (await crowd.join(3))["c2"] == 3

    on_cluster(scenario, settings=FIVE)


def test_rise_and_fall_are_counted_in_probes() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await pass_time(2.0)
        probes: list[str] = []
        cluster.world.on_publish(
            lambda node, subject, *rest: (
                probes.append(subject) if ".c2.health." in subject else None
            )
        )
        await hang(cluster, "c2")
        await until(lambda: not healthy(cluster.router, "c2"))
        assert len(probes) == 3
        await go_on(cluster, "c2")
        await until(lambda: healthy(cluster.router, "c2"))
        assert len(probes) == 3 + 2

    settings = changed(
        SETTINGS,
        health_check_interval_ms=500,
        health_check_timeout_ms=200,
        health_check_rise=2,
        health_check_fall=3,
    )
    on_cluster(scenario, settings=settings)


def test_a_coordinator_that_is_about_to_leave_says_so_to_probes() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        bus = cluster.world.connect("you")
        pulse = await cluster.ask(bus, "swarm.coordinator.c1.health.you", {})
        assert pulse["ready"] is True
        cluster.coordinators["c1"].draining = True
        pulse = await cluster.ask(bus, "swarm.coordinator.c1.health.you", {"router": "r9"})
        assert pulse["ready"] is False
        assert pulse["why"] == "it is about to leave"

    on_cluster(scenario)


def test_an_earlier_version_that_does_not_know_probes_is_healthy() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        for coordinator in cluster.coordinators.values():
            coordinator._handlers["health"] = _unknown_verb
        await pass_time(5.0)
        assert healthy(cluster.router, "c1")
        seen = cluster.router.report().coordinators
        assert all(one.response_s > 0 for one in seen), "it has answered"

    on_cluster(scenario, settings=changed(SETTINGS, health_check_interval_ms=5000))


def _unknown_verb(*_: object) -> None:
    raise Refusal("bad_request", "unknown verb 'health'; a coordinator knows submit, attach")


def test_the_time_of_an_answer_is_told_finely_unless_the_clock_is_set() -> None:
    loop, wall = [5.0], [1000.0]
    stopwatch = Stopwatch(lambda: loop[0], lambda: wall[0])
    wall[0] += 0.0004
    assert stopwatch.took_s() == pytest.approx(0.0004), "the loop's clock stands still"
    loop[0] += 0.003
    wall[0] += 0.0024
    assert stopwatch.took_s() == pytest.approx(0.0028)
    wall[0] += 3600.0
    assert stopwatch.took_s() == pytest.approx(0.003)
    wall[0] -= 7200.0
    assert stopwatch.took_s() == pytest.approx(0.003)


# --- strategies: one slow, one loaded, one dead, one that joins --------------------------------


async def mixed(cluster: Cluster) -> Crowd:
    """c1 ordinary, c2 slow, c3 loaded with 60 agents, c4 dead; c5 has not come yet."""
    await cluster.start("c3", owned=0)
    await until(cluster.router.live)
    crowd = Crowd(cluster)
    await crowd.join(60)
    for name in ("c1", "c2", "c4"):
        await cluster.start_coordinator(name)
    await crash(cluster, "c4")
    cluster.world.slow("c2", 0.01, 1000)
    # Slow start is over, and everybody was asked some times.
    await pass_time(4.0)
    return crowd


def test_least_connections_fills_up_whoever_has_fewest() -> None:
    async def scenario(cluster: Cluster) -> None:
        crowd = await mixed(cluster)
        joined = await crowd.join(40)
        assert joined == {"c1": 20, "c2": 20, "c3": 0}
        await cluster.start_coordinator("c5")
        await pass_time(1.0)
        assert (await crowd.join(10))["c5"] == 10

    on_cluster(scenario, settings=changed(FIVE, slow_start_s=0.0))


def test_round_robin_goes_round_whatever_the_load() -> None:
    async def scenario(cluster: Cluster) -> None:
        crowd = await mixed(cluster)
        assert set((await crowd.join(39)).values()) == {13}
        await cluster.start_coordinator("c5")
        await pass_time(1.0)
        assert set((await crowd.join(40)).values()) == {10}

    on_cluster(scenario, settings=changed(FIVE, lb_strategy="round_robin"))


def test_response_time_spares_the_slow_one() -> None:
    async def scenario(cluster: Cluster) -> None:
        crowd = await mixed(cluster)
        seen = {one.coordinator: one for one in cluster.router.report().coordinators}
        assert seen["c2"].response_s > 0.008 > 5 * seen["c1"].response_s
        joined = await crowd.join(40)
        assert joined["c1"] >= 32
        assert joined["c2"] <= 8
        assert joined["c3"] == 0, "it is as fast, and has sixty"

    settings = changed(FIVE, lb_strategy="response_time", slow_start_s=0.0)
    on_cluster(scenario, settings=settings)


@pytest.mark.parametrize("strategy", ["least_connections", "response_time", "round_robin"])
def test_a_newcomer_is_not_stampeded_and_fills_up_in_time(strategy: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2", owned=0)
        await until(lambda: len(cluster.router.live()) == 2)
        crowd = Crowd(cluster)
        await crowd.join(80)
        await pass_time(3.0)
        await cluster.start_coordinator("c5")
        await until(lambda: len(cluster.router.live()) == 3)
        joined = await crowd.join(30)
        assert joined["c5"] <= 14, "its turn, and little more"
        if strategy == "round_robin":
            return
        for _ in range(40):
            await pass_time(0.5)
            await crowd.join(2)
        attached = crowd.attached()
        assert max(attached.values()) - min(attached.values()) <= 2

    on_cluster(scenario, settings=changed(FIVE, lb_strategy=strategy, slow_start_s=8.0))


# --- several routers ---------------------------------------------------------------------------


@pytest.mark.parametrize("routers", [1, 3])
def test_a_thousand_agents_that_join_at_once_are_attached_evenly(routers: int) -> None:
    async def scenario(cluster: Cluster) -> None:
        others = [
            Router(cluster.world.connect(f"r{n}"), FIVE, cluster.map, cluster.runtime(20 + n))
            for n in range(2, routers + 1)
        ]
        for router in others:
            await router.start()
        await cluster.start(*FIVE.coordinators)
        await pass_time(1.0)
        live = {beat.coordinator: beat for beat in cluster.router.live()}
        assert cluster.router.routing.balancer.routers(live) == routers
        joined = await Crowd(cluster).join(1000)
        assert sum(joined.values()) == 1000
        assert max(joined.values()) - min(joined.values()) <= routers
        for router in others:
            await router.stop()

    on_cluster(scenario, settings=FIVE)


def test_every_router_tells_what_it_has_chosen() -> None:
    rules = changed(SETTINGS, routing_enabled=True, routing_rules="build -> c2\nt* -> c1, c2")

    async def scenario(cluster: Cluster) -> None:
        second = Router(cluster.world.connect("r2"), rules, cluster.map, cluster.runtime(9))
        await second.start()
        await cluster.start("c1", "c2")
        await cluster.swarm.submit_many([{"work_type": "build"}] * 5)
        for work_type in ("test", "test", "other"):
            await cluster.swarm.submit(work_type)
        routed = await cluster.swarm.routes()
        assert len(routed.routers) == 2
        assert (routed.versions, routed.enabled, routed.key) == ([0], True, "work_type")
        assert {rule.pattern: rule.matched for rule in routed.rules} == {"build": 1, "t*": 2}
        assert routed.unmatched == 1
        assert sum(one.submissions for one in routed.coordinators) == 4
        await crash(cluster, "c2")
        await until(lambda: len(cluster.router.live()) == len(second.live()) == 1)
        await cluster.swarm.submit("build")
        after = await cluster.swarm.routes()
        # The client has asked again until the shards of c2 were taken over.
        fallbacks = after.rules[0].fallbacks
        assert fallbacks >= 1
        assert after.rules[0].matched == 1 + fallbacks
        assert after.rules[0].to == {"c1": fallbacks, "c2": 1}
        assert not next(one for one in after.coordinators if one.coordinator == "c2").live
        await second.stop()

    on_cluster(scenario, settings=rules)


def test_without_a_router_nobody_tells() -> None:
    async def scenario(cluster: Cluster) -> None:
        with pytest.raises(Refusal, match="no router answered"):
            await cluster.swarm.routes()

    on_cluster(scenario)


# --- what submissions are routed by --------------------------------------------------------------


def by(key: str, rules: str) -> Settings:
    return changed(SETTINGS, routing_enabled=True, routing_key=key, routing_rules=rules)


async def went_to(cluster: Cluster, **fields: Any) -> str:
    """Where the submission of this item goes."""
    before = dict(cluster.router.forwarded)
    await cluster.swarm.submit("build", **fields)
    after = cluster.router.forwarded
    (name,) = [name for name, count in after.items() if count > before.get(name, 0)]
    return name


@pytest.mark.parametrize(
    ("key", "rules", "one", "other"),
    [
        ("priority", "high -> c2\n* -> c1", {"priority": "high"}, {"priority": "low"}),
        ("priority", "medium -> c2\n* -> c1", {}, {"priority": "low"}),
        ("team", "Core Team -> c2\n* -> c1", {"team": "Core Team"}, {"team": "other"}),
        ("label", "re,gion=e* -> c2\n* -> c1", {"labels": {"a": "1", "re,gion": "eu"}}, {}),
    ],
)
def test_submissions_are_routed_by_what_their_items_say(
    key: str, rules: str, one: dict[str, Any], other: dict[str, Any]
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        assert [await went_to(cluster, **one) for _ in range(3)] == ["c2"] * 3
        assert [await went_to(cluster, **other) for _ in range(3)] == ["c1"] * 3

    on_cluster(scenario, settings=by(key, rules))


def test_a_batch_of_different_items_goes_where_the_rest_goes_and_is_accepted() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        mixed_items = [NewItem("a", priority="high"), NewItem("b", team="x"), NewItem("a")]
        handles = await cluster.swarm.submit_many(mixed_items)
        assert len([one for one in handles if not isinstance(one, Exception)]) == 3
        assert cluster.router.forwarded == {"c1": 1}

    on_cluster(scenario, settings=by("priority", "high -> c2\nmedium -> c2\n* -> c1"))


@pytest.mark.parametrize(
    ("subject", "headers", "named"),
    [
        ("swarm.submit.test.you", {}, "work_type is 'build'"),
        ("swarm.submit.build.you", {"Swarm-Priority": "high"}, "priority is 'medium'"),
        ("swarm.submit.build.you", {"Swarm-Team": "core"}, "team is 'x'"),
        ("swarm.submit.build.you", {"Swarm-Label": "a=1"}, "label is ''"),
    ],
)
def test_headers_that_contradict_the_items_are_refused(
    subject: str, headers: dict[str, str], named: str
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        bus = cluster.world.connect("you")
        body = msgspec.json.encode(
            {"items": [{"work_type": "build", "team": "x"}, {"work_type": "build", "team": "x"}]}
        )
        reply = await bus.request(subject, body, 2.0, headers)
        error = msgspec.json.decode(reply.data)["error"]
        assert error["code"] == "bad_request"
        assert error["retry"] is False
        assert "item 0" in error["message"]
        assert named in error["message"]
        assert [item async for item in cluster.swarm.list()] == [], "nothing of it was stored"

    on_cluster(scenario, settings=by("work_type", "* -> c1"))


def test_plain_submissions_travel_without_headers() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        seen: list[Any] = []
        cluster.world.on_publish(
            lambda node, subject, data, reply, headers: (
                seen.append(headers) if "submit" in subject else None
            )
        )
        await cluster.swarm.submit("build")
        assert seen
        assert not any(seen), "neither client nor router adds any: they cost time"

    on_cluster(scenario)


# --- rules of a live swarm ---------------------------------------------------------------------


def acting(**fields: Any) -> Settings:
    return changed(SETTINGS, routing_enabled=True, **fields)


async def known(cluster: Cluster, version: int) -> None:
    await until(lambda: cluster.router.routing.version == version, deadline_s=3.0)


def test_rules_are_changed_while_the_swarm_runs_and_versions_count_them() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        assert await went_to(cluster) == "c1", "by the settings"
        reply = await cluster.swarm.set_rules("build -> c2:4000")
        assert reply.rules_version == 1
        await known(cluster, 1)
        assert await went_to(cluster) == "c2"
        report = cluster.router.report()
        assert (report.version, report.by) == (1, "me")
        assert report.at > 0
        assert [rule.matched for rule in report.rules] == [2], "the count of a rule goes on"
        assert (await cluster.swarm.set_rules("high -> c2", key="priority")).rules_version == 2
        await known(cluster, 2)
        assert cluster.router.report().key == "priority"
        assert await went_to(cluster, priority="high") == "c2"
        await cluster.swarm.set_rules("")
        await known(cluster, 3)
        assert cluster.router.report().rules == []

    on_cluster(scenario, settings=acting(routing_rules="build -> c1"))


@pytest.mark.parametrize(
    ("text", "key", "named"),
    [
        ("build -> c2\ntest -> c9", "", "line 2: 'c9' is no coordinator of this swarm"),
        ("build -> c2\nbuild -> c1", "", "line 2: a second rule for 'build'"),
        ("a -> @b\nb -> @a", "", "in a circle"),
        ("build c2", "", "line 1"),
        ("urgent -> c1", "priority", "'urgent' is no priority"),
        ("build -> c2", "colour", "allowed: work_type, priority, team, label"),
    ],
)
def test_wrong_rules_are_refused_as_a_whole_and_the_old_ones_stay(
    text: str, key: str, named: str
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await cluster.swarm.set_rules("build -> c1")
        await known(cluster, 1)
        with pytest.raises(Refusal) as caught:
            await cluster.swarm.set_rules(text, key=key)
        assert caught.value.code == "bad_request"
        assert named in caught.value.message
        view = await cluster.swarm.cluster()
        assert (view.rules.version, view.rules.text) == (1, "build -> c1")
        assert [await went_to(cluster) for _ in range(3)] == ["c1"] * 3

    on_cluster(scenario, settings=acting())


def test_a_key_that_is_not_said_is_that_of_the_settings() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await cluster.swarm.set_rules("core -> c2")
        await known(cluster, 1)
        assert cluster.router.report().key == "team"
        assert await went_to(cluster, team="core") == "c2"

    on_cluster(scenario, settings=acting(routing_key="team"))


def test_a_router_that_starts_later_has_the_rules_a_moment_later() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await cluster.swarm.set_rules("build -> c2")
        late = Router(cluster.world.connect("r2"), acting(), cluster.map, cluster.runtime(9))
        await late.start()
        await until(lambda: late.routing.version == 1, deadline_s=2.0)
        routed = await cluster.swarm.routes()
        assert routed.versions == [1]
        await late.stop()

    on_cluster(scenario, settings=acting())


def test_without_routing_enabled_rules_are_kept_and_not_acted_by() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await cluster.swarm.set_rules("build -> c2")
        await pass_time(2.0)
        report = cluster.router.report()
        assert (report.enabled, report.version, report.rules) == (False, 0, [])
        assert (await cluster.swarm.cluster()).rules.version == 1

    on_cluster(scenario)
