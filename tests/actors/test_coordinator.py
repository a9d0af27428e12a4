"""Coordinators and routers: sessions, free slots, failover, and what they refuse."""

from __future__ import annotations

import msgspec

from swarm.actors.router import Router
from swarm.messages import Complete
from tests.actors.cluster import SETTINGS, Cluster, HandAgent, on_cluster, pass_time, until
from tests.actors.test_standby import THREE


def test_a_second_live_process_of_an_agent_id_is_refused_unless_it_takes_over() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        first, second = HandAgent(cluster, "a1", "build"), HandAgent(cluster, "a1", "build")
        await first.attach()
        refused = await second.attach()
        assert refused["error"]["code"] == "agent_id_in_use"
        assert "takeover" in refused["error"]["message"]
        await second.attach(takeover=True)
        await until(lambda: first.controls)
        assert first.controls[0]["kind"] == "superseded"
        await second.next(1)
        handle = await cluster.swarm.submit("build")
        await until(second.assigned)
        assert first.assigned() == []
        assert second.assigned()[0][0] == handle.work_item_id

    on_cluster(scenario)


def test_work_goes_to_a_free_agent_wherever_it_is_attached() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach(concurrency=50)
        await agent.next(50)
        handles = await cluster.swarm.submit_many([{"work_type": "build"}] * 40)
        await until(lambda: len(agent.assigned()) == 40, deadline_s=2.0)
        owners = {handle.work_item_id.split("-")[0] for handle in handles}  # type: ignore[union-attr]
        assert owners == {"0", "1"}

    on_cluster(scenario)


def test_one_item_for_many_idle_agents_causes_few_messages() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agents = [HandAgent(cluster, f"a{number}", "build") for number in range(50)]
        for agent in agents:
            await agent.attach()
            await agent.next(1)
        await pass_time(1.0)
        published: list[str] = []
        cluster.world.on_publish(lambda node, subject, *rest: published.append(subject))
        await cluster.swarm.submit("build")
        await until(lambda: any(agent.assigned() for agent in agents))
        beats = [subject for subject in published if ".beat." in subject]
        assert len(published) - len(beats) < 10

    on_cluster(scenario)


def test_those_who_have_no_free_slot_are_asked_less_and_less_often() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach()
        await agent.next(1)
        await cluster.swarm.submit_many([{"work_type": "build"}] * 20)
        await until(agent.assigned)
        asked: list[str] = []
        cluster.world.on_publish(
            lambda node, subject, *rest: asked.append(subject) if ".borrow." in subject else None
        )
        for _ in range(20):
            # Something happens, so that everybody looks around: its agent is alive.
            await agent.heartbeat(*agent.assigned())
            await pass_time(0.5)
        # Both have ready work and ask each other, each some ten times: once a second in the end.
        assert 10 <= len(asked) <= 30

    on_cluster(scenario)


def test_busy_agents_serve_both_coordinators_in_turn() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach()
        await cluster.swarm.submit_many([{"work_type": "build"}] * 60)
        for number in range(30):
            done = []
            if agent.assigned():
                item, token = agent.assigned()[-1]
                done = [Complete(cluster.runtime(1000 + number).new_id(), item, token)]
            before = len(agent.assigned())
            await agent.next(1, *done)
            await until(lambda: len(agent.assigned()) > before)  # noqa: B023 - awaited here
        shards = [item.split("-")[0] for item, _ in agent.assigned()]
        assert min(shards.count("0"), shards.count("1")) >= 8

    on_cluster(scenario, settings=msgspec.structs.replace(SETTINGS, shard_affinity="none"))


def test_agents_keep_what_they_hold_when_their_coordinator_dies() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach(concurrency=20)
        gone: list[str] = []
        await agent.bus.subscribe("swarm.gone.*", lambda message: gone.append(message.subject))
        await agent.next(20)
        await cluster.swarm.submit_many([{"work_type": "build"}] * 20)
        await until(lambda: len(agent.assigned()) == 20)
        died = cluster.coordinators.pop(agent.coordinator)
        other = next(iter(cluster.coordinators.values()))
        cluster.world.crash(died.name)
        await died.stop()
        await until(lambda: gone == [f"swarm.gone.{died.name}"])
        await agent.attach(session=agent.session)
        assert agent.coordinator == other.name
        await until(lambda: other.owned == [0, 1])
        done = [
            Complete(cluster.runtime(50 + number).new_id(), item, token)
            for number, (item, token) in enumerate(agent.assigned())
        ]
        await agent.next(0, *done)
        await until(lambda: sum(len(work.acks) for work in agent.work) == 20)
        assert all(ack.status == "completed" for work in agent.work for ack in work.acks)

    on_cluster(scenario)


