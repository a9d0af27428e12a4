"""An agent against a scripted coordinator, in virtual time."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

from swarm.actors.agent import ACK_S, CANCEL_S
from swarm.bus.base import Subscription
from swarm.bus.memory import MemoryWorld
from swarm.errors import BadInput, BusUnavailable, LeaseLost, NoAnswer, Refusal
from swarm.messages import Ack, NewItem
from swarm.sdk.agent import Agent
from swarm.sdk.context import Context
from swarm.sdk.runners import InlineRunner
from swarm.subjects import check_token
from tests.unit.scripted import (
    ScriptedCoordinator,
    agent,
    assignment,
    coordinator,
    error,
    eventually,
    give_up_on,
    refused,
    run_agent,
    runtime,
)
from tests.unit.sims import loop_time, pass_time, sim


def echo(worker: Agent, *work_types: str) -> Agent:
    """Give it a handler that returns the payload."""

    @worker.handles(*(work_types or ("feature",)))
    async def handler(ctx: Context) -> Any:
        return ctx.payload

    return worker


def held_until(worker: Agent, started: list[Context]) -> asyncio.Event:
    """Give it a handler that notes its context and waits for the event."""
    release = asyncio.Event()

    @worker.handles("feature")
    async def handler(ctx: Context) -> str:
        started.append(ctx)
        await release.wait()
        return "done"

    return release


async def attached(scripted: ScriptedCoordinator) -> None:
    await eventually(lambda: scripted.of("next"))


# --- the main path -------------------------------------------------------------------


def test_an_agent_attaches_states_its_slots_works_and_leaves() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = echo(agent(world))
        running = run_agent(worker, world)
        await attached(scripted)
        (attach,) = scripted.of("attach")
        assert attach.subject == "swarm.attach.a1"
        session = attach.body.pop("session")
        assert check_token("session", session)
        assert attach.body == {"work_types": ["feature"], "concurrency": 2}
        (first,) = scripted.of("next")
        assert first.subject == "swarm.coordinator.c1.next.a1"
        assert (first.body["session"], first.body["slots"]) == ("s1", 2)

        scripted.work(assignment(payload={"n": 1}))
        await eventually(lambda: scripted.done)
        (complete,) = scripted.done
        assert complete["verb"] == "complete"
        assert (complete["work_item_id"], complete["token"]) == ("0-1", "1.n.s1")
        assert complete["result"] == {"n": 1}
        message = scripted.bodies("next")[-1]
        assert (message["slots"], message["received"]) == (2, 1)

        worker.stop()
        await running
        assert scripted.bodies("next")[-1]["slots"] == 0
        await eventually(lambda: scripted.bodies("heartbeat")[-1].get("leaving"))
        assert "held" not in scripted.bodies("heartbeat")[-1]
        said = len(scripted.asked)
        await pass_time(30.0)
        assert len(scripted.asked) == said

    sim(scenario)


def test_outcomes_of_one_turn_leave_in_one_message() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = agent(world, concurrency=5)
        started: list[Context] = []
        release = held_until(worker, started)
        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(*(assignment(f"0-{number}") for number in range(1, 6)))
        await eventually(lambda: len(started) == 5)
        messages = len(scripted.of("next"))
        release.set()
        await eventually(lambda: len(scripted.done) == 5)
        assert len(scripted.of("next")) == messages + 1
        assert scripted.bodies("next")[-1]["slots"] == 5
        await give_up_on(running)

    sim(scenario)


def test_a_handler_sees_its_item() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = agent(world)
        seen: list[Any] = []

        @worker.handles("feature")
        async def handler(ctx: Context) -> None:
            seen.append((ctx.work_item_id, ctx.token, ctx.attempt, ctx.payload, ctx.cancelled))
            assert isinstance(ctx.item, NewItem)
            seen.append(ctx.item.work_type)

        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(assignment(payload=[1]))
        await eventually(lambda: scripted.done)
        assert seen == [("0-1", "1.n.s1", 1, [1], False), "feature"]
        assert "result" not in scripted.done[0]
        await give_up_on(running)

    sim(scenario)


class Called:
    """A handler that is an object."""

    async def __call__(self, ctx: Context) -> str:
        return "called"


async def _with_more(more: str, ctx: Context) -> str:
    return more


@pytest.mark.parametrize(
    ("handler", "result"),
    [
        (lambda ctx: {"plain": ctx.payload}, {"plain": 5}),
        (Called(), "called"),
        (functools.partial(_with_more, "more"), "more"),
    ],
)
def test_handlers_of_every_kind(handler: Any, result: Any) -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = agent(world)
        worker.handles("feature")(handler)
        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(assignment(payload=5))
        await eventually(lambda: scripted.done)
        assert scripted.done[0]["result"] == result
        await give_up_on(running)

    sim(scenario)


async def _cancels_itself(ctx: Context) -> None:
    raise asyncio.CancelledError


async def _exits(ctx: Context) -> None:
    raise SystemExit(3)


async def _raises_nothing_said(ctx: Context) -> None:
    raise KeyError


async def _raises(ctx: Context) -> None:
    raise ValueError("seven is not allowed")


async def _returns_an_object(ctx: Context) -> object:
    return object()


async def _returns_too_much(ctx: Context) -> str:
    return "x" * 300_000


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (_raises, "ValueError: seven is not allowed"),
        (_raises_nothing_said, "KeyError"),
        (_exits, "SystemExit: 3"),
        (_cancels_itself, "CancelledError: something that the handler awaited was cancelled"),
        (_returns_an_object, "the handler's result cannot be written as JSON"),
        (_returns_too_much, "300002 bytes"),
        (lambda ctx: [_raises(ctx)][0], "returned an awaitable"),
    ],
)
def test_what_goes_wrong_in_a_handler_fails_the_item(handler: Any, message: str) -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = agent(world)
        worker.handles("feature")(handler)
        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(assignment())
        await eventually(lambda: scripted.done)
        assert scripted.done[0]["verb"] == "fail"
        assert message in scripted.done[0]["error"]
        await give_up_on(running)

    sim(scenario)


def test_an_item_that_cannot_be_worked_on_fails() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        running = run_agent(echo(agent(world)), world)
        await attached(scripted)
        scripted.work(assignment("0-1", work_type="other"))
        await eventually(lambda: scripted.done)
        assert "other" in scripted.done[0]["error"]
        await give_up_on(running)

    sim(scenario)


# --- staying alive -------------------------------------------------------------------


def test_heartbeats_list_what_is_held() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = agent(world)
        started: list[Context] = []
        release = held_until(worker, started)
        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(assignment("0-1"), assignment("0-2"))
        await eventually(lambda: len(started) == 2)
        before = len(scripted.of("heartbeat"))
        await pass_time(20.5)
        beats = scripted.of("heartbeat")[before:]
        assert len(beats) == 4
        for heartbeat in beats:
            assert heartbeat.subject == "swarm.heartbeat.a1"
            assert heartbeat.body["held"] == [["0-1", "1.n.s1"], ["0-2", "1.n.s1"]]
            assert (heartbeat.body["session"], heartbeat.body["coordinator"]) == ("s1", "c1")
        # Finished, but not yet acknowledged: still listed.
        scripted.acknowledges = False
        release.set()
        await eventually(lambda: len(scripted.of("heartbeat")) > before + 4)
        assert len(scripted.bodies("heartbeat")[-1]["held"]) == 2
        scripted.acknowledges = True
        await pass_time(6.0)
        assert "held" not in scripted.bodies("heartbeat")[-1]
        await give_up_on(running)

    sim(scenario)


def test_an_unacknowledged_outcome_is_repeated() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        scripted.acknowledges = False
        running = run_agent(echo(agent(world)), world)
        await attached(scripted)
        scripted.work(assignment())
        await pass_time(3.5)
        assert [done.get("retry", 0) for done in scripted.done] == [0, 1, 2, 3]
        assert len({done["command_id"] for done in scripted.done}) == 1
        scripted.work(acks=[Ack(scripted.done[0]["command_id"], "0-1")])
        await pass_time(5.0)
        assert len(scripted.done) == 4
        await give_up_on(running)

    sim(scenario)


def test_after_a_reconnect_everything_is_said_at_once() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = agent(world)
        started: list[Context] = []
        held_until(worker, started)
        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(assignment())
        await eventually(lambda: started)
        world.partition("a1")
        await pass_time(13.0)
        world.heal("a1")
        healed = loop_time()
        # What was buffered meanwhile arrives, too, but has lower numbers.
        await eventually(lambda: scripted.of("next")[-1].at > healed)
        number = scripted.bodies("next")[-1]["number"]
        await eventually(lambda: scripted.bodies("heartbeat")[-1]["number"] > number, 0.1)
        await give_up_on(running)

    sim(scenario)


@pytest.mark.parametrize("how", ["gone", "reattach", "silence"])
def test_a_lost_coordinator_is_replaced(how: str) -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        running = run_agent(echo(agent(world)), world)
        await attached(scripted)
        scripted.acknowledges = False
        scripted.work(assignment())
        await eventually(lambda: scripted.done)
        lost = loop_time()
        if how == "gone":
            scripted.gone("c1")
        elif how == "reattach":
            scripted.control("reattach")
        await eventually(lambda: len(scripted.of("attach")) == 2)
        assert loop_time() - lost < (16.5 if how == "silence" else 0.5)
        assert scripted.bodies("attach")[1]["session"] == "s1"
        scripted.acknowledges = True
        await eventually(lambda: scripted.of("next")[-1].subject.endswith("c2.next.a1"))
        again = scripted.bodies("next")[-1]
        assert [done["work_item_id"] for done in again["done"]] == ["0-1"]
        assert again["received"] == 1
        await eventually(lambda: scripted.bodies("heartbeat")[-1]["coordinator"] == "c2", 0.1)
        # The old one's end is no news any more, the new one's is.
        scripted.gone("c1")
        await pass_time(1.0)
        assert len(scripted.of("attach")) == 2
        scripted.gone("c2")
        await eventually(lambda: len(scripted.of("attach")) == 3)
        await give_up_on(running)

    sim(scenario)


def test_an_idle_agent_is_left_in_peace() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        running = run_agent(echo(agent(world)), world)
        await attached(scripted)
        await pass_time(300.0)
        assert len(scripted.of("attach")) == 1
        assert len(scripted.of("next")) == 1
        await give_up_on(running)

    sim(scenario)


# --- progress ------------------------------------------------------------------------


def test_progress_travels_and_a_lost_lease_stops_the_handler() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = agent(world)
        go_on, lost = asyncio.Event(), asyncio.Event()

        @worker.handles("feature")
        async def handler(ctx: Context) -> None:
            await ctx.progress(40, "half")
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                with pytest.raises(LeaseLost, match="scripted stale_token"):
                    ctx.progress_sync(50)
                lost.set()
                raise

        running = run_agent(worker, world)
        await attached(scripted)
        scripted.acknowledges = False
        scripted.work(assignment())
        await eventually(lambda: scripted.done)
        (report,) = scripted.done
        assert (report["verb"], report["percent"], report["note"]) == ("progress", 40, "half")
        scripted.work(acks=[Ack(report["command_id"], "0-1", error=refused("stale_token"))])
        await eventually(lost.is_set)
        await eventually(lambda: scripted.bodies("next")[-1]["slots"] == 2)
        assert scripted.verbs() == ["progress"]
        await give_up_on(running)

    sim(scenario)


def test_an_impossible_percentage_is_the_handlers_mistake() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = agent(world)

        @worker.handles("feature")
        async def handler(ctx: Context) -> None:
            await ctx.progress(140)

        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(assignment())
        await eventually(lambda: scripted.done)
        assert "percent is 140; allowed: 0 to 100" in scripted.done[0]["error"]
        await give_up_on(running)

    sim(scenario)


def test_a_stop_cancels_the_handler_and_nothing_is_said() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = agent(world)
        started: list[Context] = []
        held_until(worker, started)
        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(assignment())
        await eventually(lambda: started)
        scripted.control("stop", "0-1", "9.n.s1")
        await pass_time(1.0)
        assert not started[0].cancelled
        scripted.control("stop", "0-1", "1.n.s1")
        await eventually(lambda: started[0].cancelled)
        await pass_time(6.0)
        assert scripted.done == []
        assert scripted.bodies("heartbeat")[-1]["slots"] == 2
        assert "held" not in scripted.bodies("heartbeat")[-1]
        await give_up_on(running)

    sim(scenario)


# --- leaving -------------------------------------------------------------------------


def test_a_stopping_agent_finishes_what_it_holds() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = agent(world)
        started: list[Context] = []
        release = held_until(worker, started)
        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(assignment("0-1"))
        await eventually(lambda: started)
        worker.stop()
        await eventually(lambda: scripted.bodies("next")[-1]["slots"] == 0)
        scripted.work(assignment("0-2"))
        await eventually(lambda: scripted.done)
        assert scripted.done[0]["verb"] == "release"
        await pass_time(20.0)
        assert not running.done()
        release.set()
        await running
        assert scripted.verbs() == ["release", "complete"]
        await eventually(lambda: scripted.bodies("heartbeat")[-1].get("leaving"))

    sim(scenario)


@pytest.mark.parametrize("twice", [False, True])
def test_what_does_not_finish_in_time_is_handed_back(twice: bool) -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = agent(world, drain_s=12.0)
        started: list[Context] = []
        held_until(worker, started)
        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(assignment())
        await eventually(lambda: started)
        stopped = loop_time()
        worker.stop()
        if twice:
            worker.stop()
        await running
        assert loop_time() - stopped == pytest.approx(0.0 if twice else 12.0, abs=0.2)
        (release,) = scripted.done
        assert (release["verb"], release["reason"]) == ("release", "its agent is stopping")
        await eventually(lambda: scripted.bodies("heartbeat")[-1].get("leaving"))

    sim(scenario)


def test_a_handler_that_does_not_stop_is_left_to_its_lease() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = agent(world, drain_s=0.0)
        stubborn, tired = asyncio.Event(), asyncio.Event()

        @worker.handles("feature")
        async def handler(ctx: Context) -> None:
            stubborn.set()
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if tired.is_set():
                        raise

        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(assignment())
        await eventually(stubborn.is_set)
        stopped = loop_time()
        worker.stop()
        await running
        assert CANCEL_S <= loop_time() - stopped < CANCEL_S + 3.0
        # Nothing was said of the item: it may still be worked on.
        assert scripted.done == []
        assert not any(body.get("leaving") for body in scripted.bodies("heartbeat"))
        tired.set()

    sim(scenario)


def test_a_handler_told_to_stop_does_not_count_as_finished() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = agent(world, drain_s=0.0)
        started: list[Context] = []

        @worker.handles("feature")
        async def handler(ctx: Context) -> str:
            started.append(ctx)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "half"
            return "whole"

        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(assignment())
        await eventually(lambda: started)
        worker.stop()
        await running
        assert scripted.verbs() == ["release"]

    sim(scenario)


def test_without_acknowledgements_an_agent_leaves_in_the_end() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        scripted.acknowledges = False
        worker = echo(agent(world))
        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(assignment())
        await eventually(lambda: scripted.done)
        stopped = loop_time()
        worker.stop()
        await running
        assert loop_time() - stopped == pytest.approx(ACK_S, abs=1.0)
        assert not any(body.get("leaving") for body in scripted.bodies("heartbeat"))

    sim(scenario)


@pytest.mark.parametrize("coordinator_alive", [True, False])
def test_a_superseded_agent_finishes_and_ends_with_an_error(coordinator_alive: bool) -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        direct: list[dict[str, Any]] = []

        def complete(body: dict[str, Any], number: int) -> None:
            direct.append(body)
            scripted.work(acks=[Ack(body["command_id"], body["work_item_id"])])

        scripted.answers["complete"] = complete
        worker = agent(world)
        started: list[Context] = []
        release = held_until(worker, started)
        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(assignment())
        await eventually(lambda: started)
        scripted.control("superseded")
        if not coordinator_alive:
            await pass_time(0.5)
            scripted.gone("c1")
        await pass_time(60.0)
        assert not running.done()
        assert scripted.bodies("heartbeat")[-1]["held"] == [["0-1", "1.n.s1"]]
        assert scripted.bodies("heartbeat")[-1]["slots"] == 0
        release.set()
        with pytest.raises(Refusal, match="agent_id_in_use: scripted superseded"):
            await running
        assert len(scripted.of("attach")) == 1
        assert len(scripted.done) == (1 if coordinator_alive else 0)
        assert len(direct) == (0 if coordinator_alive else 1)
        if direct:
            assert scripted.of("complete")[0].subject == "swarm.shard.0.complete.a1"

    sim(scenario)


def test_a_cancelled_agent_cleans_up() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = agent(world)
        started: list[Context] = []
        held_until(worker, started)
        running = run_agent(worker, world)
        await attached(scripted)
        scripted.work(assignment())
        await eventually(lambda: started)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        said = len(scripted.asked)
        await pass_time(30.0)
        assert len(scripted.asked) == said
        # It can be run again.
        running = run_agent(worker, world)
        await eventually(lambda: len(scripted.of("attach")) == 2)
        await give_up_on(running)

    sim(scenario)


# --- attaching -----------------------------------------------------------------------


def test_an_agent_waits_for_a_swarm() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        answer = scripted.answers["attach"]
        scripted.answers["attach"] = lambda body, n: None
        running = run_agent(echo(agent(world)), world)
        await pass_time(120.0)
        assert not running.done()
        assert not scripted.of("heartbeat")
        scripted.answers["attach"] = answer
        await attached(scripted)
        await give_up_on(running)

    sim(scenario)


def test_an_agent_that_may_not_wait_says_that_there_is_no_swarm() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        scripted.answers["attach"] = lambda body, n: None
        with pytest.raises(NoAnswer, match=r"swarm\.attach\.a1"):
            await run_agent(echo(agent(world, attach_timeout_s=3.0)), world)

    sim(scenario)


def test_a_taken_agent_id_is_refused_at_once() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        scripted.answers["attach"] = lambda body, n: error("agent_id_in_use")
        with pytest.raises(Refusal, match="agent_id_in_use"):
            await run_agent(echo(agent(world)), world)
        assert len(scripted.of("attach")) == 1

    sim(scenario)


def test_a_repeated_attach_is_about_the_same_session() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        answer = scripted.answers["attach"]
        # The first was carried out, but its answer is lost.
        scripted.answers["attach"] = lambda body, n: answer(body, n) if n else None
        running = run_agent(echo(agent(world)), world)
        await attached(scripted)
        first, second = scripted.bodies("attach")
        assert first == second
        assert first["session"]
        await give_up_on(running)

    sim(scenario)


def test_trouble_after_an_attach_does_not_make_a_second_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        bus = world.connect("a1")
        subscribe, troubles = bus.subscribe, [BusUnavailable("scripted")]

        async def troubled(subject: str, handler: Any, queue: str = "") -> Subscription:
            if subject.endswith(".work") and troubles:
                raise troubles.pop()
            return await subscribe(subject, handler, queue)

        monkeypatch.setattr(bus, "subscribe", troubled)
        running = asyncio.create_task(echo(agent(world)).run(bus))
        await attached(scripted)
        first, second = scripted.bodies("attach")
        assert first["session"] == second["session"]
        await give_up_on(running)

    sim(scenario)


def test_two_processes_never_name_the_same_session() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        for seed in (1, 2):
            worker = echo(Agent(runner=InlineRunner(), runtime=runtime(world, seed)))
            running = asyncio.create_task(worker.run(world.connect("a1")))
            await eventually(lambda: len(scripted.of("attach")) == seed)  # noqa: B023
            await give_up_on(running)
        first, second = scripted.bodies("attach")
        assert first["session"] != second["session"]

    sim(scenario)


def test_a_takeover_is_asked_for_only_once() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        running = run_agent(echo(agent(world, takeover=True)), world)
        await attached(scripted)
        scripted.gone("c1")
        await eventually(lambda: len(scripted.of("attach")) == 2)
        assert [body.get("takeover", False) for body in scripted.bodies("attach")] == [True, False]
        await give_up_on(running)

    sim(scenario)


def test_an_id_taken_while_attaching_again_ends_the_agent() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        running = run_agent(echo(agent(world)), world)
        await attached(scripted)
        scripted.answers["attach"] = lambda body, n: error("agent_id_in_use")
        scripted.gone("c1")
        with pytest.raises(Refusal, match="agent_id_in_use"):
            await running

    sim(scenario)


def test_stop_before_and_while_attaching() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        scripted.answers["attach"] = lambda body, n: None
        worker = echo(agent(world))
        worker.stop()
        await run_agent(worker, world)
        running = run_agent(worker, world)
        await pass_time(5.0)
        assert not running.done()
        worker.stop()
        await running
        assert not scripted.of("heartbeat")

    sim(scenario)


# --- what is declared ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("types", "handled", "message"),
    [
        (None, [], "no handlers"),
        ([], ["feature"], "no handlers"),
        (["feature", "bug"], ["feature"], "'bug' has no handler; there are handlers for: feature"),
        (["feature"], ["feature", "bug"], "handler for 'bug' would never run"),
        (["a.b"], [], "work type 'a.b' cannot be used"),
    ],
)
def test_types_and_handlers_must_match(
    types: list[str] | None, handled: list[str], message: str
) -> None:
    async def scenario(world: MemoryWorld) -> None:
        worker = agent(world, types=types)
        for work_type in handled:
            echo(worker, work_type)
        with pytest.raises(BadInput, match=message):
            await run_agent(worker, world)

    sim(scenario)


def test_wrong_declarations_are_refused() -> None:
    with pytest.raises(BadInput, match=r"types=\['feature'\]"):
        Agent("feature")
    with pytest.raises(BadInput, match="concurrency is 0"):
        Agent(concurrency=0)
    with pytest.raises(BadInput, match="prefix"):
        Agent(prefix="a b")
    worker = echo(Agent())
    with pytest.raises(BadInput, match="'feature' has a handler already"):
        echo(worker)
    with pytest.raises(BadInput, match="work type 'a b'"):
        worker.handles("a b")(lambda ctx: None)
    handler: Any = lambda ctx: None  # noqa: E731
    for wrong in ((), (handler,)):
        with pytest.raises(BadInput, match="say which work types"):
            worker.handles(*wrong)


def test_more_concurrency_than_a_heartbeat_can_list_is_refused() -> None:
    async def scenario(world: MemoryWorld) -> None:
        with pytest.raises(BadInput, match="an agent can hold 4064 items: run several agents"):
            await run_agent(echo(agent(world, concurrency=4065)), world)

    sim(scenario)


def test_two_agents_share_a_connection() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        bus = world.connect("host")
        first = echo(agent(world))
        running = asyncio.create_task(first.run(bus))
        await attached(scripted)
        assert scripted.of("attach")[0].reply.startswith("_INBOX.a1.")
        scripted.work(assignment(payload=1))
        await eventually(lambda: scripted.done)
        with pytest.raises(BadInput, match="runs already"):
            await first.run(bus)
        subscribed = len(bus._receivers)
        scripted.gone("c1")
        await eventually(lambda: len(scripted.of("attach")) == 2)
        await pass_time(1.0)
        assert len(bus._receivers) == subscribed
        await give_up_on(running)
        assert not bus._receivers
        await bus.publish("still.open", b"")

    sim(scenario)


def test_without_an_id_an_agent_is_who_its_bus_is() -> None:
    async def scenario(world: MemoryWorld) -> None:
        scripted = await coordinator(world)
        worker = echo(Agent(runner=InlineRunner()))
        running = asyncio.create_task(worker.run(world.connect("b7")))
        await eventually(lambda: scripted.of("attach"))
        assert scripted.of("attach")[0].subject == "swarm.attach.b7"
        await give_up_on(running)

    sim(scenario)
