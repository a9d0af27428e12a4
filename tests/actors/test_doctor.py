"""`swarm doctor` on whole swarms: silent about sound ones, changes nothing, finds the rest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from swarm.actors.finished import block_of
from swarm.bus.memory import MemoryBus, MemoryWorld
from swarm.config import Settings
from swarm.core.envelope import FORMAT, encode_entry
from swarm.doctor import Examination, Report, examine, reading
from swarm.errors import BadInput, WorkFailed
from swarm.messages import (
    Archived,
    Claimed,
    Completed,
    End,
    Event,
    Hold,
    Item,
    LogEntry,
    Opened,
    Resolved,
    ShardMap,
    Submitted,
    Told,
    Watched,
)
from swarm.sdk.agent import Agent
from swarm.sdk.client import Handle
from swarm.sdk.context import Context
from swarm.sdk.runners import InlineRunner
from swarm.testing.loop import run
from tests.actors.cluster import SETTINGS, Cluster, on_cluster, pass_time
from tests.builders import NOW, command_id, new_item

#: Small enough to compact, purge and archive all the time.
BUSY = msgspec.structs.replace(SETTINGS, log_floor_bytes=3000, cache_max_size=10)
MAP = ShardMap(1, 2, "hash", "consistent_hash", ["c1", "c2"])


async def diagnose(
    world: MemoryWorld, settings: Settings = SETTINGS, now: float = 0.0, **more: Any
) -> Report:
    """What the doctor says of a swarm in this world."""
    what = Examination(settings=settings, now=now or world.time(), **more)
    return await examine(world.connect("doctor"), what)


def told(report: Report) -> list[str]:
    return [str(finding) for finding in report.findings]


# --- sound swarms -------------------------------------------------------------------------------


async def work_on(cluster: Cluster, count: int) -> tuple[asyncio.Task[None], list[Handle]]:
    """A busy swarm: an agent, items, some of which depend on items of the other shard."""
    agent = Agent(agent_id="a1", runner=InlineRunner(), runtime=cluster.runtime(7), concurrency=3)

    @agent.handles("build")
    async def build(context: Context) -> int:
        await pass_time(0.02)
        if context.payload == "fail":
            raise ValueError("as asked")
        return 1

    working = asyncio.create_task(agent.run(cluster.world.connect("a1")))
    handles: list[Handle] = []
    for number in range(count):
        depends = [handle.work_item_id for handle in handles[-2:]]
        payload = "fail" if number % 7 == 3 else number
        item = {
            "work_type": "build",
            "payload": payload,
            "dependencies": depends if number % 5 == 0 else [],
            "max_attempts": 1,
            "on_dependency_failure": "run",
        }
        [handle] = await cluster.swarm.submit_many([item])
        assert isinstance(handle, Handle)
        handles.append(handle)
    return working, handles


async def store_map(cluster: Cluster) -> None:
    await cluster.world.connect("map").state_create("map", msgspec.json.encode(cluster.map))


async def ended_of(handle: Handle) -> None:
    with contextlib.suppress(WorkFailed):  # some do, as asked
        await handle.result(timeout=60)


@pytest.mark.parametrize("page", [256, 3])
def test_a_busy_swarm_is_sound_while_its_logs_grow_and_are_purged(
    page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PAGE", page)

    async def scenario(cluster: Cluster) -> list[Report]:
        await store_map(cluster)
        await cluster.start("c1", "c2")
        working = asyncio.create_task(work_on(cluster, 120))
        reports = []
        while not working.done():
            reports.append(await diagnose(cluster.world, BUSY, all_records=True))
            await pass_time(0.05)
        agent, handles = await working
        for handle in handles:
            await ended_of(handle)
        await pass_time(3.0)
        reports.append(await diagnose(cluster.world, BUSY, all_records=True))
        agent.cancel()
        await asyncio.gather(agent, return_exceptions=True)
        return reports

    reports = on_cluster(scenario, settings=BUSY)
    assert [told(report) for report in reports] == [[]] * len(reports)
    last = reports[-1]
    assert sum(shard.submitted for shard in last.shards) == 120
    assert all(shard.first_seq > 1 for shard in last.shards)
    assert any(shard.copies for shard in last.shards)
    assert sum(shard.records.checked for shard in last.shards) > 50
    assert any(shard.edges.pending for report in reports for shard in report.shards)
    assert any("was purged" in text for text in last.skipped)


def test_looking_changes_nothing() -> None:
    async def scenario(cluster: Cluster) -> None:
        await store_map(cluster)
        await cluster.start("c1", "c2")
        agent, handles = await work_on(cluster, 20)
        for handle in handles:
            await ended_of(handle)
        agent.cancel()
        await asyncio.gather(agent, return_exceptions=True)
        await cluster.stop()
        world = cluster.world
        before = [world.log_entries(f"swarmlog.{n}") for n in range(2)]
        stored: list[str] = []
        world.on_append(lambda log, entry, node: stored.append(node))
        world.on_publish(lambda node, *_: stored.append(node))
        report = await diagnose(world)
        assert report.clean, told(report)
        assert [world.log_entries(f"swarmlog.{n}") for n in range(2)] == before
        assert stored == []

    on_cluster(scenario)


def test_a_swarm_that_is_not_there_is_named() -> None:
    async def main() -> None:
        world = MemoryWorld(Random(1))
        with pytest.raises(BadInput, match="there is no swarm 'swarm'"):
            await diagnose(world)
        await world.connect("map").state_create("map", msgspec.json.encode(MAP))
        with pytest.raises(BadInput, match="no shard 7; this swarm has shards 0 to 1"):
            await diagnose(world, shards=[7])

    run(main, seed=1)


# --- swarms by hand -----------------------------------------------------------------------------


class Written:
    """A world with logs that were written by hand, all as one owner."""

    def __init__(self) -> None:
        self.world = MemoryWorld(Random(1))
        self.bus: MemoryBus = self.world.connect("hand")
        self._at: dict[int, int] = {}

    async def map(self, **fields: Any) -> None:
        stored = msgspec.structs.replace(MAP, **fields)
        await self.bus.state_create("map", msgspec.json.encode(stored))

    async def log(self, shard: int, *batches: list[Event], incarnation: str = "") -> None:
        """Another entry for each batch, after an opening one."""
        name = f"swarmlog.{shard}"
        await self.bus.create_log(name)
        at = self._at.get(shard, 0)
        opening: list[Event] = [Opened("c1")]
        for events in batches if at else (opening, *batches):
            entry = LogEntry(
                swarm=FORMAT,
                incarnation=incarnation or f"i{shard}",
                epoch=1,
                owner="n1",
                batch=at,
                previous=at,
                map_version=1,
                now=NOW,
                events=events,
            )
            at = await self.bus.append(name, encode_entry(entry), at, 1.0)
        self._at[shard] = at

    async def diagnose(self, after_s: float = 0.0, **more: Any) -> Report:
        return await diagnose(self.world, now=NOW + after_s, **more)


def on_written(scenario: Callable[[Written], Any]) -> None:
    async def main() -> None:
        await scenario(Written())

    run(main, seed=1)


SUBMIT: list[Event] = [Submitted(command_id(1), 1, [new_item()])]
CLAIM: list[Event] = [Claimed(1, 1, "a1", "s1", 30.0)]
DONE: list[Event] = [Completed(1, 1)]


def test_a_log_that_is_gone_is_found() -> None:
    async def scenario(written: Written) -> None:
        await written.map()
        await written.log(0, SUBMIT)
        report = await written.diagnose()
        assert told(report) == [
            "swarmlog.1: the log does not exist: was its stream deleted? [missing]"
        ]

    on_written(scenario)


def test_a_log_that_was_purged_by_hand_is_found() -> None:
    async def scenario(written: Written) -> None:
        await written.map(shard_count=1)
        await written.log(0, SUBMIT, CLAIM, DONE)
        await written.bus.purge("swarmlog.0", 3)
        report = await written.diagnose()
        assert len(report.findings) == 1
        assert "begins with entry 3, and no mark" in told(report)[0]
        assert any("stated before its beginning" in text for text in report.skipped)

    on_written(scenario)


def test_a_hole_in_a_log_is_found() -> None:
    async def scenario(written: Written) -> None:
        await written.map(shard_count=1)
        await written.log(0, SUBMIT, CLAIM, DONE)
        entries = written.world._logs.get("swarmlog.0").entries
        read = written.world._logs.read

        def with_a_hole(log: str, from_seq: int, limit: int, node: str) -> list[Any]:
            return [entry for entry in read(log, from_seq, limit, node) if entry.seq != 3]

        assert len(entries) == 4
        written.world._logs.read = with_a_hole  # type: ignore[method-assign]
        report = await written.diagnose()
        assert told(report) == [
            "swarmlog.0 entry 3: entries 3 to 3 are missing from the middle of the log [missing]"
        ]
        assert any("from entry 3 on" in text for text in report.skipped)

    on_written(scenario)


def test_an_entry_that_cannot_be_read_is_named_and_the_other_shards_are_checked() -> None:
    async def scenario(written: Written) -> None:
        await written.map()
        await written.log(0, SUBMIT)
        await written.log(1, SUBMIT, CLAIM)
        written.world.inject("swarmlog.0", b'{"swarm":3,"incarnation":"i0"}')
        report = await written.diagnose()
        assert [(f.rule, f.seq) for f in report.findings] == [("undecodable", 3)]
        assert "newer version" in told(report)[0]
        assert [shard.entries for shard in report.shards] == [2, 3]

    on_written(scenario)


def test_a_map_that_does_not_go_with_the_logs_is_found() -> None:
    async def without(written: Written) -> None:
        await written.log(0, SUBMIT)
        report = await written.diagnose(shards=[0])
        assert "the log has entries, and no shard map is stored" in told(report)[0]

    async def older(written: Written) -> None:
        await written.map(shard_count=1, version=0)
        await written.log(0, SUBMIT)
        assert "written under map version 1, 0 is stored" in told(await written.diagnose())[0]

    async def spoiled(written: Written) -> None:
        await written.bus.state_create("map", b"{")
        await written.log(0, SUBMIT)
        report = await written.diagnose(shards=[0])
        assert "shared state: the stored shard map cannot be decoded" in told(report)[0]

    for scenario in (without, older, spoiled):
        on_written(scenario)


def test_a_log_that_is_not_the_one_that_is_known_is_found() -> None:
    async def another(written: Written) -> None:
        await written.map(shard_count=1)
        await written.log(0, SUBMIT)
        await written.bus.state_create("log.0", b'{"incarnation":"i9"}')
        [found] = told(await written.diagnose())
        assert "it is incarnation i0, the shared state knows i9" in found

    async def emptied(written: Written) -> None:
        await written.map(shard_count=1)
        await written.bus.create_log("swarmlog.0")
        await written.bus.state_create("log.0", b'{"incarnation":"i9"}')
        assert "it has no entry of ours, the shared state" in told(await written.diagnose())[0]

    for scenario in (another, emptied):
        on_written(scenario)


def test_a_log_in_the_place_of_another_is_found() -> None:
    async def scenario(written: Written) -> None:
        await written.map()
        await written.log(0, SUBMIT)
        await written.log(1, SUBMIT, incarnation="i0")
        assert told(await written.diagnose()) == [
            "swarmlog.1: incarnation i0 is that of swarmlog.0: restored in a wrong place? [chain]"
        ]

    on_written(scenario)


# --- dependencies -------------------------------------------------------------------------------


DEPENDENT: list[Event] = [Submitted(command_id(2), 1, [new_item(dependencies=["1-1"])])]


def test_an_outcome_that_nobody_will_tell_again_is_found() -> None:
    async def scenario(written: Written) -> None:
        await written.map()
        await written.log(0, DEPENDENT)
        await written.log(1, SUBMIT, [Watched(1, "0-1")], CLAIM)
        report = await written.diagnose()
        assert report.clean
        assert report.shards[0].edges.registered == 1
        await written.log(1, DONE)
        report = await written.diagnose()
        assert report.clean
        assert report.shards[1].edges.outbox == 1
        # Its owner believes that it was heard; the dependent's log does not say so.
        await written.log(1, [Told(1, "0-1", "completed")])
        report = await written.diagnose()
        assert [(f.rule, f.item) for f in report.findings] == [("edge", "0-1")]
        assert "waits for 1-1, whose shard believes that it was told" in told(report)[0]
        # It is only the log of the dependent that counts.
        await written.log(0, [Resolved(1, "1-1", "completed")])
        assert (await written.diagnose()).clean

    on_written(scenario)


def test_an_outcome_that_was_heard_while_the_logs_were_read_is_no_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(written: Written) -> None:
        await written.map()
        await written.log(0, DEPENDENT)
        await written.log(1, SUBMIT, [Watched(1, "0-1")], CLAIM, DONE)
        done = False
        log_info = MemoryBus.log_info

        async def between(bus: MemoryBus, log: str) -> Any:
            # Shard 0 has been read; shard 1 has not.
            nonlocal done
            if log == "swarmlog.1" and not done:
                done = True
                await written.log(0, [Resolved(1, "1-1", "completed")])
                await written.log(1, [Told(1, "0-1", "completed")])
            return await log_info(bus, log)

        monkeypatch.setattr(MemoryBus, "log_info", between)
        report = await written.diagnose()
        assert done
        assert told(report) == []

    on_written(scenario)


def test_what_a_dependency_waits_for_is_counted() -> None:
    async def scenario(written: Written) -> None:
        await written.map()
        items = [new_item(dependencies=[on]) for on in ("1-1", "1-9", "1-2")]
        await written.log(0, [Submitted(command_id(2), 1, items)])
        await written.log(1, [Submitted(command_id(1), 1, [new_item()] * 2), Watched(2, "0-3")])
        edges = (await written.diagnose()).shards[0].edges
        assert (edges.pending, edges.registered, edges.asked_again, edges.nowhere) == (3, 1, 1, 1)
        report = await written.diagnose(shards=[0])
        assert report.shards[0].edges.elsewhere == 3
        assert any("shards that were not looked at" in text for text in report.skipped)

    on_written(scenario)


# --- finished records ---------------------------------------------------------------------------


async def archive(written: Written, *records: Item) -> None:
    """A log that has archived its item 1, and records."""
    await written.map(shard_count=1)
    await written.log(0, SUBMIT, CLAIM, DONE, [Archived([1])])
    await written.bus.create_records("swarmdone.0", 0)
    for item in records:
        data = msgspec.json.encode({"shard": 0, "items": [item]})
        await written.bus.put_record("swarmdone.0", block_of(1), data, 1.0)


def ended(**fields: Any) -> Item:
    """Item 1 as the log has it."""
    hold = Hold("a1", "s1", 1, "1.n1.s1", NOW, 30.0)
    item = Item(1, Raw(new_item()), "feature", 2, NOW, fence=1, attempt=1)
    item.end = End("completed", NOW, hold)
    for name, value in fields.items():
        setattr(item, name, value)
    return item


def test_records_of_archived_items_are_compared() -> None:
    async def right(written: Written) -> None:
        # Put twice, and once while it was dead: the last one counts.
        dead = ended(end=End("dead", NOW))
        await archive(written, dead, ended(), ended())
        # No time passes at a hand that writes.
        report = await written.diagnose()
        assert told(report) == []
        assert report.shards[0].records.checked == 1

    async def missing(written: Written) -> None:
        await archive(written)
        report = await written.diagnose()
        assert "item 0-1: its finished record is missing" in told(report)[0]
        # Records go after their time.
        report = await written.diagnose(after_s=SETTINGS.finished_retention_s)
        assert report.clean
        assert report.shards[0].records.expired == 1

    async def another(written: Written) -> None:
        await archive(written, ended(work_type="other"))
        assert "is not what the log had archived" in told(await written.diagnose())[0]

    async def differing(written: Written) -> None:
        await archive(written, ended(attempt=3), ended())
        assert "two of its records say different things" in told(await written.diagnose())[0]

    async def alive(written: Written) -> None:
        await archive(written, ended(end=None))
        assert "says that it has not ended" in told(await written.diagnose())[0]

    for scenario in (right, missing, another, differing, alive):
        on_written(scenario)


def test_some_records_are_looked_up_unless_all_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.doctor.records.SAMPLE", 2)

    async def scenario(written: Written) -> None:
        await written.map(shard_count=1)
        count = 2000
        numbers = list(range(1, count + 1))
        await written.log(0, [Submitted(command_id(1), 1, [new_item()] * count)])
        await written.log(0, [Claimed(n, 1, "a1", "s1", 30.0) for n in numbers])
        await written.log(0, [Completed(n, 1) for n in numbers], [Archived(numbers)])
        await written.bus.create_records("swarmdone.0", 0)
        for number in numbers:
            if number != 700:
                item = ended(number=number)
                data = msgspec.json.encode({"shard": 0, "items": [item]})
                await written.bus.put_record("swarmdone.0", block_of(number), data, 1.0)
        some = await written.diagnose()
        assert some.clean, told(some)[:3]
        assert some.shards[0].records.left_out > 1000
        assert any("(all of them: --records)" in text for text in some.skipped)
        every = await written.diagnose(all_records=True)
        assert [finding.item for finding in every.findings] == ["0-700"]
        assert every.shards[0].records.checked == count - 1

    on_written(scenario)
