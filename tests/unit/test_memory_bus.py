"""The memory bus without faults.  With them: test_memory_nodes.py, test_memory_faults.py."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from swarm.bus.base import Bus, Message
from swarm.bus.memory import EPOCH_S, MemoryWorld
from swarm.errors import (
    AppendRefused,
    BusTimeout,
    BusUnavailable,
    LogMissing,
    NoResponders,
    OutcomeUnknown,
    PayloadTooLarge,
)
from swarm.testing.loop import START_S, run
from tests.unit.sims import collect, loop_time, pass_time, serve, sim

# --- the contract --------------------------------------------------------------------


def test_it_is_a_bus() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus: Bus = world.connect("a1")
        assert (bus.sender, bus.max_payload, bus.connected, bus.reconnects) == (
            "a1",
            1024 * 1024,
            True,
            0,
        )
        assert bus.inbox().startswith("_INBOX.a1.")
        assert len({bus.inbox(), bus.inbox(), world.connect("a1").inbox()}) == 3

    sim(scenario)


def test_a_message_is_delivered_through_the_loop_and_with_all_its_parts() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        seen: list[Message] = []
        await b.subscribe("x.*", seen.append)
        headers = {"k": "v"}
        await a.publish("x.1", b"data", reply="_INBOX.a.1", headers=headers)
        assert not seen
        headers["k"] = "changed after the send"
        await pass_time(0.01)
        assert seen == [Message("x.1", b"data", "_INBOX.a.1", {"k": "v"})]

    sim(scenario)


def test_messages_of_one_connection_stay_in_order() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b, c = world.connect("a"), world.connect("b"), world.connect("c")
        seen = await collect(c, "x.>")
        for number in range(200):
            await a.publish(f"x.{number % 3}", b"a%d" % number)
            await b.publish("x.b", b"b%d" % number)
            if number % 50 == 0:
                await pass_time(0.0002)
        await pass_time(1)
        of_a = [data for data in seen if data.startswith(b"a")]
        assert of_a == [b"a%d" % number for number in range(200)]
        assert [data for data in seen if data not in of_a] == [b"b%d" % n for n in range(200)]
        # Between connections there is no order: the two are not neatly interleaved.
        assert seen[:100:2] != of_a[:50]

    sim(scenario)


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("a.b", {"a.b"}),
        ("a.*", {"a.b", "a.c"}),
        ("*.b", {"a.b", "x.b"}),
        ("*.*", {"a.b", "a.c", "x.b"}),
        ("a.>", {"a.b", "a.c", "a.b.c", "a.b.c.d"}),
        ("*.b.>", {"a.b.c", "a.b.c.d"}),
        ("a.*.*.d", {"a.b.c.d"}),
        (">", {"a", "a.b", "a.c", "x.b", "a.b.c", "a.b.c.d"}),
        ("a", {"a"}),
        ("nothing", set[str]()),
    ],
)
def test_patterns_match_as_in_nats(pattern: str, matching: set[str]) -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        seen: Counter[str] = Counter()
        running = await bus.subscribe(pattern, lambda message: seen.update([message.subject]))
        for _ in range(2):
            for subject in ("a", "a.b", "a.c", "x.b", "a.b.c", "a.b.c.d"):
                await bus.publish(subject, b"")
        await pass_time(0.1)
        assert seen == dict.fromkeys(matching, 2)
        await running.unsubscribe()
        await bus.publish("a.b", b"")
        await pass_time(0.1)
        assert seen == dict.fromkeys(matching, 2)

    sim(scenario)


@pytest.mark.parametrize("subject", ["", "a..b", "a.", ".a", "a b", "a.*", "a.>", "a\nb"])
def test_nothing_can_be_published_to_a_bad_subject(subject: str) -> None:
    async def scenario(world: MemoryWorld) -> None:
        with pytest.raises(ValueError, match="nothing can be sent"):
            await world.connect("a").publish(subject, b"")

    sim(scenario)


@pytest.mark.parametrize("pattern", ["", "a..b", "a.>.b", "a b", "."])
def test_a_bad_pattern_cannot_be_subscribed_to(pattern: str) -> None:
    async def scenario(world: MemoryWorld) -> None:
        with pytest.raises(ValueError, match="is no subject pattern"):
            await world.connect("a").subscribe(pattern, lambda _: None)

    sim(scenario)


def test_a_sender_is_one_token() -> None:
    async def scenario(world: MemoryWorld) -> None:
        for sender in ("", "a.b", "*", "a b"):
            with pytest.raises(ValueError, match=r"sender|nothing can be sent"):
                world.connect(sender)

    sim(scenario)


def test_each_group_gets_a_message_once_and_its_members_share() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        alone = await collect(bus, "x")
        groups = {
            name: [await collect(world.connect(f"{name}{n}"), "x", name) for n in range(3)]
            for name in ("g", "h")
        }
        sent = [b"%d" % number for number in range(300)]
        for data in sent:
            await bus.publish("x", data)
        await pass_time(1)
        assert alone == sent
        for members in groups.values():
            assert sorted(data for seen in members for data in seen) == sorted(sent)
            assert all(len(seen) > 60 for seen in members)

    sim(scenario)


def test_a_request_gets_the_first_reply() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b, c = world.connect("a"), world.connect("b"), world.connect("c")
        await serve(b, "echo")
        await serve(c, "echo")
        for number in range(20):
            reply = await a.request("echo", b"%d" % number, timeout_s=1)
            assert reply.data == b"%d" % number
            assert reply.subject.startswith("_INBOX.a.")

    sim(scenario)


def test_a_request_without_listeners_fails_at_once_and_without_an_answer_in_time() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        with pytest.raises(NoResponders, match="nobody"):
            await a.request("nobody", b"", timeout_s=5)
        assert loop_time() < START_S + 0.1
        await collect(b, "silent")
        before_s = loop_time()
        with pytest.raises(BusTimeout, match="silent"):
            await a.request("silent", b"", timeout_s=5)
        assert loop_time() == before_s + 5

    sim(scenario)


def test_a_message_forwarded_to_nobody_does_not_end_the_request_of_another() -> None:
    async def scenario(world: MemoryWorld) -> None:
        client, router = world.connect("client"), world.connect("router")

        waiting: asyncio.Queue[Message] = asyncio.Queue()
        await router.subscribe("ask", waiting.put_nowait)
        request = asyncio.create_task(client.request("ask", b"", timeout_s=1))
        message = await waiting.get()
        await router.publish("gone", message.data, reply=message.reply)
        with pytest.raises(BusTimeout):
            await request

    sim(scenario)


def test_an_oversized_message_is_refused_before_anything_happens() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        published: list[str] = []
        world.on_publish(lambda node, subject, *_: published.append(subject))
        await bus.create_log("log")
        await bus.publish("x", b"1" * 100)
        for send in (
            lambda: bus.publish("x", b"1" * 101),
            lambda: bus.publish("x", b"1" * 80, headers={"key": "value"}),
            lambda: bus.request("x", b"1" * 101, 1),
            lambda: bus.append("log", b"1" * 101, 0, 1),
            lambda: bus.append("log", b"1" * 60, 0, 1),  # its fence travels in headers
            lambda: bus.state_create("key", b"1" * 101),
        ):
            with pytest.raises(PayloadTooLarge, match="over the limit of 100 bytes"):
                await send()
        assert published == ["x"]
        assert await bus.append("log", b"", 0, 1) == 1

    sim(scenario, max_payload=100)


def test_the_fence_lets_exactly_one_of_racing_writers_pass() -> None:
    async def scenario(world: MemoryWorld) -> None:
        buses = [world.connect(f"w{number}") for number in range(10)]
        await buses[0].create_log("log")
        await buses[1].create_log("log")
        for expected_seq in range(5):
            outcomes = await asyncio.gather(
                *(bus.append("log", bus.sender.encode(), expected_seq, 1) for bus in buses),
                return_exceptions=True,
            )
            refused = [outcome for outcome in outcomes if isinstance(outcome, AppendRefused)]
            assert outcomes.count(expected_seq + 1) == 1
            assert len(refused) == 9
            assert {error.actual for error in refused} == {expected_seq + 1}
            winner = buses[outcomes.index(expected_seq + 1)].sender.encode()
            assert world.log_entries("log")[-1].data == winner
        assert len(world.log_entries("log")) == 5
        with pytest.raises(AppendRefused, match="expected last sequence 7, the log is at 5"):
            await buses[0].append("log", b"ahead of the log", 7, 1)

    sim(scenario)


def test_appends_of_one_connection_arrive_in_order() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        await bus.create_log("log")
        pipelined = [
            asyncio.create_task(bus.append("log", b"%d" % seq, seq, 1)) for seq in range(50)
        ]
        assert await asyncio.gather(*pipelined) == list(range(1, 51))

    async def main() -> None:
        await scenario(MemoryWorld(random.Random(1)))

    run(main, seed=1, shuffle=False)


def test_a_missing_log_is_named() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        await bus.create_log("other")
        for call in (
            lambda: bus.append("log", b"", 0, 1),
            lambda: bus.read("log", 1, 1),
        ):
            with pytest.raises(LogMissing, match="log: no such log; there are: other"):
                await call()
        with pytest.raises(LogMissing):
            world.log_entries("log")
        with pytest.raises(LogMissing):
            world.inject("log", b"")

    sim(scenario)


def test_reading_gives_what_was_appended() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        await bus.create_log("log")
        assert await bus.read("log", 1, 10) == []
        for seq in range(10):
            await bus.append("log", b"%d" % seq, seq, 1)
        entries = await bus.read("log", 1, 100)
        assert entries == world.log_entries("log")
        assert [entry.seq for entry in entries] == list(range(1, 11))
        assert [entry.data for entry in entries] == [b"%d" % seq for seq in range(10)]
        assert [entry.time for entry in entries] == sorted(entry.time for entry in entries)
        assert EPOCH_S + START_S < entries[0].time < entries[-1].time < EPOCH_S + loop_time()
        assert await bus.read("log", 4, 3) == entries[3:6]
        assert await bus.read("log", 9, 3) == entries[8:]
        assert await bus.read("log", 11, 3) == []
        assert await bus.read("log", 0, 1) == entries[:1]

    sim(scenario)


def test_shared_state_is_created_once() -> None:
    async def scenario(world: MemoryWorld) -> None:
        buses = [world.connect(f"c{number}") for number in range(5)]
        assert await buses[0].state_get("key") is None
        won = await asyncio.gather(*(bus.state_create("key", bus.sender.encode()) for bus in buses))
        assert won.count(True) == 1
        winner = buses[won.index(True)].sender.encode()
        assert [await bus.state_get("key") for bus in buses] == [winner] * 5

    sim(scenario)


def test_the_servers_clock_is_the_loops_plus_an_epoch() -> None:
    async def scenario(world: MemoryWorld) -> None:
        assert world.time() == 5000 + START_S
        await pass_time(100)
        now_s = await world.connect("a").server_time()
        assert 5100 + START_S < now_s < 5100 + START_S + 0.01

    sim(scenario, epoch_s=5000.0)


def test_nothing_arrives_after_unsubscribe_not_even_what_is_under_way() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        seen: list[bytes] = []
        running = await b.subscribe("x", lambda message: seen.append(message.data))
        await a.publish("x", b"under way")
        await running.unsubscribe()
        await running.unsubscribe()
        await pass_time(1)
        assert seen == []
        with pytest.raises(NoResponders):
            await a.request("x", b"", 1)

    sim(scenario)


def test_flush_returns_once_the_server_has_everything() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        seen = await collect(b, "x")
        await a.publish("x", b"1")
        await a.flush()
        assert loop_time() > START_S
        await pass_time(0.001)
        assert seen == [b"1"]

    sim(scenario)


def test_a_closed_connection_sends_and_receives_nothing() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        await a.create_log("log")
        sent, kept = await collect(b, "x"), await collect(a, "y")
        await b.subscribe("silent", lambda _: None)
        request = asyncio.create_task(a.request("silent", b"", 9))
        append = asyncio.create_task(a.append("log", b"", 0, 9))
        await pass_time(1e-6)  # both have set out, nothing has arrived
        await a.publish("x", b"before")
        await a.close()
        await a.close()
        assert not a.connected
        with pytest.raises(BusTimeout, match="closed meanwhile"):
            await request
        with pytest.raises(OutcomeUnknown, match="closed meanwhile"):
            await append
        for call in (
            lambda: a.publish("x", b""),
            lambda: a.request("x", b"", 1),
            lambda: a.subscribe("x", lambda _: None),
            lambda: a.append("log", b"", 0, 1),
            lambda: a.read("log", 1, 1),
            a.flush,
            a.server_time,
            lambda: a.state_get("key"),
        ):
            with pytest.raises(BusUnavailable, match="is closed"):
                await call()
        await b.publish("y", b"")
        await pass_time(1)
        assert (sent, kept) == ([b"before"], [])
        assert len(world.log_entries("log")) == 1

    sim(scenario)


async def test_it_works_on_an_ordinary_loop() -> None:
    world = MemoryWorld.on_wall_clock()
    a, b = world.connect("a"), world.connect("b")
    waiting: asyncio.Queue[bytes] = asyncio.Queue()
    await b.subscribe("x", lambda message: waiting.put_nowait(message.data))
    for number in range(100):
        await a.publish("x", b"%d" % number)
    async with asyncio.timeout(30):
        assert [await waiting.get() for _ in range(100)] == [b"%d" % n for n in range(100)]
        await a.create_log("log")
        assert await a.append("log", b"1", 0, 10) == 1
        assert [entry.data for entry in await b.read("log", 1, 10)] == [b"1"]
        assert abs(await a.server_time() - world.time()) < 30
        with pytest.raises(NoResponders):
            await a.request("nobody", b"", 10)
        await a.close()
        await b.close()
