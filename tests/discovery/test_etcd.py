"""etcd, the real server."""

from __future__ import annotations

import os
import signal
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from swarm.discovery.etcd import Etcd
from swarm.discovery.following import Discovery
from swarm.testing.ports import free_ports
from tests.parts import listens, program, running, until


class Server:
    """An etcd, and what one says to it."""

    def __init__(self, folder: Path) -> None:
        self.port, self.peer_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder

    def command(self) -> list[str]:
        peer = f"http://127.0.0.1:{self.peer_port}"
        return [
            program("etcd"),
            f"--data-dir={self._folder}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ]

    async def healthy(self) -> bool:
        if not await listens(self.port):
            return False
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}/health") as answer:
            return b"true" in await answer.read()

    async def say(self, path: str, **body: str) -> None:
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.url}/v3/{path}", json=body) as answer,
        ):
            assert answer.status == 200, await answer.text()

    async def put(self, key: str, value: str, **more: str) -> None:
        await self.say("kv/put", key=text(key), value=text(value), **more)


def text(value: str) -> str:
    return b64encode(value.encode()).decode()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


@pytest.fixture
async def etcd(server: Server) -> AsyncIterator[Server]:
    async with running(*server.command(), ready=server.healthy):
        yield server


def places(discovery: Discovery) -> dict[str, str]:
    return {one.name: one.address for one in discovery.current.members}


async def test_keys_come_change_and_go(etcd: Server) -> None:
    await etcd.put("/swarm/c1", "10.0.0.1:4000")
    await etcd.put("/swarms/x", "10.0.0.7:4000")  # another service
    discovery = Discovery(Etcd(etcd.url, "swarm"), pause_first_s=0.02)
    await discovery.start()
    known = await discovery.first(5.0)
    assert places(discovery) == {"c1": "10.0.0.1:4000"}
    await etcd.say("lease/grant", TTL="60", ID="77")
    await etcd.put("/swarm/c2", '{"host": "10.0.0.2", "port": 4001}', lease="77")
    known = await discovery.after(known)
    assert places(discovery) == {"c1": "10.0.0.1:4000", "c2": "10.0.0.2:4001"}
    await etcd.put("/swarm/c3", "nonsense")  # must not hide the others
    await etcd.put("/swarm/c1", "10.0.0.9:4000")
    known = await discovery.after(known)
    assert places(discovery) == {"c1": "10.0.0.9:4000", "c2": "10.0.0.2:4001"}
    # Whoever held the lease is gone, and so is its key.
    await etcd.say("lease/revoke", ID="77")
    await discovery.after(known)
    assert places(discovery) == {"c1": "10.0.0.9:4000"}
    await discovery.stop()


async def test_history_that_was_compacted_is_read_anew(etcd: Server) -> None:
    await etcd.put("/swarm/c1", "10.0.0.1:4000")
    backend = Etcd(etcd.url, "swarm")
    async with aiohttp.ClientSession() as http:
        found, revision = await backend._read(http, etcd.url)
        for number in range(5):
            await etcd.put("/swarm/c1", f"10.0.0.{number}:4000")
        await etcd.say("kv/compaction", revision=str(revision + 4))
        said = [members async for members in backend._watch(http, etcd.url, found, revision)]
    # It ends by itself, so that the keys are read again.
    assert len(said) <= 1


async def test_one_that_dies_hangs_or_comes_back(server: Server) -> None:
    other = free_ports(1)[0]  # nobody is there: each of a list has its turn
    backend = Etcd(f"{server.url},http://127.0.0.1:{other}", "swarm", quiet_s=0.3, answer_s=0.5)
    discovery = Discovery(backend, pause_first_s=0.02)
    async with running(*server.command(), ready=server.healthy) as process:
        await server.put("/swarm/c1", "10.0.0.1:4000")
        await discovery.start()
        known = await discovery.first(10.0)
        # Quiet, but alive: it is looked at again, and stays fresh.
        await until(lambda: discovery.current.as_of > known.as_of)
        assert not discovery.current.stale
        os.kill(process.pid, signal.SIGSTOP)
        stale = await discovery.after(known)
        assert (stale.stale, places(discovery)) == (True, {"c1": "10.0.0.1:4000"})
        assert "does not answer in time" in stale.why or "cannot connect" in stale.why
        os.kill(process.pid, signal.SIGCONT)
        await until(lambda: not discovery.current.stale)
    await until(lambda: discovery.current.stale)
    assert places(discovery) == {"c1": "10.0.0.1:4000"}
    async with running(*server.command(), ready=server.healthy):
        await server.put("/swarm/c2", "10.0.0.2:4000")
        await until(lambda: len(places(discovery)) == 2 and not discovery.current.stale)
    await discovery.stop()
