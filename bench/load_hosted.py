"""Agents of the SDK, many in one process, on a few NATS connections; items on a schedule.

Each is an `Agent` as anybody writes one, with an async handler that returns at once.  The
time of an item ends when its handler starts.  The submitter is part of this process.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from bench import machine
from bench.child import Errors, Failed, Meter, check, connect, main, say_measured, stand_by
from bench.load_latency import SETTLE_S, Paced, figures_of
from bench.ours import count
from bench.plan import WORK_TYPE, Job
from swarm import Agent, Context
from swarm.bus.jetstream import JetStreamBus
from swarm.bus.jetstream import connect as connect_bus
from swarm.sdk.client import Swarm
from swarm.sdk.runners import InlineRunner

ATTACHED_S = 60.0
LOOK_S = 0.1


class Hosted:
    """All agents of the process."""

    def __init__(self, job: Job, meter: Meter) -> None:
        self._job = job
        self._meter = meter
        self._agents: list[Agent] = []
        self._running: list[asyncio.Task[None]] = []
        #: Of each item, from when it was due to when its handler started.
        self.started_s: list[float] = []

    async def start(self, buses: list[JetStreamBus]) -> None:
        """All of them, over the connections in turn; returns when all are attached."""
        for number in range(self._job.agents):
            agent = Agent(
                agent_id=f"hosted-{number}", prefix=self._job.prefix, runner=InlineRunner()
            )
            agent.handles(WORK_TYPE)(self._handle)
            self._agents.append(agent)
            running = asyncio.create_task(agent.run(buses[number % len(buses)]))
            self._running.append(running)
        swarm = Swarm(buses[0], prefix=self._job.prefix)
        async with swarm, asyncio.timeout(ATTACHED_S):
            while await self._attached(swarm) < self._job.agents:
                self._check()
                await asyncio.sleep(LOOK_S)

    async def finish(self, deadline_s: float) -> None:
        """Return when all items are done."""
        async with asyncio.timeout(deadline_s):
            while not self._meter.finished:
                self._check()
                await asyncio.sleep(LOOK_S)

    async def stop(self) -> None:
        """All leave."""
        for agent in self._agents:
            agent.stop()
        await asyncio.gather(*self._running)

    async def _handle(self, context: Context) -> None:
        self.started_s.append(time.monotonic() - context.payload)
        self._meter.count(1)

    async def _attached(self, swarm: Swarm) -> int:
        beats = (await swarm.describe()).coordinators
        return sum(beat.sessions for beat in beats)

    def _check(self) -> None:
        for running in self._running:
            if running.done():
                running.result()
                raise Failed("an agent has ended")


async def load(job: Job) -> None:
    """Start the agents, submit on schedule, report when handlers started."""
    errors = Errors()
    client = await connect(job, "bench hosted load", errors)
    await stand_by(client, job)
    meter = Meter(job)
    hosted = Hosted(job, meter)
    async with AsyncExitStack() as stack:
        buses = []
        for number in range(job.connections):
            bus = await connect_bus(job.url, f"host-{number}", prefix=job.prefix)
            stack.push_async_callback(bus.close)
            buses.append(bus)
        before = machine.rss_bytes(machine.own_pid())
        began = time.monotonic()
        await hosted.start(buses)
        attached_s = time.monotonic() - began
        await asyncio.sleep(SETTLE_S)
        paced = Paced(client, job)
        await paced.start()
        await paced.run(asyncio.Event(), job.items / job.rate * 2, job.items)
        await hosted.finish(job.items / job.rate + ATTACHED_S)
        rss = machine.rss_bytes(machine.own_pid())
        await hosted.stop()
    errors.check()
    measured = meter.measured
    found = await count(client, job)
    wanted = dict.fromkeys(found, 0) | {"submitted": job.items, "completed": job.items}
    measured.checked = check(wanted, found)
    measured.figures = figures_of(hosted.started_s[job.warm :], paced.latencies_s[job.warm :])
    measured.figures |= {
        "attached_s": round(attached_s, 2),
        "host_mb": round(rss / 1e6, 1),
        "kb_per_agent": round((rss - before) / 1e3 / job.agents, 1),
        "connections": float(job.connections),
    }
    say_measured(measured)
    await client.close()


if __name__ == "__main__":
    main({"load": load})
