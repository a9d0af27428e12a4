"""A swarm of processes under a client's eyes: what is submitted, recorded and found in the end."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable

from swarm.core.placement import stands_by
from swarm.messages import ShardStats
from swarm.sdk.client import Handle, Swarm
from swarm.subjects import Subjects
from swarm.testing.history import (
    AckLog,
    Execution,
    History,
    Report,
    check,
    read_acks,
    read_executions,
    read_logs,
)
from tests.acceptance.processes import DEADLINE_S, POLL_S, Place

SHARDS = 6
LEASE_S = 6
SETTINGS = {"SHARD_COUNT": str(SHARDS), "LEASE_S": str(LEASE_S), "HEARTBEAT_S": "1"}
AGENT = ("--type", "work", "--handler", "tests.acceptance.recovering:work", "--concurrency", "4")
THREE = ["coordinator-1", "coordinator-2", "coordinator-3"]


class Run:
    """A place, what is submitted there, and the records of it."""

    def __init__(self, place: Place, prefix: str = "swarm") -> None:
        self.place = place
        self.prefix = prefix
        self.records = place.path / "records"
        self.acks = AckLog(self.records)
        self.handles: list[Handle] = []

    async def submit(self, swarm: Swarm, count: int, seconds: float) -> None:
        """Items that take so long; whatever happens meanwhile, each is accepted in time."""
        numbers = range(len(self.handles), len(self.handles) + count)
        items = [
            {"work_type": "work", "payload": {"number": number, "seconds": seconds}}
            for number in numbers
        ]
        for outcome in await swarm.submit_many(items, timeout_s=DEADLINE_S):
            assert isinstance(outcome, Handle), outcome
            self.acks.submitted([outcome.work_item_id])
            self.handles.append(outcome)

    async def results(self) -> None:
        """Return once the client has the result of every item, and they are right."""
        for number, handle in enumerate(self.handles):
            assert await handle.result(timeout=DEADLINE_S) == number
            self.acks.completed([handle.work_item_id])

    def start_node(self, name: str, role: str = "coordinator") -> subprocess.Popen[str]:
        """A node of its own, not under `swarm up`, which would start it again."""
        return self.place.start("node", "--role", role, "--id", name, "--no-http")

    def start_three(self, url: str) -> dict[str, subprocess.Popen[str]]:
        """A router and three coordinators on this NATS; the coordinators' processes."""
        self.place.env |= {
            "NATS_URL": url,
            "SWARM_PREFIX": self.prefix,
            "COORDINATORS": " ".join(THREE),
        }
        self.start_node("router-1", "router")
        return {name: self.start_node(name) for name in THREE}

    def running(self) -> list[Execution]:
        """Executions that have begun and not ended."""
        return [execution for execution in self.executions() if execution.end is None]

    def executions(self) -> list[Execution]:
        return read_executions(self.records)

    async def verdict(self, swarm: Swarm) -> tuple[Report, History]:
        history = await read_logs(swarm.bus, Subjects(self.prefix), range(SHARDS))
        return check(self.executions(), read_acks(self.records), history), history


async def eventually(what: str, condition: Callable[[], object]) -> None:
    """`until`, with the event loop running."""
    give_up_at = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {DEADLINE_S} s: {what}"
        await asyncio.sleep(POLL_S)


async def standing_by(swarm: Swarm, names: list[str]) -> None:
    """Return once these and no others live, and a caught-up one stands by for every shard."""
    give_up_at = time.monotonic() + DEADLINE_S
    while True:
        beats = (await swarm.describe(timeout_s=DEADLINE_S)).coordinators
        owned = sorted(shard for beat in beats for shard in beat.owns)
        ready = all(any(stands_by(beat, shard) for beat in beats) for shard in range(SHARDS))
        if ready and owned == list(range(SHARDS)) and names == [b.coordinator for b in beats]:
            return
        assert time.monotonic() < give_up_at, f"not all stood by for: {beats}"
        await asyncio.sleep(POLL_S)


async def owners(swarm: Swarm, names: list[str]) -> dict[int, str]:
    """Who owns which shard, once all shards are owned by those named, by their own words."""
    give_up_at = time.monotonic() + DEADLINE_S
    while True:
        stats = await swarm.stats(timeout_s=DEADLINE_S)
        found = {
            shard: one.coordinator for shard, one in stats.items() if isinstance(one, ShardStats)
        }
        if len(found) == SHARDS and set(found.values()) == set(names):
            return found
        assert time.monotonic() < give_up_at, f"owned by {found}, wanted: {names}"
        await asyncio.sleep(POLL_S)
