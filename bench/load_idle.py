"""Agents that are attached and have nothing to do: what does a coordinator spend on them?"""

from __future__ import annotations

import asyncio

from bench import machine
from bench.child import Errors, Meter, connect, cpu_seconds, main, say_measured, stand_by
from bench.ours import Agents
from bench.plan import Job, Measured
from bench.submitting import Ids
from bench.verifying import count

#: After the last attach, before the clock starts: heartbeats are spread out by then.
SETTLE_S = 5.0


async def load(job: Job) -> None:
    """Attach, ask for work that never comes, and watch the processes for a while."""
    errors = Errors()
    client = await connect(job, "bench idle load", errors)
    await stand_by(client, job)
    agents = Agents(client, job, Ids(), Meter(job))
    await agents.attach()
    async with agents.beating():
        await agents.ask()
        await asyncio.sleep(min(SETTLE_S, job.seconds))
        loop = asyncio.get_running_loop()
        started, before = loop.time(), cpu_seconds(job.pids)
        await asyncio.sleep(job.seconds)
        seconds, after = loop.time() - started, cpu_seconds(job.pids)
    errors.check()
    measured = Measured(0, seconds, {}, await count(client, job), agents.noted())
    for role, pid in job.pids.items():
        cpu = 100 * (after[role] - before[role]) / seconds if after else 0.0
        measured.figures[f"{role}_cpu_percent"] = round(cpu, 3)
        measured.figures[f"{role}_mb"] = round(machine.rss_bytes(pid) / 1e6, 1)
    say_measured(measured)
    await client.close()


if __name__ == "__main__":
    main({"load": load})
