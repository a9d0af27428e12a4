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

from swarm.errors import NoAnswer, Refusal, WorkFailed
from swarm.hosting.logs import configure_logs
from swarm.hosting.process import stop_on_signals
from swarm.messages import ShardStats
from swarm.sdk.client import Handle, Swarm
from swarm.sdk.items import ClaimedItem
from swarm.testing.chaos.testimony import (
    Accepted,
    Acknowledged,
    Counted,
    Finished,
    Notebook,
    Seen,
    Sent,
    Taken,
    Unanswered,
)
from swarm.testing.chaos.work import RECORDS_ENV, WORK_TYPE, Task, draw_task, failure
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
#: Claims by hand: how long they hold, and how often they are renewed.
HAND_LEASE_S = 8.0
RENEW_S = 1.0
PAUSE_S = 1.0

wall = time.time


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
        self._known: deque[str] = deque(maxlen=KNOWN_MAX)
        #: Items that are being submitted or waited for.
        self._waiting = 0
        self._ending = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM and the end of everything submitted."""
        stop_on_signals(self._ending)
        # Whatever goes wrong ends the process: it has a defect, or was told nonsense.
        async with asyncio.TaskGroup() as self._tasks:
            for work in (self._submit, self._count, self._work_by_hand, *[self._ask] * ASKERS):
                self._tasks.create_task(work())

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
            tasks = []
            for _ in range(count):
                self._next += 1
                tasks.append(draw_task(self._rng, self._name, self._next))
            self._tasks.create_task(self._submit_batch(tasks))

    async def _submit_batch(self, tasks: list[Task]) -> None:
        self._waiting += len(tasks)
        while tasks:
            tasks = await self._submit_once(tasks)

    async def _submit_once(self, tasks: list[Task]) -> list[Task]:
        """Returns those of which it is not known that they are in the queue, to try again."""
        asked = wall()
        self._notes.append(Sent(self._name, [task.number for task in tasks], asked))
        items = [
            {"work_type": WORK_TYPE, "payload": msgspec.to_builtins(task), **_key(task)}
            for task in tasks
        ]
        outcomes = await self._swarm.submit_many(items, timeout_s=SUBMIT_S)
        again = []
        for task, outcome in zip(tasks, outcomes, strict=True):
            if isinstance(outcome, Handle):
                name = outcome.work_item_id
                self._acks.submitted([name])
                self._notes.append(Accepted(self._name, task.number, name, asked, wall()))
                self._known.append(name)
                self._tasks.create_task(self._wait(task, outcome))
                continue
            why = str(outcome)
            self._notes.append(Unanswered(self._name, task.number, why, asked, wall()))
            if _key(task):
                again.append(task)
            else:
                self._waiting -= 1
        if again:
            await self._pause(PAUSE_S)
        return again

    async def _wait(self, task: Task, handle: Handle) -> None:
        try:
            result = await handle.result()
            status, right = "completed", result == task.number and not task.fails
            self._acks.completed([handle.work_item_id])
        except WorkFailed as error:
            status, right = "dead", task.fails and failure(task) in str(error)
        except Refusal as refusal:
            status, right = f"refused: {refusal.code}", False
        finished = Finished(self._name, task.number, handle.work_item_id, status, right, wall())
        self._notes.append(finished)
        self._waiting -= 1

    # --- looking --------------------------------------------------------------------------

    async def _ask(self) -> None:
        """What has become of this or that item?"""
        while await self._pause(ASK_S * self._rng.uniform(0.5, 1.5)):
            if not self._known:
                continue
            # Mostly late ones, which change.
            index = min(int(self._rng.expovariate(0.1)), len(self._known) - 1)
            name = self._known[-1 - index]
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

    # --- working by hand ---------------------------------------------------------------------

    async def _work_by_hand(self) -> None:
        """Like somebody at a shell: claim, renew, complete, fail or hand back."""
        while await self._pause(PAUSE_S * self._rng.uniform(0.5, 1.5)):
            asked = wall()
            try:
                claimed = await self._swarm.claim(
                    [WORK_TYPE], lease_s=HAND_LEASE_S, wait_s=PAUSE_S, timeout_s=GET_S
                )
            except (NoAnswer, Refusal):
                continue
            if claimed is not None:
                self._notes.append(Taken(claimed.work_item_id, claimed.token, asked, wall()))
                await self._work(claimed)

    async def _work(self, claimed: ClaimedItem) -> None:
        task = msgspec.convert(claimed.payload, Task)
        name, token = claimed.work_item_id, claimed.token
        with self._runs.execution(name, token):
            left_s = task.seconds
            while left_s > 0:
                await asyncio.sleep(min(left_s, RENEW_S))
                left_s -= RENEW_S
                if left_s > 0 and not await self._renew(name, token):
                    return
        asked = wall()
        try:
            if self._rng.random() < 0.1:
                ack = await self._swarm.release(name, token, "on second thoughts")
            elif task.fails:
                ack = await self._swarm.fail(name, token, failure(task))
            else:
                ack = await self._swarm.complete(name, token, task.number)
        except (NoAnswer, Refusal):
            return  # the claim may have lapsed: that is for the log to tell
        self._notes.append(Acknowledged(name, token, ack.status, asked, wall()))

    async def _renew(self, name: str, token: str) -> bool:
        """Whether the item is still ours."""
        try:
            await self._swarm.renew(name, token)
        except NoAnswer:
            return True
        except Refusal as refusal:
            return refusal.retry
        return True


def _key(task: Task) -> dict[str, str]:
    """Every other item has an idempotency key: it is tried again until it is accepted."""
    return {"idempotency_key": f"{task.client}/{task.number}"} if task.number % 2 == 0 else {}


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
