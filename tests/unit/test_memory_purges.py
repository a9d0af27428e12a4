"""Purges, records and full disks in a memory world, and the faults that befall them."""

from __future__ import annotations

import asyncio

import pytest

from swarm.bus.base import LogInfo, Storage
from swarm.bus.memory import Faults, MemoryBus, MemoryWorld
from swarm.errors import BusTimeout, OutcomeUnknown, StorageFull
from tests.unit.sims import loop_time, pass_time, sim


async def filled(world: MemoryWorld, count: int) -> MemoryBus:
    """A connection, and a log with as many entries."""
    bus = world.connect("a")
    await bus.create_log("log")
    for number in range(1, count + 1):
        world.inject("log", b"%d" % number)
    return bus


def kept(world: MemoryWorld) -> list[int]:
    """The sequences that are truly there."""
    return [entry.seq for entry in world.log_entries("log")]


# --- purges ---------------------------------------------------------------------


def test_a_lost_purge_changes_nothing() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = await filled(world, 5)
        with pytest.raises(BusTimeout, match="purging log: no answer"):
            await bus.purge("log", 4)
        await pass_time(100)
        assert kept(world) == [1, 2, 3, 4, 5]

    sim(scenario, faults=Faults(append_lost=1))


def test_a_purge_whose_answer_is_lost_is_done() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = await filled(world, 5)
        with pytest.raises(BusTimeout):
            await bus.purge("log", 4)
        assert kept(world) == [4, 5]

    sim(scenario, faults=Faults(ack_lost=1))


def test_a_late_purge_is_done_after_its_timeout_and_never_undoes_a_newer_one() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus, other = await filled(world, 9), world.connect("b")
        for below_seq in (3, 7):
            with pytest.raises(BusTimeout):
                await bus.purge("log", below_seq)
        world.faults = Faults.none()
        assert kept(world) == list(range(1, 10))
        await other.purge("log", 5)
        assert await other.append("log", b"", 9, 1) == 10
        await pass_time(6)
        assert kept(world) == [5, 6, 7, 8, 9, 10]  # the one below 3 came, and changed nothing
        world.crash("a")
        await pass_time(20)
        assert kept(world) == [7, 8, 9, 10]

    sim(scenario, faults=Faults(append_late=1, late_s=(8, 8)), call_timeout_s=5)


def test_a_late_purge_drops_only_what_it_was_meant_for() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = await filled(world, 3)
        with pytest.raises(BusTimeout):
            await bus.purge("log", 4)
        for _ in range(3):
            world.inject("log", b"later")
        await pass_time(30)
        assert kept(world) == [4, 5, 6]

    sim(scenario, faults=Faults(append_late=1, late_s=(8, 8)))


def test_a_read_that_lags_never_shows_half_a_purge() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = await filled(world, 20)
        await bus.purge("log", 15)
        ends = set()
        for _ in range(200):
            entries = await bus.read("log", 1, 100)
            assert [entry.seq for entry in entries] == list(range(15, 21))
            assert await bus.log_info("log") == LogInfo(15, 20, entries_size(world), 0)
        for _ in range(3):
            world.inject("log", b"later")
        for _ in range(200):
            entries = await bus.read("log", 1, 100)
            info = await bus.log_info("log")
            assert entries[0].seq == info.first_seq == 15
            assert 20 <= entries[-1].seq <= 23
            assert 20 <= info.last_seq <= 23
            assert info.bytes <= entries_size(world)
            ends |= {entries[-1].seq, info.last_seq}
        assert ends == {20, 21, 22}

    def entries_size(world: MemoryWorld) -> int:
        return sum(133 + len(entry.data) for entry in world.log_entries("log"))

    sim(scenario, faults=Faults(read_lag=1, lag_max=9))


def test_reading_with_gaps_and_purges_stays_in_order() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = await filled(world, 200)
        at = 0
        for below_seq in range(10, 200, 10):
            entries = await bus.read("log", at + 1, 7)
            sequences = [entry.seq for entry in entries]
            assert sequences == sorted(set(sequences))
            assert all(seq > at for seq in sequences)
            assert all(entry.data == b"%d" % entry.seq for entry in entries)
            at = sequences[-1]
            await bus.purge("log", below_seq)
        assert at > 180

    sim(scenario, faults=Faults(gap=0.5, read_lag=0.5))


def test_a_reader_that_is_slower_than_the_purge_skips_ahead() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = await filled(world, 100)
        seen = await bus.read("log", 1, 16)
        await bus.purge("log", 90)
        seen += await bus.read("log", 17, 100)
        sequences = [entry.seq for entry in seen]
        assert sequences == [*range(1, 17), *range(90, 101)]
        assert all(entry.data == b"%d" % entry.seq for entry in seen)
        world.partition("a")
        for _ in range(20):
            world.inject("log", b"while away")
        await world.connect("b").purge("log", 115)
        world.heal("a")
        await pass_time(10)
        assert [entry.seq for entry in await bus.read("log", 101, 100)] == list(range(115, 121))

    sim(scenario)


def test_hooks_and_the_trace_tell_of_purges() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = await filled(world, 9)
        purges: list[tuple[str, int, str]] = []
        world.on_purge(lambda *purge: purges.append(purge))
        for below_seq in (4, 4, 2, 0, 100):
            await bus.purge("log", below_seq)
        assert purges == [("log", 4, "a"), ("log", 10, "a")]
        assert "purged       a            log 3 entries, from 4 on" in str(world.trace)

    sim(scenario)


