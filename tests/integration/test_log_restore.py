"""Saving and restoring logs on a real NATS: damage, deletion, interruptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarm.actors.opening import RESTORING, KnownLog, key_of
from swarm.bus.base import Entry
from swarm.bus.embedded import EmbeddedServer
from swarm.bus.jetstream import JetStreamBus, connect
from swarm.bus.jetstream_rebuild import LogRebuild
from swarm.config import Settings
from swarm.core.envelope import decode_entry
from swarm.doctor import Examination, examine
from swarm.errors import BadInput, OutcomeUnknown, StorageFull, SwarmError
from swarm.hosting.node import Node, NodePlan
from swarm.messages import Marked
from swarm.recovery import SavedLog, Wanted, make_plan, plan, restore, restore_log, save_log
from swarm.sdk.client import Handle, Swarm
from tests.golden.files import read_log, versions
from tests.integration.servers import until

pytestmark = pytest.mark.usefixtures("nats_binary")

SETTINGS = Settings(prefix="x", shard_count=1, coordinators=["c1"], beat_s=0.1, missed_s=0.3)
LOG = "xlog.0"
NOW = 1_000_000.0


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """No owner sleeps through a restore here."""
    monkeypatch.setattr(restore, "PAUSE_S", 0.01)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    server = EmbeddedServer()
    await server.start(tmp_path / "data")
    yield server
    await server.stop()


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[JetStreamBus]:
    bus = await connect(server.url, "operator", prefix="x")
    yield bus
    await bus.close()


@asynccontextmanager
async def node(server: EmbeddedServer, *, owns: int = 1) -> AsyncIterator[Node]:
    plan = NodePlan(
        node_id="c1", roles=("coordinator", "router"), nats_url=server.url, settings=SETTINGS
    )
    node = Node(plan)
    try:
        await node.start()
        coordinator = node.coordinator
        assert coordinator is not None
        await until(lambda: len(coordinator.owned) == owns, f"{owns} shards are open")
        yield node
    finally:
        await node.stop()


async def submitted(swarm: Swarm, count: int) -> list[str]:
    handles = await swarm.submit_many([{"work_type": "build"}] * count)
    assert all(isinstance(handle, Handle) for handle in handles)
    return [handle.work_item_id for handle in handles if isinstance(handle, Handle)]


async def filled(server: EmbeddedServer) -> list[str]:
    """A log with some entries; the items in it.  Nobody runs."""
    async with node(server) as running:
        swarm = Swarm(running.bus, prefix="x")
        items = [item for _ in range(4) for item in await submitted(swarm, 2)]
        await swarm.close()
        return items


async def entries(bus: JetStreamBus) -> list[Entry]:
    first_seq = (await bus.log_info(LOG)).first_seq
    return await bus.read(LOG, first_seq, 1000)


async def rewrite(bus: JetStreamBus, log: list[Entry]) -> None:
    """Have these entries in the log, damaged ones among them."""
    stream = LogRebuild(bus, LOG, "xrestore.0")
    config = await stream.config()
    if config is not None:
        await stream.delete()
    await stream.create(config, 1, log[0].seq)
    for entry in log:
        await stream.append(entry)
    await stream.open()


def flipped(entry: Entry) -> Entry:
    at = entry.data.index(b'"events":') + 4
    data = entry.data[:at] + bytes([entry.data[at] ^ 0x10]) + entry.data[at + 1 :]
    return msgspec.structs.replace(entry, data=data)


async def known(bus: JetStreamBus) -> str:
    stored = await bus.state_get(key_of(0))
    assert stored is not None
    return msgspec.json.decode(stored, type=KnownLog).incarnation


async def restored(bus: JetStreamBus, file: Path, before: int = 0) -> Path | None:
    wanted = Wanted(settings=SETTINGS, shard=0, saved=SavedLog(file), before=before)
    return await restore_log(bus, wanted, await make_plan(bus, wanted), NOW)


async def check_open(server: EmbeddedServer, bus: JetStreamBus, items: list[str]) -> None:
    """The shard opens by itself and has these items; the doctor finds nothing."""
    async with node(server) as running:
        swarm = Swarm(running.bus, prefix="x")
        for item in items:
            assert (await swarm.get(item)).status == "queued"
        await submitted(swarm, 1)
        await swarm.close()
    report = await examine(bus, Examination(settings=SETTINGS, now=NOW))
    assert report.findings == []


async def test_a_log_is_saved_while_it_is_written(
    server: EmbeddedServer, bus: JetStreamBus, tmp_path: Path
) -> None:
    file = tmp_path / "a"
    async with node(server) as running:
        swarm = Swarm(running.bus, prefix="x")
        before = await submitted(swarm, 20)
        writing = asyncio.gather(*(submitted(swarm, 2) for _ in range(20)))
        header = await save_log(bus, "x", 0, file, NOW)
        await writing
        wanted = Wanted(settings=SETTINGS, shard=0, saved=SavedLog(file))
        with pytest.raises(SwarmError, match="c1 owns it"):
            await make_plan(bus, wanted)
        await swarm.close()
    planned = await make_plan(bus, wanted)
    assert sum(planned.items.values()) >= len(before)
    assert planned.last_seq == header.last_seq < planned.gone.last_seq
    assert planned.gone.submitted == 60 - planned.items["queued"]
    await restored(bus, file)
    await check_open(server, bus, before)


async def test_a_log_that_was_purged_keeps_its_sequences(bus: JetStreamBus, tmp_path: Path) -> None:
    await bus.open_state()
    golden = read_log(versions()[-1])
    needs = max(e.needs for entry in golden for e in events(entry) if isinstance(e, Marked))
    golden = [entry for entry in golden if entry.seq >= needs]
    assert golden[0].seq > 1
    await bus.create_log(LOG)
    await rewrite(bus, golden)
    await save_log(bus, "x", 0, tmp_path / "a", NOW)
    await LogRebuild(bus, LOG, "xrestore.0").delete()
    await restored(bus, tmp_path / "a")
    assert await contents(bus) == [(entry.seq, entry.data) for entry in golden]
    assert await known(bus) == msgspec.json.decode(golden[0].data)["incarnation"]


@pytest.mark.parametrize("where", ["last", "middle"])
async def test_a_flipped_byte(
    where: str, server: EmbeddedServer, bus: JetStreamBus, tmp_path: Path
) -> None:
    items = await filled(server)
    log = await entries(bus)
    at = len(log) - 1 if where == "last" else 3
    bad = log[at].seq
    await rewrite(bus, [*log[:at], flipped(log[at]), *log[at + 1 :]])
    await save_log(bus, "x", 0, tmp_path / "a", NOW)
    with pytest.raises(BadInput, match=rf"entry {bad} of the file .*--before {bad}$"):
        await restored(bus, tmp_path / "a")
    kept = await restored(bus, tmp_path / "a", bad)
    assert kept == tmp_path / "a.replaced-1"
    assert len(list(SavedLog(kept).entries())) == len(log)
    assert [(e.seq, e.data) for e in await entries(bus)] == [(e.seq, e.data) for e in log[:at]]
    gone = sum(len(getattr(event, "items", [])) for e in log[at:] for event in events(e))
    await check_open(server, bus, items[: len(items) - gone])


def events(stored: Entry) -> list[object]:
    entry = decode_entry(LOG, stored.seq, stored.data)
    return [] if entry is None else list(entry.events)


async def test_a_deleted_stream_and_one_that_began_later(
    server: EmbeddedServer, bus: JetStreamBus, tmp_path: Path
) -> None:
    items = await filled(server)
    log = await entries(bus)
    await save_log(bus, "x", 0, tmp_path / "a", NOW)
    stream = LogRebuild(bus, LOG, "xrestore.0")
    await stream.delete()
    assert await restored(bus, tmp_path / "a") is None
    assert [(e.seq, e.data) for e in await entries(bus)] == [(e.seq, e.data) for e in log]
    # What an operator has set for the stream stays.
    config = await stream.config()
    assert config is not None
    await bus.api("", "STREAM.UPDATE.xlog_0", config | {"max_bytes": 1_000_000})
    assert await restored(bus, tmp_path / "a") is None, "all of it is in the file"
    assert (await bus.log_info(LOG)).bytes_max == 1_000_000
    await check_open(server, bus, items)


#: What may be interrupted, in this order: whose method, and which call of it.
STEPS: list[tuple[Any, str, int]] = [
    (JetStreamBus, "state_put", 1),
    (LogRebuild, "close", 1),
    (LogRebuild, "delete", 1),
    (LogRebuild, "create", 1),
    (LogRebuild, "append", 3),
    (restore._Restore, "_read_back", 1),
    (JetStreamBus, "state_put", 2),
    (LogRebuild, "open", 1),
]


class Killed(Exception):
    """The command is no more."""


def killed(method: Any, call: int, *, late: bool) -> Any:
    """The method, but at this call it is the end: before it was done, or after."""
    calls = 0

    async def instead(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not late:
            raise Killed
        result = await method(*arguments)
        if calls == call:
            raise Killed
        return result

    return instead


async def test_interrupted_anywhere_it_is_run_again(
    server: EmbeddedServer, bus: JetStreamBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = await filled(server)
    log = await entries(bus)
    whole = [(entry.seq, entry.data) for entry in log]
    incarnation = await known(bus)
    await save_log(bus, "x", 0, tmp_path / "a", NOW)
    listen = plan.check_unowned
    monkeypatch.setattr(plan, "check_unowned", nobody)
    for at, (owner, step, call) in enumerate(STEPS):
        for late in (False, True):
            await rewrite(bus, log)
            with monkeypatch.context() as patched:
                patched.setattr(owner, step, killed(getattr(owner, step), call, late=late))
                with pytest.raises(Killed):
                    await restored(bus, tmp_path / "a", log[-1].seq)
            # Either nothing has begun, or nobody opens it, or nobody can write to it, or all is
            # done.
            where = f"{step} {call}, {'after' if late else 'before'}"
            named = await known(bus) == RESTORING
            if (at, late) == (0, False):
                assert not named
                assert await contents(bus) == whole, where
            elif at < 6 or (at, late) == (6, False):
                assert named, where
            elif (at, late) != (7, True):
                with pytest.raises(OutcomeUnknown):
                    await bus.append(LOG, b"x", log[-1].seq - 1, 0.3)
            await restored(bus, tmp_path / "a", log[-1].seq)
            assert await contents(bus) == whole[:-1], where
            assert await known(bus) == incarnation
    monkeypatch.setattr(plan, "check_unowned", listen)
    await bus.state_put(key_of(0), msgspec.json.encode(KnownLog(RESTORING)))
    async with node(server, owns=0) as running:
        coordinator = running.coordinator
        assert coordinator is not None
        await until(lambda: coordinator.closed, "it is closed")
        assert "`swarm log restore` is bringing it back" in coordinator.closed[0]
    (finding,) = (await examine(bus, Examination(settings=SETTINGS, now=NOW))).findings
    assert "it is being restored" in finding.what
    await restored(bus, tmp_path / "a")
    assert await known(bus) == incarnation
    assert await contents(bus) == whole
    await check_open(server, bus, items)


async def nobody(*_: object) -> None:
    """Owns the shard."""


async def contents(bus: JetStreamBus) -> list[tuple[int, bytes]]:
    return [(entry.seq, entry.data) for entry in await entries(bus)]


async def test_who_writes_after_the_plan_was_made_loses_nothing(
    server: EmbeddedServer, bus: JetStreamBus, tmp_path: Path
) -> None:
    await filled(server)
    incarnation = await known(bus)
    await save_log(bus, "x", 0, tmp_path / "a", NOW)
    wanted = Wanted(settings=SETTINGS, shard=0, saved=SavedLog(tmp_path / "a"))
    planned = await make_plan(bus, wanted)
    async with node(server) as running:
        swarm = Swarm(running.bus, prefix="x")
        with pytest.raises(SwarmError, match="somebody has written to it meanwhile"):
            await restore_log(bus, wanted, planned, NOW)
        assert await known(bus) == incarnation
        items = await submitted(swarm, 3)
        await swarm.close()
    await check_open(server, bus, items)


async def test_without_room_it_stays_closed_until_there_is_some(
    server: EmbeddedServer, bus: JetStreamBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = await filled(server)
    await save_log(bus, "x", 0, tmp_path / "a", NOW)
    stream = LogRebuild(bus, LOG, "xrestore.0")
    config = await stream.config()
    assert config is not None
    await stream.delete()
    await stream.create(config | {"max_bytes": 1000}, 1, 1)
    with pytest.raises(StorageFull, match=r"restoring entry .* of xlog\.0"):
        await restored(bus, tmp_path / "a")
    assert await known(bus) == RESTORING
    config = await stream.config()
    await bus.api("", "STREAM.UPDATE.xlog_0", (config or {}) | {"max_bytes": -1})
    await restored(bus, tmp_path / "a")
    await check_open(server, bus, items)
