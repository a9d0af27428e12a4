"""The limit loop: the same kinds of messages and the same log, and no logic.

One shard process and one load process.  The shard's callbacks append to a list; a loop
takes the whole list, decodes each message with a typed decoder, keeps a deque of items,
a dict of what is claimed and a deque of waiting agents, makes all events of the batch
durable as one log entry under the fence, one append in flight, and answers then.  There
are no tokens, leases, priorities, sessions, retries or restarts: whatever does all
that in Python on this machine cannot be expected to be faster.
"""

from __future__ import annotations

from collections import deque

import msgspec
from msgspec import Raw, Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.child import (
    STALLED_S,
    Errors,
    Failed,
    Inbox,
    Meter,
    check,
    connect,
    main,
    say_measured,
    say_ready,
    stand_by,
)
from bench.plan import BATCH, BATCHES_IN_FLIGHT, ITEMS, Job
from swarm.bus.base import check_size

#: Of a batch's requests, before the rest waits for the next entry.
ENTRY_BYTES = 3 << 17


class Put(Struct):
    """Submit these items."""

    items: list[Raw]


class PutDone(Struct):
    """Their numbers."""

    numbers: list[int]


class Turn(Struct):
    """These are done, and so many more are wanted."""

    done: list[int]
    want: int


class Given(Struct):
    """Answer to a turn: so many were done, and these are next."""

    done: int
    items: list[tuple[int, Raw]]


class Counts(Struct):
    """What the shard holds at the end."""

    queued: int
    claimed: int
    completed: int


class Entry(Struct):
    """One batch in the log."""

    batch: int
    #: (kind, number, agent's reply subject), or ("s", first number, items).
    events: list[tuple[str, int, object]]


_put = msgspec.json.Decoder(Put)
_put_done = msgspec.json.Decoder(PutDone)
_turn = msgspec.json.Decoder(Turn)
_given = msgspec.json.Decoder(Given)
_counts = msgspec.json.Decoder(Counts)
_encode = msgspec.json.Encoder().encode


class Subjects:
    """The limit loop's own, apart from ours."""

    def __init__(self, prefix: str) -> None:
        self.put = f"{prefix}.put"
        self.turn = f"{prefix}.turn"
        self.counts = f"{prefix}.counts"
        self.log = f"{prefix}log.limit"
        self.stream = f"{prefix}log_limit"
        self.put_done = f"{prefix}.answer.put"
        self.given = f"{prefix}.agent"


# --- the shard -----------------------------------------------------------------------


class Shard:
    """The state, and the loop that changes it."""

    def __init__(self, client: Client, subjects: Subjects) -> None:
        self._client = client
        self._js = client.jetstream()
        self._subjects = subjects
        self._items: deque[tuple[int, Raw]] = deque()
        self._claimed: dict[int, Raw] = {}
        self._waiting: deque[tuple[str, int]] = deque()
        self._next = 1
        self._completed = 0
        self._last = 0
        self._batch = 0

    async def serve(self, inbox: Inbox) -> None:
        """Batch after batch, until cancelled."""
        left: list[Msg] = []
        while True:
            messages = left or await inbox.take()
            left = await self._round(messages)

    async def _round(self, messages: list[Msg]) -> list[Msg]:
        """Decide, append, answer; returns what did not fit into the entry."""
        events: list[tuple[str, int, object]] = []
        answers: list[tuple[str, object]] = []
        given: dict[str, Given] = {}
        size = taken = 0
        for message in messages:
            if size > ENTRY_BYTES:
                break
            taken += 1
            size += len(message.data)
            if message.subject == self._subjects.put:
                answers.append((message.reply, self._submit(message, events)))
            elif message.subject == self._subjects.turn:
                self._done(message, events, given)
            else:
                counts = Counts(len(self._items), len(self._claimed), self._completed)
                answers.append((message.reply, counts))
        self._give(events, given)
        await self._append(events)
        for to, answer in answers:
            await self._client.publish(to, _encode(answer))
        for to, turn in given.items():
            await self._client.publish(to, _encode(turn))
        return messages[taken:]

    def _submit(self, message: Msg, events: list[tuple[str, int, object]]) -> PutDone:
        put = _put.decode(message.data)
        first = self._next
        self._next += len(put.items)
        self._items.extend(zip(range(first, self._next), put.items, strict=True))
        events.append(("s", first, put.items))
        return PutDone(list(range(first, self._next)))

    def _done(
        self, message: Msg, events: list[tuple[str, int, object]], given: dict[str, Given]
    ) -> None:
        turn = _turn.decode(message.data)
        for number in turn.done:
            del self._claimed[number]
            events.append(("d", number, message.reply))
        self._completed += len(turn.done)
        if turn.done:
            given[message.reply] = Given(len(turn.done), [])
        if turn.want:
            self._waiting.append((message.reply, turn.want))

    def _give(self, events: list[tuple[str, int, object]], given: dict[str, Given]) -> None:
        items, waiting = self._items, self._waiting
        while items and waiting:
            agent, want = waiting.popleft()
            answer = given.get(agent)
            if answer is None:
                answer = given[agent] = Given(0, [])
            for _ in range(min(want, len(items))):
                item = items.popleft()
                self._claimed[item[0]] = item[1]
                answer.items.append(item)
                events.append(("c", item[0], agent))

    async def _append(self, events: list[tuple[str, int, object]]) -> None:
        if not events:
            return
        entry = _encode(Entry(self._batch, events))
        headers = {"Nats-Expected-Last-Sequence": str(self._last)}
        check_size(self._client.max_payload, self._subjects.log, entry, headers)
        ack = await self._js.publish(self._subjects.log, entry, timeout=STALLED_S, headers=headers)
        self._last = ack.seq
        self._batch += 1