def test_a_purge_from_a_partition_or_a_cut_log_times_out() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = await filled(world, 9)
        for cut in (world.partition, world.cut_log):
            cut("a")
            for call in (bus.purge("log", 5), bus.log_info("log"), bus.storage()):
                with pytest.raises(BusTimeout):
                    await call
            world.heal("a")
            await pass_time(10)
        # What was sent while the connection was known to be lost comes when it is back.
        assert kept(world) in (list(range(1, 10)), list(range(5, 10)))

    sim(scenario)


# --- records --------------------------------------------------------------------


def test_faults_of_appends_befall_records() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        await bus.create_records("done", 0)
        for faults, now, later in (
            (Faults(append_lost=1), [], []),
            (Faults(append_late=1, late_s=(3, 3)), [], [b"x"]),
            (Faults(ack_lost=1), [b"x", b"x"], [b"x", b"x"]),
            (Faults(), None, [b"x", b"x", b"x"]),
        ):
            world.faults = faults
            if now is None:
                await bus.put_record("done", "k", b"x", 2)
            else:
                with pytest.raises(OutcomeUnknown, match=r"putting a record to done\.k"):
                    await bus.put_record("done", "k", b"x", 2)
                assert world.records("done").get("k", []) == now
            world.faults = Faults.none()
            await pass_time(10)
            assert await bus.get_records("done", "k") == later

    sim(scenario)


def test_records_go_when_their_age_says_so_and_not_before() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        await bus.create_records("done", 100)
        await bus.put_record("done", "k", b"1", 1)
        await pass_time(60)
        await bus.put_record("done", "k", b"2", 1)
        assert await bus.get_records("done", "k") == [b"1", b"2"]
        await pass_time(60)
        assert await bus.get_records("done", "k") == [b"2"]
        await bus.create_records("done", 0)
        await pass_time(10_000)
        assert await bus.get_records("done", "k") == [b"2"]
        await bus.create_records("done", 10)
        assert world.records("done") == {}

    sim(scenario)


# --- a full disk ----------------------------------------------------------------


def test_what_does_not_fit_is_refused_for_certain() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = await filled(world, 4)
        await bus.create_records("done", 0)
        assert (await bus.storage()).limit == 0
        world.fill(0.5)
        before = await bus.storage()
        assert before == Storage(before.used, 2 * before.used)
        for seq in (4, 5, 6, 7):
            await bus.append("log", b"%d" % seq, seq, 1)
        at_s = loop_time()
        for call in (
            bus.append("log", b"", 8, 1),
            bus.put_record("done", "k", bytes(10), 1),
            bus.state_create("k", b"v"),
        ):
            with pytest.raises(StorageFull, match="no room"):
                await call
        assert loop_time() - at_s < 0.1
        await pass_time(100)
        assert kept(world) == list(range(1, 9))
        assert world.records("done") == {}
        assert await bus.state_get("k") is None
        await bus.purge("log", 3)
        assert await bus.append("log", b"", 8, 1) == 9
        world.calm()
        assert (await bus.storage()).limit == 0
        await bus.put_record("done", "k", bytes(10_000), 1)

    sim(scenario)


def test_a_disk_that_is_full_can_still_be_unknown() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = await filled(world, 4)
        world.fill(1)
        with pytest.raises(OutcomeUnknown):
            await bus.append("log", b"late", 4, 1)
        world.faults = Faults.none()
        with pytest.raises(StorageFull):
            await bus.append("log", b"refused", 4, 1)
        # The refusal was for the second one alone: the first one lands when there is room.
        world.capacity = 0
        await pass_time(10)
        assert [entry.data for entry in world.log_entries("log")][4:] == [b"late"]

    sim(scenario, faults=Faults(append_late=1, late_s=(2, 2)))


def test_old_records_make_room() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = await filled(world, 1)
        await bus.create_records("done", 10)
        await bus.put_record("done", "k", bytes(1000), 1)
        world.fill(1)
        with pytest.raises(StorageFull):
            await bus.append("log", b"", 1, 1)
        await pass_time(11)
        assert await bus.append("log", b"", 1, 1) == 2
        assert (await bus.storage()).used < 1000

    sim(scenario)


def test_a_fraction_that_cannot_be() -> None:
    async def scenario(world: MemoryWorld) -> None:
        for fraction in (0, -1, 1.5):
            with pytest.raises(ValueError, match="must be over 0 and at most 1"):
                world.fill(fraction)
        await asyncio.sleep(0)

    sim(scenario)


def test_a_server_that_is_behind_knows_of_no_late_records_but_those_it_must() -> None:
    async def scenario(world: MemoryWorld) -> None:
        bus = world.connect("a")
        await bus.create_records("done", 0)
        numbers = [await bus.put_record("done", key, b"x", 1) for key in ("k", "other", "k")]
        world.faults = Faults(read_lag=1, lag_max=1)
        assert await bus.get_records("done", "k") == [b"x"]
        assert await bus.get_records("done", "k", numbers[1]) == [b"x"]
        assert await bus.get_records("done", "k", numbers[2]) == [b"x", b"x"]
        assert world.records("done")["k"] == [b"x", b"x"]

    sim(scenario)
