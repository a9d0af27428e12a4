"""The one retry loop: when a request is sent again, and what is said when it fails."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from swarm.bus.memory import MemoryWorld
from swarm.errors import BusUnavailable, NoAnswer, Refusal, SwarmError
from swarm.messages import Ack, Complete, Gone, Renew
from swarm.sdk.calls import ATTEMPT_S, Calls
from swarm.subjects import Subjects
from tests.unit.scripted import Answer, Scripted, error, runtime
from tests.unit.sims import loop_time, pass_time, sim

_ack = msgspec.json.Decoder(Ack)
SUBJECT = "swarm.shard.0.complete.client"


async def setting(world: MemoryWorld, answer: Answer | None = None) -> tuple[Calls, Scripted]:
    scripted = await Scripted(world.connect("server")).start()
    if answer is not None:
        scripted.answers["complete"] = answer
    return Calls(world.connect("client"), Subjects(), runtime(world)), scripted


def command() -> Complete:
    return Complete("id-1", "0-1", "1.n.s")


async def ask(calls: Calls, within_s: float = 10.0) -> Ack:
    return await calls.ask(SUBJECT, command(), _ack, loop_time() + within_s)


def test_an_answer_at_once_is_returned() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, scripted = await setting(world, lambda body, n: Ack("id-1", "0-1", "completed"))
        assert (await ask(calls)).status == "completed"
        (asked,) = scripted.asked
        assert asked.reply.startswith("_INBOX.client.")
        assert "retry" not in asked.body

    sim(scenario)


def test_silence_is_met_with_the_same_command_every_second() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, scripted = await setting(world, lambda body, n: Ack("id-1") if n == 3 else None)
        started = loop_time()
        await ask(calls)
        assert [body.get("retry", 0) for body in scripted.bodies("complete")] == [0, 1, 2, 3]
        assert {body["command_id"] for body in scripted.bodies("complete")} == {"id-1"}
        assert 3 * ATTEMPT_S <= loop_time() - started < 3 * ATTEMPT_S + 0.5

    sim(scenario)


def test_a_reply_to_an_earlier_try_counts() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, scripted = await setting(world)
        asking = asyncio.create_task(ask(calls))
        await pass_time(1.5)
        assert len(scripted.asked) == 2
        scripted.send(scripted.asked[0].reply, Ack("id-1", status="completed"))
        assert (await asking).status == "completed"

    sim(scenario)


def test_without_any_answer_the_effect_is_unknown() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, _ = await setting(world)
        started = loop_time()
        with pytest.raises(NoAnswer, match=r"3 tries.*not known"):
            await ask(calls, within_s=2.5)
        assert loop_time() - started == pytest.approx(2.5)

    sim(scenario)


def test_a_final_refusal_is_raised_at_once() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, scripted = await setting(world, lambda body, n: error("stale_token"))
        with pytest.raises(Refusal) as caught:
            await ask(calls)
        assert caught.value.code == "stale_token"
        assert len(scripted.asked) == 1

    sim(scenario)


def test_a_refusal_that_may_pass_is_retried_with_growing_pauses() -> None:
    async def scenario(world: MemoryWorld) -> None:
        def answer(body: dict[str, Any], n: int) -> Any:
            return Ack("id-1") if n == 4 else error("overloaded", retry=True)

        calls, scripted = await setting(world, answer)
        started = loop_time()
        await ask(calls)
        assert [body.get("retry", 0) for body in scripted.bodies("complete")] == [0, 1, 2, 3, 4]
        pauses = [b.at - a.at for a, b in zip(scripted.asked, scripted.asked[1:], strict=False)]
        assert pauses[-1] > pauses[0]
        assert loop_time() - started < 1.0

    sim(scenario)


def test_when_every_try_was_refused_nothing_was_done() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, _ = await setting(world, lambda body, n: error("overloaded", retry=True))
        with pytest.raises(Refusal) as caught:
            await ask(calls, within_s=3.0)
        assert caught.value.code == "overloaded"

    sim(scenario)


def test_one_unanswered_try_among_refused_ones_leaves_the_effect_unknown() -> None:
    async def scenario(world: MemoryWorld) -> None:
        def answer(body: dict[str, Any], n: int) -> Any:
            return None if n == 1 else error("unavailable", retry=True)

        calls, _ = await setting(world, answer)
        with pytest.raises(NoAnswer, match=r"unavailable.*not known"):
            await ask(calls, within_s=5.0)

    sim(scenario)


def test_nobody_there_is_told_apart_from_silence() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, scripted = await setting(world)

        async def nobody() -> None:
            # NATS itself answers so when nobody listens on the subject.
            for number in range(100):
                while len(scripted.asked) <= number:
                    await pass_time(0.01)
                await scripted.bus.publish(scripted.asked[number].reply, b"")

        task = asyncio.create_task(nobody())
        with pytest.raises(Refusal) as caught:
            await ask(calls, within_s=2.0)
        task.cancel()
        assert caught.value.code == "unavailable"
        assert caught.value.retry
        assert "is the swarm running" in caught.value.message
        # Known at once, so asked again sooner than after a silence.
        assert len(scripted.asked) > 3

    sim(scenario)


def test_commands_without_a_retry_field_go_as_they_are() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, scripted = await setting(world)
        scripted.answers["renew"] = lambda body, n: Ack() if n else None
        subject = "swarm.shard.0.renew.client"
        await calls.ask(subject, Renew("0-1", "t"), _ack, loop_time() + 5)
        assert scripted.bodies("renew") == [{"work_item_id": "0-1", "token": "t"}] * 2

    sim(scenario)


def test_counting_goes_on_from_an_earlier_try() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, scripted = await setting(world, lambda body, n: Ack() if n else None)
        again = command()
        again.retry = 4
        await calls.ask(SUBJECT, again, _ack, loop_time() + 5)
        assert [body["retry"] for body in scripted.bodies("complete")] == [4, 5]

    sim(scenario)


def test_an_unreadable_reply_is_an_error() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, scripted = await setting(world)
        asking = asyncio.create_task(ask(calls))
        await pass_time(0.1)
        await scripted.bus.publish(scripted.asked[0].reply, b"[1]")
        with pytest.raises(SwarmError, match="cannot be read"):
            await asking

    sim(scenario)


def test_a_fallen_coordinator_has_everything_asked_again_at_once() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, scripted = await setting(world, lambda body, n: Ack() if n else None)
        asking = asyncio.create_task(
            calls.ask(SUBJECT, command(), _ack, None, attempt_s=60.0),
        )
        await pass_time(2.0)
        assert len(scripted.asked) == 1
        scripted.send("swarm.gone.c1", Gone("c1", "test"))
        started = loop_time()
        await asking
        assert loop_time() - started < 0.5

    sim(scenario)


def test_after_a_reconnect_everything_is_asked_again() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, scripted = await setting(world, lambda body, n: Ack() if n else None)
        asking = asyncio.create_task(
            calls.ask(SUBJECT, command(), _ack, None, attempt_s=600.0),
        )
        await pass_time(0.5)
        world.partition("client")
        await pass_time(10.0)
        world.heal("client")
        started = loop_time()
        await asking
        assert loop_time() - started < 3.0
        assert len(scripted.asked) == 2

    sim(scenario)


def test_requests_survive_a_partition() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, _ = await setting(world, lambda body, n: Ack("id-1", status="completed"))
        await ask(calls)
        world.partition("client")
        asking = asyncio.create_task(ask(calls, within_s=60.0))
        await pass_time(8.0)
        assert not asking.done()
        world.heal("client")
        assert (await asking).status == "completed"

    sim(scenario)


def test_closing_ends_what_is_under_way_and_what_comes_after() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, _ = await setting(world)
        asking = asyncio.create_task(ask(calls, within_s=1000.0))
        await pass_time(0.5)
        await calls.close()
        with pytest.raises(BusUnavailable, match="closed"):
            await asking
        with pytest.raises(BusUnavailable, match="closed"):
            await ask(calls)
        await calls.close()

    sim(scenario)


def test_a_cancelled_request_leaves_nothing_behind() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, scripted = await setting(world)
        asking = asyncio.create_task(ask(calls, within_s=1000.0))
        await pass_time(1.5)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await pass_time(10.0)
        assert len(scripted.asked) == 2
        assert not calls._waiting

    sim(scenario)


def test_many_requests_share_one_inbox() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, scripted = await setting(
            world, lambda body, n: Ack(work_item_id=body["work_item_id"])
        )

        async def one(number: int) -> str:
            asked = Complete(f"id-{number}", f"0-{number}", "t")
            return (await calls.ask(SUBJECT, asked, _ack, loop_time() + 5)).work_item_id

        found = await asyncio.gather(*map(one, range(1, 51)))
        assert found == [f"0-{number}" for number in range(1, 51)]
        assert len({asked.reply.rpartition(".")[0] for asked in scripted.asked}) == 1
        assert len({asked.reply for asked in scripted.asked}) == 50

    sim(scenario)


def test_replies_that_nobody_waits_for_are_ignored() -> None:
    async def scenario(world: MemoryWorld) -> None:
        calls, scripted = await setting(world, lambda body, n: [Ack("x"), Ack("y")])
        assert (await ask(calls)).command_id in ("x", "y")
        inbox = scripted.asked[0].reply.rpartition(".")[0]
        for odd in ("nonsense", "1-", "-1", "77-0", "1-0"):
            await scripted.bus.publish(f"{inbox}.{odd}", b"{}")
        assert (await ask(calls)).command_id in ("x", "y")

    sim(scenario)


def test_two_senders_on_one_connection_have_inboxes_of_their_own() -> None:
    async def scenario(world: MemoryWorld) -> None:
        _, scripted = await setting(world, lambda body, n: Ack())
        bus = world.connect("shared")
        first = Calls(bus, Subjects(), runtime(world, 7), "a1")
        await first.ask("swarm.shard.0.complete.a1", command(), _ack, loop_time() + 5)
        assert scripted.asked[-1].reply.startswith("_INBOX.a1.")

    sim(scenario)
