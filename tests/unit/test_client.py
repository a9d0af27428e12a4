"""The client against a scripted swarm: results, listings, stats, claims, item commands."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from swarm.bus.memory import MemoryWorld
from swarm.core.ids import is_uuid7
from swarm.errors import BadInput, NoAnswer, Refusal, WorkCancelled, WorkFailed
from swarm.messages import (
    ENDED,
    Ack,
    Attempt,
    Beat,
    Dependency,
    Description,
    ItemPage,
    ShardMap,
    ShardStats,
    Status,
    WorkItem,
)
from swarm.sdk.client import Handle, Swarm
from swarm.sdk.looking import PAGE_ITEMS
from swarm.sdk.results import POLL_S
from tests.unit.scripted import Scripted, assignment, client, error
from tests.unit.sims import loop_time, pass_time, sim


def item(status: Status = "queued", **fields: Any) -> WorkItem:
    finished_at = 1.0 if status in ENDED else 0.0
    return WorkItem("3-17", "feature", status, "medium", 1.0, finished_at=finished_at, **fields)


def described(*beats: Beat, shard_count: int = 4) -> Description:
    names = [beat.coordinator for beat in beats]
    shard_map = ShardMap(1, shard_count, "hash", "consistent_hash", names)
    return Description("swarm", 1, shard_map, list(beats))


def beat(name: str, owns: list[int], **ready: int) -> Beat:
    return Beat(name, "i", 1, 1, owns=owns, ready=ready)


# --- results -------------------------------------------------------------------------


def test_the_result_of_a_finished_item_comes_at_once() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["get"] = lambda body, n: item("completed", result=Raw(b'{"n":[1]}'))
        assert await Handle(swarm, "3-17").result(timeout=5) == {"n": [1]}
        assert scripted.asked[0].subject == "swarm.shard.3.get.client"
        assert scripted.asked[0].body["work_item_id"] == "3-17"

    sim(scenario)


def test_a_result_is_waited_for_poll_by_poll() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        waits: list[float] = []

        def get(body: dict[str, Any], number: int) -> WorkItem:
            waits.append(body["wait_s"])
            return item("completed", result=Raw(b"7")) if number == 2 else item("claimed")

        scripted.answers["get"] = get
        assert await swarm.result("3-17") == 7
        assert waits == [POLL_S] * 3

    sim(scenario)


def test_an_item_that_died_raises_what_it_died_of() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["get"] = lambda body, n: item("dead", error="ValueError: seven")
        with pytest.raises(WorkFailed, match=r"3-17 is dead: ValueError: seven"):
            await swarm.result("3-17", timeout=5)

    sim(scenario)


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (item("queued"), "it is queued: is there an agent for 'feature'"),
        (
            item("claimed", agent_id="a9", progress=40.0, note="half"),
            r"a9 works on it \(40 % 'half'",
        ),
        (None, "its shard did not answer"),
    ],
)
def test_a_result_that_does_not_come_says_what_it_waits_for(
    seen: WorkItem | None, message: str
) -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        # As an owner does: it answers a waiting get late, a plain one at once.
        scripted.answers["get"] = lambda body, n: None if body.get("wait_s") else seen
        started = loop_time()
        with pytest.raises(TimeoutError, match=message):
            await swarm.result("3-17", timeout=2)
        assert 2.0 <= loop_time() - started <= 2.6

    sim(scenario)


def test_a_result_that_came_in_the_last_moment_counts() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)

        def get(body: dict[str, Any], number: int) -> WorkItem | None:
            return None if body.get("wait_s") else item("completed", result=Raw(b"1"))

        scripted.answers["get"] = get
        assert await swarm.result("3-17", timeout=2) == 1

    sim(scenario)


def test_an_unknown_item_is_not_waited_for() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["get"] = lambda body, n: error("unknown_item")
        with pytest.raises(Refusal, match="unknown_item"):
            await swarm.result("3-99", timeout=5)
        for bad in ("x", "3", "3-0", "3-x", "-1"):
            with pytest.raises(Refusal, match="no work item id"):
                await swarm.result(bad)
            with pytest.raises(Refusal, match="no work item id"):
                await swarm.get(bad)

    sim(scenario)


def test_waiting_without_a_deadline_outlives_a_long_outage() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        waiting = asyncio.create_task(swarm.result("3-17"))
        await pass_time(100.0)
        assert not waiting.done()
        scripted.answers["get"] = lambda body, n: item("completed", result=Raw(b"1"))
        assert await waiting == 1

    sim(scenario)


def test_get_shows_the_item() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["get"] = lambda body, n: item("claimed", progress=5.0)
        assert (await Handle(swarm, "3-17").get()).progress == 5.0
        assert "wait_s" not in scripted.asked[0].body

    sim(scenario)


# --- looking around ------------------------------------------------------------------


def test_a_listing_goes_through_all_pages_of_all_shards() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["describe"] = lambda body, n: described(shard_count=2)
        pages = {
            ("0", 0): ItemPage([item()], after=4),
            ("0", 4): ItemPage([item(), item()]),
            ("1", 0): ItemPage([]),
        }

        def page(body: dict[str, Any], number: int) -> ItemPage:
            shard = scripted.of("list")[-1].subject.split(".")[2]
            return pages[shard, body.get("after", 0)]

        scripted.answers["list"] = page
        found = [found async for found in swarm.list(status="queued", work_type="feature")]
        assert len(found) == 3
        for body in scripted.bodies("list"):
            assert (body["status"], body["work_type"]) == ("queued", "feature")
            assert body["limit"] == PAGE_ITEMS

    sim(scenario)


def test_stats_of_every_shard_or_the_reason_why_not() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["describe"] = lambda body, n: described(shard_count=3)

        def stats(body: dict[str, Any], number: int) -> Any:
            shard = int(scripted.of("stats")[-1].subject.split(".")[2])
            if shard == 1:
                return None
            if shard == 2:
                return error("bad_request")
            return ShardStats(shard, "c1", 1, 9, {"queued": 2}, {"feature": 2}, 2, 0, 0)

        scripted.answers["stats"] = stats
        found = await swarm.stats(timeout_s=2.0)
        assert list(found) == [0, 1, 2]
        assert isinstance(found[0], ShardStats)
        assert isinstance(found[1], NoAnswer)
        assert isinstance(found[2], Refusal)

    sim(scenario)


# --- working without a session -------------------------------------------------------


def claims(scripted: Scripted, ready: dict[int, list[str]]) -> None:
    """Shards answer claims from `ready`: item ids by shard."""

    def claim(body: dict[str, Any], number: int) -> Any:
        shard = int(scripted.of("claim")[-1].subject.split(".")[2])
        if ready.get(shard):
            return assignment(ready[shard].pop(0))
        return error("no_work", retry=True)

    scripted.answers["claim"] = claim


def shards_asked(scripted: Scripted) -> list[int]:
    return [int(asked.subject.split(".")[2]) for asked in scripted.of("claim")]


def test_a_claim_asks_shards_with_ready_work_first() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        beats = [beat("c1", [0, 1], other=3), beat("c2", [2], feature=1)]
        scripted.answers["describe"] = lambda body, n: described(*beats)
        claims(scripted, {2: ["2-5"]})
        found = await swarm.claim(["feature"], lease_s=90)
        assert found is not None
        assert (found.work_item_id, found.token, found.attempt) == ("2-5", "1.n.s1", 1)
        assert shards_asked(scripted) == [2]
        (body,) = scripted.bodies("claim")
        assert (body["work_types"], body["lease_s"]) == (["feature"], 90)

    sim(scenario)


def test_without_news_of_ready_work_every_shard_is_asked_once() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        beats = [beat("c1", [0, 1]), beat("c2", [2, 3])]
        scripted.answers["describe"] = lambda body, n: described(*beats)
        claims(scripted, {})
        assert await swarm.claim(["feature"]) is None
        assert sorted(shards_asked(scripted)) == [0, 1, 2, 3]
        assert len({body["command_id"] for body in scripted.bodies("claim")}) == 4

    sim(scenario)


def test_a_claim_waits_for_work() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        ready: dict[int, list[str]] = {}
        counts: dict[str, int] = {}
        scripted.answers["describe"] = lambda body, n: described(beat("c1", [0, 1], **counts))
        claims(scripted, ready)
        claiming = asyncio.create_task(swarm.claim(["feature"], wait_s=30))
        await pass_time(5.0)
        rounds = len(scripted.of("describe"))
        assert 4 < rounds < 20
        # The shards were only asked once, as nobody says that there is work.
        assert len(scripted.of("claim")) == 2
        ready[1] = ["1-1"]
        counts["feature"] = 1
        found = await claiming
        assert found is not None
        assert found.work_item_id == "1-1"

    sim(scenario)


def test_a_claim_gives_up_after_its_waiting_time() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["describe"] = lambda body, n: described(beat("c1", [0]))
        claims(scripted, {})
        started = loop_time()
        assert await swarm.claim(["feature"], wait_s=3) is None
        assert 3.0 <= loop_time() - started < 3.5

    sim(scenario)


def test_an_unanswered_claim_is_repeated_as_it_was() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["describe"] = lambda body, n: described(beat("c1", [0], feature=1))
        # It was carried out the first time; its answers get lost for a while.
        scripted.answers["claim"] = lambda body, n: assignment("0-1") if n >= 4 else None
        found = await swarm.claim(["feature"], wait_s=20)
        assert found is not None
        bodies = scripted.bodies("claim")
        assert len({body["command_id"] for body in bodies}) == 1
        retries = [body.get("retry", 0) for body in bodies]
        assert retries == sorted(set(retries))

    sim(scenario)


def test_no_other_shard_is_asked_before_a_claim_without_answer_is_known() -> None:
    # A second item from elsewhere, and the first would be held by nobody for a lease.
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        beats = [beat("c1", [0], feature=1), beat("c2", [1], feature=1)]
        scripted.answers["describe"] = lambda body, n: described(*beats)
        grants = {0: "0-1", 1: "1-1"}
        lost: dict[str, int] = {}

        def grant(body: dict[str, Any], _number: int) -> Any:
            shard = shards_asked(scripted)[-1]
            lost[body["command_id"]] = lost.get(body["command_id"], 0) + 1
            return assignment(grants[shard]) if lost[body["command_id"]] > 4 else None

        scripted.answers["claim"] = grant
        started = loop_time()
        found = await swarm.claim(["feature"])
        assert found is not None
        assert set(shards_asked(scripted)) == {int(found.work_item_id[0])}
        assert len(lost) == 1
        assert 4.0 <= loop_time() - started < 6.0

    sim(scenario)


def test_a_shard_that_only_refuses_is_passed_over() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        beats = [beat("c1", [0], feature=1), beat("c2", [1])]
        scripted.answers["describe"] = lambda body, n: described(*beats)

        def answer(_body: dict[str, Any], _number: int) -> Any:
            if shards_asked(scripted)[-1] == 0:
                return error("unavailable", retry=True)
            return assignment("1-1")

        scripted.answers["claim"] = answer
        found = await swarm.claim(["feature"])
        assert found is not None
        assert found.work_item_id == "1-1"

    sim(scenario)


def test_a_refusal_after_a_claim_without_answer_does_not_tell_what_became_of_that() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["describe"] = lambda body, n: described(beat("c1", [0, 1], feature=1))
        started = loop_time()
        scripted.answers["claim"] = lambda body, n: (
            error("unavailable", retry=True) if loop_time() > started + 3.0 else None
        )
        with pytest.raises(NoAnswer, match="may have been claimed there"):
            await swarm.claim(["feature"], timeout_s=8)
        assert 8.0 <= loop_time() - started < 8.5
        assert len({body["command_id"] for body in scripted.bodies("claim")}) == 1

    sim(scenario)


def test_not_every_shard_could_be_asked_in_time() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["describe"] = lambda body, n: described(beat("c1", [0, 1, 2]))
        scripted.answers["claim"] = lambda body, n: error("unavailable", retry=True)
        with pytest.raises(Refusal, match="could be asked in time"):
            await swarm.claim(["feature"], timeout_s=3)

    sim(scenario)


def test_a_claim_without_any_answer_says_what_may_have_happened() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["describe"] = lambda body, n: described(beat("c1", [3], feature=1))
        started = loop_time()
        with pytest.raises(NoAnswer, match=r"shard 3.*lease"):
            await swarm.claim(["feature"], timeout_s=5)
        assert 5.0 <= loop_time() - started < 5.5

    sim(scenario)


def test_a_claim_where_no_shard_has_an_owner_is_refused() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["describe"] = lambda body, n: described()
        with pytest.raises(Refusal, match="no shard has an owner"):
            await swarm.claim(["feature"])

    sim(scenario)


@pytest.mark.parametrize("types", [[], "feature", ["a b"], ["a", "*"]])
def test_a_claim_needs_proper_types(types: Any) -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        with pytest.raises(Refusal) as caught:
            await swarm.claim(types)
        assert caught.value.code == "bad_request"
        assert not scripted.asked

    sim(scenario)


def test_item_commands_show_the_token() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        for verb in ("complete", "fail", "release", "progress", "renew"):
            scripted.answers[verb] = lambda body, n: Ack(status="claimed", lease_s=30.0)
        assert (await swarm.complete("0-1", "t", {"n": 1})).status == "claimed"
        await swarm.fail("0-1", "t", "broken")
        await swarm.release("0-1", "t", "later")
        await swarm.progress("0-1", "t", 40, "half")
        assert (await swarm.renew("0-1", "t")).lease_s == 30.0
        said = {asked.verb: asked.body for asked in scripted.asked}
        assert all(body["token"] == "t" for body in said.values())
        assert said["complete"]["result"] == {"n": 1}
        assert said["fail"]["error"] == "broken"
        assert said["release"]["reason"] == "later"
        assert (said["progress"]["percent"], said["progress"]["note"]) == (40, "half")
        ids = [body["command_id"] for verb, body in said.items() if verb != "renew"]
        assert len(set(ids)) == 4

    sim(scenario)


def test_a_refused_item_command_raises() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["complete"] = lambda body, n: error("not_holder")
        with pytest.raises(Refusal, match="not_holder"):
            await swarm.complete("0-1", "t")
        with pytest.raises(Refusal, match="percent is 101"):
            await swarm.progress("0-1", "t", 101)
        with pytest.raises(Refusal, match="too_large"):
            await swarm.complete("0-1", "t", "x" * 300_000)
        with pytest.raises(Refusal, match="the result cannot be written as JSON"):
            await swarm.complete("0-1", "t", object())
        assert len(scripted.asked) == 1

    sim(scenario)


# --- the connection ------------------------------------------------------------------


def test_a_bad_prefix_is_refused() -> None:
    async def scenario(world: MemoryWorld) -> None:
        with pytest.raises(BadInput, match="prefix"):
            Swarm(world.connect("client"), prefix="a.b")

    sim(scenario)


def test_a_given_bus_stays_open() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("client")
        scripted = await Scripted(world.connect("server"), prefix="other").start()
        scripted.answers["describe"] = lambda body, n: described()
        async with Swarm(bus, prefix="other") as swarm:
            assert (await swarm.describe()).protocol == 1
        await swarm.close()
        await bus.publish("still.open", b"")
        assert scripted.asked[0].subject == "other.describe.client"

    sim(scenario)


def test_the_package_offers_its_public_names() -> None:
    import swarm

    for name in swarm.__all__:
        assert getattr(swarm, name) is not None
    assert swarm.Swarm is Swarm
    with pytest.raises(AttributeError, match="no attribute 'Swurm'"):
        swarm.Swurm  # noqa: B018


def test_importing_the_package_imports_no_more_than_needed() -> None:
    import subprocess
    import sys

    code = (
        "import swarm, sys; print([m for m in ('msgspec', 'asyncio', 'nats') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_messages_of_the_tests_are_what_travels() -> None:
    # Guards the scripted swarm itself: its structs must encode as the real ones do.
    assert (
        msgspec.json.decode(msgspec.json.encode(item("completed", result=Raw(b"7"))))["result"] == 7
    )


# --- what anybody may say of an item ----------------------------------------------------


def test_commands_about_an_item_carry_their_arguments_and_an_id() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        handle = Handle(swarm, "3-17")
        for verb in ("cancel", "prioritize", "retry", "answer"):
            scripted.answers[verb] = lambda body, n: Ack(body["command_id"], "3-17", "queued")
        assert (await handle.cancel("not wanted", grace_s=3)).status == "queued"
        await handle.prioritize("high")
        await handle.retry()
        await handle.answer({"yes": 1}, wait=2)
        said = {asked.subject: dict(asked.body) for asked in scripted.asked}
        for body in said.values():
            assert is_uuid7(body.pop("command_id"))
            assert body.pop("work_item_id") == "3-17"
        assert said == {
            "swarm.shard.3.cancel.client": {"reason": "not wanted", "grace_s": 3},
            "swarm.shard.3.prioritize.client": {"priority": "high"},
            "swarm.shard.3.retry.client": {},
            "swarm.shard.3.answer.client": {"answer": {"yes": 1}, "wait": 2},
        }

    sim(scenario)


def test_a_command_without_an_answer_is_repeated_under_its_id() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["cancel"] = lambda body, n: (
            Ack(body["command_id"], "3-17", "cancelled") if n == 2 else None
        )
        assert (await swarm.cancel("3-17")).status == "cancelled"
        bodies = scripted.bodies("cancel")
        assert [body.get("retry", 0) for body in bodies] == [0, 1, 2]
        assert len({body["command_id"] for body in bodies}) == 1

    sim(scenario)


def test_what_a_holder_says_beside_its_outcome() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        for verb in ("fail", "release", "wait", "progress"):
            scripted.answers[verb] = lambda body, n: Ack(body["command_id"], "3-17", "queued")
        await swarm.fail("3-17", "t", "no", retry_after_s=60)
        await swarm.fail("3-17", "t", "no", final=True)
        await swarm.release("3-17", "t", checkpoint={"page": 3})
        await swarm.progress("3-17", "t", 40, checkpoint=[1])
        await swarm.wait("3-17", "t", "ok?", expires_s=60, on_expiry="resume", checkpoint=2)
        kept = [
            {k: v for k, v in asked.body.items() if k not in ("command_id", "work_item_id")}
            for asked in scripted.asked
        ]
        assert kept == [
            {"token": "t", "error": "no", "retry_after": 60, "verb": "fail"},
            {"token": "t", "error": "no", "final": True, "verb": "fail"},
            {"token": "t", "checkpoint": {"page": 3}, "verb": "release"},
            {"token": "t", "percent": 40.0, "checkpoint": [1], "verb": "progress"},
            {
                "token": "t",
                "waits_for": "ok?",
                "expires_s": 60.0,
                "on_expiry": "resume",
                "checkpoint": 2,
                "verb": "wait",
            },
        ]
        for wrong in (
            swarm.fail("3-17", "t", "no", retry_after_s=1, final=True),
            swarm.wait("3-17", "t", "ok?", on_expiry="never"),  # type: ignore[arg-type]
            swarm.wait("3-17", "t", "ok?", expires_s=-1),
            swarm.wait("3-17", "t", "x" * 300_000),
        ):
            with pytest.raises(Refusal):
                await wrong

    sim(scenario)


# --- watching ------------------------------------------------------------------------------


def test_watching_shows_every_state_until_the_end() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        states = [
            item("queued", version="a"),
            item("queued", version="a"),  # nothing within the poll
            None,  # lost
            item("claimed", version="b"),
            item("completed", version="c"),
        ]
        scripted.answers["get"] = lambda body, n: states[n]
        seen = [one.status async for one in Handle(swarm, "3-17").watch()]
        assert seen == ["queued", "claimed", "completed"]
        asked = [
            (body.get("version", ""), body.get("wait_s", 0)) for body in scripted.bodies("get")
        ]
        assert asked == [("", 0), ("a", POLL_S), ("a", POLL_S), ("a", POLL_S), ("b", POLL_S)]

    sim(scenario)


def test_watching_ends_in_time() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["get"] = lambda body, n: item("queued", version="a")
        started = loop_time()
        seen = [one.status async for one in swarm.watch("3-17", timeout=1.0)]
        assert seen == ["queued"]
        assert 1.0 <= loop_time() - started < 3.0
        del scripted.answers["get"]
        with pytest.raises(NoAnswer, match="is the swarm running"):
            [one async for one in swarm.watch("3-17", timeout=1.0)]
        scripted.answers["get"] = lambda body, n: error("unknown_item")
        with pytest.raises(Refusal, match="unknown_item"):
            [one async for one in swarm.watch("3-17")]

    sim(scenario)


# --- failures --------------------------------------------------------------------------------


def test_a_failure_tells_all_that_led_to_it() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        history = [
            Attempt(1, "a1", 1.0, 2.0, "failed", "no disk"),
            Attempt(2, "a2", 3.0, 4.0, "lapsed", "its agent fell silent"),
            Attempt(3, "a3", 5.0, 6.0, "failed", "no net"),
        ]
        dead = item("dead", error="no net", cause="quarantined", history=history)
        scripted.answers["get"] = lambda body, n: dead
        with pytest.raises(WorkFailed) as caught:
            await swarm.result("3-17")
        assert str(caught.value) == (
            "work item 3-17 is dead (quarantined): no net (before that: a1 failed: no disk; "
            "a2 lapsed: its agent fell silent)"
        )
        assert caught.value.item == dead
        assert not isinstance(caught.value, WorkCancelled)

    sim(scenario)


def test_a_cancelled_item_has_an_error_of_its_own() -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        gone = item("cancelled", error="not wanted")
        scripted.answers["get"] = lambda body, n: gone
        with pytest.raises(WorkCancelled, match="work item 3-17 is cancelled: not wanted"):
            await swarm.result("3-17")

    sim(scenario)


@pytest.mark.parametrize(
    ("unfinished", "told"),
    [
        (item("waiting", waits_for=Raw(b'"ok?"')), 'it waits for "ok?"; answer it'),
        (
            item("blocked", depends={"0-1": Dependency("completed"), "0-2": Dependency()}),
            "it is blocked by its dependencies: 0-2",
        ),
        (item("scheduled", until=99.0), "it is scheduled, not before 99"),
    ],
)
def test_a_result_that_does_not_come_says_why(unfinished: WorkItem, told: str) -> None:
    async def scenario(world: MemoryWorld) -> None:
        swarm, scripted = await client(world)
        scripted.answers["get"] = lambda body, n: unfinished
        with pytest.raises(TimeoutError) as caught:
            await swarm.result("3-17", timeout=0.5)
        assert told in str(caught.value)

    sim(scenario)
