"""Processes of the memory world that are stopped whole, stalled, slow, or hit while they send."""

from __future__ import annotations

import asyncio
import random

import pytest

from swarm.bus.base import Message
from swarm.bus.memory import Faults, MemoryBus, MemoryWorld
from swarm.errors import AppendRefused, BusTimeout, BusUnavailable, OutcomeUnknown
from swarm.testing.loop import START_S, run
from tests.unit.sims import (
    collect,
    is_connected,
    leave_running,
    loop_time,
    pass_time,
    sim,
    start_process,
)

# --- SIGSTOP ------------------------------------------------------------------


def test_nothing_of_a_paused_process_runs_and_its_messages_wait() -> None:
    async def scenario(world: MemoryWorld) -> None:
        seen: list[tuple[str, float]] = []

        def note(what: str) -> None:
            seen.append((what, loop_time() - START_S))

        async def work() -> None:
            bus = world.connect("p")
            await bus.subscribe("x", lambda message: note(message.data.decode()))
            await bus.subscribe("y", lambda message: note(message.data.decode()))
            while True:
                await pass_time(2.0)
                note("timer")

        a = world.connect("a")
        process = start_process("p#1", work())
        await pass_time(1)
        world.pause("p", 4)
        for subject, data in (("x", b"1"), ("y", b"2"), ("x", b"3")):
            await a.publish(subject, data)
            await pass_time(0.01)
        await pass_time(3.87)
        assert seen == []
        await pass_time(0.2)
        assert [round(at_s, 2) for _, at_s in seen] == [5.0] * 4
        what = [what for what, _ in seen]
        assert sorted(what) == ["1", "2", "3", "timer"]
        assert what.index("1") < what.index("2") < what.index("3")
        assert not process.done()

    sim(scenario)


def test_after_a_pause_timers_come_before_messages_or_after_them() -> None:
    def first_after_a_pause(seed: int) -> str:
        async def main() -> str:
            world = MemoryWorld(random.Random(seed))
            a, seen = world.connect("a"), list[str]()

            async def work() -> None:
                bus = world.connect("p")
                await bus.subscribe("x", lambda _: seen.append("message"))
                await pass_time(2)
                seen.append("timer")

            leave_running(asyncio.wait_for(start_process("p#1", work()), 100))
            await pass_time(1)
            world.pause("p", 5)
            await a.publish("x", b"")
            await pass_time(10)
            assert len(seen) == 2
            return seen[0]

        return run(main, seed=1)

    assert {first_after_a_pause(seed) for seed in range(20)} == {"message", "timer"}


def test_an_answer_that_came_in_a_pause_may_find_its_timeout_passed() -> None:
    def append_over_a_pause(seed: int) -> str:
        async def main() -> str:
            world = MemoryWorld(random.Random(seed))
            await world.connect("a").create_log("log")

            async def work() -> str:
                try:
                    await world.connect("p").append("log", b"", 0, 0.4)
                except OutcomeUnknown:
                    return "unknown"
                return "acknowledged"

            process = start_process("p#1", work())
            await pass_time(1e-5)
            world.pause("p", 5)
            outcome = await process
            assert loop_time() == pytest.approx(START_S + 5, abs=0.01)
            assert len(world.log_entries("log")) == 1
            return outcome

        return run(main, seed=1)

    assert {append_over_a_pause(seed) for seed in range(20)} == {"unknown", "acknowledged"}


def test_a_process_that_is_killed_runs_no_cleanup() -> None:
    ended: list[str] = []

    async def scenario(world: MemoryWorld) -> None:
        async def work() -> None:
            world.connect("p")
            try:
                await pass_time(10)
            finally:
                ended.append("cleaned up")

        process = start_process("p#1", work())
        await pass_time(1)
        world.crash("p")
        await pass_time(100)
        assert (process.done(), ended) == (False, [])

        again = start_process("p#2", work())
        await again

    sim(scenario)
    # What is left over is ended with the run, whatever became of it in the run.
    assert ended == ["cleaned up", "cleaned up"]


def test_a_process_started_anew_is_the_one_that_is_paused() -> None:
    async def scenario(world: MemoryWorld) -> None:
        async def work(duration_s: float) -> float:
            bus = world.connect("p")
            await pass_time(duration_s)
            await bus.close()
            return loop_time() - START_S

        assert await start_process("p#1", work(1)) == 1
        process = start_process("p#2", work(1))
        await pass_time(0.5)
        world.pause("p", 3)
        assert await process == 4.5

    sim(scenario)


# --- hit while it sends ---------------------------------------------------------


async def send_three(bus: MemoryBus) -> None:
    for number in range(3):
        await bus.publish("x", b"%d" % number)


def test_a_process_paused_while_it_sends_has_sent_the_first_part() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        seen = await collect(a, "x")
        world.at_send("b", 2, lambda: world.pause("b", 5))
        await send_three(b)
        await pass_time(4)
        assert seen == [b"0"]
        await pass_time(2)
        assert seen == [b"0", b"1", b"2"]

    sim(scenario)


def test_a_process_killed_while_it_sends_has_sent_the_first_part_for_ever() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        await a.create_log("log")
        seen = await collect(a, "x")
        world.at_send("b", 3, lambda: world.crash("b"))
        await b.append("log", b"an append counts, too", 0, 1)
        with pytest.raises(BusUnavailable):
            await send_three(b)
        await pass_time(10)
        assert seen == [b"0"]

    sim(scenario)


def test_a_strike_at_a_sending_happens_once() -> None:
    async def scenario(world: MemoryWorld) -> None:
        b = world.connect("b")
        struck: list[float] = []
        world.at_send("b", 2, lambda: struck.append(loop_time()))
        await b.publish("x", b"")
        assert not struck
        for _ in range(5):
            await b.publish("x", b"")
        assert len(struck) == 1

    sim(scenario)


