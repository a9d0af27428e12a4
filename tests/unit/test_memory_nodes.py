"""Crashes, partitions, pauses and cut logs of the memory world; its hooks and its trace."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from swarm.bus.base import Entry
from swarm.bus.memory import Faults, MemoryWorld
from swarm.errors import (
    AppendRefused,
    BusTimeout,
    BusUnavailable,
    NoResponders,
    OutcomeUnknown,
)
from swarm.testing.loop import START_S
from tests.unit.sims import collect, is_connected, loop_time, pass_time, read_on, serve, sim

#: Takes long enough to do something to an append while it is under way.
SLOW_APPENDS = Faults(append_latency_s=(0.5, 0.5))

# --- crash --------------------------------------------------------------------


def test_a_crashed_node_is_never_called_again_and_its_awaits_never_return() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b1", node="b")
        other = world.connect("b2", node="b")
        seen, seen_too = await collect(b, "x"), await collect(other, "x")
        await a.create_log("log")
        await collect(a, "silent")
        waiting = [
            asyncio.create_task(other.request("silent", b"", 1)),
            asyncio.create_task(b.read("log", 1, 1)),
            asyncio.create_task(b.flush()),
        ]
        await pass_time(1e-6)
        await a.publish("x", b"under way")
        world.crash("b")
        assert not is_connected(b)
        with pytest.raises(NoResponders):
            await a.request("x", b"", 1)
        await a.append("log", b"", 0, 1)
        await pass_time(100)
        assert (seen, seen_too) == ([], [])
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        done, _ = await asyncio.wait(waiting)
        assert all(task.cancelled() for task in done)

    sim(scenario)


def test_what_a_crashed_node_has_sent_arrives_and_what_it_sends_does_not() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        seen = await collect(b, "x")
        await a.create_log("log")
        append = asyncio.create_task(a.append("log", b"in flight", 0, 5))
        await pass_time(1e-6)
        await a.publish("x", b"before")
        world.crash("a")
        for call in (
            lambda: a.publish("x", b"after"),
            lambda: a.append("log", b"after", 1, 1),
            lambda: a.read("log", 1, 1),
            lambda: a.subscribe("x", lambda _: None),
        ):
            with pytest.raises(BusUnavailable, match="has crashed"):
                await call()
        await a.close()
        await pass_time(10)
        assert seen == [b"before"]
        assert [entry.data for entry in world.log_entries("log")] == [b"in flight"]
        assert not append.done()

    sim(scenario, faults=SLOW_APPENDS)


def test_a_crashed_node_is_started_anew_by_connecting() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, old = world.connect("a"), world.connect("b")
        seen_by_old = await collect(old, "x")
        world.crash("b")
        new = world.connect("b")
        seen = await collect(new, "x")
        await a.publish("x", b"1")
        await pass_time(1)
        assert (seen_by_old, seen) == ([], [b"1"])
        assert is_connected(new)
        assert not is_connected(old)
        assert new.inbox() != old.inbox()

    sim(scenario)


@pytest.mark.parametrize("end", ["crash", "close"])
def test_a_subscription_under_way_dies_with_its_connection(end: str) -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        subscribing = asyncio.create_task(b.subscribe("x", lambda _: None))
        await pass_time(1e-6)
        if end == "crash":
            world.crash("b")
        else:
            await b.close()
        await pass_time(1)
        with pytest.raises(NoResponders):
            await a.request("x", b"", 1)
        if end == "close":
            with pytest.raises(BusUnavailable, match="closed meanwhile"):
                await subscribing

    sim(scenario)


# --- partition ----------------------------------------------------------------


def test_nothing_gets_in_or_out_of_a_partition() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        at_a, at_b = await collect(a, "to-a"), await collect(b, "to-b")
        await a.publish("to-b", b"under way")
        world.partition("b")
        await a.publish("to-b", b"later")
        await b.publish("to-a", b"unnoticed")
        assert is_connected(b)
        await pass_time(1)
        assert is_connected(b)
        await pass_time(1.5)
        assert not is_connected(b)
        assert (b.reconnects, a.reconnects) == (0, 0)
        with pytest.raises(NoResponders):
            await a.request("to-b", b"", 1)
        await b.publish("to-a", b"buffered 1")
        await b.publish("to-a", b"buffered 2")
        await pass_time(100)
        assert (at_a, at_b) == ([], [])

        world.heal("b")
        assert not is_connected(b)
        await pass_time(0.5)
        assert is_connected(b)
        assert b.reconnects == 1
        await a.publish("to-b", b"healed")
        await pass_time(0.1)
        assert at_a == [b"buffered 1", b"buffered 2"]
        assert at_b == [b"healed"]

    sim(scenario, notice_s=2.0)


def test_a_short_partition_costs_the_connection_too() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        seen = await collect(b, "x")
        for number in range(3):
            world.partition("b")
            await a.publish("x", b"lost")
            world.heal("b")
            assert not is_connected(b)
            await pass_time(1)
            assert is_connected(b)
            assert b.reconnects == number + 1
        await pass_time(10)  # notices of partitions that are over change nothing
        assert is_connected(b)
        await a.publish("x", b"kept")
        await pass_time(0.1)
        assert seen == [b"kept"]
        assert world.connect("later", node="b").reconnects == 0

    sim(scenario)


def test_what_was_under_way_at_a_partition_does_not_turn_up_after_it() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        seen = await collect(b, "x")
        await a.publish("x", b"delayed beyond the partition")
        world.partition("b")
        world.heal("b")
        await pass_time(1)
        assert is_connected(b)
        world.faults = Faults.none()
        await a.publish("x", b"new")
        await pass_time(100)
        assert seen == [b"new"]

    sim(scenario, faults=Faults(delay=1, delay_s=(50, 50)))


def test_a_partition_during_the_reconnect_prevents_it() -> None:
    async def scenario(world: MemoryWorld) -> None:
        b = world.connect("b")
        world.partition("b")
        world.heal("b")
        world.partition("b")
        await pass_time(100)
        assert not is_connected(b)
        world.heal("b")
        await pass_time(1)
        assert is_connected(b)
        assert b.reconnects == 1

    sim(scenario)


def test_an_append_in_a_partition_has_an_unknown_outcome() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a = world.connect("a")
        await a.create_log("log")

        async def cut_after(delay_s: float, expected_seq: int) -> bool:
            """Whether an append was stored that the cut caught `delay_s` after the start."""
            append = asyncio.create_task(a.append("log", b"", expected_seq, 3))
            await pass_time(delay_s)
            world.partition("a")
            with pytest.raises(OutcomeUnknown, match="no answer within 3 s"):
                await append
            world.heal("a")
            await pass_time(1)
            return len(world.log_entries("log")) == expected_seq + 1

        stored = 0
        fates = set()
        for _ in range(20):
            fate = await cut_after(0.25, stored)
            fates.add(fate)
            stored += fate
        assert fates == {True, False}

    sim(scenario, faults=SLOW_APPENDS)


def test_an_append_made_while_disconnected_is_sent_after_its_timeout() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a = world.connect("a")
        await a.create_log("log")
        world.partition("a")
        await pass_time(5)
        assert not is_connected(a)
        with pytest.raises(OutcomeUnknown):
            await a.append("log", b"buffered", 0, 1)
        assert world.log_entries("log") == []
        world.heal("a")
        await pass_time(1)
        assert [entry.data for entry in world.log_entries("log")] == [b"buffered"]

    sim(scenario)


def test_a_full_buffer_is_an_error_and_is_emptied_by_the_reconnect() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        published: list[bytes] = []
        world.on_publish(lambda node, subject, data, *_: published.append(data))
        seen = await collect(b, "x")
        world.partition("a")
        await pass_time(5)
        for _ in range(2):
            await a.publish("x", b"1" * 400)
        with pytest.raises(BusUnavailable, match="buffer of 1000 bytes is full"):
            await a.publish("x", b"1" * 400)
        with pytest.raises(BusUnavailable, match="buffer of 1000 bytes is full"):
            await a.append("log", b"1" * 400, 0, 1)
        assert len(published) == 2
        world.heal("a")
        await pass_time(1)
        assert len(seen) == 2
        await a.publish("x", b"1" * 400)
        world.partition("a")
        await pass_time(5)
        await a.publish("x", b"1" * 400)  # there is room again
        world.heal("a")
        await pass_time(1)
        assert len(seen) == 4

    sim(scenario, buffer_max=1000)


def test_calls_in_a_partition_time_out_and_leave_nothing_behind() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        await a.create_log("log")
        seen: list[object] = []
        world.partition("b")
        for error, call in (
            (BusTimeout, lambda: b.read("log", 1, 1)),
            (BusTimeout, b.server_time),
            (BusTimeout, lambda: b.state_get("key")),
            (BusTimeout, lambda: b.request("x", b"", 5)),
            (BusUnavailable, lambda: b.subscribe("x", seen.append)),
            (BusUnavailable, b.flush),
        ):
            before_s = loop_time()
            with pytest.raises(error, match="no answer within"):
                await call()
            assert loop_time() == before_s + 5
        world.heal("b")
        await pass_time(1)
        await a.publish("x", b"")
        await pass_time(1)
        assert seen == []

    sim(scenario, call_timeout_s=5.0)


def test_readers_and_subscriptions_go_on_after_a_partition() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        await a.create_log("log")
        found, before = read_on(b, "log"), list[int]()
        await serve(b, "echo")
        for seq in range(30):
            await a.append("log", b"", seq, 1)
            if seq == 10:
                world.partition("b")
            if seq == 20:
                before += found
                world.heal("b")
        assert before == list(range(1, len(before) + 1))
        assert len(before) <= 11
        await pass_time(6)  # what it asked for in the partition is never answered
        assert found == list(range(1, 31))
        assert (await a.request("echo", b"1", 1)).data == b"1"

    sim(scenario)


# --- pause --------------------------------------------------------------------


def test_a_paused_node_gets_and_sends_everything_later_in_order() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        at_a, at_b = await collect(a, "to-a"), await collect(b, "to-b")
        await a.create_log("log")
        found = read_on(b, "log")
        await a.publish("to-b", b"0")
        world.pause("b", 10)
        for number in range(1, 20):
            await a.publish("to-b", b"%d" % number)
            await b.publish("to-a", b"%d" % number)
            await a.append("log", b"", number - 1, 1)
        await pass_time(5)
        world.pause("b", 1)  # ends before the first pause: changes nothing
        await pass_time(4)
        assert (at_a, at_b, found) == ([], [], [])
        assert is_connected(b)
        await pass_time(2)
        assert at_b == [b"%d" % number for number in range(20)]
        assert at_a == [b"%d" % number for number in range(1, 20)]
        assert found == list(range(1, 20))

    sim(scenario)


def test_an_append_is_acknowledged_to_a_paused_node_when_it_goes_on() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a = world.connect("a")
        await a.create_log("log")
        append = asyncio.create_task(a.append("log", b"sent before", 0, 5))
        await pass_time(1e-6)
        world.pause("a", 3)
        await pass_time(2)
        assert len(world.log_entries("log")) == 1
        assert not append.done()
        assert await append == 1
        assert loop_time() == pytest.approx(START_S + 3, abs=0.01)

    sim(scenario)


def test_an_append_of_a_paused_node_meets_the_fence_when_it_goes_on() -> None:
    async def scenario(world: MemoryWorld) -> None:
        old, new = world.connect("old"), world.connect("new")
        await old.create_log("log")
        world.pause("old", 10)
        append = asyncio.create_task(old.append("log", b"old", 0, 30))
        await pass_time(1)
        assert await new.append("log", b"new", 0, 1) == 1
        with pytest.raises(AppendRefused):
            await append
        assert loop_time() > START_S + 10
        assert [entry.data for entry in world.log_entries("log")] == [b"new"]

    sim(scenario)


def test_a_paused_node_does_not_see_its_timeouts_pass() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        await collect(b, "silent")
        request = asyncio.create_task(a.request("silent", b"", 1))
        await pass_time(0.5)
        world.pause("a", 10)
        await pass_time(9)
        assert not request.done()
        with pytest.raises(BusTimeout):
            await request
        assert loop_time() == pytest.approx(START_S + 10.5, abs=0.01)

    sim(scenario)


def test_a_pause_can_be_ended_early_and_prolonged() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        seen = await collect(b, "x")
        world.pause("b", 10)
        await a.publish("x", b"1")
        await pass_time(1)
        world.resume("b")
        assert seen == [b"1"]
        world.pause("b", 2)
        world.pause("b", 20)
        await a.publish("x", b"2")
        await pass_time(15)
        assert seen == [b"1"]
        await pass_time(10)
        assert seen == [b"1", b"2"]

    sim(scenario)


def test_a_pause_from_within_what_a_resume_lets_through_holds_back_the_rest() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        seen: list[bytes] = []

        def handle(data: bytes) -> None:
            seen.append(data)
            if data == b"2":
                world.pause("b", 10)
            if data == b"4":
                world.crash("b")

        await b.subscribe("x", lambda message: handle(message.data))
        world.pause("b", 1)
        for number in range(1, 7):
            await a.publish("x", b"%d" % number)
        await pass_time(5)
        assert seen == [b"1", b"2"]
        await pass_time(20)
        assert seen == [b"1", b"2", b"3", b"4"]

    sim(scenario)


def test_a_node_that_dies_or_is_cut_off_while_paused() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b, c = world.connect("a"), world.connect("b"), world.connect("c")
        at_a, at_b, at_c = await collect(a, "a"), await collect(b, "b"), await collect(c, "c")
        world.pause("b", 10)
        world.pause("c", 10)
        await a.publish("b", b"")
        await a.publish("c", b"reached it before the cut")
        await b.publish("a", b"")
        await c.publish("a", b"")
        await pass_time(1)
        world.crash("b")
        world.partition("c")
        await pass_time(20)
        assert (at_a, at_b, at_c) == ([], [], [b"reached it before the cut"])

    sim(scenario)


def test_a_paused_node_reconnects_when_it_goes_on() -> None:
    async def scenario(world: MemoryWorld) -> None:
        b = world.connect("b")
        world.pause("b", 10)
        world.partition("b")
        world.heal("b")
        await pass_time(9)
        assert (b.connected, b.reconnects) == (False, 0)
        await pass_time(2)
        assert (b.connected, b.reconnects) == (True, 1)

    sim(scenario)


# --- cut logs, calm -----------------------------------------------------------


def test_a_cut_log_lets_messages_pass_and_nothing_else() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        seen = await collect(b, "x")
        await a.create_log("log")
        found = read_on(b, "log")
        world.cut_log("b")
        assert is_connected(b)
        with pytest.raises(OutcomeUnknown):
            await b.append("log", b"cut off", 0, 1)
        for call in (lambda: b.read("log", 1, 1), b.server_time, lambda: b.state_get("k")):
            with pytest.raises(BusTimeout):
                await call()
        assert await a.append("log", b"", 0, 1) == 1
        await a.publish("x", b"1")
        await pass_time(1)
        assert seen == [b"1"]
        assert found == []
        world.heal("b")
        await pass_time(6)  # what it asked for before is never answered
        assert found == [1]
        assert await b.append("log", b"", 1, 1) == 2
        assert (b.connected, b.reconnects) == (True, 0)

    sim(scenario)


def test_calm_ends_every_fault() -> None:
    async def scenario(world: MemoryWorld) -> None:
        buses = [world.connect(name) for name in "abcd"]
        await buses[0].create_log("log")
        world.faults = Faults(loss=1, append_lost=1)
        world.partition("a")
        world.pause("b", 1000)
        world.cut_log("c")
        world.crash("d")
        await pass_time(10)
        world.calm()
        await pass_time(1)
        assert [bus.connected for bus in buses] == [True, True, True, False]
        await serve(buses[0], "echo")
        for seq, bus in enumerate(buses[:3]):
            assert (await bus.request("echo", b"1", 1)).data == b"1"
            assert await bus.append("log", b"", seq, 1) == seq + 1

    sim(scenario)


def test_an_unknown_node_is_named() -> None:
    async def scenario(world: MemoryWorld) -> None:
        world.connect("a", node="n1")
        with pytest.raises(ValueError, match="no node 'a' has connected; there are: n1"):
            world.crash("a")

    sim(scenario)


# --- hooks, injection, trace --------------------------------------------------


def test_hooks_see_everything_in_the_order_it_happens() -> None:
    async def scenario(world: MemoryWorld) -> None:
        seen: list[tuple[object, ...]] = []

        def on_publish(
            node: str, subject: str, data: bytes, reply: str, headers: Mapping[str, str] | None
        ) -> None:
            seen.append(("publish", node, subject, data, reply, headers))

        def on_append(log: str, entry: Entry, node: str) -> None:
            seen.append(("append", log, entry.seq, entry.data, node))

        world.on_publish(on_publish)
        world.on_append(on_append)
        world.on_deliver(lambda node, subject, data: seen.append(("deliver", node, subject, data)))
        a, b = world.connect("a", node="n1"), world.connect("b", node="n2")
        await a.create_log("log")
        handled = await collect(b, "x")
        await a.publish("x", b"1", headers={"k": "v"})
        assert seen == [("publish", "n1", "x", b"1", "", {"k": "v"})]
        await pass_time(1)
        assert handled == [b"1"]
        await a.append("log", b"2", 0, 1)
        world.inject("log", b"3")
        await serve(b, "echo")
        reply = await a.request("echo", b"4", 1)
        assert seen[1:] == [
            ("deliver", "n2", "x", b"1"),
            ("append", "log", 1, b"2", "n1"),
            ("append", "log", 2, b"3", ""),
            ("publish", "n1", "echo", b"4", reply.subject, None),
            ("deliver", "n2", "echo", b"4"),
            ("publish", "n2", reply.subject, b"4", "", None),
            ("deliver", "n1", reply.subject, b"4"),
        ]

    sim(scenario)


def test_a_hook_sees_what_is_published_into_a_partition() -> None:
    async def scenario(world: MemoryWorld) -> None:
        seen: list[bytes] = []
        world.on_publish(lambda node, subject, data, *_: seen.append(data))
        bus = world.connect("a")
        world.partition("a")
        await bus.publish("x", b"1")
        assert seen == [b"1"]

    sim(scenario)


def test_a_checker_that_fails_ends_the_simulation_whoever_is_on_the_stack() -> None:
    async def scenario(world: MemoryWorld) -> None:
        def check(node: str, *_: object) -> None:
            assert node != "bad", "planted violation"

        world.on_publish(check)
        await world.connect("good").publish("x", b"")
        try:
            await world.connect("bad").publish("x", b"")
        except AssertionError:
            pytest.fail("the violation was raised in the code under test, which may catch it")
        await pass_time(1)
        pytest.fail("the simulation went on")

    with pytest.raises(AssertionError, match="planted violation"):
        sim(scenario)


def test_a_handler_that_raises_ends_the_simulation() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")

        def handle(_: object) -> None:
            raise LookupError("planted")

        await bus.subscribe("x", handle)
        await bus.publish("x", b"")
        await pass_time(1)

    with pytest.raises(LookupError, match="planted"):
        sim(scenario)


def test_a_foreign_entry_passes_the_fence_and_moves_it() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        await bus.create_log("log")
        assert world.inject("log", b"foreign") == 1
        with pytest.raises(AppendRefused) as caught:
            await bus.append("log", b"", 0, 1)
        assert (caught.value.expected, caught.value.actual) == (0, 1)
        assert [entry.data for entry in await bus.read("log", 1, 10)] == [b"foreign"]

    sim(scenario)


def test_the_trace_holds_the_latest_happenings_one_line_each() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a", node="n1"), world.connect("b", node="n2")
        await a.create_log("log")
        await collect(b, "x")
        await a.publish("x", b'{"k": "v"}' + b"\xff" * 1000)
        await a.append("log", b"entry", 0, 1)
        with pytest.raises(AppendRefused):
            await a.append("log", b"late", 0, 1)
        world.partition("n2")
        text = str(world.trace)
        assert f"{START_S:12.6f} connect      n1           a" in text
        assert 'publish      n1           x {"k": "v"}\\xff' in text
        assert "… 1010 bytes" in text
        assert "deliver      n2           x" in text
        assert "stored       n1           log#1 entry" in text
        assert "refused      n1           log expected 0, is at 1" in text
        assert text.endswith("partition    n2")
        count = world.trace.count
        assert len(world.trace) == count == len(text.splitlines())
        for _ in range(100):
            await a.publish("y", b"")
        assert len(world.trace) == 50
        assert world.trace.count == count + 100
        assert all("publish" in line for line in world.trace)

    sim(scenario, trace_max=50)
