"""The simulated event loop: virtual time, repeatable order, nothing overlooked."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from swarm.testing.loop import START_S, Deadlock, Livelock, SimLoop, run
from tests.unit.sims import leave_running, loop_time, pass_time, start_process

ROOT = Path(__file__).resolve().parents[2]
SEEDS = range(40)


# --- the clock -----------------------------------------------------------------


def test_an_hour_of_virtual_time_costs_nothing() -> None:
    async def main() -> float:
        await pass_time(3600)
        return loop_time()

    before_s = time.monotonic()
    assert run(main, seed=1) == START_S + 3600
    assert time.monotonic() - before_s < 60


def test_timers_run_by_their_time_and_of_one_instant_in_the_order_they_were_set() -> None:
    async def main() -> list[str]:
        loop, seen = asyncio.get_running_loop(), list[str]()
        for delay_s, name in ((2, "c"), (1, "a"), (2, "d"), (1, "b"), (2, "e")):
            loop.call_later(delay_s, seen.append, name)
        await pass_time(3)
        return seen

    for seed in SEEDS:
        assert run(main, seed) == ["a", "b", "c", "d", "e"]


def test_a_timer_of_the_past_runs_without_turning_the_clock_back() -> None:
    async def main() -> float:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        loop.call_at(0.0, done.set)
        await done.wait()
        return loop.time()

    assert run(main, seed=1) == START_S


def test_cancelled_timers_neither_run_nor_pile_up() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        for _ in range(5000):
            loop.call_later(60, pytest.fail, "a cancelled timer ran").cancel()
        await pass_time(100)
        assert loop.time() == START_S + 100
        for _ in range(5000):
            loop.call_later(60, pytest.fail, "a cancelled timer ran").cancel()
        return len(loop._timers)

    assert run(main, seed=1) < 200


# --- order -----------------------------------------------------------------------


async def order_of_tasks() -> str:
    seen: list[str] = []

    async def visit(name: str) -> None:
        seen.append(name)
        await asyncio.sleep(0)
        seen.append(name.upper())

    await asyncio.gather(*(visit(name) for name in "abcdef"))
    return "".join(seen)


def test_ready_tasks_are_permuted_by_the_seed_and_only_by_it() -> None:
    orders = [run(order_of_tasks, seed) for seed in SEEDS]
    assert orders == [run(order_of_tasks, seed) for seed in SEEDS]
    assert len(set(orders)) > 30
    assert all(sorted(order[:6]) == list("abcdef") for order in orders)


def test_without_shuffle_tasks_run_first_in_first_out() -> None:
    assert run(order_of_tasks, seed=5, shuffle=False) == "abcdefABCDEF"


def test_shuffle_leaves_plain_callbacks_in_order() -> None:
    async def main() -> tuple[list[int], list[int]]:
        loop = asyncio.get_running_loop()
        callbacks: list[int] = []
        tasks: list[int] = []

        async def visit(number: int) -> None:
            tasks.append(number)

        running = []
        for number in range(20):
            loop.call_soon(callbacks.append, number)
            running.append(asyncio.create_task(visit(number)))
        await asyncio.gather(*running)
        return callbacks, tasks

    permuted = 0
    for seed in SEEDS:
        callbacks, tasks = run(main, seed)
        assert callbacks == list(range(20))
        assert sorted(tasks) == list(range(20))
        permuted += tasks != list(range(20))
    assert permuted == len(SEEDS)


def test_names_of_tasks_do_not_tell_of_earlier_runs() -> None:
    async def main() -> list[str]:
        return sorted(task.get_name() for task in [asyncio.create_task(pass_time(1))])

    assert run(main, seed=1) == run(main, seed=1) == ["task-2"]


# --- asyncio's own parts keep their promises under a shuffle ----------------------


async def lock_excludes() -> None:
    lock, inside, entered = asyncio.Lock(), 0, 0

    async def enter() -> None:
        nonlocal inside, entered
        for _ in range(5):
            async with lock:
                inside += 1
                entered += 1
                assert inside == 1
                await asyncio.sleep(0)
                inside -= 1

    await asyncio.gather(*(enter() for _ in range(6)))
    assert entered == 30


async def semaphore_bounds() -> None:
    semaphore, inside, most = asyncio.Semaphore(3), 0, 0

    async def enter() -> None:
        nonlocal inside, most
        for _ in range(5):
            async with semaphore:
                inside += 1
                most = max(most, inside)
                assert inside <= 3
                await asyncio.sleep(0)
                inside -= 1

    await asyncio.gather(*(enter() for _ in range(8)))
    assert most == 3


async def queue_keeps_the_order_of_each_producer() -> None:
    queue: asyncio.Queue[tuple[int, int]] = asyncio.Queue(maxsize=2)

    async def produce(producer: int) -> None:
        for number in range(10):
            await queue.put((producer, number))

    producers = [asyncio.create_task(produce(producer)) for producer in range(4)]
    taken = [await queue.get() for _ in range(40)]
    await asyncio.gather(*producers)
    for producer in range(4):
        assert [n for p, n in taken if p == producer] == list(range(10))


async def condition_and_event_wake_everybody() -> None:
    condition, event, woken = asyncio.Condition(), asyncio.Event(), 0

    async def wait() -> None:
        nonlocal woken
        await event.wait()
        async with condition:
            await condition.wait()
            woken += 1

    waiters = [asyncio.create_task(wait()) for _ in range(5)]
    event.set()
    while woken < 5:
        await pass_time(1)
        async with condition:
            condition.notify(2)
    await asyncio.gather(*waiters)


async def timeouts_and_groups_hold() -> None:
    started = loop_time()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), timeout=5)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.Queue[int]().get()
    assert loop_time() == started + 10

    async def fail() -> None:
        raise KeyError("planted")

    waiting = asyncio.create_task(asyncio.Event().wait())

    async def fail_in_a_group() -> None:
        async with asyncio.TaskGroup() as group:
            failing = group.create_task(fail())
            await waiting
            assert failing.done()

    with pytest.raises(ExceptionGroup):
        await fail_in_a_group()
    assert waiting.cancelled()
    done, pending = await asyncio.wait(
        [asyncio.create_task(pass_time(delay_s)) for delay_s in (1, 2, 3)], timeout=2.5
    )
    assert (len(done), len(pending)) == (2, 1)
    assert await asyncio.gather(*(asyncio.sleep(n % 3, n) for n in range(9))) == list(range(9))


@pytest.mark.parametrize(
    "scenario",
    [
        lock_excludes,
        semaphore_bounds,
        queue_keeps_the_order_of_each_producer,
        condition_and_event_wake_everybody,
        timeouts_and_groups_hold,
    ],
)
def test_asyncio_keeps_its_promises_under_a_shuffle(
    scenario: Callable[[], Awaitable[None]],
) -> None:
    async def main() -> None:
        await scenario()

    for seed in SEEDS:
        run(main, seed)


# --- nothing is overlooked ----------------------------------------------------------


def test_a_deadlock_names_who_waits_where() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        kept = asyncio.create_task(never(), name="waits for ever")
        await asyncio.Queue[int]().get()
        await kept

    with pytest.raises(Deadlock) as caught:
        run(main, seed=1)
    text = str(caught.value)
    assert "2 tasks pending" in text
    assert "main: " in text
    assert "Queue.get" in text
    assert "waits for ever: " in text
    assert "never (test_simloop.py:" in text
    assert "Event.wait" in text


def test_a_task_that_failed_unnoticed_explains_a_deadlock() -> None:
    async def main() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()

        async def produce() -> None:
            raise ZeroDivisionError("planted")

        kept = asyncio.create_task(produce(), name="producer")
        await queue.get()
        await kept

    with pytest.raises(ZeroDivisionError, match="planted") as caught:
        run(main, seed=1)
    assert "raised in producer, which nobody awaited" in caught.value.__notes__


def test_spinning_without_time_is_a_livelock() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def spin() -> None:
            loop.call_soon(spin)

        spin()
        await asyncio.Event().wait()

    with pytest.raises(Livelock, match="without any time passing"):
        run(main, seed=1)


def test_an_exception_in_a_callback_ends_the_run_at_once() -> None:
    reached = False

    async def main() -> None:
        nonlocal reached

        def fail() -> None:
            raise LookupError("planted")

        asyncio.get_running_loop().call_later(1, fail)
        await pass_time(2)
        reached = True

    with pytest.raises(LookupError, match="planted"):
        run(main, seed=1)
    assert not reached


def test_a_failure_that_is_about_to_be_asked_for_is_nobodys_oversight() -> None:
    """However many tasks are made between the failure and the turn of who awaits it."""

    async def main() -> str:
        async def fail() -> None:
            raise LookupError("planted")

        async def idle() -> None:
            await pass_time(1)

        failing = asyncio.create_task(fail())
        others: list[asyncio.Task[None]] = []
        failing.add_done_callback(
            lambda _: others.extend(asyncio.create_task(idle()) for _ in range(600))
        )
        with pytest.raises(LookupError, match="planted"):
            await failing
        await asyncio.gather(*others)
        return "fine"

    assert run(main, seed=1, shuffle=False) == "fine"


def test_a_task_that_fails_with_nobody_asking_fails_the_run() -> None:
    async def main() -> str:
        async def fail() -> None:
            raise LookupError("planted")

        kept = asyncio.create_task(fail(), name="lonely")
        await pass_time(1)
        assert kept.done()
        return "fine"

    with pytest.raises(LookupError, match="planted") as caught:
        run(main, seed=1)
    assert "raised in lonely, which nobody awaited" in caught.value.__notes__


def test_what_main_raises_comes_before_what_failed_beside_it() -> None:
    async def main() -> None:
        async def fail() -> None:
            raise LookupError("beside")

        kept = asyncio.create_task(fail())
        await pass_time(1)
        assert kept.done()
        raise ValueError("of main")

    with pytest.raises(ValueError, match="of main") as caught:
        run(main, seed=1)
    assert caught.value.__notes__ == ["then also: LookupError('beside')"]


def test_leftovers_are_cancelled_in_order_of_creation_and_cleaned_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[int] = []

    async def linger(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await pass_time(1)  # cleaning up may take time, too
            ended.append(number)

    async def main() -> str:
        for number in range(300):
            leave_running(linger(number))
        await pass_time(1)
        return "result"

    with caplog.at_level(logging.DEBUG):
        assert run(main, seed=1, shuffle=False) == "result"
        gc.collect()
    assert ended == list(range(300))
    assert not caplog.records


def test_a_task_that_will_not_be_cancelled_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    async def main() -> None:
        leave_running(stubborn())
        await pass_time(1)

    with pytest.raises(Deadlock, match=r"although they were cancelled(.|\n)*stubborn"):
        run(main, seed=1)
    gc.collect()
    assert not caplog.records


def test_a_failure_while_cleaning_up_is_not_overlooked() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def fail() -> None:
            raise LookupError("planted")

        async def linger() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                loop.call_soon(fail)
                await pass_time(1)

        leave_running(linger())
        await pass_time(1)

    with pytest.raises(LookupError, match="planted"):
        run(main, seed=1)


def test_an_unfinished_async_generator_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    async def count() -> AsyncIterator[int]:
        for number in range(10):
            yield number
            await pass_time(1)

    async def main() -> int:
        async for number in count():
            if number == 3:
                break
        return int(loop_time() - START_S)

    assert run(main, seed=1) == 3
    gc.collect()
    assert not caplog.records


def test_stopping_the_loop_from_inside_is_an_error() -> None:
    async def main() -> None:
        asyncio.get_running_loop().stop()
        await pass_time(1)

    with pytest.raises(RuntimeError, match="stopped before main"):
        run(main, seed=1)


def test_there_are_no_threads() -> None:
    async def main() -> None:
        await asyncio.to_thread(time.monotonic)

    with pytest.raises(RuntimeError, match="call it directly"):
        run(main, seed=1)


# --- processes -------------------------------------------------------------------------


async def tick_forever(seen: list[float], every_s: float = 1.0) -> None:
    while True:
        await pass_time(every_s)
        seen.append(loop_time() - START_S)


def frozen_loop() -> SimLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    return loop


def test_a_frozen_process_does_nothing_and_then_everything_at_once() -> None:
    async def main() -> tuple[list[float], list[float], list[str]]:
        loop = frozen_loop()
        frozen: list[float] = []
        other: list[float] = []
        order: list[str] = []
        done = loop.create_future()

        async def work() -> None:
            # A task of a task, a timer and a future's callback: all are the process's.
            task = asyncio.create_task(tick_forever(frozen))
            loop.call_later(4, order.append, "timer at 4")
            loop.call_later(3, order.append, "timer at 3")
            done.add_done_callback(lambda _: order.append("future at 3.5"))
            await asyncio.wait_for(task, 3.2)

        process = start_process("p#1", work())
        leave_running(tick_forever(other))
        await pass_time(2.5)
        loop.freeze("p#1")
        loop.freeze("p#1")
        await pass_time(1.0)
        done.set_result(None)
        await pass_time(6.0)
        assert not process.done()
        assert (frozen, order) == ([1.0, 2.0], [])
        assert loop.thaw("p#1") > 0
        assert loop.thaw("p#1") == 0
        with pytest.raises(TimeoutError):
            await process
        return frozen, other, order

    frozen, other, order = run(main, seed=1)
    assert frozen == [1.0, 2.0, 9.5]
    assert other == [float(second) for second in range(1, 10)]
    assert order == ["timer at 3", "future at 3.5", "timer at 4"]


def test_a_timer_cancelled_while_its_process_is_frozen_does_not_run() -> None:
    async def main() -> None:
        loop = frozen_loop()
        seen: list[str] = []
        timers: list[asyncio.TimerHandle] = []

        async def work() -> None:
            timers.append(loop.call_later(1, seen.append, "cancelled"))
            timers.append(loop.call_later(1, seen.append, "kept"))

        await start_process("p#1", work())
        loop.freeze("p#1")
        await pass_time(2)
        timers[0].cancel()
        loop.thaw("p#1")
        await pass_time(1)
        assert seen == ["kept"]

    run(main, seed=1)


def test_whoever_is_killed_is_not_blamed_for_not_asking_what_failed() -> None:
    """A task fails, and its process is killed before the one that awaits it goes on."""

    async def main() -> str:
        loop = frozen_loop()

        async def fail() -> None:
            await pass_time(1)
            loop.freeze("p#1")
            raise LookupError("planted")

        async def work() -> None:
            task = asyncio.create_task(fail())
            with contextlib.suppress(LookupError):  # to have asked is enough
                await task

        killed = start_process("p#1", work())
        await pass_time(3)
        assert not killed.done()
        return "fine"

    assert run(main, seed=1) == "fine"


def test_a_process_that_stays_frozen_is_named_in_a_deadlock_and_ended_with_the_run() -> None:
    ended: list[str] = []

    async def linger() -> None:
        try:
            await pass_time(1)
            await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")

    async def wait_for_it() -> None:
        loop = frozen_loop()
        process = start_process("p#1", linger())
        await pass_time(0.5)
        loop.freeze("p#1")
        await process

    with pytest.raises(Deadlock, match=r"frozen: p#1, 1 callbacks"):
        run(wait_for_it, seed=1)
    assert ended == ["cleaned up"]


# --- the same in every process ------------------------------------------------------

#: A run with every fault, printing its whole trace; `words` is where to plant a mistake.
SCENARIO = """
import asyncio, random, sys
from swarm.bus.memory import Faults, MemoryWorld
from swarm.errors import BusError
from swarm.testing.loop import run

