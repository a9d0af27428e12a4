"""Agents of the SDK, many in one process, on a few NATS connections; items on a schedule.

Each is an `Agent` as anybody writes one, with an async handler that returns at once; an
`AgentHost` runs them.  The time of an item ends when its handler starts.  The submitter is
part of this process.
"""

from __future__ import annotations

import asyncio
import time

from bench import machine
from bench.child import Errors, Failed, Meter, check, connect, main, say_measured, stand_by
from bench.load_latency import SETTLE_S, Paced, figures_of
from bench.plan import WORK_TYPE, Job
from bench.verifying import count
from swarm import Agent, AgentHost, Context, Swarm

ATTACHED_S = 60.0
LOOK_S = 0.1


class Hosted:
    """All agents of the process."""

    def __init__(self, job: Job, meter: Meter) -> None:
        self._job = job
        self._meter = meter
        self._host = AgentHost([self._agent(n) for n in range(job.agents)], job.connections)
        self._running: asyncio.Task[None] | None = None
        #: Of each item, from when it was due to when its handler started.
        self.started_s: list[float] = []

    async def start(self) -> None:
        """All of them; returns when all are attached."""
        self._running = asyncio.create_task(self._host.run(self._job.url))
        async with (
            Swarm.connect(self._job.url, prefix=self._job.prefix) as swarm,
            asyncio.timeout(ATTACHED_S),
        ):
            while await self._attached(swarm) < self._job.agents:
                await self._look()

    async def finish(self, deadline_s: float) -> None:
        """Return when all items are done."""
        async with asyncio.timeout(deadline_s):
            while not self._meter.finished:
                await self._look()

    async def stop(self) -> None:
        """All finish and leave."""
        assert self._running is not None, "started before"
        self._host.stop()
        await self._running

    def _agent(self, number: int) -> Agent:
        agent = Agent(agent_id=f"hosted-{number}", prefix=self._job.prefix)

        @agent.handles(WORK_TYPE)
        async def handle(context: Context) -> None:
            # In the host's one thread for handlers.
            self.started_s.append(time.monotonic() - context.payload)
            self._meter.count(1)

        return agent

    async def _attached(self, swarm: Swarm) -> int:
        beats = (await swarm.describe()).coordinators
        return sum(beat.sessions for beat in beats)

    async def _look(self) -> None:
        assert self._running is not None, "started before"
        if self._running.done():
            self._running.result()
            raise Failed("the host has ended")
        await asyncio.sleep(LOOK_S)


async def load(job: Job) -> None:
    """Start the agents, submit on schedule, report when handlers started."""
    errors = Errors()
    client = await connect(job, "bench hosted load", errors)
    await stand_by(client, job)
    meter = Meter(job)
    hosted = Hosted(job, meter)
    before = machine.rss_bytes(machine.own_pid())
    began = time.monotonic()
    await hosted.start()
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
