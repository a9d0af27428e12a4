"""Claims from a queue that keeps its length: for each thousand completed, a thousand come.

`job.queued` items are there before the first claim; `job.items` are completed then.
"""

from __future__ import annotations

import asyncio

import msgspec

from bench.child import Errors, Meter, check, connect, main, say_measured, stand_by
from bench.ours import Agents
from bench.plan import BATCH, Job
from bench.submitting import Ids, Submitting
from bench.verifying import count

#: Of the statuses, those that an item may have in the end.
OPEN = ("queued", "claimed", "completed")


async def load(job: Job) -> None:
    """Fill the queue, then work and refill it; report what was measured."""
    errors = Errors()
    client = await connect(job, "bench queue load", errors)
    await stand_by(client, job)
    ids = Ids()
    await Submitting(client, msgspec.structs.replace(job, items=job.queued), ids, None).run()
    meter = Meter(job)
    agents = Agents(client, job, ids, meter)
    refilling = Submitting(client, job, ids, None, pace=lambda: meter.done // BATCH)
    refill = asyncio.create_task(refilling.run())
    await agents.run()
    await refill
    errors.check()
    measured = meter.measured
    found = await count(client, job)
    submitted = job.queued + job.items
    measured.checked = check({name: 0 for name in found if name not in OPEN}, _closed(found))
    measured.checked |= check(
        {"submitted": submitted, "accounted": submitted},
        {"submitted": found["submitted"], "accounted": sum(found[name] for name in OPEN)},
    )
    measured.noted = agents.noted() | {"resent_batches": refilling.resent}
    say_measured(measured)
    await client.close()


def _closed(found: dict[str, int]) -> dict[str, int]:
    """Without the count of all."""
    return {name: 0 if name == "submitted" else value for name, value in found.items()}


if __name__ == "__main__":
    main({"load": load})
