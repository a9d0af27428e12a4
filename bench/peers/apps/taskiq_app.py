"""taskiq on NATS JetStream: pull in batches of 100, work queue on files."""

from __future__ import annotations

import os

import uvloop
from hits import hit, submit_all_async
from nats.js.api import RetentionPolicy, StorageType, StreamConfig
from taskiq_nats import PullBasedJetStreamBroker

PREFIX = os.environ["BENCH_PREFIX"]

broker = PullBasedJetStreamBroker(
    servers=[os.environ["BENCH_BROKER"]],
    subject=f"{PREFIX}.taskiq",
    stream_name=f"{PREFIX}_taskiq",
    durable=f"{PREFIX}_worker",
    pull_consume_batch=100,
    pull_consume_timeout=0.05,
    stream_config=StreamConfig(
        name=f"{PREFIX}_taskiq",
        subjects=[f"{PREFIX}.taskiq"],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
    ),
)


@broker.task(task_name="work")
async def work(item: dict[str, str]) -> None:
    """The task."""
    hit(item["id"])


async def main() -> None:
    """Submit."""
    await broker.startup()
    await submit_all_async(work.kiq, at_once=100)
    await broker.shutdown()


if __name__ == "__main__":
    uvloop.run(main())