async def shard(job: Job) -> None:
    """The shard process."""
    errors = Errors()
    client = await connect(job, "limit loop", errors)
    subjects = Subjects(job.prefix)
    await client.jetstream().add_stream(name=subjects.stream, subjects=[subjects.log])
    inbox = Inbox()
    for subject in (subjects.put, subjects.turn, subjects.counts):
        await inbox.listen(client, subject)
    await client.flush()
    say_ready()
    await Shard(client, subjects).serve(inbox)


# --- the load ------------------------------------------------------------------------


async def load(job: Job) -> None:
    """Submit, then claim and complete everything; report what was measured."""
    errors = Errors()
    client = await connect(job, "limit loop load", errors)
    await stand_by(client, job)
    subjects = Subjects(job.prefix)
    meter = Meter(job)
    await _submit(client, subjects, job, meter if not job.agents else None)
    if job.agents:
        await _drain(client, subjects, job, meter)
    errors.check()
    answer = await client.request(subjects.counts, b"", timeout=10)
    measured = meter.measured
    measured.checked = _check(job, _counts.decode(answer.data))
    say_measured(measured)
    await client.close()


async def _submit(client: Client, subjects: Subjects, job: Job, meter: Meter | None) -> None:
    inbox = Inbox()
    await inbox.listen(client, subjects.put_done)
    body = _encode(Put([Raw(item) for item in ITEMS]))
    unsent = batches_of(job)
    unanswered = 0
    while unsent or unanswered:
        while unsent and unanswered < BATCHES_IN_FLIGHT:
            await client.publish(subjects.put, body, reply=subjects.put_done)
            unsent -= 1
            unanswered += 1
        for message in await inbox.take_some():
            unanswered -= 1
            number = len(_put_done.decode(message.data).numbers)
            if meter is not None:
                meter.count(number)


def batches_of(job: Job) -> int:
    """Whole batches only."""
    if job.items % BATCH:
        raise Failed(f"{job.items} items are no whole number of batches of {BATCH}")
    return job.items // BATCH


async def _drain(client: Client, subjects: Subjects, job: Job, meter: Meter) -> None:
    inbox = Inbox()
    await inbox.listen(client, f"{subjects.given}.*")
    await client.flush()
    for agent in range(job.agents):
        turn = _encode(Turn([], job.slots))
        await client.publish(subjects.turn, turn, reply=f"{subjects.given}.{agent}")
    while not meter.finished:
        for message in await inbox.take_some():
            given = _given.decode(message.data)
            if given.items:
                turn = _encode(Turn([number for number, _ in given.items], job.slots))
                await client.publish(subjects.turn, turn, reply=message.subject)
            meter.count(given.done)


def _check(job: Job, counts: Counts) -> dict[str, int]:
    completed = job.items if job.agents else 0
    wanted = {"queued": job.items - completed, "claimed": 0, "completed": completed}
    return check(wanted, msgspec.structs.asdict(counts))


if __name__ == "__main__":
    main({"system": shard, "load": load})
