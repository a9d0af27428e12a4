"""FastStream on NATS JetStream: pull in batches of 100, work queue on files."""

from __future__ import annotations

import os

import nats
import uvloop
from faststream import FastStream
from faststream.nats import JStream, NatsBroker, PullSub
from hits import hit, submit_all_async
from nats.js.api import RetentionPolicy, StorageType

PREFIX = os.environ["BENCH_PREFIX"]
STREAM = JStream(
    name=f"{PREFIX}_faststream",
    subjects=[f"{PREFIX}.faststream"],
    retention=RetentionPolicy.WORK_QUEUE,
    storage=StorageType.FILE,
)

broker = NatsBroker(os.environ["BENCH_BROKER"], logger=None)
app = FastStream(broker, logger=None)


@broker.subscriber(
    f"{PREFIX}.faststream",
    stream=STREAM,
    durable=f"{PREFIX}_worker",
    pull_sub=PullSub(batch_size=100, timeout=0.05),
)
async def work(item: dict[str, str]) -> None:
    """The handler."""
    hit(item["id"])


async def main() -> None:
    """Submit."""
    client = await nats.connect(os.environ["BENCH_BROKER"])
    await client.jetstream().add_stream(
        name=STREAM.name,
        subjects=[f"{PREFIX}.faststream"],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
    )
    await client.close()
    publisher = NatsBroker(os.environ["BENCH_BROKER"], logger=None)
    await publisher.connect()
    await submit_all_async(
        lambda item: publisher.publish(item, f"{PREFIX}.faststream", stream=STREAM.name),
        at_once=100,
    )
    await publisher.stop()


if __name__ == "__main__":
    uvloop.run(main())
