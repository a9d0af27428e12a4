"""The faults of messages and logs that are drawn by chance: each does what it says."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from swarm.bus.base import Entry
from swarm.bus.memory import Faults, MemoryWorld
from swarm.errors import AppendRefused, BadConfig, BusTimeout, OutcomeUnknown
from swarm.testing.loop import START_S
from tests.unit.sims import collect, loop_time, pass_time, serve, sim

#: So many that what was drawn with probability 0.3 is between the bounds below.
SENT = 2000
ABOUT_A_THIRD = range(500, 700)


async def send_numbers(world: MemoryWorld) -> tuple[list[int], list[int]]:
    """Numbers sent to two subscriptions, as they arrived."""
    a, b = world.connect("a"), world.connect("b")
    first, second = await collect(b, "x"), await collect(b, "*")
    for number in range(SENT):
        await a.publish("x", b"%d" % number)
    await pass_time(10)
    return [int(data) for data in first], [int(data) for data in second]


# --- messages -----------------------------------------------------------------


def test_lost_messages_are_lost_for_each_receiver_alone() -> None:
    first, second = sim(send_numbers, faults=Faults(loss=0.3))
    assert SENT - len(first) in ABOUT_A_THIRD
    assert SENT - len(second) in ABOUT_A_THIRD
    assert first == sorted(set(first))
    assert 800 < len(set(first) & set(second)) < 1150  # 0.7 * 0.7 of 2000 = 980


def test_duplicated_messages_arrive_once_more() -> None:
    first, _ = sim(send_numbers, faults=Faults(duplicate=0.3))
    times = Counter(first)
    assert set(times) == set(range(SENT))
    assert set(times.values()) == {1, 2}
    assert list(times.values()).count(2) in ABOUT_A_THIRD
    # The first copies are in order, the second ones come when they like.
    assert list(dict.fromkeys(first)) == sorted(times)
    assert first != sorted(first)


def test_delayed_messages_are_overtaken() -> None:
    first, _ = sim(send_numbers, faults=Faults(delay=0.3, delay_s=(0.5, 1.0)))
    assert sorted(first) == list(range(SENT))
    descent = next(place for place in range(1, SENT) if first[place] < first[place - 1])
    assert SENT - descent in ABOUT_A_THIRD


def test_latency_is_within_its_range() -> None:
    async def scenario(world: MemoryWorld) -> list[float]:
        a, b = world.connect("a"), world.connect("b")
        taken_s: list[float] = []
        await b.subscribe("x", lambda m: taken_s.append(loop_time() - float(m.data)))
        for _ in range(200):
            await a.publish("x", repr(loop_time()).encode())
            await pass_time(3)
        return taken_s

    taken_s = sim(scenario, faults=Faults(latency_s=(1.0, 2.0)))
    assert len(taken_s) == 200
    assert 1.0 <= min(taken_s) < 1.1
    assert 1.9 < max(taken_s) <= 2.0


def test_requests_suffer_from_faults_of_both_messages() -> None:
    async def scenario(world: MemoryWorld) -> int:
        a, b = world.connect("a"), world.connect("b")
        await serve(b, "echo")
        timeouts = 0
        for number in range(300):
            try:
                reply = await a.request("echo", b"%d" % number, timeout_s=30)
            except BusTimeout:
                timeouts += 1
            else:
                assert reply.data == b"%d" % number
        return timeouts

    assert sim(scenario, faults=Faults(duplicate=0.5, delay=0.5)) == 0
    assert 120 < sim(scenario, faults=Faults(loss=0.3)) < 190  # 1 - 0.7 * 0.7 of 300 = 153


def test_a_lost_request_to_nobody_times_out() -> None:
    async def scenario(world: MemoryWorld) -> None:
        with pytest.raises(BusTimeout):
            await world.connect("a").request("nobody", b"", timeout_s=2)
        assert loop_time() == START_S + 2

    sim(scenario, faults=Faults(loss=1))


def test_faults_of_messages_leave_logs_and_calls_alone() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        await bus.create_log("log")
        assert await bus.append("log", b"", 0, 1) == 1
        assert len(await bus.read("log", 1, 1)) == 1
        await bus.subscribe("x", lambda _: None)
        await bus.flush()

    sim(scenario, faults=Faults(loss=1, duplicate=1, delay=1))


# --- appends ------------------------------------------------------------------


def test_a_lost_append_is_never_stored() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        await bus.create_log("log")
        with pytest.raises(OutcomeUnknown, match="an append to log after 0: no answer within 2 s"):
            await bus.append("log", b"", 0, 2)
        assert loop_time() == pytest.approx(START_S + 2, abs=0.01)
        await pass_time(100)
        assert world.log_entries("log") == []

    sim(scenario, faults=Faults(append_lost=1))


def test_an_append_whose_answer_is_lost_is_stored() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        await bus.create_log("log")
        stored_s: list[float] = []
        world.on_append(lambda *_: stored_s.append(loop_time()))
        with pytest.raises(OutcomeUnknown):
            await bus.append("log", b"stored", 0, 2)
        with pytest.raises(OutcomeUnknown):  # refused, but that answer is lost, too
            await bus.append("log", b"refused", 0, 2)
        assert [entry.data for entry in world.log_entries("log")] == [b"stored"]
        assert stored_s[0] < START_S + 0.01

    sim(scenario, faults=Faults(ack_lost=1))


def test_a_late_append_is_stored_after_its_timeout() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        await bus.create_log("log")
        stored_s: list[float] = []
        world.on_append(lambda *_: stored_s.append(loop_time()))
        started_s = loop_time()
        with pytest.raises(OutcomeUnknown):
            await bus.append("log", b"late", 0, 2)
        assert loop_time() == started_s + 2
        assert world.log_entries("log") == []
        await pass_time(0.9)
        assert world.log_entries("log") == []
        await pass_time(10)
        assert [entry.data for entry in world.log_entries("log")] == [b"late"]
        assert started_s + 3 < stored_s[0] < started_s + 6

    sim(scenario, faults=Faults(append_late=1, late_s=(1, 4)))


def test_a_late_append_meets_the_fence_when_it_arrives() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus, other = world.connect("a"), world.connect("b")
        await bus.create_log("log")
        with pytest.raises(OutcomeUnknown):
            await bus.append("log", b"dropped on arrival", 0, 2)
        with pytest.raises(OutcomeUnknown):
            await bus.append("log", b"fits on arrival", 1, 2)
        world.faults = Faults.none()
        assert await other.append("log", b"in between", 0, 1) == 1
        await pass_time(20)
        stored = [entry.data for entry in world.log_entries("log")]
        assert stored == [b"in between", b"fits on arrival"]

    sim(scenario, faults=Faults(append_late=1, late_s=(5, 5)))


def test_a_late_append_lands_even_when_its_node_is_dead_or_cut_off() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        await a.create_log("log")
        tasks = [
            asyncio.create_task(a.append("log", b"of the dead", 0, 1)),
            asyncio.create_task(b.append("log", b"of the cut off", 1, 2)),
        ]
        await pass_time(0.5)
        world.crash("a")
        world.partition("b")
        with pytest.raises(OutcomeUnknown):
            await tasks[1]
        await pass_time(10)
        assert not tasks[0].done()
        stored = [entry.data for entry in world.log_entries("log")]
        assert stored == [b"of the dead", b"of the cut off"]

    sim(scenario, faults=Faults(append_late=1, late_s=(1, 1)))


def test_append_faults_are_as_frequent_as_told() -> None:
    async def scenario(world: MemoryWorld) -> Counter[str]:
        bus = world.connect("a")
        await bus.create_log("log")
        fates: Counter[str] = Counter()
        for _ in range(1000):
            expected_seq = len(world.log_entries("log"))
            try:
                await bus.append("log", b"", expected_seq, 1)
                fate = "acknowledged"
            except OutcomeUnknown:
                stored = len(world.log_entries("log")) > expected_seq
                fate = "ack lost" if stored else "not there yet"
                await pass_time(5)
                if not stored and len(world.log_entries("log")) > expected_seq:
                    fate = "late"
            fates[fate] += 1
        return fates

    fates = sim(scenario, faults=Faults(append_lost=0.2, append_late=0.2, ack_lost=0.2))
    assert 150 < fates["not there yet"] < 250  # 200
    assert 115 < fates["late"] < 205  # 0.8 * 0.2 = 160
    assert 85 < fates["ack lost"] < 170  # 0.8 * 0.8 * 0.2 = 128
    assert 450 < fates["acknowledged"] < 575  # 0.8 cubed = 512


def test_the_latency_of_appends_is_within_its_range() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        await bus.create_log("log")
        stored_s: list[float] = []
        world.on_append(lambda *_: stored_s.append(loop_time()))
        taken_s, until_stored_s = [], []
        for seq in range(200):
            started_s = loop_time()
            await bus.append("log", b"", seq, 5)
            taken_s.append(loop_time() - started_s)
            until_stored_s.append(stored_s[-1] - started_s)
        assert 1.0 <= min(taken_s) < 1.1
        assert 1.9 < max(taken_s) <= 2.0
        assert min(until_stored_s) < 0.2
        assert max(until_stored_s) > 1.5

    sim(scenario, faults=Faults(append_latency_s=(1.0, 2.0)))


# --- reading ------------------------------------------------------------------


async def filled_log(world: MemoryWorld, count: int) -> list[Entry]:
    await world.connect("filler").create_log("log")
    for number in range(count):
        world.inject("log", b"%d" % number)
    return world.log_entries("log")


def test_a_read_that_lags_returns_a_shorter_prefix() -> None:
    async def scenario(world: MemoryWorld) -> None:
        entries = await filled_log(world, 10)
        bus = world.connect("a")
        lengths = Counter[int]()
        for _ in range(200):
            found = await bus.read("log", 1, 100)
            assert found == entries[: len(found)]
            lengths[len(found)] += 1
        assert set(lengths) == {7, 8, 9}
        assert await bus.read("log", 3, 2) == entries[2:4]
        assert await bus.read("log", 10, 5) == []

    sim(scenario, faults=Faults(read_lag=1, lag_max=3))


def test_a_read_with_a_gap_loses_entries_before_the_last() -> None:
    async def scenario(world: MemoryWorld) -> None:
        entries = await filled_log(world, 10)
        bus = world.connect("a")
        lost: Counter[int] = Counter()
        for _ in range(300):
            found = await bus.read("log", 1, 100)
            missing = [entry.seq for entry in entries if entry not in found]
            assert found == [entry for entry in entries if entry.seq not in missing]
            assert 1 <= len(missing) <= 3
            assert missing == list(range(missing[0], missing[0] + len(missing)))
            lost.update(missing)
        assert set(lost) == set(range(1, 10))
        assert len(await bus.read("log", 10, 5)) == 1

    sim(scenario, faults=Faults(gap=1, gap_max=3))


def test_reading_faults_are_as_frequent_as_told() -> None:
    async def scenario(world: MemoryWorld) -> tuple[int, int]:
        entries = await filled_log(world, 10)
        bus = world.connect("a")
        reads = [await bus.read("log", 1, 100) for _ in range(SENT)]
        lags = sum(found[-1] != entries[-1] for found in reads)
        gaps = sum(found[-1].seq > len(found) for found in reads)
        return lags, gaps

    lags, gaps = sim(scenario, faults=Faults(read_lag=0.3, gap=0.3))
    assert lags in ABOUT_A_THIRD
    assert gaps in ABOUT_A_THIRD


# --- settings -----------------------------------------------------------------


def test_faults_change_at_run_time() -> None:
    async def scenario(world: MemoryWorld) -> None:
        a, b = world.connect("a"), world.connect("b")
        seen = await collect(b, "x")
        for data, loss in ((b"1", 0.0), (b"2", 1.0), (b"3", 0.0)):
            world.faults.loss = loss
            await a.publish("x", data)
        world.faults = replace(Faults.none(), loss=1)
        await a.publish("x", b"4")
        await pass_time(1)
        assert seen == [b"1", b"3"]
        assert Faults.none() == Faults()

    sim(scenario)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": 1.5}, "loss is 1.5; a probability is from 0 to 1"),
        ({"gap": -0.1}, "gap is -0.1; a probability is from 0 to 1"),
        ({"delay_s": (2.0, 1.0)}, r"delay_s is \(2.0, 1.0\); it must be 0 <= least <= most"),
        ({"late_s": (-1.0, 1.0)}, "late_s is .*; it must be 0 <= least <= most"),
        ({"gap_max": 0}, "gap_max is 0; it must be at least 1"),
    ],
)
def test_impossible_faults_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        Faults(**settings)  # type: ignore[arg-type]

    async def scenario(world: MemoryWorld) -> None:
        wrong = Faults.none()
        for name, value in settings.items():
            setattr(wrong, name, value)
        with pytest.raises(BadConfig, match=message):
            world.faults = wrong

    sim(scenario)


def test_a_refusal_is_no_unknown_outcome() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        await filled_log(world, 3)
        with pytest.raises(AppendRefused) as caught:
            await bus.append("log", b"", 2, 1)
        assert (caught.value.log, caught.value.expected, caught.value.actual) == ("log", 2, 3)

    sim(scenario)
