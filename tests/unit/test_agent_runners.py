"""Handlers in threads, on a real loop: blocking ones must not stop the agent's."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from swarm.actors.agent import AgentActor
from swarm.bus.memory import MemoryWorld
from swarm.core.handling import Cancel, Done, Failed, Outcome, Stopped
from swarm.errors import LeaseLost
from swarm.messages import Attached
from swarm.sdk.agent import Agent
from swarm.sdk.context import Context, is_async
from swarm.sdk.execution import HandlerExecution
from swarm.sdk.items import ClaimedItem
from swarm.sdk.runners import HandlerRunner, InlineRunner, ThreadRunner
from tests.unit.scripted import NoLine, ScriptedCoordinator, assignment, give_up_on

WITHIN_S = 20.0


@pytest.fixture(params=[InlineRunner, lambda: ThreadRunner(4)], ids=["inline", "threads"])
async def runner(request: pytest.FixtureRequest) -> AsyncIterator[HandlerRunner]:
    made: HandlerRunner = request.param()
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def threads() -> AsyncIterator[ThreadRunner]:
    made = ThreadRunner(4)
    await made.start()
    yield made
    await made.close()


class Call:
    """One handler under way, and its outcome once it has ended."""

    def __init__(self, runner: HandlerRunner, handler: Callable[[Context], Any]) -> None:
        self.context = Context(ClaimedItem.of(assignment(payload=7)), NoLine())
        self.ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        execution = HandlerExecution(handler, self.context, is_async=is_async(handler))
        self._stop = runner.run(execution, self.ended.set_result)

    def cancel(self) -> None:
        self.context.told(Cancel("0-1", "1.n.s1", "scripted"))
        self._stop()

    async def outcome(self) -> Outcome:
        return await asyncio.wait_for(self.ended, WITHIN_S)


async def set_by(event: threading.Event) -> None:
    """Wait for another thread without blocking this loop."""
    assert await asyncio.to_thread(event.wait, WITHIN_S)


# --- outcomes --------------------------------------------------------------------------


async def test_async_and_plain_handlers_return(runner: HandlerRunner) -> None:
    async def later(ctx: Context) -> int:
        await asyncio.sleep(0)
        return int(ctx.payload) + 1

    def at_once(ctx: Context) -> int:
        return int(ctx.payload) + 2

    first, second = await Call(runner, later).outcome(), await Call(runner, at_once).outcome()
    assert isinstance(first, Done)
    assert isinstance(second, Done)
    assert (bytes(first.result), bytes(second.result)) == (b"8", b"9")


async def test_async_and_plain_handlers_raise(runner: HandlerRunner) -> None:
    async def later(ctx: Context) -> None:
        raise ValueError("one")

    def at_once(ctx: Context) -> None:
        sys.exit("two")

    assert await Call(runner, later).outcome() == Failed("ValueError: one")
    assert await Call(runner, at_once).outcome() == Failed("SystemExit: two")


async def test_a_cancelled_async_handler_stops(runner: HandlerRunner) -> None:
    started = threading.Event()

    async def waits(ctx: Context) -> None:
        started.set()
        await asyncio.Event().wait()

    call = Call(runner, waits)
    await set_by(started)
    call.cancel()
    assert await call.outcome() == Stopped()


async def test_a_handler_cancelled_before_its_first_step_stops(runner: HandlerRunner) -> None:
    ran: list[int] = []

    async def never(ctx: Context) -> None:
        ran.append(1)
        await asyncio.Event().wait()

    call = Call(runner, never)
    call.cancel()
    assert await call.outcome() == Stopped()


async def test_cancelling_what_has_ended_is_nothing(runner: HandlerRunner) -> None:
    async def at_once(ctx: Context) -> int:
        return 1

    call = Call(runner, at_once)
    assert isinstance(await call.outcome(), Done)
    call.cancel()


async def test_closing_cancels_and_reports_nothing(runner: HandlerRunner) -> None:
    started = threading.Event()

    async def waits(ctx: Context) -> None:
        started.set()
        await asyncio.Event().wait()

    call = Call(runner, waits)
    await set_by(started)
    await runner.close()
    await runner.close()
    assert not call.ended.done()
    # And it can be started anew.
    await runner.start()
    assert isinstance(await Call(runner, lambda ctx: 1).outcome(), Done)
    assert not call.ended.done()


# --- threads -------------------------------------------------------------------------------


async def test_a_plain_handler_that_looks_can_be_stopped(threads: ThreadRunner) -> None:
    started, told = threading.Event(), threading.Event()

    def looks(ctx: Context) -> str:
        started.set()
        assert told.wait(WITHIN_S)
        return "half" if ctx.cancelled else "whole"

    call = Call(threads, looks)
    await set_by(started)
    call.cancel()
    told.set()
    assert await call.outcome() == Stopped()


async def test_a_plain_handler_that_does_not_look_has_finished(threads: ThreadRunner) -> None:
    started, told = threading.Event(), threading.Event()

    def works_on(ctx: Context) -> str:
        started.set()
        assert told.wait(WITHIN_S)
        return "whole"

    call = Call(threads, works_on)
    await set_by(started)
    call.cancel()
    told.set()
    assert isinstance(await call.outcome(), Done)


async def test_reporting_tells_a_plain_handler_to_stop(threads: ThreadRunner) -> None:
    started, told = threading.Event(), threading.Event()

    def reports(ctx: Context) -> None:
        ctx.progress_sync(1)
        started.set()
        assert told.wait(WITHIN_S)
        ctx.progress_sync(2)

    call = Call(threads, reports)
    await set_by(started)
    call.cancel()
    told.set()
    assert await call.outcome() == Stopped()
    with pytest.raises(LeaseLost, match="scripted"):
        call.context.progress_sync(3)


async def test_plain_handlers_run_side_by_side(threads: ThreadRunner) -> None:
    all_in = threading.Barrier(4)

    def meets(ctx: Context) -> int:
        all_in.wait(WITHIN_S)
        return threading.get_ident()

    for _ in range(3):
        outcomes = [await call.outcome() for call in [Call(threads, meets) for _ in range(4)]]
        assert all(isinstance(outcome, Done) for outcome in outcomes)
    assert len(threads._pool._threads) <= 4


async def test_many_handlers_come_home(runner: HandlerRunner) -> None:
    async def later(ctx: Context) -> int:
        await asyncio.sleep(0)
        return 1

    calls = [Call(runner, later if number % 2 else lambda ctx: 1) for number in range(500)]
    outcomes = [await call.outcome() for call in calls]
    assert all(isinstance(outcome, Done) for outcome in outcomes)


async def test_closing_does_not_wait_for_a_stuck_handler(threads: ThreadRunner) -> None:
    started, let_go = threading.Event(), threading.Event()

    async def stuck(ctx: Context) -> None:
        started.set()
        let_go.wait(WITHIN_S)  # blocks its loop, as no handler should

    call = Call(threads, stuck)
    thread = threads._loop_thread
    assert thread is not None
    await set_by(started)
    await threads.close()
    assert not call.ended.done()
    let_go.set()
    await asyncio.to_thread(thread.join, WITHIN_S)
    assert not thread.is_alive()


# --- the whole agent ---------------------------------------------------------------------------


class QuickCoordinator(ScriptedCoordinator):
    """Wants heartbeats every 20 ms."""

    def _on_attach(self, body: dict[str, Any], number: int) -> Attached:
        return Attached("s1", "c1", 0.5, 0.02)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - what is looked at has no event
            await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_heartbeats_go_on_while_a_handler_blocks(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = MemoryWorld.on_wall_clock()
    reported_in: list[int] = []
    progress = AgentActor.progress

    def noting_the_thread(self: AgentActor, *report: Any) -> None:
        reported_in.append(threading.get_ident())
        progress(self, *report)

    monkeypatch.setattr(AgentActor, "progress", noting_the_thread)
    scripted = QuickCoordinator(world.connect("server"))
    await scripted.start()
    agent = Agent(agent_id="a1", concurrency=1)
    started, let_go = threading.Event(), threading.Event()

    def block(ctx: Context) -> str:
        started.set()
        ctx.progress_sync(50, "blocking")
        assert let_go.wait(WITHIN_S)
        return "done"

    async def block_the_loop(ctx: Context) -> str:
        return block(ctx)

    agent.handles("feature")(block if kind == "plain" else block_the_loop)
    running = asyncio.create_task(agent.run(world.connect("a1")))
    await until(lambda: scripted.of("next"))
    scripted.work(assignment())
    await set_by(started)
    await until(lambda: scripted.done)
    assert scripted.done[0]["note"] == "blocking"
    assert reported_in == [threading.get_ident()]
    before = len(scripted.of("heartbeat"))
    await until(lambda: len(scripted.of("heartbeat")) >= before + 5)
    assert scripted.bodies("heartbeat")[-1]["held"] == [["0-1", "1.n.s1"]]
    let_go.set()
    await until(lambda: "complete" in scripted.verbs())
    agent.stop()
    await asyncio.wait_for(running, WITHIN_S)


async def test_an_agent_is_stopped_from_another_thread() -> None:
    world = MemoryWorld.on_wall_clock()
    scripted = QuickCoordinator(world.connect("server"))
    await scripted.start()
    agent = Agent(agent_id="a1")
    agent.handles("feature")(lambda ctx: None)
    running = asyncio.create_task(agent.run(world.connect("a1")))
    await until(lambda: scripted.of("next"))
    await asyncio.to_thread(agent.stop)
    await asyncio.wait_for(running, WITHIN_S)


async def test_a_signal_stops_an_agent() -> None:
    world = MemoryWorld.on_wall_clock()
    scripted = QuickCoordinator(world.connect("server"))
    await scripted.start()
    agent = Agent(agent_id="a1", concurrency=2)
    started = threading.Event()

    @agent.handles("feature")
    async def waits(ctx: Context) -> None:
        started.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(agent.run_until_signal(world.connect("a1")))
    await until(lambda: scripted.of("next"))
    scripted.work(assignment())
    await set_by(started)
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: scripted.bodies("next")[-1]["slots"] == 0)
    assert not running.done()
    # Impatient: what runs is handed back at once.
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, WITHIN_S)
    assert scripted.verbs() == ["release"]


def test_a_stuck_plain_handler_does_not_hold_up_the_end_of_the_process() -> None:
    program = textwrap.dedent(
        """
        import asyncio, threading
        from swarm.sdk.context import Context
        from swarm.sdk.execution import HandlerExecution
        from swarm.sdk.items import ClaimedItem
        from swarm.sdk.runners import ThreadRunner
        from tests.unit.scripted import NoLine, assignment

        started = threading.Event()

        def stuck(ctx):
            started.set()
            threading.Event().wait()

        async def main():
            runner = ThreadRunner(1)
            await runner.start()
            context = Context(ClaimedItem.of(assignment()), NoLine())
            runner.run(HandlerExecution(stuck, context, is_async=False), print)
            await asyncio.to_thread(started.wait)
            await runner.close()

        asyncio.run(main())
        print("over")
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")


async def test_a_cancelled_agent_with_threads_leaves_none_behind() -> None:
    world = MemoryWorld.on_wall_clock()
    scripted = QuickCoordinator(world.connect("server"))
    await scripted.start()
    agent = Agent(agent_id="a1")
    started = threading.Event()

    @agent.handles("feature")
    async def waits(ctx: Context) -> None:
        started.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(agent.run(world.connect("a1")))
    await until(lambda: scripted.of("next"))
    scripted.work(assignment())
    await set_by(started)
    await give_up_on(running)
    assert "swarm-handlers" not in [thread.name for thread in threading.enumerate()]