# --- stalls -----------------------------------------------------------------------


def test_a_stalled_network_delays_everything_while_the_process_goes_on() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a = world.connect("a")
        at_a = await collect(a, "to-a")
        await a.create_log("log")
        at_b: list[bytes] = []
        outcomes: list[str] = []

        async def work() -> None:
            b = world.connect("b")
            await b.subscribe("to-b", lambda message: at_b.append(message.data))
            await pass_time(1)
            for number in range(2):
                await b.publish("to-a", b"%d" % number)
                try:
                    await b.append("log", b"", number, 0.4)
                except OutcomeUnknown:
                    outcomes.append(f"unknown at {loop_time() - START_S:.1f}")

        process = start_process("b#1", work())
        await pass_time(0.5)
        world.stall("b", 3)
        world.stall("b", 1)  # ends before the first one: changes nothing
        await a.publish("to-b", b"in")
        await process
        assert outcomes == ["unknown at 1.4", "unknown at 1.8"]
        assert (at_a, at_b, world.log_entries("log")) == ([], [], [])
        await pass_time(2)
        assert (at_a, at_b) == ([b"0", b"1"], [b"in"])
        assert [entry.seq for entry in world.log_entries("log")] == [1, 2]

    sim(scenario)


def test_stalled_appends_meet_the_fence_when_they_arrive() -> None:
    async def scenario(world: MemoryWorld) -> None:
        old, new = world.connect("old"), world.connect("new")
        await old.create_log("log")
        world.stall("old", 3)
        append = asyncio.create_task(old.append("log", b"old", 0, 10))
        await pass_time(1)
        assert await new.append("log", b"new", 0, 1) == 1
        with pytest.raises(AppendRefused):
            await append

    sim(scenario)


# --- slow consumers -----------------------------------------------------------------


def test_a_slow_process_takes_one_message_after_the_other_and_drops_the_rest() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        seen: list[tuple[bytes, float]] = []

        def take(message: Message) -> None:
            seen.append((message.data, round(loop_time() - START_S, 1)))

        await b.subscribe("x", take)
        await pass_time(1.0 - (loop_time() - START_S))
        world.slow("b", 0.5, pending_max=4)
        for number in range(10):
            await a.publish("x", b"%d" % number)
        await pass_time(10)
        assert seen == [(b"0", 1.5), (b"1", 2.0), (b"2", 2.5), (b"3", 3.0)]
        await a.publish("x", b"later")
        await pass_time(1)
        assert seen[4] == (b"later", 11.5)

    sim(scenario)


def test_a_process_that_is_quick_again_keeps_the_order() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        seen = await collect(b, "x")
        await a.create_log("log")
        world.slow("b", 0.5, pending_max=100)
        for number in range(4):
            await a.publish("x", b"%d" % number)
        await pass_time(0.7)
        assert len(seen) == 1
        world.quick("b")
        world.pause("b", 1)
        for number in range(4, 8):
            await a.publish("x", b"%d" % number)
        await a.append("log", b"", 0, 1)
        read = asyncio.create_task(b.read("log", 1, 10))
        await pass_time(10)
        assert seen == [b"%d" % number for number in range(8)]
        assert [entry.seq for entry in await read] == [1]
        start_s = loop_time()
        await a.publish("x", b"8")
        await pass_time(0.01)
        assert seen[8] == b"8"
        assert loop_time() - start_s < 0.1

    sim(scenario)


def test_answers_of_calls_are_late_but_not_dropped_by_a_slow_process() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        await a.create_log("log")
        world.slow("b", 0.5, pending_max=1)
        assert await b.append("log", b"", 0, 5) == 1
        assert loop_time() == pytest.approx(START_S + 0.5, abs=0.1)
        reads = [asyncio.create_task(b.read("log", 1, 1)) for _ in range(3)]
        assert [len(await read) for read in reads] == [1, 1, 1]
        with pytest.raises(BusTimeout):
            await asyncio.gather(*[b.read("log", 1, 1) for _ in range(20)])

    sim(scenario)


# --- the hand that ends it, and hooks ----------------------------------------------------


def test_calm_ends_stalls_and_slowness() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b, c = world.connect("a"), world.connect("b"), world.connect("c")
        at_b, at_c = await collect(b, "x"), await collect(c, "x")
        world.stall("b", 1000)
        world.slow("c", 100, pending_max=1)
        await a.publish("x", b"1")
        await pass_time(1)
        world.calm()
        await pass_time(1)
        assert at_b == [b"1"]
        await a.publish("x", b"2")
        await pass_time(200)
        assert (at_b, at_c) == ([b"1", b"2"], [b"1", b"2"])
        assert is_connected(b)

    sim(scenario)


def test_hooks_see_appends_begin_and_messages_reach_a_paused_node() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a", node="n1"), world.connect("b", node="n2")
        seen: list[tuple[object, ...]] = []
        world.on_send(lambda log, data, node: seen.append(("send", log, data, node)))
        world.on_arrive(lambda node, subject, data: seen.append(("arrive", node, subject, data)))
        world.on_deliver(lambda node, subject, data: seen.append(("deliver", node, subject, data)))
        await a.create_log("log")
        await collect(b, "x")
        world.faults = Faults(append_lost=1)
        with pytest.raises(OutcomeUnknown):
            await a.append("log", b"1", 0, 1)
        world.pause("n2", 1)
        await a.publish("x", b"2")
        await pass_time(0.5)
        assert seen == [("send", "log", b"1", "n1"), ("arrive", "n2", "x", b"2")]
        await pass_time(1)
        assert seen[2:] == [("deliver", "n2", "x", b"2")]

    sim(scenario)
