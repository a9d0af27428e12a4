"""Submitting: many items in batches, each batch one command, an answer for each item."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from swarm.errors import NoAnswer, Refusal, SwarmError
from swarm.messages import NewItem, Submit, SubmitReply
from swarm.sdk import describing
from swarm.sdk.calls import ATTEMPT_S, Calls, Tries, Verdict, read_refusal, refusal_of
from swarm.sdk.describing import Described, Description
from swarm.sdk.items import Batch, batches

#: Most items in one command.
BATCH_SIZE = 1000
#: Batches under way at once.
IN_FLIGHT_MAX = 4

_encode = msgspec.json.Encoder().encode
_reply_decoder = msgspec.json.Decoder(SubmitReply)

#: What became of an item: its id, or why there is none.
Outcome = str | Refusal | NoAnswer
#: An item and its position in the call.
Numbered = tuple[int, NewItem | dict[str, Any]]


async def submit(
    calls: Calls, descriptions: Iterable[Description], timeout_s: float
) -> list[Outcome]:
    """Submit all, in order; what became of each.

    Items that depend on others of the call follow in waves, once the ids of those are known.
    A batch is given up `timeout_s` seconds after it was first sent.  Raises only what
    hinders all of them (`BusUnavailable`), and what `descriptions` itself raises.
    """
    submission = _Submission(calls, timeout_s)
    await submission.send(submission.independent(descriptions))
    while submission.later:
        await submission.send(submission.next_wave())
    found = submission.found
    return [found[position] for position in range(len(found))]


class _Submission:
    """One call: what became of its items, and those that wait for others of it."""

    def __init__(self, calls: Calls, timeout_s: float) -> None:
        self._calls = calls
        self._timeout_s = timeout_s
        self.found: dict[int, Outcome] = {}
        #: By position, in order.
        self.later: dict[int, Described] = {}

    def independent(self, descriptions: Iterable[Description]) -> Iterator[Numbered]:
        """Items that depend on none of this call, as they come; the others are kept for later."""
        now = self._calls.runtime.wall()
        for position, description in enumerate(descriptions):
            try:
                described = describing.read(description, position, now)
            except Refusal as refusal:
                self.found[position] = refusal
                continue
            if described.earlier:
                self.later[position] = described
            else:
                yield position, described.fields

    def next_wave(self) -> Iterator[Numbered]:
        """Items of which all is known that they depend on; refuses those whose dependencies
        were not stored."""
        waiting, self.later = self.later, {}
        for position, described in waiting.items():
            outcomes = [(one, self.found.get(one)) for one in described.earlier]
            missing = [(one, why) for one, why in outcomes if isinstance(why, SwarmError)]
            if missing:
                self.found[position] = _refused_dependency(*missing[0])
            elif all(isinstance(outcome, str) for _, outcome in outcomes):
                yield position, described.with_ids(str(outcome) for _, outcome in outcomes)
            else:
                self.later[position] = described

    async def send(self, items: Iterable[Numbered]) -> None:
        """Submit these in batches; what became of each is in `found` then."""
        calls, refused = self._calls, dict[int, Refusal]()
        free = asyncio.Semaphore(IN_FLIGHT_MAX)
        tasks: list[asyncio.Task[None]] = []
        cut = batches(
            items,
            count_max=BATCH_SIZE,
            bytes_max=calls.bus.max_payload // 2,
            item_bytes_max=calls.item_bytes_max,
            refused=refused,
        )
        try:
            for batch in cut:
                await free.acquire()
                tasks.append(asyncio.create_task(self._send(batch, free)))
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        self.found.update(refused)

    async def _send(self, batch: Batch, free: asyncio.Semaphore) -> None:
        calls = self._calls
        try:
            exchange = SubmitBatch(Submit(batch.items, calls.runtime.new_id()))
            subject = calls.subjects.submit(batch.work_type, calls.sender)
            deadline = asyncio.get_running_loop().time() + self._timeout_s
            await calls.run(
                subject, exchange, deadline, attempt_s=ATTEMPT_S, headers=batch.headers()
            )
            for index, position in enumerate(batch.positions):
                self.found[position] = exchange.outcome(index, subject)
        finally:
            free.release()


def _refused_dependency(position: int, why: SwarmError) -> Refusal:
    """Why an item that depends on another one of the call was not submitted."""
    if isinstance(why, Refusal):
        text = f"it depends on item {position} of this call, which was refused: {why.message}"
        return Refusal(why.code, text, why.retry)
    return Refusal(
        "unavailable",
        f"it depends on item {position} of this call, of which it is not known whether it was "
        f"stored: {why}",
        retry=True,
    )


class SubmitBatch:
    """One `Submit`, answered shard by shard; sent again whole while an item is unanswered."""

    def __init__(self, command: Submit) -> None:
        self._command = command
        #: Of the first try: a command may have been sent before, by others.
        self._retry_first = command.retry
        self._answers: dict[int, str | Refusal] = {}
        #: Of items refused for now: the tries that were.
        self._tries: dict[int, Tries] = {}
        #: Refusals of whole tries.
        self._whole = Tries()

    def encode(self, attempt: int) -> bytes:
        self._command.retry = self._retry_first + attempt
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