def test_a_coordinator_that_comes_back_takes_nothing_from_a_live_owner() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        cluster.world.partition("c1")
        await until(lambda: cluster.coordinators["c2"].owned == [0, 1])
        cluster.world.heal("c1")
        await until(lambda: cluster.coordinators["c1"].owned == [])
        await pass_time(10.0)
        assert cluster.coordinators["c1"].owned == []
        assert cluster.coordinators["c2"].owned == [0, 1]

    on_cluster(scenario)


def test_without_a_coordinator_the_router_says_so() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.router.start()
        bus = cluster.world.connect("you")
        body = {"items": [{"work_type": "build"}]}
        answer = await cluster.ask(bus, "swarm.submit.build.you", body)
        assert answer["error"]["code"] == "unavailable"
        assert answer["error"]["retry"] is True

    on_cluster(scenario)


def test_rules_route_a_type_to_its_coordinator_and_fall_back_when_it_is_dead() -> None:
    rules = msgspec.structs.replace(
        SETTINGS, routing_enabled=True, routing_rules="build -> c2:4000\ntest -> c1"
    )

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        for _ in range(5):
            await cluster.swarm.submit("build")
        assert _forwarded(cluster.router) == {"c2": 5}
        await cluster.swarm.submit("test")
        assert _forwarded(cluster.router) == {"c1": 1, "c2": 5}
        died = cluster.coordinators.pop("c2")
        cluster.world.crash("c2")
        await died.stop()
        await until(lambda: cluster.coordinators["c1"].owned == [0, 1])
        await cluster.swarm.submit("build")
        assert _forwarded(cluster.router) == {"c1": 2, "c2": 5}

    on_cluster(scenario, settings=rules)


def _forwarded(router: Router) -> dict[str, int]:
    return dict(sorted(router.forwarded.items()))


def test_agents_are_dealt_out_evenly() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agents = [HandAgent(cluster, f"a{number}", "build") for number in range(40)]
        for agent in agents:
            await agent.attach()
        homes = [agent.coordinator for agent in agents]
        assert abs(homes.count("c1") - homes.count("c2")) <= 2

    on_cluster(scenario)


def test_a_batch_with_bad_items_is_accepted_but_for_them() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        bus = cluster.world.connect("you")
        results: dict[int, dict[str, object]] = {}

        def on_reply(data: bytes) -> None:
            for result in msgspec.json.decode(data)["results"]:
                results[result["index"]] = result

        await bus.subscribe("_INBOX.you.*", lambda message: on_reply(message.data))
        items: list[object] = [{"work_type": "build"} for _ in range(200)]
        items[7] = {"work_type": "no good"}
        items[9] = {"work_type": "build", "priority": "urgent"}
        items[11] = {"work_type": "build", "dependencies": ["7-1"]}
        items[13] = 5
        body = msgspec.json.encode({"items": items})
        await bus.publish("swarm.submit.build.you", body, reply="_INBOX.you.1")
        await until(lambda: len(results) == 200)
        errors = {index: result["error"] for index, result in results.items() if "error" in result}
        assert sorted(errors) == [7, 9, 11, 13]
        assert "low" in str(errors[9])
        assert "shards 0 to 1" in str(errors[11])
        listed = [item async for item in cluster.swarm.list()]
        assert len(listed) == 196

    on_cluster(scenario)


def test_a_beat_that_comes_back_late_proves_nothing() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        presence = cluster.coordinators["c1"]._presence
        assert presence.hearing()
        cluster.world.pause("c1", 5.0)
        await pass_time(4.0)
        assert not presence.hearing()
        stale = msgspec.structs.replace(presence.shown, number=presence.shown.number - 8)
        assert presence.heard(stale), "it is our own"
        assert not presence.hearing(), "but was sent two seconds ago"
        await pass_time(2.0)
        assert presence.hearing()

    on_cluster(scenario)


def test_who_was_stopped_does_not_lend_slots_of_agents_that_have_moved() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2", "c3", owned=3)
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach(concurrency=4)
        await agent.next(4)
        home = agent.coordinator
        await pass_time(1.0)
        cluster.world.pause(home, 3.0)
        await pass_time(1.5)
        # Its agent is told, and goes on elsewhere.
        await agent.attach(session=agent.session)
        assert agent.coordinator != home
        lent: list[str] = []
        cluster.world.on_publish(
            lambda node, subject, *rest: lent.append(subject) if node == home else None
        )
        # Asked for while it was stopped: it reads this first when it wakes up.
        peer = cluster.world.connect("c9")
        for _ in range(3):
            await peer.publish(f"swarm.coordinator.{home}.borrow.c9", b'{"ready":{"build":9}}')
        await pass_time(10.0)
        assert [subject for subject in lent if ".lend." in subject] == []

    on_cluster(scenario, settings=THREE)
