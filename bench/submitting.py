"""Submitting over the protocol: batches under way, sent again until every item has its id."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Raw, Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.child import STALLED_S, Failed, Inbox, Meter
from bench.plan import BATCH, BATCHES_IN_FLIGHT, ITEMS, WORK_TYPE, Job
from swarm.core.ids import uuid7
from swarm.messages import ErrorBody, Submit, SubmitResult
from swarm.subjects import Subjects

CLIENT = "bench"
#: An outcome or a batch without an answer for this long is sent again.
RESEND_S = 1.0
#: Between two looks at whether another batch may be sent.
PACE_S = 0.005


class _SubmitAnswer(Struct):
    results: list[SubmitResult] = []
    command_id: str = ""
    error: ErrorBody | None = None


submit_answer = msgspec.json.Decoder(_SubmitAnswer)
_encode = msgspec.json.Encoder().encode


class Ids:
    """Command ids of one process: the first is random, the others count on from it.

    As RFC 9562 has it for many at a time (section 6.2, method 2): a load that makes one for
    each item must not spend a tenth of its time on them.
    """

    def __init__(self) -> None:
        self._bits = random.SystemRandom().getrandbits(74)
        # The last twelve digits, with room to count.
        self._count = itertools.count(self._bits & ((1 << 47) - 1))
        self._ms = 0
        self._head = ""

    def new(self) -> str:
        """The next one."""
        ms = time.time_ns() // 1_000_000
        if ms != self._ms:
            self._ms, self._head = ms, uuid7(ms, self._bits)[:24]
        return f"{self._head}{next(self._count):012x}"


class _Batch:
    """A submit request under way."""

    __slots__ = ("answered", "command_id", "missing", "retry", "sent_at")

    def __init__(self, command_id: str) -> None:
        self.command_id = command_id
        self.answered = bytearray(BATCH)
        self.missing = BATCH
        self.retry = 0
        self.sent_at = 0.0


class Submitting:
    """Sends all batches, some at a time."""

    def __init__(
        self,
        client: Client,
        job: Job,
        ids: Ids,
        meter: Meter | None,
        items: Sequence[bytes] = ITEMS,
        pace: Callable[[], int] | None = None,
    ) -> None:
        """`items`: of every request.  `pace`: how many requests may have been sent by now."""
        if job.items % BATCH:
            raise Failed(f"{job.items} items are no whole number of batches of {BATCH}")
        self._client = client
        self._job = job
        self._ids = ids
        self._meter = meter
        self._clock = asyncio.get_running_loop().time
        self._subject = Subjects(job.prefix).submit(WORK_TYPE, CLIENT)
        self._reply = f"_INBOX.{CLIENT}.submit"
        assert len(items) == BATCH, "every request holds the same items"
        self._items = [Raw(item) for item in items]
        self._pace = pace
        self._under_way: dict[str, _Batch] = {}
        #: Requests that were sent again.
        self.resent = 0

    async def run(self) -> None:
        """Return once every item of every batch has its id."""
        inbox = Inbox()
        await inbox.listen(self._client, self._reply)
        wanted, sent = self._job.items // BATCH, 0
        heard_at = self._clock()
        while sent < wanted or self._under_way:
            allowed = wanted if self._pace is None else min(wanted, self._pace())
            while sent < allowed and len(self._under_way) < BATCHES_IN_FLIGHT:
                batch = _Batch(self._ids.new())
                self._under_way[batch.command_id] = batch
                await self._send(batch)
                sent += 1
            messages = await inbox.take(RESEND_S if self._pace is None else PACE_S)
            now = self._clock()
            heard_at = now if messages or not self._under_way else heard_at
            if now - heard_at > STALLED_S:
                raise Failed(f"no submission was answered for {STALLED_S:.0f} s")
            for message in messages:
                self._answer(message)
            for batch in self._under_way.values():
                if now - batch.sent_at > RESEND_S:
                    batch.retry += 1
                    self.resent += 1
                    await self._send(batch)

    async def _send(self, batch: _Batch) -> None:
        batch.sent_at = self._clock()
        body = _encode(Submit(self._items, batch.command_id, batch.retry))
        await self._client.publish(self._subject, body, reply=self._reply)

    def _answer(self, message: Msg) -> None:
        answer = submit_answer.decode(message.data or b'{"error":null}')
        if answer.error is not None and answer.error.retry:
            return  # refused for now: it is sent again when its time is over
        if answer.error is not None:
            raise Failed(f"a batch was refused: {answer.error.code}: {answer.error.message}")
        batch = self._under_way.get(answer.command_id)
        if batch is None:
            return  # the answer to a repeated request, or that nobody listens: sent again
        before = batch.missing
        for result in answer.results:
            if result.error is not None and result.error.retry:
                continue
            if result.error is not None:
                raise Failed(f"an item was refused: {result.error.message}")
            if not batch.answered[result.index]:
                batch.answered[result.index] = 1
                batch.missing -= 1
        if not batch.missing:
            del self._under_way[answer.command_id]
        if self._meter is not None:
            self._meter.count(before - batch.missing)