async def work(bus, name, words):
    for number in range(12):
        await asyncio.sleep(0.1)
        for word in words:
            try:
                await bus.publish(f"all.{word}", f"{name} {number}".encode())
                await bus.request(f"one.{word}", b"?", 0.5)
                seen = await bus.read("log", 1, 100)
                await bus.append("log", name.encode(), len(seen), 0.2)
            except BusError as error:
                await bus.publish("errors", repr(error).encode())

async def main():
    faults = Faults(loss=0.05, duplicate=0.05, delay=0.1, append_lost=0.05, append_late=0.1,
                    ack_lost=0.1, read_lag=0.2, gap=0.1)
    world = MemoryWorld(random.Random(int(sys.argv[1])), faults=faults, trace_max=None)
    words = eval(sys.argv[2])
    buses = [world.connect(f"s{n}", node=f"n{n % 3}") for n in range(5)]
    await buses[0].create_log("log")
    for bus in buses:
        await bus.subscribe("all.>", lambda message: None)
        def answer(message, bus=bus):
            asyncio.get_running_loop().create_task(bus.publish(message.reply, b"!"))
        await bus.subscribe("one.*", answer, queue="servers")
    tasks = [asyncio.create_task(work(bus, bus.sender, words)) for bus in buses]
    await asyncio.sleep(1)
    world.partition("n1")
    await asyncio.sleep(0.3)
    world.pause("n2", 0.4)
    await asyncio.sleep(2)
    world.heal("n1")
    await asyncio.gather(*tasks)
    return world.trace

print(run(main, int(sys.argv[1])))
"""


def trace_of(seed: int, hash_seed: int, words: str = "('x', 'y', 'z')") -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCENARIO, str(seed), words],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_a_seed_gives_the_same_trace_in_every_process() -> None:
    first = trace_of(seed=3, hash_seed=0)
    assert first.count("\n") > 1000
    assert trace_of(seed=3, hash_seed=1) == first
    assert trace_of(seed=3, hash_seed=2) == first
    assert trace_of(seed=4, hash_seed=0) != first


def test_the_comparison_of_traces_finds_a_dependence_on_hash_order() -> None:
    words = "set('xyzuvw')"
    assert len({trace_of(3, hash_seed, words) for hash_seed in range(3)}) > 1
