"""Items submitted one by one on a schedule, to agents that wait: when does work start?

Every item says when it was due to be submitted.  The time of one ends when the process of
its agent has read the assignment; a submission that is late counts from when it was due.
All clocks are one: the system's monotonic clock.
"""

from __future__ import annotations

import asyncio
import time

import msgspec
from msgspec import Struct
from nats.aio.client import Client

from bench.child import Errors, Meter, check, connect, main, say_measured, stand_by
from bench.ours import Agents
from bench.plan import WORK_TYPE, Job
from bench.probing import Prober, percentile
from bench.submitting import Ids
from bench.verifying import count
from swarm.messages import Assignment

#: Between the last attach and the first item.
SETTLE_S = 1.0


class Due(Struct):
    """An item, as far as it concerns us."""

    payload: float


_due = msgspec.json.Decoder(Due)


def item_due(at: float) -> bytes:
    """91 bytes, as the other workloads' items: `at` has seventeen characters at most."""
    head = b'{"work_type":"%s","payload":%.6f,"description":"' % (WORK_TYPE.encode(), at)
    return head + b"x" * (91 - len(head) - 2) + b'"}'


class Paced(Prober):
    """A prober whose items carry the time at which they were due."""

    def __init__(self, client: Client, job: Job) -> None:
        super().__init__(client, job.prefix, job.rate, b"")

    def item(self, due: float) -> bytes:
        """See `Prober.item`."""
        return item_due(due)


async def load(job: Job) -> None:
    """Attach, settle, submit on schedule; report when work started."""
    errors = Errors()
    client = await connect(job, "bench latency load", errors)
    await stand_by(client, job)
    meter = Meter(job)
    started_s: list[float] = []

    def assigned(assignment: Assignment) -> None:
        started_s.append(time.monotonic() - _due.decode(assignment.item).payload)

    agents = Agents(client, job, Ids(), meter, assigned)
    await agents.attach()
    paced = Paced(client, job)
    await paced.start()
    async with agents.beating():
        await agents.ask()
        await asyncio.sleep(SETTLE_S)
        working = asyncio.create_task(agents.work())
        await paced.run(asyncio.Event(), job.items / job.rate * 2, job.items)
        await working
    errors.check()
    measured = meter.measured
    found = await count(client, job)
    wanted = dict.fromkeys(found, 0) | {"submitted": job.items, "completed": job.items}
    measured.checked = check(wanted, found)
    measured.noted = agents.noted()
    measured.figures = figures_of(started_s[job.warm :], paced.latencies_s[job.warm :])
    say_measured(measured)
    await client.close()


def figures_of(started_s: list[float], acknowledged_s: list[float]) -> dict[str, float]:
    """Milliseconds until work starts, and until the submitter knows that it is durable."""
    figures = {}
    for name, values in (("start", started_s), ("submit", acknowledged_s)):
        for percent in (50, 90, 99, 100):
            figures[f"{name}_p{percent}_ms"] = round(1000 * percentile(values, percent), 3)
    return figures


if __name__ == "__main__":
    main({"load": load})
