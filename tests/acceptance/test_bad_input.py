"""Damage on real processes and a real NATS: what is seen of it, and the documented ways out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from swarm.bus.base import Bus, Entry
from swarm.bus.jetstream import connect
from swarm.core.envelope import decode_entry, encode_entry
from swarm.errors import AppendRefused
from swarm.sdk.client import Handle, Swarm
from swarm.subjects import parse_item_id
from tests.acceptance.processes import DEADLINE_S, POLL_S, Place, Up

SHARDS = 3
HURT = 1
LOG, STREAM = f"swarmlog.{HURT}", f"swarmlog_{HURT}"
#: A closed shard is tried again after this time at the latest.
REOPEN_S = 20.0
AGENT = ("--type", "work", "--exec", "cat")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, SHARD_COUNT=str(SHARDS), LEASE_S="6", HEARTBEAT_S="1")
    yield place
    place.clean()


@asynccontextmanager
async def operator(up: Up) -> AsyncIterator[Bus]:
    """Somebody with all rights."""
    bus = await connect(up.nats_url, "operator")
    try:
        yield bus
    finally:
        await bus.close()


async def whole_log(bus: Bus) -> list[Entry]:
    entries: list[Entry] = []
    while page := await bus.read(LOG, len(entries) + 1, 256):
        entries += page
    return entries


def flipped(data: bytes) -> bytes:
    """One bit of a byte in the middle is not what it was."""
    at = data.index(b'"events":') + 4
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


async def write_next(bus: Bus, spoil: Any) -> int:
    """Write what the owner would write next, spoiled; its sequence."""
    while True:
        entries = await whole_log(bus)
        last = decode_entry(LOG, entries[-1].seq, entries[-1].data)
        assert last is not None
        last.events.clear()
        fields = {"batch": last.batch + 1, "previous": entries[-1].seq}
        entry = type(last)(**{**{f: getattr(last, f) for f in last.__struct_fields__}, **fields})
        try:
            return await bus.append(LOG, spoil(encode_entry(entry)), entries[-1].seq, 5.0)
        except AppendRefused:
            continue  # the owner was quicker


def restore(place: Place, bad: int) -> None:
    """The way out that the message names: save the log, restore it without the entry."""
    saved = place.run("log", "save", str(HURT), "hurt.jsonl")
    assert saved.returncode == 0, saved.stderr
    refused = place.run("log", "restore", str(HURT), "hurt.jsonl", "--yes")
    assert refused.returncode == 2
    assert f"entry {bad} of the file cannot be folded" in refused.stderr
    assert f"--before {bad}" in refused.stderr
    without = ("log", "restore", str(HURT), "hurt.jsonl", "--before", str(bad))
    planned = place.run(*without)
    assert planned.returncode == 0, planned.stderr
    assert f"entries in the log now that go: 1, from {bad} to {bad}" in planned.stdout
    assert "nothing was changed" in planned.stdout
    done = place.json(*without, "--yes")
    assert done["restored"]
    assert done["plan"]["last_seq"] == bad - 1
    assert Path(done["replaced"]).name == "hurt.jsonl.replaced-1"
    assert (place.path / done["replaced"]).read_bytes().count(b"\n") == bad + 1


async def eventually(what: str, condition: Any, deadline_s: float = DEADLINE_S) -> Any:
    give_up_at = asyncio.get_running_loop().time() + deadline_s
    while True:
        value = await condition()
        if value:
            return value
        assert asyncio.get_running_loop().time() < give_up_at, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(POLL_S)


async def submitted(swarm: Swarm, count: int) -> dict[int, list[Handle]]:
    """Items by shard."""
    items = [{"work_type": "work", "payload": {"n": number}} for number in range(count)]
    found: dict[int, list[Handle]] = {shard: [] for shard in range(SHARDS)}
    for handle in await swarm.submit_many(items, timeout_s=DEADLINE_S):
        assert isinstance(handle, Handle), handle
        found[parse_item_id(handle.work_item_id)[0]].append(handle)
    assert all(found.values())
    return found


async def test_flipped_bytes_close_one_shard_until_the_log_is_restored(place: Place) -> None:
    up = await asyncio.to_thread(place.up)
    async with Swarm.connect(up.nats_url) as swarm, operator(up) as bus:
        items = await submitted(swarm, 60)
        bad = await write_next(bus, flipped)
        what = f"{LOG}: entry {bad} is ours but cannot be decoded"

        # --- it is seen ---
        async def closed() -> bool:
            described = await swarm.describe()
            return any(what in beat.closed.get(str(HURT), "") for beat in described.coordinators)

        await eventually("beats say which entry it is", closed)
        status = await asyncio.to_thread(place.run, "status")
        assert status.returncode == 1
        assert what in status.stderr
        code, ready = await asyncio.to_thread(up.get, "/ready")
        assert code == 503
        assert any(what in why for why in ready["why"])
        metrics = await asyncio.to_thread(up.metrics)
        assert metrics["swarmsh_shard_closed"][str(HURT),] >= 1
        assert metrics["swarmsh_shard_owned"][str(HURT),] == 0
        assert {shard for (shard,) in metrics["swarmsh_conservation"]} == {"0", "2"}
        doctor = await asyncio.to_thread(place.run, "doctor")
        assert doctor.returncode == 1
        assert f"{LOG} entry {bad}: entry {bad} is ours but cannot be decoded" in doctor.stdout
        assert f"{LOG} from entry {bad} on" in doctor.stdout
        assert "1 finding" in doctor.stdout

        # --- the others go on ---
        agent = place.start("agent", "--id", "a1", *AGENT)
        for shard in (0, 2):
            for handle in items[shard]:
                await handle.result(timeout=DEADLINE_S)
        assert (await whole_log(bus))[-1].seq == bad, "nobody has written behind it"

        # --- and it goes on, without a restart, once that is dealt with ---
        pids = place.pids()
        await asyncio.to_thread(restore, place, bad)
        for handle in items[HURT]:
            await handle.result(timeout=DEADLINE_S + REOPEN_S)
        assert place.pids() == pids
        agent.terminate()
        doctor = await asyncio.to_thread(place.run, "doctor")
        assert doctor.returncode == 0, doctor.stdout

        async def is_well() -> bool:
            return (await asyncio.to_thread(place.run, "status")).returncode == 0

        # Who could not open it says so until it has heard of who could.
        await eventually("the status says that all is well", is_well)


async def test_an_entry_of_a_newer_version_waits_for_that_version(place: Place) -> None:
    up = await asyncio.to_thread(place.up)
    async with Swarm.connect(up.nats_url) as swarm, operator(up) as bus:
        items = await submitted(swarm, 30)
        bad = await write_next(bus, lambda data: data.replace(b'"swarm":2', b'"swarm":3'))

        async def closed() -> bool:
            described = await swarm.describe()
            return any(str(HURT) in beat.closed for beat in described.coordinators)

        await eventually("the shard is closed", closed)
        doctor = await asyncio.to_thread(place.run, "doctor", "--shard", str(HURT))
        assert doctor.returncode == 1
        assert (
            f"entry {bad} has format 3, this version reads 1, 2; run the version" in doctor.stdout
        )
        # A client is told that it cannot be had now; nothing says that it is lost.
        seen = await asyncio.to_thread(
            place.run, "work", "get", items[HURT][0].work_item_id, "--timeout", "3s"
        )
        assert seen.returncode == 1
        assert "unknown" not in seen.stderr
    # Started again, it is what it was: closed, the others open.
    assert up.stop() == 0
