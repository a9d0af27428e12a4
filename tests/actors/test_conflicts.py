"""Who disagrees: the logs decide, both sides are kept, and the leader is told of it in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import pytest

from swarm.actors import disagreements
from swarm.actors.disagreements import Disagreements
from swarm.actors.shard_map import agree
from swarm.bus.base import Message
from swarm.core.placement import Placement
from swarm.errors import BadConfig, Refusal
from swarm.messages import (
    Beat,
    ClusterView,
    Conflict,
    ControlReply,
    Priority,
    SetRules,
    TellConflict,
)
from swarm.sdk.client import Swarm
from swarm.subjects import Subjects
from tests.actors.cluster import SETTINGS, Cluster, on_cluster, pass_time, until
from tests.builders import command_id

THREE = msgspec.structs.replace(SETTINGS, coordinators=["c1", "c2", "c3"], standbys=2)


async def seen(cluster: Cluster, kind: str, count: int = 1) -> ClusterView:
    """What the leader shows once it knows of so many conflicts of this kind."""
    deadline = asyncio.get_running_loop().time() + 30.0
    while True:
        view = await cluster.swarm.cluster(timeout_s=20.0)
        if sum(view.conflict_counts.get(kind, {}).values()) >= count:
            return view
        assert asyncio.get_running_loop().time() < deadline, view
        await pass_time(0.1)


async def led(cluster: Cluster) -> str:
    def leaders() -> list[str]:
        return [name for name, one in cluster.coordinators.items() if one.leader.epoch]

    await until(leaders)
    return leaders()[0]


# --- a key with other content ----------------------------------------------------------------


def test_a_key_with_other_content_is_kept_with_both_sides() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        first = await cluster.swarm.submit("build", payload="one", idempotency_key="k")
        with pytest.raises(Refusal):
            await cluster.swarm.submit("build", payload="two", idempotency_key="k")
        view = await seen(cluster, "idempotency")
        (conflict,) = view.conflicts
        assert view.conflict_counts == {"idempotency": {"log": 1}}
        assert conflict.about == "key k"
        assert first.work_item_id in conflict.kept
        assert '"one"' in conflict.kept
        assert '"two"' in conflict.dropped
        owner = next(
            name
            for name, one in cluster.coordinators.items()
            if int(first.work_item_id.split("-")[0]) in one.owned
        )
        assert conflict.by == owner
        kept = bytes((await first.get()).payload)
        assert kept == b'"one"', "the acknowledged one stays"

    on_cluster(scenario)


def test_a_flood_of_them_is_counted_and_told_in_few_messages() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await led(cluster)
        keys = [f"k{number}" for number in range(300)]
        await cluster.swarm.submit_many(
            [{"work_type": "build", "payload": 1, "idempotency_key": key} for key in keys]
        )
        told: list[str] = []
        cluster.world.on_publish(
            lambda node, subject, *rest: told.append(subject) if ".conflict." in subject else None
        )
        for payload in (2, 3):
            await cluster.swarm.submit_many(
                [{"work_type": "build", "payload": payload, "idempotency_key": key} for key in keys]
            )
        began = asyncio.get_running_loop().time()
        view = await seen(cluster, "idempotency", 600)
        took_s = asyncio.get_running_loop().time() - began
        assert view.conflict_counts == {"idempotency": {"log": 600}}
        assert len(told) <= 2 * (took_s + 2), "two coordinators, one a second each"

    on_cluster(scenario)


@pytest.mark.parametrize(("policy", "payload"), [("timestamp", 1), ("priority", 2)])
def test_within_a_submission_the_setting_picks(policy: str, payload: int) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        items = [
            {"work_type": "build", "payload": 1, "idempotency_key": "k", "priority": "low"},
            {"work_type": "build", "payload": 2, "idempotency_key": "k", "priority": "high"},
        ]
        results = await cluster.swarm.submit_many(items)
        (accepted,) = [one for one in results if not isinstance(one, Exception)]
        assert bytes((await accepted.get()).payload) == b"%d" % payload
        view = await seen(cluster, "idempotency")
        assert view.conflict_counts == {"idempotency": {policy: 1}}

    settings = msgspec.structs.replace(SETTINGS, conflict_resolution=policy)
    on_cluster(scenario, settings=settings)


# --- one shard, two owners -------------------------------------------------------------------


def test_of_two_that_open_a_shard_at_once_one_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Placement.candidates

    def selfish(
        self: Placement, shard: int, live: Mapping[str, Beat], me: str = ""
    ) -> Collection[str]:
        return [me] if me else original(self, shard, live)

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2", "c3")
        await cluster.swarm.submit_many([{"work_type": "build"}] * 10)
        await pass_time(3.0)
        monkeypatch.setattr(Placement, "candidates", selfish)
        dead = cluster.coordinators.pop("c1")
        left = dead.owned
        assert left
        cluster.world.crash("c1")
        await dead.stop()
        await until(
            lambda: sorted(s for one in cluster.coordinators.values() for s in one.owned) == [0, 1],
            10.0,
        )
        await pass_time(3.0)
        owners = {shard: name for name, one in cluster.coordinators.items() for shard in one.owned}
        assert sorted(owners) == [0, 1], "each has one"
        workers = [worker for one in cluster.coordinators.values() for worker in one._shards]
        assert {worker.number: worker.epoch for worker in workers if worker.number in left} == (
            dict.fromkeys(left, 2)
        ), "the second one has opened nothing"
        view = await seen(cluster, "opening", len(left))
        for conflict in view.conflicts:
            if conflict.about in [f"shard {shard}" for shard in left]:
                owner = owners[int(conflict.about.split()[1])]
                assert conflict.kept == f"{owner}, epoch 2"
                assert conflict.dropped.endswith(", which came second")
                assert owner not in conflict.dropped
                assert conflict.policy == "log"

    on_cluster(scenario, settings=THREE)


def test_an_owner_that_was_deposed_while_it_lived_is_a_conflict() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await led(cluster)
        await cluster.swarm.submit_many([{"work_type": "build"}] * 10)
        await pass_time(2.0)
        (shard,) = cluster.coordinators["c2"].owned
        # Nobody hears it, and it does not know: it goes on until its next append.
        cluster.world.stall("c2", 3.0)
        await until(lambda: cluster.coordinators["c1"].owned == [0, 1], 10.0)
        view = await seen(cluster, "opening")
        (conflict,) = [one for one in view.conflicts if one.about == f"shard {shard}"]
        assert conflict.kept == "c1, epoch 2"
        assert conflict.dropped == "c2, epoch 1"
        assert conflict.by == "c2"

    on_cluster(scenario)


def test_who_has_opened_a_shard_is_known_by_the_log_before_its_beat_comes() -> None:
    """Otherwise a standby that has read on would depose an owner that lives."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2", "c3")
        await pass_time(3.0)
        (shard,) = [s for s in (0, 1) if s not in cluster.coordinators["c3"].owned][:1]
        owner = next(name for name, one in cluster.coordinators.items() if shard in one.owned)
        others = [one for name, one in cluster.coordinators.items() if name != owner]
        dead = cluster.coordinators.pop(owner)
        cluster.world.crash(owner)
        await dead.stop()
        await until(lambda: any(shard in one.owned for one in others), 5.0)
        (heir,) = [one for one in others if shard in one.owned]
        (late,) = [one for one in others if one is not heir]
        standby = late._shards.standbys.add(shard)
        await standby.reach(1)
        reader = standby.reader
        await reader.catch_up()
        assert reader.state.coordinator == heir.name
        # Its beat has not come yet: as far as `late` knows, the dead one owned it last.
        late._shards._owners[shard] = owner
        for beat in late._presence.live().values():
            beat.owns = [one for one in beat.owns if one != shard]
        assert late._shards._owner(shard) == ""
        assert late._shards._holder(shard, reader) == heir.name
        # An entry of long ago says nothing: the owner would have been heard of by now.
        reader.position.now -= 10.0
        assert late._shards._holder(shard, reader) == ""

    on_cluster(scenario, settings=THREE)


