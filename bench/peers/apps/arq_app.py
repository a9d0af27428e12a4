"""arq on Redis: many jobs at once, a short poll, no results kept, uvloop."""

from __future__ import annotations

import asyncio
import os

import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from hits import hit, submit_all_async

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

REDIS = RedisSettings.from_dsn(os.environ["BENCH_BROKER"])


async def work(_context: dict[str, object], item: dict[str, str]) -> None:
    """The job."""
    hit(item["id"])


class WorkerSettings:
    """Read by `arq`."""

    functions = (work,)
    redis_settings = REDIS
    max_jobs = 1000
    queue_read_limit = 5000
    poll_delay = 0.01
    keep_result = 0
    log_results = False


async def main() -> None:
    """Submit."""
    pool = await create_pool(REDIS)
    await submit_all_async(lambda item: pool.enqueue_job("work", item), at_once=50)
    await pool.aclose()


if __name__ == "__main__":
    asyncio.run(main())
