"""A deterministic event loop with virtual time, for simulations.

Nothing here waits: when no callback is ready, the clock jumps to the next timer, so an
hour of leases and backoffs costs only the callbacks in it.  There are no threads, no
sockets and no wall clock; the same seed gives the same run in every process.

Order.  asyncio promises that plain callbacks (`call_soon`) run first in, first out, and
timers by their time; both hold here, and timers of one instant run in the order they
were set, too.  It promises nothing about which of several *tasks* that became ready at
once goes on first: locks, queues, events and the like hand over by the state of futures,
not by the order of wake-ups.  So `shuffle` permutes exactly those, among their own places
within one round; this reaches interleavings that a real network would and FIFO never does.

Processes.  Whatever runs in a context in which `PROCESS` is set belongs to that process,
and so does all that it starts.  `freeze` stops a process as SIGSTOP does, timers and
wake-ups included: they come due all the same, and run late, in order, after `thaw`.

Nothing may be overlooked: an exception in a callback ends the run with that exception, a
task that fails with nobody asking for it fails the run at its end, and a program in which
nothing can ever happen again is a `Deadlock` that names who waits where.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import os.path
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from swarm.bus.memory_process import PROCESS

if TYPE_CHECKING:
    from typing_extensions import override
else:

    def override(method):
        return method


T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Where the clock starts: not 0, which code under test may take for "never".
START_S = 1000.0
#: Name of the task that `run` was called for.
MAIN = "main"
#: Rounds in one instant after which the program is taken to be running in a circle.
ROUNDS_PER_INSTANT_MAX = 100_000
#: How often leftover tasks are cancelled, and how long (virtual) each time may take.
CANCEL_ROUNDS = 5
CANCEL_ROUND_S = 60.0


class Deadlock(Exception):
    """Nothing is ready and no timer is set: the tasks named would wait for ever."""


class Livelock(Exception):
    """The clock stands still while callbacks keep coming: something spins without waiting."""


class SimLoop(asyncio.BaseEventLoop):
    """An event loop whose clock is virtual and whose every step is repeatable.

    `shuffle` (if given) permutes the tasks that are ready in the same round.
    """

    # Of BaseEventLoop, not in its public interface.
    _ready: deque[asyncio.Handle]
    _stopping: bool

    def __init__(self, shuffle: random.Random | None = None, start_s: float = START_S) -> None:
        super().__init__()
        # Debug mode measures callbacks with the wall clock's idea of slow.
        self.set_debug(False)
        self.set_exception_handler(self._on_failure)
        self._shuffle = shuffle
        self._now_s = start_s
        # (when, number, handle): the number makes equal times first in, first out, and
        # spares a comparison of handles.
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timers_set = 0
        self._timers_cancelled = 0
        self._rounds_now = 0
        # Strong references in order of creation.  asyncio's own set is weak and ordered by
        # address: which forgotten task vanishes when, and who is cancelled first, would
        # differ from run to run.
        # With the process that each belongs to.
        self._tasks: dict[asyncio.Task[Any], str | None] = {}
        self._tasks_made = 0
        self._tasks_prune_at = 256
        self._failures: list[BaseException] = []
        #: What came due for each frozen process, in the order in which it would have run.
        self._frozen: dict[str, deque[asyncio.Handle]] = {}

    # --- the clock and what is to be called ---

    @override
    def time(self) -> float:
        return self._now_s

    @override
    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    @override
    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        # asyncio itself uses this in the loop's own thread, for async generators.
        return self.call_soon(callback, *args, context=context)

    @override
    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_set += 1
        heapq.heappush(self._timers, (when, self._timers_set, handle))
        return handle

    @override
    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    @override
    def close(self) -> None:
        super().close()
        self._timers.clear()

    def _timer_handle_cancelled(self, _handle: asyncio.TimerHandle) -> None:
        """Called by a timer that is cancelled (or was: the count is only an estimate)."""
        self._timers_cancelled += 1
        if self._timers_cancelled > 64 and self._timers_cancelled * 2 > len(self._timers):
            # Most timers are time-outs that did not happen.  The handle in question is not
            # marked yet: it goes with the next sweep.
            self._timers[:] = [timer for timer in self._timers if not timer[2].cancelled()]
            heapq.heapify(self._timers)
            self._timers_cancelled = 0

    def _run_once(self) -> None:
        """One round: everything that is ready now, after a jump in time if nothing is."""
        ready, timers = self._ready, self._timers
        if not ready and not self._stopping:
            while timers and timers[0][2]._cancelled:
                heapq.heappop(timers)
            if not timers:
                raise Deadlock(self._describe_wait("nothing is ready and no timer is set"))
            if timers[0][0] > self._now_s:
                self._now_s = timers[0][0]
                self._rounds_now = 0
        self._rounds_now += 1
        if self._rounds_now > ROUNDS_PER_INSTANT_MAX:
            raise Livelock(
                self._describe_wait(f"{ROUNDS_PER_INSTANT_MAX} rounds without any time passing")
            )
        while timers and timers[0][0] <= self._now_s:
            ready.append(heapq.heappop(timers)[2])
        count = len(ready)
        if count > 1 and self._shuffle is not None:
            self._permute_tasks(self._shuffle)
        frozen = self._frozen
        for _ in range(count):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if frozen:
                process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
                if process in frozen:
                    frozen[process].append(handle)
                    continue
            handle._run()

    def _permute_tasks(self, rng: random.Random) -> None:
        places = [place for place, handle in enumerate(self._ready) if _steps_task(handle)]
        if len(places) < 2:
            return
        handles = [self._ready[place] for place in places]
        rng.shuffle(handles)
        for place, handle in zip(places, handles, strict=True):
            self._ready[place] = handle

    # --- processes ---

    def freeze(self, process: str) -> None:
        """Run nothing of this process until `thaw`; no difference if it is frozen already."""
        self._frozen.setdefault(process, deque())

    def thaw(self, process: str) -> int:
        """Let it go on: what came due meanwhile runs next.  Returns how many callbacks."""
        due = self._frozen.pop(process, None)
        if due is None:
            return 0
        self._ready.extend(due)
        return len(due)

    # --- tasks ---

    @override
    def create_task(
        self,
        coro: Any,
        *,
        name: object = None,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> asyncio.Task[Any]:
        self._tasks_made += 1
        # (asyncio's numbers would tell how many simulations ran before.)
        task = super().create_task(
            coro, name=name or f"task-{self._tasks_made}", context=context, **options
        )
        own = PROCESS.get(None) if context is None else context.get(PROCESS)
        self._tasks[task] = own
        if len(self._tasks) >= self._tasks_prune_at:
            self._forget_ended()
            self._tasks_prune_at = max(256, 2 * len(self._tasks))
        return task

    def pending_tasks(self) -> list[asyncio.Task[Any]]:
        """Tasks that have not ended, in order of creation."""
        return [task for task in self._tasks if not task.done()]

    def _forget_ended(self) -> None:
        """Drop what has ended, but for failures: whoever awaits one may only be about to run."""
        for task in [one for one in self._tasks if one.done() and not one._log_traceback]:
            del self._tasks[task]

    def _prune_tasks(self) -> None:
        kept: dict[asyncio.Task[Any], str | None] = {}
        for task, process in self._tasks.items():
            # Whoever is stopped, or was killed, could not ask for what it failed with.
            if not task.done() or process in self._frozen:
                kept[task] = process
            elif task._log_traceback:
                error = task.exception()
                assert error is not None, "only a failure is waiting to be asked for"
                if task.get_name() != MAIN:
                    error.add_note(f"raised in {task.get_name()}, which nobody awaited")
                self._failures.append(error)
        self._tasks = kept

    def _on_failure(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception in a callback: keep it and end the run."""
        error = context.get("exception")
        if self.is_closed() or error is None:
            self.default_exception_handler(context)
            return
        error.add_note(str(context.get("message", "")))
        self._failures.append(error)
        self.stop()

    def raise_failure(self) -> None:
        """Raise the first exception that nobody has dealt with, if there is one."""
        self._prune_tasks()
        if not self._failures:
            return
        first, *others = self._failures
        self._failures = []
        for other in others[:10]:
            first.add_note(f"then also: {other!r}")
        raise first

    def cancel_leftovers(self) -> None:
        """Cancel what still runs, in order of creation, until all of it has ended.

        Frozen processes go on for it, those that were killed included.

        Raises `Deadlock` for tasks that go on after being cancelled `CANCEL_ROUNDS` times.
        """
        for process in list(self._frozen):
            self.thaw(process)
        for _ in range(CANCEL_ROUNDS):
            left = self.pending_tasks()
            if not left:
                return
            for task in left:
                task.cancel()
            self._rounds_now = 0
            self._run_until_ended(left)
        left = self.pending_tasks()
        if not left:
            return
        text = self._describe_wait("tasks go on although they were cancelled")
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        raise Deadlock(text)

    def _run_until_ended(self, tasks: list[asyncio.Task[Any]]) -> None:
        watch = self.create_task(asyncio.wait(tasks, timeout=CANCEL_ROUND_S), name="cancel")
        watch.add_done_callback(lambda _: self.stop())
        while not watch.done():
            self.run_forever()  # a failing callback stops it, too
        for task in tasks:
            if task.done() and not task.cancelled():
                # Its fate is asked for here: a leftover may fail when it is cut off.
                task.exception()

    def _describe_wait(self, what: str) -> str:
        pending = self.pending_tasks()
        lines = [f"{what} at {self._now_s:.6f} s; {len(pending)} tasks pending"]
        lines += [f"  frozen: {name}, {len(due)} callbacks" for name, due in self._frozen.items()]
        lines += [f"  {describe_task(task)}" for task in pending[:40]]
        if len(pending) > 40:
            lines.append(f"  and {len(pending) - 40} more")
        return "\n".join(lines)

    # --- what does not exist here ---

    @override
    def run_in_executor(
        self,
        executor: Any,
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        raise RuntimeError(
            f"{func!r} was to run in a thread, which would make the simulation unrepeatable; "
            "call it directly"
        )


def _steps_task(handle: asyncio.Handle) -> bool:
    """Whether it starts or wakes a task, which it is then a method of."""
    callback = handle._callback  # type: ignore[attr-defined]
    return isinstance(getattr(callback, "__self__", None), asyncio.Task)


def describe_task(task: asyncio.Task[Any]) -> str:
    """Name of a task and the places it is waiting at, outermost first."""
    places: list[str] = []
    step: Any = task.get_coro()
    while step is not None and len(places) < 12:
        frame = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None)
        if frame is not None:
            code = frame.f_code
            file = os.path.basename(code.co_filename)
            places.append(f"{code.co_qualname} ({file}:{frame.f_lineno})")
        step = getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None)
    return f"{task.get_name()}: {' > '.join(places) or 'ended'}"


