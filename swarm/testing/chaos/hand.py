"""Working by hand, like somebody at a shell: claim, renew, complete, fail, wait or hand back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random

import msgspec

from swarm.errors import NoAnswer, Refusal
from swarm.messages import Ack
from swarm.sdk.client import Swarm
from swarm.sdk.items import ClaimedItem, from_json
from swarm.testing.chaos.testimony import Acknowledged, Notebook, Taken
from swarm.testing.chaos.work import (
    ANSWER_S,
    WORK_TYPE,
    Task,
    failure,
    question,
    result,
)
from swarm.testing.records import ExecutionLog

#: Claims by hand: how long they hold, and how often they are renewed.
LEASE_S = 8.0
RENEW_S = 1.0
#: Between two claims, and how long one waits for work.
PAUSE_S = 1.0
ANSWERED_S = 10.0
#: How often an item is handed back.
BACK = 0.1

wall = time.time


class Hand:
    """One who works by hand."""

    def __init__(self, swarm: Swarm, notes: Notebook, runs: ExecutionLog, rng: Random) -> None:
        self._swarm = swarm
        self._notes = notes
        self._runs = runs
        self._rng = rng

    async def work(self, pause: Callable[[float], Awaitable[bool]]) -> None:
        """Go on until `pause` says that it is time to stop."""
        while await pause(PAUSE_S * self._rng.uniform(0.5, 1.5)):
            asked = wall()
            try:
                claimed = await self._swarm.claim(
                    [WORK_TYPE], lease_s=LEASE_S, wait_s=PAUSE_S, timeout_s=ANSWERED_S
                )
            except (NoAnswer, Refusal):
                continue
            if claimed is not None:
                self._notes.append(Taken(claimed.work_item_id, claimed.token, asked, wall()))
                await self._do(claimed)

    async def _do(self, claimed: ClaimedItem) -> None:
        task = msgspec.convert(claimed.payload, Task)
        name, token = claimed.work_item_id, claimed.token
        waits = task.asks and not claimed.waits
        with self._runs.execution(name, token):
            left_s = 0.0 if waits else task.seconds
            while left_s > 0:
                await asyncio.sleep(min(left_s, RENEW_S))
                left_s -= RENEW_S
                if left_s > 0 and not await self._renew(name, token):
                    return
        asked = wall()
        try:
            ack = await self._end(task, claimed, waits=waits)
        except (NoAnswer, Refusal):
            return  # the claim may have lapsed: that is for the log to tell
        self._notes.append(Acknowledged(name, token, ack.status, asked, wall()))

    async def _end(self, task: Task, claimed: ClaimedItem, *, waits: bool) -> Ack:
        swarm, name, token = self._swarm, claimed.work_item_id, claimed.token
        if self._rng.random() < BACK:
            return await swarm.release(name, token, "on second thoughts")
        if waits:
            what = question(task)
            return await swarm.wait(name, token, what, expires_s=ANSWER_S, on_expiry="resume")
        if task.fails:
            return await swarm.fail(name, token, failure(task))
        return await swarm.complete(name, token, result(task, from_json(claimed.answer)))

    async def _renew(self, name: str, token: str) -> bool:
        """Whether the item is still ours."""
        try:
            await self._swarm.renew(name, token)
        except NoAnswer:
            return True
        except Refusal as refusal:
            return refusal.retry
        return True
