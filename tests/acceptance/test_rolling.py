"""All coordinators restarted one after the other, under load: nobody notices."""

from __future__ import annotations

import asyncio
import signal
import time

from swarm.bus.embedded import EmbeddedServer
from swarm.sdk.client import Swarm
from tests.acceptance.runs import AGENT, THREE, Run, eventually, owners, standing_by

#: As long as a client waits before it asks again, and a little.
WAIT_MAX_S = 1.3
DRAIN_MAX_S = 5.0


async def test_a_rolling_restart_loses_nothing_and_keeps_nobody_waiting(
    run: Run, nats_server: EmbeddedServer, nats_prefix: str
) -> None:
    run.prefix = nats_prefix
    nodes = run.start_three(nats_server.url)
    for number in (1, 2, 3):
        run.place.start("agent", "--id", f"agent-{number}", *AGENT)
    waits: list[float] = []
    drains: list[float] = []
    async with Swarm.connect(nats_server.url, prefix=nats_prefix) as swarm:
        await owners(swarm, THREE)
        done = asyncio.Event()
        loading = asyncio.create_task(load(run, swarm, waits, done))
        await eventually("some are done", lambda: len(run.executions()) > 30)
        for name in THREE:
            await standing_by(swarm, THREE)
            began = time.monotonic()
            nodes[name].send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(nodes[name].wait)
            drains.append(time.monotonic() - began)
            assert code == 0
            nodes[name] = run.start_node(name)
        await standing_by(swarm, THREE)
        done.set()
        await loading
        await run.results()
        report, history = await run.verdict(swarm)
    assert report.ok, report.findings
    assert report.acknowledged == report.completed == len(run.handles)
    assert max(waits) < WAIT_MAX_S, f"{len(waits)} submissions"
    assert max(drains) < DRAIN_MAX_S, drains
    # Nobody lost what it held: each item was worked on once.  (One that came when its agent had
    # no slot for it any more may have been handed back unworked.)
    assert report.executions == len(run.handles)
    holds = [hold for item in history.items.values() for hold in item.holds]
    assert len(holds) < 1.1 * len(run.handles)


async def load(run: Run, swarm: Swarm, waits: list[float], done: asyncio.Event) -> None:
    """Submit two items at a time, one after the other; how long each call took."""
    while not done.is_set():
        began = time.monotonic()
        await run.submit(swarm, 2, seconds=0.05)
        waits.append(time.monotonic() - began)
