"""Where handlers run, apart from the loop that sends their heartbeats.

A handler that blocks (a long computation, `time.sleep` in an async function) must not
stop the heartbeats of everything its agent holds.  So by default async handlers share
one event loop in a thread of their own, and plain functions get threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from swarm.core.handling import Outcome, Stopped

#: How long a closing runner waits for its threads; one that is stuck in a handler is left
#: behind, as a daemon, and ends with the process.
JOIN_S = 1.0

Ended = Callable[[Outcome], None]


class Execution(Protocol):
    """A handler with its arguments: one of the two is called, once, and never raises."""

    #: Set in the handler's thread when its task is about to be cancelled.  (The task itself
    #: cannot tell: a `TaskGroup` in it cancels it, too, and does not always take that back.)
    stopping: bool

    @property
    def is_async(self) -> bool:
        """Whether the handler is an async function."""
        ...

    async def run_async(self) -> Outcome:
        """Run an async handler."""
        ...

    def run_sync(self) -> Outcome:
        """Run a plain function."""
        ...


class HandlerRunner(Protocol):
    """Runs handlers.  Used by one agent, from its event loop."""

    async def start(self) -> None:
        """Be ready to run."""
        ...

    def run(self, execution: Execution, ended: Ended) -> Callable[[], None]:
        """Begin; `ended(outcome)` is called once, later, in the agent's loop.

        The returned function asks the handler to stop: an async one is cancelled at its
        next await, a plain function has to look at its context.
        """
        ...

    async def close(self) -> None:
        """Cancel what still runs and clean up; no `ended` is called afterwards."""
        ...


class InlineRunner:
    """Runs handlers in the agent's own loop: for simulations, and handlers known not to block."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Outcome], None] = {}
        #: Counts closings: what was started before the latest one is not reported.
        self._closings = 0

    async def start(self) -> None:
        """Nothing to prepare."""

    def run(self, execution: Execution, ended: Ended) -> Callable[[], None]:
        """See `HandlerRunner.run`."""
        task = asyncio.create_task(_run_here(execution))
        self._tasks[task] = None
        closings = self._closings

        def done(task: asyncio.Task[Outcome]) -> None:
            del self._tasks[task]
            if closings == self._closings:
                ended(_outcome(task))

        task.add_done_callback(done)
        if not execution.is_async:
            return _nothing

        def cancel() -> None:
            execution.stopping = True
            task.cancel()

        return cancel

    async def close(self) -> None:
        """See `HandlerRunner.close`."""
        self._closings += 1
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=JOIN_S)


class ThreadRunner:
    """Runs async handlers in one loop in a thread, and up to `workers` plain functions."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._main: asyncio.AbstractEventLoop | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: threading.Thread | None = None
        self._tasks: dict[asyncio.Task[Outcome], None] = {}
        self._pool = _Pool(workers)
        #: Filled by the threads, emptied in the agent's loop: one wake-up for many.
        self._outcomes: deque[tuple[int, Ended, Outcome]] = deque()
        self._woken = False
        #: Counts closings: what was started before the latest one is not reported.
        self._closings = 0

    async def start(self) -> None:
        """See `HandlerRunner.start`; threads are made when first needed."""
        self._main = asyncio.get_running_loop()
        self._pool = _Pool(self._workers)

    def run(self, execution: Execution, ended: Ended) -> Callable[[], None]:
        """See `HandlerRunner.run`."""
        closings = self._closings
        if not execution.is_async:
            self._pool.put(lambda: self._report(closings, ended, execution.run_sync()))
            return _nothing
        loop = self._handlers_loop()
        started: list[asyncio.Task[Outcome]] = []

        def begin() -> None:
            task = loop.create_task(execution.run_async())
            started.append(task)
            self._tasks[task] = None
            task.add_done_callback(done)

        def done(task: asyncio.Task[Outcome]) -> None:
            del self._tasks[task]
            self._report(closings, ended, _outcome(task))

        def cancel() -> None:
            # `begin` was put into that loop before this was.
            execution.stopping = True
            started[0].cancel()

        loop.call_soon_threadsafe(begin)
        return lambda: _post(loop, cancel)

    async def close(self) -> None:
        """See `HandlerRunner.close`."""
        self._closings += 1
        self._pool.close()
        loop, thread = self._loop, self._loop_thread
        self._loop = self._loop_thread = None
        if loop is None or thread is None:
            return
        _post(loop, self._cancel_all)
        _post(loop, lambda: loop.create_task(self._stop_when_done(loop)))
        # Joined in a thread, so that a stuck handler does not stop this loop meanwhile.
        joined = asyncio.Event()
        main = asyncio.get_running_loop()

        def join() -> None:
            thread.join(JOIN_S)
            _post(main, joined.set)

        threading.Thread(target=join, name="swarm-handlers-join", daemon=True).start()
        await joined.wait()

    def _handlers_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = self._loop = asyncio.new_event_loop()
            self._loop_thread = threading.Thread(
                target=_run_loop, args=(loop,), name="swarm-handlers", daemon=True
            )
            self._loop_thread.start()
        return self._loop

    def _cancel_all(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    async def _stop_when_done(self, loop: asyncio.AbstractEventLoop) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        loop.stop()

    def _report(self, closings: int, ended: Ended, outcome: Outcome) -> None:
        """In a handler's thread."""
        self._outcomes.append((closings, ended, outcome))
        if self._woken:
            return
        # Set before the wake-up is on its way, cleared before the outcomes are taken: an
        # outcome added in between finds it cleared and wakes once more.
        self._woken = True
        assert self._main is not None, "started"
        _post(self._main, self._deliver)

    def _deliver(self) -> None:
        """In the agent's loop."""
        self._woken = False
        while self._outcomes:
            closings, ended, outcome = self._outcomes.popleft()
            if closings == self._closings:
                ended(outcome)


class _Pool:
    """Daemon threads, made as needed: one that is stuck does not hold up the process's exit."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)

    def put(self, job: Callable[[], None]) -> None:
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._workers:
            name = f"swarm-handler-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put(job)

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        self._threads.clear()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()
            self._idle.release()


async def _run_here(execution: Execution) -> Outcome:
    return await execution.run_async() if execution.is_async else execution.run_sync()


def _outcome(task: asyncio.Task[Outcome]) -> Outcome:
    # Cancelled before its first step, the handler had no chance to say so itself.
    return Stopped() if task.cancelled() else task.result()


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _post(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """Have another thread's loop call this; nothing if that loop has ended."""
    # The loop may be closed: then nobody is left who would want to know.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)


def _nothing() -> None:
    """A plain function cannot be stopped from outside."""
