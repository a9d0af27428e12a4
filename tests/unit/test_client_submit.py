"""Submitting against a scripted swarm: retries, partial answers, refusals, batches."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from swarm.bus.memory import MemoryWorld
from swarm.core.ids import is_uuid7
from swarm.errors import BusUnavailable, NoAnswer, Refusal
from swarm.messages import NewItem, SubmitReply, SubmitResult
from swarm.sdk.client import Handle
from swarm.sdk.submitting import BATCH_SIZE, IN_FLIGHT_MAX
from tests.unit.scripted import client, error, refused
from tests.unit.sims import loop_time, pass_time, sim


def accept(body: dict[str, Any], number: int) -> SubmitReply:
    """All of it, in shard 0; the item number is the position."""
    return SubmitReply([SubmitResult(i, f"0-{i + 1}") for i in range(len(body["items"]))])


def ids(outcomes: Any) -> list[str]:
    assert all(isinstance(outcome, Handle) for outcome in outcomes), outcomes
    return [outcome.work_item_id for outcome in outcomes]


def test_one_item_is_submitted() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["submit"] = accept
        handle = await swarm.submit(
            "feature",
            "add a cache",
            payload={"n": 1},
            priority="high",
            team="core",
            labels={"k": "v"},
            story_points=3,
            idempotency_key="once",
            lease_s=60,
        )
        assert handle.work_item_id == "0-1"
        assert repr(handle) == "Handle('0-1')"
        (asked,) = scripted.asked
        assert asked.subject == "swarm.submit.feature.client"
        assert is_uuid7(asked.body["command_id"])
        assert asked.body["items"] == [
            {
                "work_type": "feature",
                "description": "add a cache",
                "priority": "high",
                "team": "core",
                "labels": {"k": "v"},
                "story_points": 3,
                "payload": {"n": 1},
                "idempotency_key": "once",
                "lease_s": 60.0,
            }
        ]

    sim(scenario)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ({"work_type": "a b"}, "bad_request", "letters, digits"),
        ({"work_type": "a", "priority": "urgent"}, "bad_request", "critical, high, medium, low"),
        ({"work_type": "a", "payload": object()}, "bad_request", "the payload"),
        ({"work_type": "a", "payload": "x" * 300_000}, "too_large", "262144"),
        ({"work_type": "a", "story_points": -1}, "bad_request", "story_points"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_sent(
    arguments: dict[str, Any], code: str, message: str
) -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        with pytest.raises(Refusal, match=message) as caught:
            await swarm.submit(**arguments)
        assert caught.value.code == code
        assert not scripted.asked

    sim(scenario)


def test_the_whole_batch_is_sent_again_while_an_item_is_unanswered() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)

        def shard_by_shard(body: dict[str, Any], number: int) -> Any:
            # Shard 1 answers at once, shard 2 only the second time; then shard 1 repeats.
            first = SubmitReply([SubmitResult(0, "1-5"), SubmitResult(2, "1-6")])
            second = SubmitReply([SubmitResult(1, "2-9")])
            return [first] if number == 0 else [first, second]

        scripted.answers["submit"] = shard_by_shard
        items = [{"work_type": work_type} for work_type in ("a", "b", "a")]
        assert ids(await swarm.submit_many(items)) == ["1-5", "2-9", "1-6"]
        first, second = scripted.asked
        assert first.subject == "swarm.submit._.client"
        assert first.body["items"] == second.body["items"]
        assert first.body["command_id"] == second.body["command_id"]
        assert (first.body.get("retry", 0), second.body["retry"]) == (0, 1)
        assert second.at - first.at == pytest.approx(1.0, abs=0.1)

    sim(scenario)


def test_items_are_answered_one_by_one() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)

        def mixed(body: dict[str, Any], number: int) -> SubmitReply:
            conflict = refused("idempotency_conflict")
            return SubmitReply([SubmitResult(1, error=conflict), SubmitResult(0, "0-1")])

        scripted.answers["submit"] = mixed
        items = [{"work_type": "a"}, {"work_type": "?"}, {"work_type": "b"}]
        first, second, third = await swarm.submit_many(items)
        assert isinstance(first, Handle)
        assert isinstance(second, Refusal)
        assert second.code == "bad_request"
        assert isinstance(third, Refusal)
        assert third.code == "idempotency_conflict"
        assert len(scripted.asked[0].body["items"]) == 2

    sim(scenario)


def test_an_item_refused_for_now_is_tried_again_soon() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)

        def later(body: dict[str, Any], number: int) -> SubmitReply:
            if number < 2:
                busy = refused("stale_map", retry=True)
                return SubmitReply([SubmitResult(0, "0-1"), SubmitResult(1, error=busy)])
            # What was answered once is not listened to again.
            return SubmitReply([SubmitResult(0, "0-77"), SubmitResult(1, "0-2")])

        scripted.answers["submit"] = later
        started = loop_time()
        assert ids(await swarm.submit_many([{"work_type": "a"}] * 2)) == ["0-1", "0-2"]
        assert loop_time() - started < 0.5

    sim(scenario)


def test_at_the_deadline_each_item_tells_what_is_known() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)

        def never_all(body: dict[str, Any], number: int) -> SubmitReply:
            busy = refused("unavailable", retry=True)
            return SubmitReply([SubmitResult(0, "0-1"), SubmitResult(1, error=busy)])

        scripted.answers["submit"] = never_all
        first, second, third = await swarm.submit_many([{"work_type": "a"}] * 3, timeout_s=3.5)
        assert isinstance(first, Handle)
        assert isinstance(second, Refusal)
        assert second.code == "unavailable"
        assert isinstance(third, NoAnswer)

    sim(scenario)


def test_a_refusal_of_all_that_may_pass_is_retried() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)

        def late(body: dict[str, Any], number: int) -> Any:
            return accept(body, number) if number == 3 else error("unavailable", retry=True)

        scripted.answers["submit"] = late
        handle = await swarm.submit("a")
        assert handle.work_item_id == "0-1"
        assert len(scripted.asked) == 4

    sim(scenario)


def test_a_final_refusal_of_all_stands_for_each() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["submit"] = lambda body, n: error("too_old")
        outcomes = await swarm.submit_many([{"work_type": "a"}] * 2)
        assert [isinstance(o, Refusal) and o.code for o in outcomes] == ["too_old"] * 2
        with pytest.raises(Refusal, match="too_old"):
            await swarm.submit("a")

    sim(scenario)


def test_silence_raises_for_a_single_item() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        with pytest.raises(NoAnswer, match="not known"):
            await swarm.submit("a", timeout_s=3.5)
        assert [body.get("retry", 0) for body in scripted.bodies("submit")] == [0, 1, 2, 3]

    sim(scenario)


def test_odd_indexes_in_a_reply_are_ignored() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["submit"] = lambda body, n: SubmitReply(
            [SubmitResult(7, "0-7"), SubmitResult(-1, "0-8"), SubmitResult(0, "0-1")]
        )
        assert (await swarm.submit("a")).work_item_id == "0-1"

    sim(scenario)


def test_large_submissions_are_cut_by_count_with_few_under_way() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        items = [{"work_type": "a"}] * (7 * BATCH_SIZE + 3)
        submitting = asyncio.create_task(swarm.submit_many(items))
        await pass_time(0.5)
        # Nobody answers yet: no more than so many are on their way.
        assert len(scripted.asked) == IN_FLIGHT_MAX
        scripted.answers["submit"] = accept
        outcomes = await submitting
        assert len(ids(outcomes)) == 7 * BATCH_SIZE + 3
        assert ids(outcomes)[:2] == ["0-1", "0-2"]
        sizes = {asked.body["command_id"]: len(asked.body["items"]) for asked in scripted.asked}
        assert sorted(sizes.values()) == [3] + [BATCH_SIZE] * 7

    sim(scenario)


def test_no_message_exceeds_half_of_max_payload() -> None:
    async def scenario(world: MemoryWorld) -> None:
        sizes: list[int] = []
        world.on_publish(lambda node, subject, data, reply, headers: sizes.append(len(data)))
        swarm, scripted = await client(world)
        scripted.answers["submit"] = accept
        items = [{"work_type": "a", "payload": "x" * 20_000}] * 60
        assert len(ids(await swarm.submit_many(items))) == 60
        submits = [size for size in sizes if size > 20_000]
        assert len(submits) == 3
        assert max(submits) <= 1024 * 1024 // 2

    sim(scenario)


def test_nothing_to_submit_is_nothing_to_do() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        assert list(await swarm.submit_many([])) == []
        assert not scripted.asked

    sim(scenario)


def test_an_error_in_the_items_stops_what_is_under_way() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)

        def items() -> Iterator[NewItem]:
            for _ in range(BATCH_SIZE + 1):
                yield NewItem("a")
            raise OSError("the file is gone")

        with pytest.raises(OSError, match="the file is gone"):
            await swarm.submit_many(items())
        await pass_time(5.0)
        assert len(scripted.asked) <= 1
        assert not swarm._calls._waiting

    sim(scenario)


def test_a_closed_connection_says_so() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, _ = await client(world)
        await swarm.close()
        with pytest.raises(BusUnavailable, match="closed"):
            await swarm.submit("a")

    sim(scenario)


# --- items that depend on each other --------------------------------------------------------


def in_turn(shard: int = 4) -> Any:
    """Accept everything; numbers go on from batch to batch."""
    given = itertools.count(1)

    def accept(body: dict[str, Any], number: int) -> SubmitReply:
        return SubmitReply(
            [SubmitResult(i, f"{shard}-{next(given)}") for i in range(len(body["items"]))]
        )

    return accept


def test_an_item_follows_those_that_it_depends_on() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["submit"] = in_turn()
        done = await swarm.submit("a")
        handles = await swarm.submit_many(
            [
                {"work_type": "a"},
                {"work_type": "b", "depends_on": [0, done]},
                {"work_type": "c", "depends_on": [1, "9-9", 0]},
                {"work_type": "a", "depends_on": [done]},
                {"work_type": "d", "depends_on": [0]},
            ]
        )
        assert ids(handles) == ["4-2", "4-4", "4-6", "4-3", "4-5"]
        waves = [
            [(one["work_type"], one.get("dependencies")) for one in body["items"]]
            for body in scripted.bodies("submit")[1:]
        ]
        assert waves == [
            [("a", None), ("a", ["4-1"])],
            [("b", ["4-1", "4-2"]), ("d", ["4-2"])],
            [("c", ["9-9", "4-4", "4-2"])],
        ]

    sim(scenario)


def test_what_depends_on_a_refused_item_is_refused_with_the_reason() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["submit"] = in_turn()
        outcomes = await swarm.submit_many(
            [
                {"work_type": "a b"},
                {"work_type": "b", "depends_on": [0]},
                {"work_type": "c", "depends_on": [1]},
                {"work_type": "d"},
                {"work_type": "e", "depends_on": [3]},
            ]
        )
        assert ids([outcomes[3], outcomes[4]]) == ["4-1", "4-2"]
        for position, outcome in enumerate(outcomes[:3]):
            assert isinstance(outcome, Refusal)
            assert outcome.code == "bad_request"
            assert "letters, digits" in outcome.message
            if position:
                assert f"it depends on item {position - 1} of this call" in outcome.message

    sim(scenario)


def test_a_retry_of_a_wave_keeps_its_command_id_and_what_is_unknown_stops_the_next() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        answer = in_turn()
        # The first wave is answered at its second try, the second wave never.
        scripted.answers["submit"] = lambda body, n: answer(body, n) if n == 1 else None
        outcomes = await swarm.submit_many(
            [
                {"work_type": "a"},
                {"work_type": "b", "depends_on": [0]},
                {"work_type": "c", "depends_on": [1]},
            ],
            timeout_s=3.0,
        )
        assert ids(outcomes[:1]) == ["4-1"]
        assert isinstance(outcomes[1], NoAnswer)
        third = outcomes[2]
        assert isinstance(third, Refusal)
        assert (third.code, third.retry) == ("unavailable", True)
        assert "of which it is not known whether it was stored" in third.message
        bodies = scripted.bodies("submit")
        first, again, *later = bodies
        assert (first["command_id"], again["retry"]) == (again["command_id"], 1)
        assert len({body["command_id"] for body in later}) == 1
        assert all(body["items"] == later[0]["items"] for body in later)

    sim(scenario)


def test_all_that_can_be_said_of_an_item() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["submit"] = accept
        await swarm.submit(
            "a",
            max_attempts=5,
            backoff_s=2.5,
            delay_s=60.0,
            deadline=world.time() + 3600.0,
            progress_s=30.0,
            depends_on=["0-9"],
            on_dependency_failure="run",
            story_points=0,
        )
        (item,) = scripted.bodies("submit")[0]["items"]
        now = item.pop("deadline") - 3600.0
        assert item.pop("not_before") == pytest.approx(now + 60.0, abs=1.0)
        assert item == {
            "work_type": "a",
            "max_attempts": 5,
            "backoff_s": 2.5,
            "progress_s": 30.0,
            "dependencies": ["0-9"],
            "on_dependency_failure": "run",
            "story_points": 0,
        }

    sim(scenario)
