"""Saved logs: the file's format, what is refused, and what a restore says that it would do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import msgspec
import pytest

from swarm.actors.opening import key_of
from swarm.bus.base import Entry
from swarm.bus.memory import MemoryBus, MemoryWorld
from swarm.config import Settings
from swarm.core.envelope import FORMAT, encode_entry
from swarm.errors import BadInput, BusError, SwarmError
from swarm.messages import Beat, Completed, Event, LogEntry, Marked, Opened, Submitted
from swarm.recovery import Header, SavedLog, Wanted, make_plan, save_log
from swarm.recovery.plan import lines
from swarm.testing.loop import run
from tests.builders import new_item

LOG = "tlog.0"
SETTINGS = Settings(prefix="t", shard_count=1)
#: Entries of the log below, one item in each but the first.
ENTRIES = 6


def entry(seq: int, *events: Event) -> bytes:
    return encode_entry(
        LogEntry(
            swarm=FORMAT,
            incarnation="i",
            epoch=1,
            owner="o",
            batch=seq - 1,
            previous=seq - 1,
            map_version=1,
            now=1.0,
            events=list(events),
        )
    )


def a_log() -> list[bytes]:
    items = [entry(seq, Submitted("", seq - 1, [new_item()])) for seq in range(2, ENTRIES + 1)]
    return [entry(1, Opened("c1")), *items]


async def world_with(log: list[bytes]) -> tuple[MemoryWorld, MemoryBus]:
    world = MemoryWorld(Random(4))
    bus = world.connect("operator")
    await bus.create_log(LOG)
    for data in log:
        world.inject(LOG, data)
    return world, bus


def on(log: list[bytes], scenario: Callable[[MemoryWorld, MemoryBus], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario(*await world_with(log))

    run(main, seed=1)


def write(path: Path, log: list[bytes], first_seq: int = 1, **changes: object) -> Path:
    """A file as `swarm log save` writes it."""
    last_seq = first_seq + len(log) - 1
    header = Header("swarm-log-1", "t", 0, LOG, "i", first_seq, last_seq, 5.0)
    saved = [msgspec.structs.replace(header, **changes)]
    saved += [Entry(first_seq + at, data, 4.0) for at, data in enumerate(log)]  # type: ignore[misc]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in saved))
    return path


def wanted(path: Path, before: int = 0) -> Wanted:
    return Wanted(settings=SETTINGS, shard=0, saved=SavedLog(path), before=before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- saving -----------------------------------------------------------------------------


def test_every_entry_is_saved_as_it_is_readable_or_not(tmp_path: Path) -> None:
    log = [b"\x00nothing", *a_log(), b'{"swarm": broken', b""]

    async def scenario(world: MemoryWorld, bus: MemoryBus) -> None:
        world.faults.gap = 0.5
        header = await save_log(bus, "t", 0, tmp_path / "a", 12.5)
        assert header == Header("swarm-log-1", "t", 0, LOG, "i", 1, len(log), 12.5)
        saved = SavedLog(tmp_path / "a")
        assert saved.header == header
        assert list(saved.entries()) == world.log_entries(LOG)
        first, second, *_ = (tmp_path / "a").read_bytes().splitlines()
        assert set(msgspec.json.decode(second)) == {"seq", "time", "data"}
        assert msgspec.json.decode(first)["log"] == LOG
        assert names(tmp_path) == ["a"]

    on(log, scenario)


def test_a_log_that_is_purged_meanwhile_is_begun_anew(tmp_path: Path) -> None:
    async def scenario(world: MemoryWorld, bus: MemoryBus) -> None:
        original, reads = bus.read, 0

        async def read(log: str, from_seq: int, limit: int) -> list[Entry]:
            nonlocal reads
            reads += 1
            if reads == 3:
                world._logs.purge(LOG, 5, "")
            return (await original(log, from_seq, limit))[:1]

        bus.read = read  # type: ignore[method-assign]
        header = await save_log(bus, "t", 0, tmp_path / "a", 0.0)
        assert (header.first_seq, header.last_seq) == (5, ENTRIES)
        assert [found.seq for found in SavedLog(tmp_path / "a").entries()] == [5, 6]

    on(a_log(), scenario)


def test_a_save_that_cannot_be_done_leaves_nothing(tmp_path: Path) -> None:
    async def scenario(world: MemoryWorld, bus: MemoryBus) -> None:
        for path, shard, why in (
            (tmp_path / "a", 0, "tlog.0 has no entries"),
            (tmp_path / "a", 1, "no log tlog.1"),
            (tmp_path / "none" / "a", 0, "cannot be written: No such file"),
            (tmp_path, 0, "is there already"),
        ):
            with pytest.raises(BadInput, match=why):
                await save_log(bus, "t", shard, path, 0.0)
        assert names(tmp_path) == []
        world.inject(LOG, b"x")

        async def nothing(log: str, from_seq: int, limit: int) -> list[Entry]:
            return []

        bus.read = nothing  # type: ignore[method-assign]
        with pytest.raises(BusError, match="cannot be read"):
            await save_log(bus, "t", 0, tmp_path / "a", 0.0)
        assert names(tmp_path) == []

    on([], scenario)


# --- files that cannot be used -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is no saved log"),
        (b"\xff\xfe\n", "is no saved log"),
        (b'{"format":"swarm-log-1"}\n', "is no saved log"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: bytes | None, why: str) -> None:
    path = tmp_path / "a"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(BadInput, match=why):
        SavedLog(path)


def test_headers_are_checked(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"format 'swarm-log-9'.*reads 'swarm-log-1'"):
        SavedLog(write(tmp_path / "a", a_log(), format="swarm-log-9"))
    nothing = write(tmp_path / "a", a_log(), last_seq=0)
    with pytest.raises(BadInput, match="entries 1 to 0: there are none"):
        SavedLog(nothing)


def test_holes_and_torn_ends_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a", a_log())
    whole = path.read_bytes().splitlines(keepends=True)
    for kept, why in (
        ([*whole[:3], *whole[4:]], r"line 4 is entry 4, not 3; .*--before 3"),
        (whole[:-2], r"cut short: entries 5 to 6 are missing.*--before 5"),
        ([*whole[:-1], whole[-1][:-9]], "line 7 is no entry"),
    ):
        path.write_bytes(b"".join(kept))
        saved = SavedLog(path)
        with pytest.raises(BadInput, match=why):
            list(saved.entries())
        assert [found.seq for found in saved.entries(2)] == [1, 2]


# --- plans -------------------------------------------------------------------------------


def plan_of(log: list[bytes], path: Path, before: int = 0) -> tuple[list[str], object]:
    """The words of the plan, and the plan, with this log in NATS now."""
    found: list[object] = []

    async def scenario(world: MemoryWorld, bus: MemoryBus) -> None:
        plan = await make_plan(bus, wanted(path, before))
        assert [e.data for e in world.log_entries(LOG)] == log, "nothing was changed"
        found.extend((list(lines(plan)), plan))

    on(log, scenario)
    said, plan = found
    assert isinstance(said, list)
    return said, plan


def refused(path: Path, why: str, before: int = 0) -> None:
    with pytest.raises(BadInput, match=why):
        plan_of(a_log(), path, before)


def test_a_plan_says_what_comes_back_and_what_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "a", a_log())
    more = [entry(7, Submitted("", 6, [new_item(), new_item()])), entry(8, Completed(1, 7)), b"x"]
    said, _ = plan_of([*a_log(), *more, b'{"swarm":'], path)
    assert said == [
        "tlog.0: entries 1 to 6 of the file come back (log i); items: 5 queued",
        (
            "entries in the log now that go: 4, from 7 to 10: 2 items submitted, 1 ended, 1 "
            "entries cannot be read, 1 entries are not the swarm's"
        ),
    ]
    said, _ = plan_of(a_log(), path, before=4)
    assert said == [
        "tlog.0: entries 1 to 3 of the file come back (log i); items: 2 queued",
        "entries of the file that are left out: 3",
        "entries in the log now that go: 3, from 4 to 6: 3 items submitted, 0 ended",
    ]
    said, _ = plan_of(a_log(), path)
    assert said[-1] == "all that is in the log now is in the file, too"
    said, _ = plan_of([], path)
    assert said[-1] == "there is no such log now, or an empty one"
    # The same sequences with other content go, too.
    said, _ = plan_of([*a_log()[:2], entry(3)], path)
    assert said[-1] == (
        "entries in the log now that go: 1, from 3 to 3: 0 items submitted, 0 ended"
    )


def test_an_entry_that_cannot_be_folded_is_named(tmp_path: Path) -> None:
    log = a_log()
    broken = write(tmp_path / "a", [*log[:3], log[3][:-9], *log[4:]])
    refused(broken, r"entry 4 of the file cannot be folded: .*--before 4$")
    assert plan_of(log, broken, before=4)
    # Beyond recognition: only the next one shows it.
    wiped = write(tmp_path / "a", [*log[:3], bytes(20), *log[4:]])
    refused(wiped, r"entry 5 of the file cannot be folded: .*entry 4.* damaged.*--before 4$")
    assert plan_of(log, wiped, before=4)
    # It can be read, and cannot be.
    ended_twice = write(tmp_path / "a", [*log[:3], entry(4, Completed(9, 7)), *log[4:]])
    refused(ended_twice, r"entry 4 of the file cannot be folded: .*--before 4$")


def test_a_log_without_its_beginning_is_refused(tmp_path: Path) -> None:
    refused(write(tmp_path / "a", a_log()[2:], first_seq=3), "it was cut at its front$")
    mark = entry(4, Marked(needs=3, submitted=2, next_number=3))
    marked = write(tmp_path / "a", [*a_log()[2:3], mark], first_seq=3)
    refused(marked, "nothing up to entry 3 says.*or --before is too low", before=4)
    refused(write(tmp_path / "a", [b"a", b"b"]), "none of its entries is the swarm's")


def test_a_file_of_another_shard_or_swarm_is_refused(tmp_path: Path) -> None:
    refused(write(tmp_path / "a", a_log(), shard=3), "is shard 3 of the swarm 't', not shard 0")
    refused(write(tmp_path / "a", a_log(), prefix="x"), "of the swarm 'x'")
    for before in (1, ENTRIES + 2):
        refused(write(tmp_path / "a", a_log()), "so it can be 2 to 7", before=before)


def test_an_open_shard_is_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a", a_log())

    async def scenario(world: MemoryWorld, bus: MemoryBus) -> None:
        owner = world.connect("c2")
        owns = [[0], [0]]

        async def beat() -> None:
            while True:
                said = Beat("c2", "x", FORMAT, 1, owns=owns[0], leaving=not owns[1])
                await owner.publish("t.beat.c2", msgspec.json.encode(said))
                await asyncio.sleep(0.25)  # virtual time

        beating = asyncio.create_task(beat())
        with pytest.raises(SwarmError, match="shard 0 is open: c2 owns it"):
            await make_plan(bus, wanted(path))
        owns[1] = []
        # It has said good-bye.
        await make_plan(bus, wanted(path))
        owns[:] = [[1], [1]]
        # It owns another one.
        await make_plan(bus, wanted(path))
        beating.cancel()

    on(a_log(), scenario)


def test_another_log_than_the_one_that_is_known_is_pointed_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a", a_log())

    async def scenario(_: MemoryWorld, bus: MemoryBus) -> None:
        await bus.open_state()
        assert await bus.state_create(key_of(0), b'{"incarnation":"i-other"}')
        (warning,) = (await make_plan(bus, wanted(path))).warnings
        assert "the file has the log i, the shared state knows i-other" in warning

    on(a_log(), scenario)
