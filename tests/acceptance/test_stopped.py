"""SIGSTOP of an owner, long enough for a takeover, then SIGCONT: what clients were told.

The one that wakes up does not know that it was deposed.  Requests that were sent to it
meanwhile wait in its connection, its agents' slots are in its books.  Whatever it says then,
clients hear it: the record holds every reply, late ones included.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from typing import cast

from swarm.bus.base import Bus
from swarm.bus.embedded import EmbeddedServer
from swarm.bus.jetstream import connect
from swarm.sdk.client import Swarm
from swarm.testing.history import ExecutionLog
from swarm.testing.replies import ReplyLog, check_replies, readings
from tests.acceptance.processes import DEADLINE_S
from tests.acceptance.runs import AGENT, SHARDS, THREE, Run, eventually, owners, standing_by

#: Longer than a takeover takes, and than a client waits before it asks again.
STOPPED_S = 3.5
#: Shorter than a takeover takes: the owner stays the owner.
NAP_S = 0.7
#: Twice what the agents have slots for.
BACKLOG = 24


async def test_clients_are_told_nothing_stale_by_an_owner_that_was_stopped(
    run: Run, nats_server: EmbeddedServer, nats_prefix: str
) -> None:
    run.prefix = nats_prefix
    nodes = run.start_three(nats_server.url)
    for number in (1, 2, 3):
        run.place.start("agent", "--id", f"agent-{number}", *AGENT)
    records = ExecutionLog(run.records)
    async with Swarm.connect(nats_server.url, prefix=nats_prefix) as swarm:
        await owners(swarm, THREE)
        await standing_by(swarm, THREE)
        done = asyncio.Event()
        buses = [
            await connect(nats_server.url, f"prober-{number}", prefix=nats_prefix)
            for number in range(4)
        ]
        logs = [ReplyLog(bus, time.monotonic) for bus in buses]
        loads = [asyncio.create_task(load(run, log, records, done)) for log in logs]
        working = asyncio.create_task(submit(run, swarm, done))
        await eventually("some are done", lambda: len(run.executions()) > 20)
        for victim, stopped_s in ((THREE[0], STOPPED_S), (THREE[1], NAP_S), (THREE[1], STOPPED_S)):
            owned = [shard for shard, owner in (await owners_now(swarm)).items() if owner == victim]
            assert owned, f"{victim} owns nothing"
            nodes[victim].send_signal(signal.SIGSTOP)
            # Nothing to wait for but time itself: who sleeps says nothing.
            await asyncio.sleep(stopped_s)
            if stopped_s == STOPPED_S:
                now = await owners_now(swarm)
                assert all(now[shard] != victim for shard in owned), "a takeover"
            nodes[victim].send_signal(signal.SIGCONT)
            await standing_by(swarm, THREE)
        done.set()
        await asyncio.gather(*loads, working)
        await do_the_rest(run, logs[0], records)
        for bus in buses:
            await bus.close()
        records.close()
        await run.results()
        report, _ = await run.verdict(swarm)
    assert check_replies(*logs) == []
    assert report.ok, report.findings
    assert readings(*logs) > 200
    # Both woke up as owners that were none any more.
    for victim in THREE[:2]:
        assert "shard lost" in events(nodes[victim])


async def load(run: Run, log: ReplyLog, records: ExecutionLog, done: asyncio.Event) -> None:
    """Submit, claim, complete and look, over a bus that records."""
    swarm = Swarm(cast(Bus, log), prefix=run.prefix)

    async def step() -> None:
        handle = await swarm.submit("hand", timeout_s=DEADLINE_S)
        await swarm.get(handle.work_item_id, timeout_s=DEADLINE_S)
        item = await work_by_hand(swarm, records)
        if item:
            await swarm.get(item, timeout_s=DEADLINE_S)

    try:
        while not done.is_set():
            await asyncio.gather(*(step() for _ in range(SHARDS)))
    finally:
        await swarm.close()


async def work_by_hand(swarm: Swarm, records: ExecutionLog) -> str:
    """Claim an item and complete it; its id, "" where none is found."""
    claimed = await swarm.claim(["hand"], lease_s=60.0, timeout_s=DEADLINE_S)
    if claimed is None:
        return ""
    item, token = claimed.work_item_id, claimed.token
    with records.execution(item, token):
        await asyncio.sleep(0)
    await swarm.complete(item, token, timeout_s=DEADLINE_S)
    return item


async def do_the_rest(run: Run, log: ReplyLog, records: ExecutionLog) -> None:
    """An item that came to a shard just after somebody had asked there is still to be done."""
    swarm = Swarm(cast(Bus, log), prefix=run.prefix)
    while await work_by_hand(swarm, records):
        pass
    await swarm.close()


async def submit(run: Run, swarm: Swarm, done: asyncio.Event) -> None:
    """Work for the agents: always some that waits, and never much."""
    while not done.is_set():
        await run.submit(swarm, 6, seconds=0.2)
        if len(run.handles) > BACKLOG:
            await run.handles[-BACKLOG].result(timeout=DEADLINE_S)


async def owners_now(swarm: Swarm) -> dict[int, str]:
    """By the beats."""
    beats = (await swarm.describe()).coordinators
    return {shard: beat.coordinator for beat in beats for shard in beat.owns}


def events(node: subprocess.Popen[str]) -> list[str]:
    """End a node; what it has logged."""
    node.terminate()
    _, err = node.communicate()
    return [json.loads(line)["event"] for line in err.splitlines() if line.startswith("{")]
