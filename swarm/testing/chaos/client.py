"""``python -m swarm.testing.chaos.client``: submits, waits, asks, works by hand; writes it down.

It goes on until SIGTERM, then takes no more on, and ends when it has been told how all that
it submitted has ended.  What it was told it judges itself only where that needs no log:
whether a result is the right one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections import deque
from pathlib import Path
from random import Random

import msgspec

from swarm.errors import NoAnswer, Refusal, WorkCancelled, WorkFailed
from swarm.hosting.logs import configure_logs
from swarm.hosting.process import cancelled, stop_on_signals
from swarm.messages import ShardStats
from swarm.sdk.client import Handle, Swarm
from swarm.testing.chaos.hand import Hand
from swarm.testing.chaos.testimony import (
    Accepted,
    Counted,
    Finished,
    Notebook,
    Seen,
    Sent,
    Unanswered,
    Unwanted,
)
from swarm.testing.chaos.work import (
    RECORDS_ENV,
    Known,
    Order,
    Result,
    draw_task,
    failure,
    order,
)
from swarm.testing.history import AckLog, ExecutionLog

#: A submission is given up after this long, as impatient clients do.
SUBMIT_S = 15.0
BATCH_MAX = 6
#: So many items may be on their way; then it waits.
OPEN_MAX = 400
#: Items that are asked about.
KNOWN_MAX = 300
#: Between two questions of one asker, and how many askers there are.
ASK_S = 0.25
ASKERS = 3
GET_S = 10.0
COUNT_S = 2.0
PAUSE_S = 1.0
#: Of the known items, those that new ones may depend on.
RECENT = 40
#: What the holder of a cancelled item has to stop.
GRACE_S = 1.0

wall = time.time


class Answers:
    """The answers to what one item waits for."""

    def __init__(self) -> None:
        #: Those that were accepted for certain, and those that may have been.
        self._accepted: list[str] = []
        self._perhaps: list[str] = []

    async def give(self, handle: Handle, text: str, wait: int) -> None:
        """Give this answer to this time of waiting."""
        self._perhaps.append(text)
        try:
            await handle.answer(text, wait=wait)
        except NoAnswer:
            return
        except Refusal:
            self._perhaps.remove(text)
            return
        self._accepted.append(text)

    def allow(self, answer: str | None) -> bool:
        """Whether the work can have gone on with this one."""
        if self._accepted:
            return [answer] == self._accepted
        return answer is None or answer in self._perhaps


class Client:
    """One client of the swarm."""

    def __init__(self, swarm: Swarm, name: str, rate: float, records: Path, seed: int) -> None:
        self._swarm = swarm
        self._name = name
        #: Items a second.
        self._rate = rate
        self._notes = Notebook(records)
        self._acks = AckLog(records)
        self._runs = ExecutionLog(records)
        self._rng = Random(f"{seed} {name}")
        self._next = 0
        self._known: deque[Known] = deque(maxlen=KNOWN_MAX)
        #: Items that are being submitted or waited for.
        self._waiting = 0
        self._ending = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM and the end of everything submitted."""
        stop_on_signals(self._ending)
        # Whatever goes wrong ends the process: it has a defect, or was told nonsense.
        async with asyncio.TaskGroup() as self._tasks:
            for work in (self._submit, self._count, *[self._ask] * ASKERS):
                self._tasks.create_task(work())
            hand = Hand(self._swarm, self._notes, self._runs, self._rng)
            self._tasks.create_task(hand.work(self._pause))

    async def _pause(self, seconds: float) -> bool:
        """Wait so long, less at the end; whether to go on."""
        try:
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        except TimeoutError:
            return True
        return False

    # --- submitting and waiting ----------------------------------------------------------

    async def _submit(self) -> None:
        while True:
            count = self._rng.randint(1, BATCH_MAX)
            if not await self._pause(count / self._rate * self._rng.uniform(0.5, 1.5)):
                return
            if self._waiting + count > OPEN_MAX:
                continue
            orders = []
            for _ in range(count):
                self._next += 1
                task = draw_task(self._rng, self._name, self._next)
                orders.append(order(self._rng, task, list(self._known)[-RECENT:], wall()))
            self._tasks.create_task(self._submit_batch(orders))

    async def _submit_batch(self, orders: list[Order]) -> None:
        self._waiting += len(orders)
        while orders:
            orders = await self._submit_once(orders)

    async def _submit_once(self, orders: list[Order]) -> list[Order]:
        """Returns those of which it is not known that they are in the queue, to try again."""
        asked = wall()
        self._notes.append(Sent(self._name, [one.task.number for one in orders], asked))
        items = [one.fields for one in orders]
        outcomes = await self._swarm.submit_many(items, timeout_s=SUBMIT_S)
        again = []
        for one, outcome in zip(orders, outcomes, strict=True):
            number = one.task.number
            if isinstance(outcome, Handle):
                name = outcome.work_item_id
                self._acks.submitted([name])
                self._notes.append(Accepted(self._name, number, name, asked, wall()))
                self._known.append(Known(name, frozenset(one.ends)))
                self._tasks.create_task(self._follow(one, outcome))
                continue
            self._notes.append(Unanswered(self._name, number, str(outcome), asked, wall()))
            if "idempotency_key" in one.fields:
                again.append(one)
            else:
                self._waiting -= 1
        if again:
            await self._pause(PAUSE_S)
        return again

    async def _follow(self, one: Order, handle: Handle) -> None:
        """All that is to be done about an item, until it has ended."""
        task = one.task
        answers = Answers()
        beside: list[asyncio.Task[None]] = []
        if task.asks:
            beside.append(asyncio.create_task(self._answer(handle, answers)))
        if task.cancel_s:
            beside.append(asyncio.create_task(self._cancel(handle, task.cancel_s)))
        try:
            given = msgspec.convert(await handle.result(), Result)
            status = "completed"
            right = given.number == task.number and answers.allow(given.answer)
            self._acks.completed([handle.work_item_id])
        except WorkCancelled:
            status, right = "cancelled", True
        except WorkFailed as error:
            # It may also have used up its attempts with agents that died.
            status, right = "dead", failure(task) in str(error) or "(lapsed)" in str(error)
        except Refusal as refusal:
            status, right = f"refused: {refusal.code}", False
        for errand in beside:
            await cancelled(errand)
        right = right and status in one.ends
        finished = Finished(self._name, task.number, handle.work_item_id, status, right, wall())
        self._notes.append(finished)
        self._waiting -= 1

    async def _answer(self, handle: Handle, answers: Answers) -> None:
        """Once the item waits, two answer at once; the first one counts."""
        while True:
            await asyncio.sleep(ASK_S)
            try:
                seen = await handle.get()
            except (NoAnswer, Refusal):
                continue
            if seen.status == "waiting":
                await asyncio.gather(
                    *(answers.give(handle, text, seen.waits) for text in ("first", "second"))
                )
                return

    async def _cancel(self, handle: Handle, after_s: float) -> None:
        await asyncio.sleep(after_s)
        try:
            ack = await handle.cancel("not wanted any more", grace_s=GRACE_S)
        except (NoAnswer, Refusal):
            return  # it may have ended; how, its log tells
        self._notes.append(Unwanted(handle.work_item_id, ack.status, wall()))

    # --- looking --------------------------------------------------------------------------

    async def _ask(self) -> None:
        """What has become of this or that item?"""
        while await self._pause(ASK_S * self._rng.uniform(0.5, 1.5)):
            if not self._known:
                continue
            # Mostly late ones, which change.
            index = min(int(self._rng.expovariate(0.1)), len(self._known) - 1)
            name = self._known[-1 - index].name
            asked = wall()
            try:
                item = await self._swarm.get(name, timeout_s=GET_S)
                seen = Seen(name, item.status, item.as_of, asked, wall())
            except NoAnswer:
                continue
            except Refusal as refusal:
                if refusal.retry:
                    continue
                seen = Seen(name, f"refused: {refusal.code}", 0, asked, wall())
            self._notes.append(seen)

    async def _count(self) -> None:
        while await self._pause(COUNT_S):
            asked = wall()
            try:
                stats = await self._swarm.stats(timeout_s=GET_S)
            except (NoAnswer, Refusal):
                continue
            for shard, one in stats.items():
                if isinstance(one, ShardStats):
                    self._notes.append(
                        Counted(shard, one.as_of, one.conservation, one.foreign, asked, wall())
                    )


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(prog="chaos client", description=__doc__)
    parser.add_argument("--servers", required=True, help="NATS URLs, with commas")
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--rate", type=float, required=True, help="items a second")
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    configure_logs(node=args.name)
    records = Path(os.environ[RECORDS_ENV])

    async def run() -> None:
        async with Swarm.connect(args.servers, name=args.name, prefix=args.prefix) as swarm:
            await Client(swarm, args.name, args.rate, records, args.seed).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()
