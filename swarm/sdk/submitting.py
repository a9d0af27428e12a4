"""Submitting: many items in batches, each batch one command, an answer for each item."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from swarm.errors import NoAnswer, Refusal, SwarmError
from swarm.messages import Submit, SubmitReply
from swarm.sdk.calls import ATTEMPT_S, Calls, Tries, Verdict, read_refusal, refusal_of
from swarm.sdk.items import Batch, Description, batches
from swarm.subjects import MIXED

#: Most items in one command.
BATCH_SIZE = 1000
#: Batches under way at once.
IN_FLIGHT_MAX = 4

_encode = msgspec.json.Encoder().encode
_reply_decoder = msgspec.json.Decoder(SubmitReply)

#: What became of an item: its id, or why there is none.
Outcome = str | Refusal | NoAnswer


async def submit(
    calls: Calls, descriptions: Iterable[Description], timeout_s: float
) -> list[Outcome]:
    """Submit all, in order; what became of each.

    A batch is given up `timeout_s` seconds after it was first sent.  Raises only what
    hinders all of them (`BusUnavailable`), and what `descriptions` itself raises.
    """
    found: dict[int, Outcome] = {}
    refused: dict[int, Refusal] = {}
    free = asyncio.Semaphore(IN_FLIGHT_MAX)
    tasks: list[asyncio.Task[None]] = []
    cut = batches(
        descriptions,
        count_max=BATCH_SIZE,
        bytes_max=calls.bus.max_payload // 2,
        item_bytes_max=calls.item_bytes_max,
        refused=refused,
    )
    try:
        for batch in cut:
            await free.acquire()
            tasks.append(asyncio.create_task(_send(calls, batch, timeout_s, found, free)))
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    found.update(refused)
    return [found[position] for position in range(len(found))]


async def _send(
    calls: Calls,
    batch: Batch,
    timeout_s: float,
    found: dict[int, Outcome],
    free: asyncio.Semaphore,
) -> None:
    try:
        exchange = _SubmitBatch(Submit(batch.items, calls.runtime.new_id()))
        work_type = next(iter(batch.work_types)) if len(batch.work_types) == 1 else MIXED
        subject = calls.subjects.submit(work_type, calls.sender)
        deadline = asyncio.get_running_loop().time() + timeout_s
        await calls.run(subject, exchange, deadline, attempt_s=ATTEMPT_S)
        for index, position in enumerate(batch.positions):
            found[position] = exchange.outcome(index, subject)
    finally:
        free.release()


class _SubmitBatch:
    """One `Submit`, answered shard by shard; sent again whole while an item is unanswered."""

    def __init__(self, command: Submit) -> None:
        self._command = command
        self._answers: dict[int, str | Refusal] = {}
        #: Of items refused for now: the tries that were.
        self._tries: dict[int, Tries] = {}
        #: Refusals of whole tries.
        self._whole = Tries()

    def encode(self, attempt: int) -> bytes:
        self._command.retry = attempt
        self._whole.count = attempt + 1
        return _encode(self._command)

    def take(self, data: bytes, attempt: int) -> Verdict:
        try:
            reply = _reply_decoder.decode(data)
        except msgspec.MsgspecError as error:
            refusal = read_refusal(data)
            if refusal is None:
                refusal = Refusal("bad_request", f"the swarm's reply cannot be read: {error}")
            return self._refused_whole(refusal, attempt)
        for result in reply.results:
            if not 0 <= result.index < len(self._command.items) or result.index in self._answers:
                continue
            if result.error is None:
                self._answers[result.index] = result.work_item_id
            elif not result.error.retry:
                self._answers[result.index] = refusal_of(result.error)
            else:
                tries = self._tries.setdefault(result.index, Tries())
                tries.refused[attempt] = refusal_of(result.error)
        if len(self._answers) == len(self._command.items):
            return "done"
        return "again" if self._all_known(attempt) else "wait"

    def nobody(self, attempt: int) -> None:
        self._whole.unheard[attempt] = None

    def outcome(self, index: int, subject: str) -> Outcome:
        """What is known of the item with this index, once the exchange is over."""
        answer = self._answers.get(index)
        if answer is not None:
            return answer
        tries = self._tries.get(index, Tries())
        tries.count = self._whole.count
        tries.refused = {**self._whole.refused, **tries.refused}
        tries.unheard = self._whole.unheard
        return _as_outcome(tries.error(subject))

    def _refused_whole(self, refusal: Refusal, attempt: int) -> Verdict:
        if refusal.retry:
            self._whole.refused[attempt] = refusal
            return "again"
        for index in range(len(self._command.items)):
            self._answers.setdefault(index, refusal)
        return "done"

    def _all_known(self, attempt: int) -> bool:
        """Whether this try has brought something about every item."""
        refused = sum(
            attempt in tries.refused
            for index, tries in self._tries.items()
            if index not in self._answers
        )
        return len(self._answers) + refused == len(self._command.items)


def _as_outcome(error: SwarmError) -> Outcome:
    assert isinstance(error, Refusal | NoAnswer), "that is all that tries end in"
    return error
