"""A plain work queue: one JetStream message an item, fetched and acknowledged one by one.

What somebody would write with nats-py alone: a work-queue stream on file storage, one
durable pull consumer, 32 coroutines on one connection that each fetch one message,
decode it and wait until the server has confirmed the acknowledgement.  Beside agents that
take ten at a time: 4 coroutines that fetch a hundred and do not wait for confirmations.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.client import JetStreamContext

from bench.child import (
    STALLED_S,
    Errors,
    Failed,
    Meter,
    check,
    connect,
    main,
    say_measured,
    stand_by,
)
from bench.plan import (
    BATCH,
    ITEMS,
    PLAIN_CONSUMERS,
    PLAIN_CONSUMERS_TENS,
    PLAIN_FETCH,
    PLAIN_PENDING,
    Job,
)

CONSUMER = "worker"
#: As long as one fetch waits for a message; a longer wait for a hundred would stall at the end.
FETCH_S = 5.0
FETCH_MANY_S = 0.05
LOOK_S = 0.01


class Queue:
    """The work queue of one session."""

    def __init__(self, client: Client, job: Job) -> None:
        self._js: JetStreamContext = client.jetstream(publish_async_max_pending=PLAIN_PENDING)
        self._job = job
        self._name = f"{job.prefix}_plain"
        self._subject = f"{job.prefix}.plain"

    async def make(self) -> None:
        """Stream and consumer."""
        await self._js.add_stream(
            StreamConfig(
                name=self._name,
                subjects=[self._subject],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
            )
        )
        await self._js.add_consumer(
            self._name,
            ConsumerConfig(
                durable_name=CONSUMER, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=10_000
            ),
        )

    async def submit(self, meter: Meter | None) -> None:
        """Publish everything; returns when all of it is acknowledged."""

        def stored(_: asyncio.Future[Any]) -> None:
            if meter is not None:
                meter.count(1)

        for number in range(self._job.items):
            answer = await self._js.publish_async(self._subject, ITEMS[number % BATCH])
            answer.add_done_callback(stored)
        async with asyncio.timeout(STALLED_S):
            await self._js.publish_async_completed()

    async def drain(self, meter: Meter) -> dict[int, None]:
        """Fetch and acknowledge everything; the stream sequences seen."""
        seen: dict[int, None] = {}
        tens = self._job.slots > 1
        async with asyncio.TaskGroup() as group:
            for _ in range(PLAIN_CONSUMERS_TENS if tens else PLAIN_CONSUMERS):
                consume = self._consume_many if tens else self._consume
                group.create_task(consume(meter, seen))
        return seen

    async def _consume_many(self, meter: Meter, seen: dict[int, None]) -> None:
        """A hundred at a time, and nobody waits for the acknowledgements: as fast as it goes."""
        pull = await self._js.pull_subscribe_bind(CONSUMER, self._name)
        stalled_at = time.monotonic() + STALLED_S
        while len(seen) < self._job.items:
            try:
                messages = await pull.fetch(PLAIN_FETCH, timeout=FETCH_MANY_S)
            except TimeoutError:  # of asyncio itself or nats-py's, which is one
                if time.monotonic() > stalled_at:
                    raise Failed(f"no message for {STALLED_S:.0f} s, and some are left") from None
                continue
            stalled_at = time.monotonic() + STALLED_S
            for message in messages:
                json.loads(message.data)
                seen[message.metadata.sequence.stream] = None
                await message.ack()
            meter.count(len(messages))

    async def _consume(self, meter: Meter, seen: dict[int, None]) -> None:
        pull = await self._js.pull_subscribe_bind(CONSUMER, self._name)
        while self._job.items - len(seen) > 0:
            try:
                (message,) = await pull.fetch(1, timeout=FETCH_S)
            except nats.errors.TimeoutError:
                if len(seen) < self._job.items:
                    raise Failed(f"no message for {FETCH_S:.0f} s, and some are left") from None
                return
            json.loads(message.data)
            seen[message.metadata.sequence.stream] = None
            await message.ack_sync(timeout=STALLED_S)
            meter.count(1)

    async def settled(self) -> None:
        """Return when all acknowledgements, confirmed or not, have reached the server."""
        give_up_at = time.monotonic() + STALLED_S
        while time.monotonic() < give_up_at:
            if not (await self.counts())["unacknowledged"]:
                return
            await asyncio.sleep(LOOK_S)

    async def counts(self) -> dict[str, int]:
        """What the server says is left."""
        stream = await self._js.stream_info(self._name)
        consumer = await self._js.consumer_info(self._name, CONSUMER)
        return {
            "stored": stream.state.messages,
            "unacknowledged": consumer.num_ack_pending or 0,
        }


async def load(job: Job) -> None:
    """Publish, then fetch and acknowledge everything; report what was measured."""
    errors = Errors()
    client = await connect(job, "plain load", errors)
    await stand_by(client, job)
    meter = Meter(job)
    queue = Queue(client, job)
    await queue.make()
    await queue.submit(None if job.agents else meter)
    seen = await queue.drain(meter) if job.agents else {}
    errors.check()
    await queue.settled()
    wanted = {
        "stored": 0 if job.agents else job.items,
        "unacknowledged": 0,
        "seen": job.items if job.agents else 0,
    }
    measured = meter.measured
    measured.checked = check(wanted, await queue.counts() | {"seen": len(seen)})
    say_measured(measured)
    await client.close()


if __name__ == "__main__":
    main({"load": load})
