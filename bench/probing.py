"""How long single submissions take, sent on a schedule, whatever else goes on."""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec
from nats.aio.client import Client

from bench.child import STALLED_S, Failed, Inbox
from bench.plan import WORK_TYPE
from bench.submitting import CLIENT, Ids, submit_answer
from swarm.messages import Submit
from swarm.subjects import Subjects

_encode = msgspec.json.Encoder().encode
#: Between two looks at what is due; sooner when an answer arrives.
TICK_S = 0.001


class Prober:
    """Submits one item at a time, `rate` a second, and times each until it is acknowledged.

    The clock of each starts when it is due, not when it could be sent: a stall counts for
    all that it delays.
    """

    def __init__(self, client: Client, prefix: str, rate: float, item: bytes) -> None:
        self._client = client
        self._subject = Subjects(prefix).submit(WORK_TYPE, CLIENT)
        self._reply = f"_INBOX.{CLIENT}.probe"
        self._every_s = 1 / rate
        self._item = item
        self._ids = Ids()
        self._inbox = Inbox()
        self._due: dict[str, float] = {}
        # Finer than the loop's own clock, which tells whole milliseconds on uvloop.
        self._clock = time.monotonic
        #: Seconds of each that was answered, in the order of the answers.
        self.latencies_s: list[float] = []

    async def start(self) -> None:
        """Listen for answers."""
        await self._inbox.listen(self._client, self._reply)

    def item(self, due: float) -> bytes:
        """The item that is due then."""
        return self._item

    async def run(self, stop: asyncio.Event, seconds: float, number: int = sys.maxsize) -> None:
        """Send for so long, until `stop` is set or so many are sent; return when all are answered.

        The same prober may run again.
        """
        started = self._clock()
        sent = 0
        heard_at = started
        while True:
            now = self._clock()
            if stop.is_set() or now - started > seconds or sent == number:
                break
            while sent < number and started + sent * self._every_s <= now:
                await self._send(started + sent * self._every_s)
                sent += 1
            if await self._hear(min(TICK_S, self._every_s)) or not self._due:
                heard_at = self._clock()
            self._check(heard_at)
        while self._due:
            if await self._hear(0.1):
                heard_at = self._clock()
            self._check(heard_at)

    async def _send(self, due: float) -> None:
        command_id = self._ids.new()
        self._due[command_id] = due
        body = _encode(Submit([msgspec.Raw(self.item(due))], command_id))
        await self._client.publish(self._subject, body, reply=self._reply)

    async def _hear(self, timeout_s: float) -> bool:
        messages = await self._inbox.take(timeout_s)
        now = self._clock()
        for message in messages:
            answer = submit_answer.decode(message.data or b'{"error":null}')
            if answer.error is not None:
                raise Failed(f"a submission was refused: {answer.error.message}")
            due = self._due.pop(answer.command_id, None)
            if due is not None:
                self.latencies_s.append(now - due)
        return bool(messages)

    def _check(self, heard_at: float) -> None:
        if self._clock() - heard_at > STALLED_S:
            raise Failed(f"{len(self._due)} submissions had no answer for {STALLED_S:.0f} s")


def percentile(values: list[float], percent: float) -> float:
    """The value that so many percent do not exceed; of at least one."""
    assert values, "nothing was measured"
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