# --- edits that meet -------------------------------------------------------------------------


def edit(cluster: Cluster, number: int, sender: str, priority: Priority) -> Message:
    """An edit of version 1 of the rules; the higher the number, the later it was made."""
    command = SetRules(
        f"build -> c1\n# {sender}",
        command_id(number, cluster.world.time() + number / 1000),
        1,
        priority=priority,
    )
    subject, reply = f"swarm.control.rules.{sender}", f"_INBOX.{sender}.{number}"
    return Message(subject, msgspec.json.encode(command), reply)


@pytest.mark.parametrize(("policy", "winner"), [("timestamp", "bob"), ("priority", "ann")])
def test_edits_that_meet_at_the_leader_go_by_the_setting(policy: str, winner: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        leader = cluster.coordinators[await led(cluster)].leader
        await cluster.swarm.set_rules("build -> c2")
        answers: dict[str, Any] = {}
        for name in ("ann", "bob"):
            await cluster.world.connect(name).subscribe(
                f"_INBOX.{name}.*",
                lambda message, name=name: answers.update(  # type: ignore[misc]
                    {name: msgspec.json.decode(message.data)}
                ),
            )
        leader._on_message(edit(cluster, 1, "ann", "high"))
        leader._on_message(edit(cluster, 2, "bob", "low"))
        await until(lambda: len(answers) == 2)
        (loser,) = {"ann", "bob"} - {winner}
        assert answers[winner]["rules_version"] == 2
        assert answers[loser]["error"]["code"] == "conflict"
        assert f"CONFLICT_RESOLUTION = {policy} has chosen" in answers[loser]["error"]["message"]
        view = await seen(cluster, "rules")
        assert view.rules.by == winner
        (conflict,) = view.conflicts
        assert (conflict.policy, conflict.by) == (policy, loser)
        assert f"# {winner}" in conflict.kept
        assert f"# {loser}" in conflict.dropped

    settings = msgspec.structs.replace(SETTINGS, conflict_resolution=policy)
    on_cluster(scenario, settings=settings)


def test_a_conflict_outlives_its_leader() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        assert await led(cluster) == "c1"
        await cluster.swarm.set_rules("build -> c2")
        await cluster.swarm.set_rules("build -> c1")
        with pytest.raises(Refusal, match="there is version 2"):
            await cluster.swarm.set_rules("test -> c1", based_on=1)
        cluster.world.partition("c1")
        await until(lambda: cluster.coordinators["c2"].leader.epoch == 2, 10.0)
        view = await seen(cluster, "rules")
        assert view.leader == "c2"
        assert view.conflict_counts["rules"] == {"log": 1}

    on_cluster(scenario)


def test_a_great_many_refused_edits_fit_into_the_log() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        leader = cluster.coordinators[await led(cluster)].leader
        await cluster.swarm.set_rules("build -> c2")
        await cluster.swarm.set_rules("build -> c1")
        for number in range(900):
            message = edit(cluster, number, f"s{number}", "low")
            body = msgspec.json.decode(message.data)
            body["text"] = f"# {number} " + "\x01" * 500
            leader._on_message(Message(message.subject, msgspec.json.encode(body), message.reply))
        view = await seen(cluster, "rules", 900)
        assert view.conflict_counts == {"rules": {"log": 900}}
        assert leader.epoch == 1, "it has led all the time"

    on_cluster(scenario)


def test_a_node_whose_settings_differ_does_not_start_and_is_noted() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        await led(cluster)
        bus = cluster.world.connect("c3")
        other = msgspec.structs.replace(cluster.settings, shard_key="work_type")
        await until(lambda: cluster.world.state("map"))
        with pytest.raises(BadConfig, match="SHARD_KEY is work_type here, but hash"):
            await agree(bus, other)
        view = await seen(cluster, "settings")
        (conflict,) = view.conflicts
        assert "SHARD_KEY=hash" in conflict.kept
        assert conflict.dropped.startswith("c3: SHARD_COUNT=2 SHARD_KEY=work_type")
        assert (conflict.policy, conflict.by) == ("log", "c3")

    on_cluster(scenario)


# --- telling the leader ----------------------------------------------------------------------


class Ear:
    """A leader, as far as being told of conflicts goes."""

    def __init__(self, cluster: Cluster) -> None:
        self.bus = cluster.world.connect("ear")
        self.got: list[TellConflict] = []
        #: What it answers, one after another; None: nothing.
        self.answers: list[object] = []

    async def listen(self) -> None:
        await self.bus.subscribe("swarm.control.conflict.*", self._on_told)

    async def _answer(self, reply: str, answer: object) -> None:
        await self.bus.publish(reply, msgspec.json.encode(answer))

    def _on_told(self, message: Message) -> None:
        command = msgspec.json.decode(message.data, type=TellConflict)
        self.got.append(command)
        answer = self.answers.pop(0) if self.answers else ControlReply(command.command_id)
        if answer is not None:
            self.task = asyncio.create_task(self._answer(message.reply, answer))


def with_teller(scenario: Any, **settings: Any) -> None:
    """Run `scenario(cluster, teller, ear)` with a `Disagreements` that tells."""

    async def main(cluster: Cluster) -> None:
        bus = cluster.world.connect("c1")
        teller, ear = Disagreements(bus, Subjects("swarm"), cluster.runtime(7)), Ear(cluster)
        running = asyncio.create_task(teller.run())
        try:
            await scenario(cluster, teller, ear)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    on_cluster(main, **settings)


def note(number: int = 0, side: str = "x") -> Conflict:
    return Conflict("idempotency", f"key {number}", side, side)


def test_it_is_told_with_the_same_id_until_it_is_answered() -> None:
    async def scenario(cluster: Cluster, teller: Disagreements, ear: Ear) -> None:
        teller.note(note())
        await pass_time(5.0)
        assert teller.told == 0, "nobody leads"
        again = {"error": {"code": "overloaded", "message": "later", "retry": True}}
        ear.answers = [None, again]
        await ear.listen()
        teller.note(note())
        await until(lambda: teller.told == 1, 20.0)
        first = [command for command in ear.got if command.command_id == ear.got[0].command_id]
        assert len(first) == 3
        assert [command.retry for command in first] == sorted({one.retry for one in first})
        await until(lambda: teller.told == 2, 20.0)
        assert [one.count for command in ear.got[3:] for one in command.conflicts] == [1]

    with_teller(scenario)


def test_one_that_is_refused_for_good_does_not_hold_up_the_others() -> None:
    async def scenario(cluster: Cluster, teller: Disagreements, ear: Ear) -> None:
        await ear.listen()
        ear.answers = [{"error": {"code": "too_old", "message": "no", "retry": False}}]
        teller.note(note(1))
        await until(lambda: ear.got)
        teller.note(note(2))
        await until(lambda: teller.told == 1, 10.0)
        assert [one.about for command in ear.got for one in command.conflicts] == ["key 1", "key 2"]

    with_teller(scenario)


def test_at_most_one_message_a_second_leaves_and_none_is_too_large() -> None:
    async def scenario(cluster: Cluster, teller: Disagreements, ear: Ear) -> None:
        await ear.listen()
        sizes: list[int] = []
        cluster.world.on_publish(
            lambda node, subject, data, *rest: (
                sizes.append(len(data)) if ".conflict." in subject else None
            )
        )
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(50):
            teller.note(note(number, "\x01" * 1000))
        await until(lambda: teller.told == 50, 60.0)
        took_s = loop.time() - began
        assert len(sizes) <= took_s / disagreements.TELL_S + 1
        assert max(sizes) <= 128 * 1024 // disagreements.REQUEST_PART
        told = [one.about for command in ear.got for one in command.conflicts]
        assert sorted(told) == sorted(f"key {number}" for number in range(50))

    with_teller(scenario, max_payload=128 * 1024)


def test_a_client_may_tell_of_several() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        swarm: Swarm = cluster.swarm
        await swarm.tell_conflict(note(1), note(2))
        view = await seen(cluster, "idempotency", 2)
        assert [one.about for one in view.conflicts] == ["key 1", "key 2"]

    on_cluster(scenario)
