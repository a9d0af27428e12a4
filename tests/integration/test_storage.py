"""A server, an account, a disk without room: what only a real server does then."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from swarm.bus import disk
from swarm.bus.base import Bus
from swarm.bus.disk import MIB
from swarm.bus.embedded import EmbeddedServer
from swarm.bus.jetstream import connect
from swarm.errors import BusError, OutcomeUnknown, StorageFull
from tests.conformance.worlds import TIMEOUT_S, outcome
from tests.integration.servers import server_with, until

pytestmark = pytest.mark.usefixtures("nats_binary")

LOG = "xlog.0"
DONE = "xdone.0"
LARGE = bytes(500_000)


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedServer]:
    """Not started yet; stopped at the end."""
    server = EmbeddedServer()
    yield server
    await server.stop()


async def fill(bus: Bus, log: str, seq: int) -> tuple[int, BusError]:
    """Append until that fails; returns the last sequence and how."""
    while True:
        result = await outcome(bus.append(log, LARGE, seq, TIMEOUT_S))
        if isinstance(result, BusError):
            return seq, result
        seq = result


async def check_full_and_resume(bus: Bus, limit: int) -> None:
    """Fill up, find everything refused and readable, make room, go on."""
    await bus.open_state()
    await bus.create_log(LOG)
    await bus.create_log("xlog.1")
    await bus.create_records(DONE, 0)
    await bus.put_record(DONE, "k", b"1", TIMEOUT_S)
    assert await bus.state_create("k", b"1")
    seq, how = await fill(bus, LOG, 0)
    assert isinstance(how, StorageFull), how
    assert "no room" in str(how)
    storage = await bus.storage()
    assert storage.limit == limit
    assert abs(storage.used - limit) < 600_000
    for call in (
        bus.append(LOG, LARGE, seq, TIMEOUT_S),
        bus.append("xlog.1", LARGE, 0, TIMEOUT_S),
        bus.put_record(DONE, "k", LARGE, TIMEOUT_S),
        bus.state_create("large", LARGE),
    ):
        assert isinstance(await outcome(call), StorageFull)
    assert [entry.seq for entry in await bus.read(LOG, 1, 5)] == [1, 2, 3, 4, 5]
    assert await bus.get_records(DONE, "k") == [b"1"]
    assert await bus.state_get("large") is None
    info = await bus.log_info(LOG)
    assert (info.first_seq, info.last_seq) == (1, seq)
    # Nothing was dropped to make room, and nothing comes later.
    await bus.purge(LOG, seq - 5)
    assert (await bus.storage()).used < 10 * len(LARGE)
    assert await bus.append(LOG, LARGE, seq, TIMEOUT_S) == seq + 1
    assert await bus.append("xlog.1", LARGE, 0, TIMEOUT_S) == 1
    await bus.put_record(DONE, "k", LARGE, TIMEOUT_S)
    assert await bus.state_create("large", LARGE) is True
    assert [entry.seq for entry in await bus.read(LOG, 1, 9)] == list(range(seq - 5, seq + 2))


async def test_a_server_at_its_limit(server: EmbeddedServer, tmp_path: Path) -> None:
    await server.start(tmp_path, storage_max=20 * MIB)
    assert server.storage_max == 20 * MIB
    bus = await connect(server.url, "a", prefix="x", storage_max=server.storage_max)
    await check_full_and_resume(bus, 20 * MIB)
    # A limit of its own is a promise, which there must be room for.
    assert isinstance(await outcome(bus.create_log("xlog.2", max_bytes=30 * MIB)), StorageFull)
    await bus.create_log("xlog.2", max_bytes=15 * MIB)
    assert isinstance(await outcome(bus.create_log("xlog.3", max_bytes=15 * MIB)), StorageFull)
    await bus.close()


async def test_an_account_at_its_limit(nats_binary: str, tmp_path: Path) -> None:
    config = f"""
        jetstream {{ store_dir: "{tmp_path}" }}
        accounts {{ A {{ jetstream {{ max_file: 20M }}, users: [{{ user: a, password: a }}] }} }}
    """
    async with server_with(nats_binary, tmp_path, config) as address:
        bus = await connect(f"nats://a:a@{address}", "a", prefix="x")
        limit = (await bus.storage()).limit
        await check_full_and_resume(bus, limit)
        await bus.close()
        told = await connect(f"nats://a:a@{address}", "a", prefix="x", storage_max=10**12)
        assert (await told.storage()).limit == limit
        await told.close()


async def test_what_is_known_of_the_storage(server: EmbeddedServer, tmp_path: Path) -> None:
    await server.start(tmp_path)
    # By default a part of what the disk has.
    assert 0 < server.storage_max < disk.free_bytes(tmp_path)
    config = (tmp_path / "nats-server.conf").read_text()
    assert f"max_file_store: {server.storage_max}" in config
    unknown = await connect(server.url, "a", prefix="x")
    assert (await unknown.storage()).limit == 0
    here = await connect(
        server.url, "b", prefix="x", storage_max=10**15, store_dir=server.store_dir
    )
    await here.create_log(LOG)
    await here.append(LOG, LARGE, 0, TIMEOUT_S)
    storage = await here.storage()
    free = disk.free_bytes(tmp_path)
    assert storage.used >= len(LARGE)
    # The disk is the narrowest; others use it, too, so it is not the same a moment later.
    assert storage.limit == pytest.approx(storage.used + free, rel=0.2)
    await unknown.close()
    await here.close()


async def test_a_limit_that_the_disk_cannot_hold(server: EmbeddedServer, tmp_path: Path) -> None:
    await server.start(tmp_path, storage_max=10**18)
    assert server.storage_max < 10**17


# --- a disk that is really full ------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("NOT TESTED: a full disk needs the right to mount one (run as root)")
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


async def test_a_full_disk_loses_nothing_and_is_left_behind(
    server: EmbeddedServer, small_disk: Path
) -> None:
    ballast = small_disk / "of-somebody-else"
    await server.start(small_disk / "data")
    bus = await connect(
        server.url, "a", prefix="x", storage_max=server.storage_max, store_dir=server.store_dir
    )
    await bus.create_log(LOG)
    assert await bus.append(LOG, LARGE, 0, TIMEOUT_S) == 1
    # Somebody else takes what the server counts on.
    left = 6 * MIB
    ballast.write_bytes(bytes(disk.free_bytes(small_disk) - left))
    storage = await bus.storage()
    assert storage.limit - storage.used <= left
    pid = server.pid
    seq, how = await fill(bus, LOG, 1)
    # The server says nothing at all.
    assert isinstance(how, OutcomeUnknown), how
    assert seq >= 8
    ballast.unlink()
    await until(lambda: server.pid != pid and bus.reconnects, "the server is started anew")
    async with asyncio.timeout(30):
        again = await outcome(bus.append(LOG, LARGE, seq, TIMEOUT_S))
        assert again == seq + 1, again
    found = [entry.seq for entry in await bus.read(LOG, 1, 100)]
    assert found == list(range(1, len(found) + 1))
    assert (await bus.log_info(LOG)).last_seq == seq + 1
    await bus.close()


async def test_a_server_is_started_anew_at_its_address_after_its_disk_was_full(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 100 * MIB
    looks: list[int] = []

    def free_bytes(_: Path) -> int:
        looks.append(free)
        return free

    monkeypatch.setattr(disk, "free_bytes", free_bytes)
    await server.start(tmp_path)
    url = server.url
    ended = asyncio.create_task(server.wait())
    bus = await connect(url, "a", prefix="x")
    await bus.create_log(LOG)
    pids = [server.pid]
    for seq in range(2):
        free = 0
        looks.clear()
        await until(lambda: len(looks) >= 3, "it has looked")
        assert server.pid == pids[-1]
        free = 100 * MIB
        await until(lambda: server.pid not in pids, "the server is started anew")
        pids.append(server.pid)
        await until(lambda: bus.reconnects == len(pids) - 1, "the bus is back")
        assert await bus.append(LOG, b"", seq, TIMEOUT_S) == seq + 1
    assert server.url == url
    # Nobody who waits for its end has been disturbed.
    assert not ended.done()
    await server.stop()
    assert await ended is not None
    await bus.close()
