"""The actor base: a bounded mailbox drained by one task, supervised."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

import structlog

Item = TypeVar("Item")

#: First pause before an actor's failed task is started again, doubled up to the longest.
RESTART_FIRST_S = 0.1
RESTART_LONGEST_S = 5.0

log = structlog.get_logger()


class Mailbox(Generic[Item]):
    """What an actor is to do, oldest first; at most `size` of it."""

    def __init__(self, size: int) -> None:
        self._size = size
        #: What waits: to be looked at, not to be added to.
        self.waiting: deque[Item] = deque()
        #: The oldest item; IndexError when there is none.
        self.pop = self.waiting.popleft
        self._arrived = asyncio.Event()
        #: Whether that is set: to ask costs a fifth of setting it again for every item.
        self._awake = False

    def __len__(self) -> int:
        return len(self.waiting)

    def put(self, item: Item) -> bool:
        """Add `item`; False when the mailbox is full: the caller must say so to the sender."""
        if len(self.waiting) >= self._size:
            return False
        self.waiting.append(item)
        if not self._awake:
            self.wake()
        return True

    def wake(self) -> None:
        """Make the actor look around although nothing arrived."""
        self._awake = True
        self._arrived.set()

    def clear(self) -> None:
        """Forget everything: the senders will ask again."""
        self.waiting.clear()

    async def wait(self) -> None:
        """Return when something has arrived or somebody woke us."""
        await self._arrived.wait()
        self._arrived.clear()
        self._awake = False


class Actor:
    """Runs `_run` in one task from `start` to `stop`, again after a failure.

    Both may be called twice.  A subclass whose state does not survive a failure of `_run`
    overrides `_failed`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._task: asyncio.Task[None] | None = None
        #: How often `_run` has failed.
        self.failures = 0

    @property
    def running(self) -> bool:
        """Whether the actor's task is alive."""
        return self._task is not None and not self._task.done()

    async def start(self) -> None:
        """Start the task; nothing happens if it runs already."""
        if not self.running:
            self._task = asyncio.create_task(self._supervise(), name=self.name)

    async def stop(self) -> None:
        """Stop the task and wait until it has ended."""
        task, self._task = self._task, None
        if task is None or task is asyncio.current_task():
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _supervise(self) -> None:
        pause_s = RESTART_FIRST_S
        while True:
            try:
                await self._run()
                return
            except Exception as error:
                self.failures += 1
                log.exception("actor failed", actor=self.name, pause_s=pause_s)
                if not await self._failed(error):
                    return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RESTART_LONGEST_S)

    async def _run(self) -> None:
        """The actor's work; returning ends the actor."""
        raise NotImplementedError

    async def _failed(self, error: Exception) -> bool:
        """`_run` has failed; whether to run it again."""
        return True