def run(main: Callable[[], Coroutine[Any, Any, T]], seed: int, *, shuffle: bool = True) -> T:
    """Run `main()` to its end on a fresh `SimLoop` and return what it returns.

    `seed` decides the order of ready tasks (pass your own generator of the same seed to
    whatever else takes one).  Tasks that are left over are cancelled.  Raises what `main`
    raises, the first exception of a callback (at once) or of a task that nobody awaited
    (at the end), `Deadlock`, `Livelock`.
    """
    loop = SimLoop(random.Random(f"order of tasks {seed}") if shuffle else None)
    try:
        task: asyncio.Task[T] = loop.create_task(main(), name=MAIN)
        task.add_done_callback(lambda _: loop.stop())
        try:
            result = _run_main(loop, task)
        finally:
            loop.cancel_leftovers()
        loop.raise_failure()
        return result
    finally:
        loop.close()


def _run_main(loop: SimLoop, task: asyncio.Task[T]) -> T:
    try:
        loop.run_forever()
    except (Deadlock, Livelock):
        # When something failed unnoticed before, that is why the others wait.
        loop.raise_failure()
        raise
    # A failing callback stops the loop at once, so it came before a failure of `main`.
    loop.raise_failure()
    if not task.done():
        raise RuntimeError("the loop was stopped before main() ended; leave loop.stop() to run()")
    return task.result()
