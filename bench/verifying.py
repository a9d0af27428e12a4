"""Asking all shards of a swarm whether what was submitted is where it belongs."""

from __future__ import annotations

import msgspec
from nats.aio.client import Client

from bench.child import Inbox, check
from bench.plan import Job
from bench.submitting import CLIENT
from swarm.messages import STATUSES, ShardStats
from swarm.subjects import Subjects

_stats = msgspec.json.Decoder(ShardStats)


async def verify(client: Client, job: Job) -> dict[str, int]:
    """Ask every shard; what was submitted must be where it belongs, and nothing else."""
    found = await count(client, job)
    completed = job.items if job.agents else 0
    wanted = dict.fromkeys(found, 0)
    wanted |= {"submitted": job.items, "completed": completed, "queued": job.items - completed}
    return check(wanted, found)


async def count(client: Client, job: Job) -> dict[str, int]:
    """What all shards together say of themselves."""
    subjects = Subjects(job.prefix)
    found: dict[str, int] = dict.fromkeys(("submitted", *STATUSES), 0)
    found |= {"conservation": 0, "foreign": 0, "refused": 0}
    for shard in range(job.shards):
        answer = Inbox()
        reply = f"_INBOX.{CLIENT}.stats.{shard}"
        await answer.listen(client, reply)
        await client.publish(subjects.shard(shard, "stats", CLIENT), b"{}", reply=reply)
        stats = _stats.decode((await answer.take_some())[0].data)
        for status, count in stats.counts.items():
            found[status] += count
        found["submitted"] += stats.submitted
        found["conservation"] += abs(stats.conservation)
        found["foreign"] += stats.foreign
        found["refused"] += sum(stats.refused.values())
    return found
