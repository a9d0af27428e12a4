"""The owner of a shard: answers only what is durable and true, and says what it refuses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from swarm.core.leases import UNLISTED_RELEASE
from swarm.errors import Refusal, SwarmError, WorkCancelled, WorkFailed
from swarm.messages import Complete
from tests.actors.cluster import SETTINGS, Cluster, HandAgent, on_cluster, pass_time, until

ONE_SHARD = msgspec.structs.replace(SETTINGS, shard_count=1, coordinators=["c1", "c2"])


def test_an_item_from_submit_to_result() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach()
        await agent.next(1)
        handle = await cluster.swarm.submit("build", payload={"n": 1})
        await until(agent.assigned)
        [(item, token)] = agent.assigned()
        assert item == handle.work_item_id
        command = Complete(cluster.runtime(9).new_id(), item, token, msgspec.Raw(b'{"ok":true}'))
        await agent.next(0, command)
        assert await handle.result(timeout=5) == {"ok": True}
        seen = await handle.get()
        assert (seen.status, seen.agent_id, seen.attempt) == ("completed", "a1", 1)

    on_cluster(scenario)


def test_a_reply_subject_that_is_no_inbox_of_the_sender_is_dropped_and_counted() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        bus = cluster.world.connect("mallory")
        before = len(cluster.world.log_entries("swarmlog.0"))
        for reply in ("swarmlog.0", "_INBOX.me.x", "_INBOX.mallory.", "swarm.agent.a.b.work"):
            await bus.publish("swarm.shard.0.stats.mallory", b"{}", reply=reply)
            await bus.publish("swarm.submit.build.mallory", b'{"items":[{}]}', reply=reply)
            await bus.publish("swarm.coordinator.c1.submit.mallory", b"{}", reply=reply)
        await pass_time(1.0)
        assert len(cluster.world.log_entries("swarmlog.0")) == before
        worker = next(w for c in cluster.coordinators.values() for w in c._shards if w.number == 0)
        assert worker.bad_replies == 4
        assert cluster.router.bad_replies == 4
        assert cluster.coordinators["c1"].bad_replies == 4

    on_cluster(scenario)


@pytest.mark.parametrize(
    ("verb", "body", "code", "says"),
    [
        ("get", b'{"work_item_id":"0-99"}', "unknown_item", "0-99"),
        ("get", b'{"work_item_id":"1-1"}', "bad_request", "shard 1"),
        ("get", b'{"work_item_id":"x"}', "bad_request", "3-17"),
        ("get", b"{", "bad_request", "JSON"),
        ("get", b"{}", "bad_request", "work_item_id"),
        ("list", b'{"status":"lost"}', "bad_request", "queued"),
        ("frob", b"{}", "bad_request", "complete"),
        ("claim", b'{"command_id":"1","work_types":["a"]}', "bad_request", "UUIDv7"),
        ("complete", b'{"command_id":"1","work_item_id":"0-9","token":"x"}', "unknown_item", "0-9"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(verb: str, body: bytes, code: str, says: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        bus = cluster.world.connect("you")
        reply = await bus.request(f"swarm.shard.0.{verb}.you", body, 2.0)
        error = msgspec.json.decode(reply.data)["error"]
        assert error["code"] == code
        assert says in error["message"]

    on_cluster(scenario)


def test_foreign_entries_are_skipped_and_counted() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        for data in (b"{}", b"not json", b'{"type":"io.nats.unknown"}'):
            cluster.world.inject("swarmlog.0", data)
        handles = [await cluster.swarm.submit("build") for _ in range(8)]
        stats = {one.shard: one for one in await _stats(cluster)}
        assert stats[0].foreign == 3
        assert sum(one.submitted for one in stats.values()) == len(handles)

    on_cluster(scenario)


async def _stats(cluster: Cluster) -> list[Any]:
    return list((await cluster.swarm.stats()).values())


def test_an_entry_of_ours_that_cannot_be_decoded_keeps_the_shard_closed_and_says_where() -> None:
    async def scenario(cluster: Cluster) -> None:
        bus = cluster.world.connect("setup")
        await bus.create_log("swarmlog.0")
        cluster.world.inject("swarmlog.0", b'{"swarm":1,"incarnation":')
        await cluster.start("c1", "c2", owned=1)
        closed = cluster.coordinators["c1"].closed
        await until(lambda: closed)
        assert "entry 1" in closed[0]
        assert "cannot be decoded" in closed[0]
        assert cluster.coordinators["c2"].owned == [1]

    on_cluster(scenario)


def test_a_coordinator_whose_clock_is_off_opens_nothing_and_says_so() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.router.start()
        wrong = await cluster.start_coordinator("c1", wall=lambda: cluster.world.time() + 2.5)
        await until(lambda: wrong.closed)
        assert wrong.owned == []
        assert "clock is 2.5 s off" in wrong.closed[0]

    on_cluster(scenario)


def test_the_time_of_a_log_never_goes_backwards() -> None:
    async def scenario(cluster: Cluster) -> None:
        ahead = await cluster.start_coordinator("c1", wall=lambda: cluster.world.time() + 1.5)
        await until(lambda: ahead.owned == [0])
        cluster.world.crash("c1")
        await ahead.stop()
        second = await cluster.start_coordinator("c2")
        await until(lambda: second.owned == [0])
        times = [
            msgspec.json.decode(e.data)["now"] for e in cluster.world.log_entries("swarmlog.0")
        ]
        assert times == sorted(times)
        assert len(times) >= 2

    on_cluster(scenario, settings=ONE_SHARD)


def test_a_full_mailbox_says_overloaded() -> None:
    settings = msgspec.structs.replace(ONE_SHARD, mailbox_size=10)

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        bus = cluster.world.connect("you")
        cluster.world.faults.append_latency_s = (0.3, 0.3)
        codes: list[str] = []

        def on_reply(data: bytes) -> None:
            codes.append(msgspec.json.decode(data).get("error", {}).get("code", "ok"))

        await bus.subscribe("_INBOX.you.*", lambda message: on_reply(message.data))
        for number in range(40):
            await bus.publish("swarm.shard.0.stats.you", b"", reply=f"_INBOX.you.{number}")
        await until(lambda: len(codes) == 40)
        assert codes.count("overloaded") > 0
        assert codes.count("ok") > 0
        assert codes.count("overloaded") + codes.count("ok") == 40

    on_cluster(scenario, settings=settings)


def test_a_read_alone_is_confirmed_by_an_entry() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await pass_time(0.1)
        before = len(cluster.world.log_entries("swarmlog.0"))
        bus = cluster.world.connect("you")
        answer = await cluster.ask(bus, "swarm.shard.0.stats.you", {})
        after = len(cluster.world.log_entries("swarmlog.0"))
        assert after == before + 1 == answer["as_of"]

    on_cluster(scenario)


def test_a_deposed_owner_that_does_not_know_it_answers_nothing() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        owner = next(c for c in cluster.coordinators.values() if 0 in c.owned)
        other = next(c for c in cluster.coordinators.values() if 0 not in c.owned)
        answers: list[str] = []
        cluster.world.on_publish(
            lambda node, subject, data, reply, headers: (
                answers.append(node) if subject.startswith("_INBOX.you.") else None
            )
        )
        cluster.world.partition(owner.name)
        await until(lambda: 0 in other.owned)
        # Still an owner in its own eyes; a request of before the partition reaches it.
        worker = next(w for w in owner._shards if w.number == 0)
        cluster.world.heal(owner.name)
        await cluster.world.connect("you").publish(
            "swarm.shard.0.stats.you", b"", reply="_INBOX.you.1"
        )
        await until(lambda: 0 not in owner.owned)
        assert answers == [other.name]
        assert not worker.running

    on_cluster(scenario)


def test_leases_lapse_and_restart_after_trouble() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach()
        await agent.next(1)
        handle = await cluster.swarm.submit("build")
        await until(agent.assigned)
        # The whole bus is in trouble for longer than the lease: nobody is charged.
        for name in ("c1", "c2"):
            cluster.world.partition(name)
        await pass_time(SETTINGS.lease_s * 2)
        for name in ("c1", "c2"):
            cluster.world.heal(name)
        await pass_time(SETTINGS.lease_s / 2)
        assert (await handle.get()).status == "claimed"
        # It stays silent: it may not have found its way back, and is not charged either.
        await pass_time(SETTINGS.lease_s * 1.5)
        seen = await handle.get()
        assert (seen.status, seen.attempt, seen.deaths) == ("queued", 0, 0)
        # Heard of, and then silent while the bus is well: queued again, and charged.
        await agent.attach(session=agent.session)
        await agent.next(1)
        await until(lambda: len(agent.assigned()) == 2)
        await agent.heartbeat(agent.assigned()[1])
        await pass_time(SETTINGS.lease_s * 1.5)
        seen = await handle.get()
        assert (seen.status, seen.attempt, seen.deaths) == ("queued", 1, 1)
        assert [attempt.how for attempt in seen.history] == ["lapsed"]

    on_cluster(scenario)


def test_an_assignment_that_got_lost_is_sent_again_then_given_up() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach()
        await agent.next(1)
        handle = await cluster.swarm.submit("build")
        await until(agent.assigned)
        for _ in range(UNLISTED_RELEASE - 1):
            await agent.heartbeat()
            await pass_time(SETTINGS.heartbeat_s)
        assert len(agent.assigned()) == 2
        assert len(set(agent.assigned())) == 1
        await agent.heartbeat()
        await pass_time(0.1)
        seen = await handle.get()
        assert (seen.status, seen.attempt) == ("queued", 0)
        # Listed now, it is held no more: the agent is told.
        await agent.heartbeat(*set(agent.assigned()))
        await until(lambda: agent.controls)
        assert agent.controls[0]["kind"] == "stop"

    on_cluster(scenario)


def test_whoever_waits_for_a_result_is_answered_in_time() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        handle = (await cluster.swarm.submit_many([{"work_type": "build", "max_attempts": 1}]))[0]
        assert not isinstance(handle, SwarmError)
        with pytest.raises(TimeoutError):
            await handle.result(timeout=1.0)
        claimed = await cluster.swarm.claim(["build"])
        assert claimed is not None
        failed = await cluster.swarm.fail(claimed.work_item_id, claimed.token, "no luck")
        assert failed.status == "dead", "of one attempt"
        with pytest.raises(WorkFailed, match="no luck"):
            await handle.result(timeout=1.0)

    on_cluster(scenario)


def test_an_item_too_large_is_refused_before_it_can_hurt() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        with pytest.raises(Refusal, match="too_large"):
            await cluster.swarm.submit("build", payload="x" * 20_000)
        bus = cluster.world.connect("you")
        item = {"work_type": "build", "payload": "x" * 20_000}
        answer = await cluster.ask(bus, "swarm.submit.build.you", {"items": [item]})
        assert answer["results"][0]["error"]["code"] == "too_large"
        claimed_item = await cluster.swarm.submit("build", payload="x" * 10_000)
        claimed = await cluster.swarm.claim(["build"])
        assert claimed is not None
        with pytest.raises(Refusal, match="too_large"):
            await cluster.swarm.complete(claimed.work_item_id, claimed.token, "y" * 10_000)
        assert (await claimed_item.get()).status == "claimed"

    on_cluster(scenario, max_payload=65_536)


def test_full_entries_are_split_and_nothing_is_lost() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        items = [{"work_type": "build", "payload": "x" * 7_000} for _ in range(300)]
        outcomes = await cluster.swarm.submit_many(items, timeout_s=60.0)
        assert len({outcome.work_item_id for outcome in outcomes}) == 300  # type: ignore[union-attr]
        agents = [HandAgent(cluster, f"a{number}", "build") for number in range(3)]
        for agent in agents:
            await agent.attach(concurrency=100)
            await agent.next(100)
        await until(lambda: sum(len(agent.assigned()) for agent in agents) == 300)
        sizes = [len(e.data) for n in (0, 1) for e in cluster.world.log_entries(f"swarmlog.{n}")]
        assert max(sizes) <= 65_536

    on_cluster(scenario, max_payload=65_536)


def test_a_bug_in_a_round_closes_the_shard_rather_than_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        owner = next(c for c in cluster.coordinators.values() if 0 in c.owned)

        def fail(*_: object) -> None:
            raise ValueError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr("swarm.core.read.stats", fail)
            bus = cluster.world.connect("you")
            await bus.publish("swarm.shard.0.stats.you", b"", reply="_INBOX.you.1")
            await until(lambda: 0 in owner.closed)
        assert "a bug" in owner.closed[0]
        # The log knows better: it is opened again, by another one first.
        other = next(c for c in cluster.coordinators.values() if c is not owner)
        await until(lambda: 0 in other.owned)
        await until(lambda: 0 not in owner.closed)
        assert 0 not in owner.owned

    on_cluster(scenario)


def test_a_complete_that_waits_beyond_the_grace_time_does_not_count() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach()
        await agent.next(1)
        handle = await cluster.swarm.submit("build")
        await until(agent.assigned)
        [(item, token)] = agent.assigned()
        assert (await handle.cancel(grace_s=1.0)).status == "claimed"
        worker = next(w for c in cluster.coordinators.values() for w in c._shards)
        async with worker.turn:  # as an owner that was stopped, or has to open the shard first
            await agent.next(0, Complete(cluster.runtime(9).new_id(), item, token))
            await pass_time(2.0)
        with pytest.raises(WorkCancelled):
            await handle.result(timeout=5)
        await until(lambda: any(work.acks for work in agent.work))
        [ack] = [ack for work in agent.work for ack in work.acks]
        assert ack.error is not None
        assert ack.error.code == "already_finished"

    on_cluster(scenario, settings=msgspec.structs.replace(ONE_SHARD, lease_s=30.0))


def test_an_item_that_comes_after_its_deadline_is_not_handed_out() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach()
        await agent.next(1)
        handle = await cluster.swarm.submit("build", deadline=cluster.world.time() - 1.0)
        with pytest.raises(WorkFailed, match="deadline"):
            await handle.result(timeout=5)
        assert agent.assigned() == []

    on_cluster(scenario, settings=ONE_SHARD)


def test_a_group_is_no_larger_than_a_batch() -> None:
    """Half of what waits may be more than `BATCH_SIZE`."""
    agents, most = 100, 30

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach(concurrency=agents)
        await cluster.swarm.submit_many([{"work_type": "build"}] * agents)
        await agent.next(agents)
        await until(lambda: len(agent.assigned()) == agents)
        await pass_time(0.02)
        (worker,) = (w for c in cluster.coordinators.values() for w in c._shards)
        # It has waited for its agents much longer than for its log.
        worker._grouping.agents_s, worker._grouping.log_s = 0.002, 0.0
        ids = cluster.runtime(1000)
        await agent.next(0, *(Complete(ids.new_id(), *one) for one in agent.assigned()))
        await until(lambda: sum(len(work.acks) for work in agent.work) == agents)
        assert [len(work.acks) for work in agent.work if work.acks] == [30, 30, 30, 10]

    on_cluster(scenario, settings=msgspec.structs.replace(ONE_SHARD, batch_size=most))


def test_agents_that_all_come_back_together_are_served_in_two_groups() -> None:
    """And each half of them with as many new items as it has completed."""
    agents = 100

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        agent = HandAgent(cluster, "a1", "build")
        await agent.attach(concurrency=agents)
        await cluster.swarm.submit_many([{"work_type": "build"}] * 40 * agents)
        await agent.next(agents)
        halved: list[int] = []
        for turn in range(30):
            await until(lambda: len(agent.assigned()) == (turn + 1) * agents)  # noqa: B023
            # At work: the shard has nothing to do meanwhile.
            await pass_time(0.02)
            before = len(agent.work)
            mine = agent.assigned()[turn * agents :]
            ids = cluster.runtime(1000 + turn)
            await agent.next(agents, *(Complete(ids.new_id(), *one) for one in mine))
            await until(lambda: len(agent.assigned()) == (turn + 2) * agents)  # noqa: B023
            parts = [(len(work.acks), len(work.items)) for work in agent.work[before:]]
            assert parts in ([(100, 100)], [(50, 50), (50, 50)])
            halved.append(len(parts) == 2)
        assert not halved[0], "nothing is known of this shard's waits"
        # Halving them makes the shard wait less for its agents, and then it is not worth it.
        assert 5 < sum(halved) < 25
        assert all(not ack.error for work in agent.work for ack in work.acks)

    on_cluster(scenario, settings=ONE_SHARD)
