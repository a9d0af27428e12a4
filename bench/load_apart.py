"""A load on several swarms at once, each with its part of the shards, agents and items.

What more processes cost on one machine where they have nothing to do with each other: beside
coordinators of one swarm it tells what their working together costs.
"""

from __future__ import annotations

import asyncio

import msgspec

from bench.child import Errors, Meter, connect, main, say_measured, stand_by
from bench.ours import Agents
from bench.plan import BATCH, Job
from bench.submitting import Ids, Submitting
from bench.verifying import verify


def jobs_of(job: Job) -> list[Job]:
    """The job of each of `job.swarms` swarms."""
    swarms = job.swarms
    return [
        msgspec.structs.replace(
            job,
            prefix=f"{job.prefix}x{number}",
            shards=job.shards // swarms,
            agents=job.agents // swarms,
            items=job.items // swarms // BATCH * BATCH,
            swarms=1,
        )
        for number in range(swarms)
    ]


class _Part(Meter):
    """Counts what one swarm has done, for all."""

    def __init__(self, job: Job, all_: Meter) -> None:
        super().__init__(job)
        self._all = all_

    @property
    def finished(self) -> bool:
        """Its part is done."""
        return self.done >= self._job.items

    def count(self, number: int) -> None:
        """So many more are done."""
        self.done += number
        self._all.count(number)


async def load(job: Job) -> None:
    """Submit, then claim and complete everything; report what was measured."""
    errors = Errors()
    client = await connect(job, "bench load", errors)
    await stand_by(client, job)
    jobs, ids = jobs_of(job), Ids()
    items = sum(part.items for part in jobs)
    meter = Meter(msgspec.structs.replace(job, items=items))
    for part in jobs:
        await Submitting(client, part, ids, None).run()
    agents = [
        Agents(client, part, ids, _Part(part, meter), names=f"agent-{part.prefix}") for part in jobs
    ]
    await asyncio.gather(*(some.run() for some in agents))
    errors.check()
    measured = meter.measured
    for part in jobs:
        for name, number in (await verify(client, part)).items():
            measured.checked[name] = measured.checked.get(name, 0) + number
    say_measured(measured)
    await client.close()


if __name__ == "__main__":
    main({"load": load})
