"""A cluster of real servers of which one hangs or dies: what the bus makes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swarm.bus.jetstream import JetStreamBus, connect
from swarm.errors import BusError, BusTimeout, NoResponders, OutcomeUnknown
from swarm.testing.chaos.cast import CAST, Company
from swarm.testing.chaos.net import Loopback
from tests.integration.servers import DEADLINE_S, POLL_S

LOG = "tlog.0"
#: Of the append; nobody is to wait for it where it is known that there is no leader.
APPEND_S = 4.0


class Cluster:
    """Three servers with one log, and who leads it."""

    def __init__(self, directory: Path) -> None:
        self.surprises: list[str] = []
        self.company = Company(directory, Loopback(), 1, self.surprises.append)
        self.leader = ""
        self.last_seq = 0

    async def start(self) -> None:
        members = self.company.members
        await asyncio.gather(*(members[name].start() for name in CAST.servers))
        bus = await connect(self.company.urls, "maker", replicas=3, connect_timeout_s=DEADLINE_S)
        try:
            async with asyncio.timeout(2 * DEADLINE_S):
                while not self.leader:
                    await self._make_log(bus)
        finally:
            await bus.close()

    async def _make_log(self, bus: JetStreamBus) -> None:
        """Until the log is there, and every server has caught up with it."""
        try:
            await bus.create_log(LOG)
            if not self.last_seq:
                self.last_seq = await bus.append(LOG, b"first", 0, DEADLINE_S)
            answer = await bus.request("$JS.API.STREAM.INFO.tlog_0", b"", DEADLINE_S)
        except BusError:
            await asyncio.sleep(POLL_S)
            return
        found = json.loads(answer.data)["cluster"]
        if len(found["replicas"]) == 2 and all(one["current"] for one in found["replicas"]):
            self.leader = found["leader"]

    async def connect_beside_the_leader(self) -> JetStreamBus:
        other = next(name for name in CAST.servers if name != self.leader)
        return await connect(self.company.url(other), "reader", connect_timeout_s=DEADLINE_S)

    async def stop(self) -> None:
        await asyncio.gather(*(member.kill() for member in self.company.members.values()))
        assert self.surprises == []


@pytest.fixture
async def cluster(tmp_path: Path, nats_binary: str) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()


@pytest.mark.slow
async def test_a_log_can_be_read_while_its_leader_hangs(cluster: Cluster) -> None:
    bus = await cluster.connect_beside_the_leader()
    try:
        cluster.company.members[cluster.leader].pause()
        # Which server is asked is drawn by the server, each time.
        for _ in range(10):
            entries = await bus.read(LOG, 1, 10)
            assert [entry.data for entry in entries] == [b"first"]
    finally:
        await bus.close()


async def _is_without_ears(bus: JetStreamBus, subject: str) -> bool:
    """Whether the server knows of nobody who listens there."""
    try:
        await bus.request(subject, b"", POLL_S)
    except NoResponders:
        return True
    except BusTimeout:
        return False
    return False


@pytest.mark.slow
async def test_a_log_without_a_leader_is_told_at_once(cluster: Cluster) -> None:
    bus = await cluster.connect_beside_the_leader()
    try:
        await cluster.company.members[cluster.leader].kill()
        # Before its neighbour has noticed, what is for the dead one is passed on to it, and lost:
        # that is seen by asking something that only the leader answers.
        async with asyncio.timeout(APPEND_S):
            while not await _is_without_ears(bus, LOG):
                continue  # each question takes its time
        began = asyncio.get_running_loop().time()
        with pytest.raises(OutcomeUnknown, match="no leader"):
            await bus.append(LOG, b"second", cluster.last_seq, APPEND_S)
        took_s = asyncio.get_running_loop().time() - began
        assert took_s < APPEND_S / 2, f"it took {took_s:.1f} s"
    finally:
        await bus.close()
