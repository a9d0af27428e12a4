"""Entries of ours that cannot be read: the shard stays closed, says which, and loses nothing."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import structlog

from swarm.bus.memory import MemoryWorld
from swarm.core.envelope import decode_entry, encode_entry
from swarm.messages import Completed, LogEntry, Submitted
from tests.actors.cluster import SETTINGS, Cluster, on_cluster, pass_time, until
from tests.builders import new_item

THREE = msgspec.structs.replace(SETTINGS, coordinators=["c1", "c2", "c3"], standbys=1)
LOG = "swarmlog.0"


def last_entry(world: MemoryWorld) -> tuple[int, LogEntry]:
    stored = world.log_entries(LOG)[-1]
    entry = decode_entry(LOG, stored.seq, stored.data)
    assert entry is not None
    return stored.seq, entry


def next_entry(world: MemoryWorld, **fields: object) -> bytes:
    """What the owner would write next."""
    seq, last = last_entry(world)
    entry = msgspec.structs.replace(last, batch=last.batch + 1, previous=seq, events=[])
    return encode_entry(msgspec.structs.replace(entry, **fields))


def newer(world: MemoryWorld) -> bytes:
    return next_entry(world).replace(b'"swarm":2', b'"swarm":7')


def of_an_unknown_kind(world: MemoryWorld) -> bytes:
    return next_entry(world).replace(b'"events":[', b'"events":[{"t":"paused"}')


def cut_short(world: MemoryWorld) -> bytes:
    return next_entry(world)[:-9]


def with_a_flipped_beginning(world: MemoryWorld) -> bytes:
    return b"\x5b" + next_entry(world)[1:]


def ended_twice(world: MemoryWorld) -> bytes:
    return next_entry(world, events=[Completed(1, 7)])


def with_a_broken_item(world: MemoryWorld) -> bytes:
    items = [msgspec.Raw(bytes(new_item()).replace(b"work_type", b"work_tipe"))]
    return next_entry(world, events=[Submitted("", 1000, items)])


def back_in_time(world: MemoryWorld) -> bytes:
    return next_entry(world, now=1.0)


def drop_last(world: MemoryWorld) -> None:
    """As an operator does who restores the log without the entry."""
    log = world._logs.get(LOG)
    log.bytes -= log.size_of(log.entries.pop().data)


@pytest.mark.parametrize(
    "bad",
    [
        newer,
        of_an_unknown_kind,
        cut_short,
        with_a_flipped_beginning,
        ended_twice,
        with_a_broken_item,
        back_in_time,
    ],
    ids=lambda bad: bad.__name__,
)
def test_the_shard_stays_closed_until_the_entry_is_dealt_with(
    bad: Callable[[MemoryWorld], bytes],
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2", "c3")
        world, swarm = cluster.world, cluster.swarm
        handles = [await swarm.submit("build", payload=number) for number in range(20)]
        here = [handle for handle in handles if handle.work_item_id.startswith("0-")]
        there = [handle for handle in handles if handle.work_item_id.startswith("1-")]
        assert here
        assert there
        # Standbys have caught up, and will read the bad entry as well.
        await pass_time(3.0)
        seq = world.inject(LOG, bad(world))
        # Everybody who can has tried, more than once.
        await pass_time(20.0)
        entries = len(world.log_entries(LOG))
        assert entries == seq, "nothing is written behind it"
        owners = [c.name for c in cluster.coordinators.values() if 0 in c.owned]
        assert owners == []
        whys = [c.closed[0] for c in cluster.coordinators.values() if 0 in c.closed]
        assert whys
        assert all(f"{LOG}: entry {seq} " in why for why in whys), whys
        beats = (await swarm.describe()).coordinators
        assert any(f"entry {seq} " in beat.closed.get("0", "") for beat in beats)
        # The other shard goes on.
        assert [(await handle.get()).status for handle in there] == ["queued"] * len(there)
        drop_last(world)
        await until(lambda: any(0 in c.owned for c in cluster.coordinators.values()))
        assert [(await handle.get()).status for handle in here] == ["queued"] * len(here)
        await pass_time(1.0)
        assert not any(c.closed for c in cluster.coordinators.values())

    on_cluster(scenario, settings=THREE)


def test_an_entry_that_does_not_even_look_like_ours_is_known_by_what_follows_it() -> None:

    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2", "c3")
        world, swarm = cluster.world, cluster.swarm
        handles = [await swarm.submit("build", payload=number) for number in range(20)]
        here = [handle for handle in handles if handle.work_item_id.startswith("0-")]
        log = world._logs.get(LOG)
        before = log.entries[3]
        assert log.last_seq > 5
        log.entries[3] = msgspec.structs.replace(before, data=bytes(len(before.data)))
        owner = next(c for c in cluster.coordinators.values() if 0 in c.owned)
        world.crash(owner.name)
        del cluster.coordinators[owner.name]
        await pass_time(20.0)
        assert not any(0 in c.owned for c in cluster.coordinators.values())
        whys = [c.closed[0] for c in cluster.coordinators.values() if 0 in c.closed]
        assert whys
        assert all("entry 4 is damaged: entry 5 follows it" in why for why in whys)
        log.entries[3] = before
        await until(lambda: any(0 in c.owned for c in cluster.coordinators.values()))
        assert [(await handle.get()).status for handle in here] == ["queued"] * len(here)

    on_cluster(scenario, settings=msgspec.structs.replace(THREE, standbys=0))


def test_a_log_that_was_restored_from_an_older_backup_is_told_and_opened() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2", "c3")
        world, swarm = cluster.world, cluster.swarm
        old = await swarm.submit("build", idempotency_key="a")
        number = int(old.work_item_id.partition("-")[0])
        name = f"swarmlog.{number}"
        await pass_time(3.0)
        backup = world.log_entries(name)
        for payload in range(30):
            await swarm.submit("build", payload=payload)
        await pass_time(3.0)
        log = world._logs.get(name)
        assert len(log.entries) > len(backup)
        log.entries[:] = backup
        with structlog.testing.capture_logs() as logs:
            await until(
                lambda: [entry["why"] for entry in logs if entry["event"] == "shard closed"]
            )
            await until(lambda: any(number in c.owned for c in cluster.coordinators.values()))
        told = [entry["why"] for entry in logs if entry["event"] == "shard closed"]
        assert any("it was cut, or restored from an older backup" in why for why in told)
        assert (await old.get()).status == "queued"

    on_cluster(scenario, settings=THREE)
