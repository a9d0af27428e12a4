"""How a process of the swarm begins and ends: its loop, its signals, its parent."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any

#: A stop that takes longer than this is ended by force.
STOP_S = 10.0
#: A cancelled task that has not ended after this time is cancelled again.
CANCEL_AGAIN_S = 1.0


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, object]) -> bool:
    """Do `work`, but drop it when `stop` is set; whether it was done."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        stopped.cancel()
        await cancelled(task)


async def cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel `task` and return once it has ended, however it did.

    More than once if need be: before Python 3.12 `asyncio.wait_for`, which nats-py uses
    everywhere, loses a cancellation that comes together with what it waits for.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_S)
    if not task.cancelled():
        # Asked for its exception, the task does not complain that nobody did.
        task.exception()


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT set `stop`; the second one ends the process at once."""

    def stopping() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping)


def stop_with_stdin(stop: Callable[[], None], grace_s: float = STOP_S) -> None:
    """When stdin ends, call `stop` in the loop; `grace_s` later the process is ended by force.

    A parent that holds the other end of the pipe need not do anything for its children
    to stop: whatever kills it, the system closes its end.  Done in a thread, so that a
    loop that hangs is ended as well.
    """
    loop = asyncio.get_running_loop()

    def watch() -> None:
        while os.read(0, 4096):
            pass  # nothing is said on it; only its end matters
        try:
            loop.call_soon_threadsafe(stop)
        except RuntimeError:
            return  # the loop is closed: we are stopping already
        threading.Event().wait(grace_s)
        os._exit(1)

    threading.Thread(target=watch, name="stdin", daemon=True).start()


#: Allocations between two collections of each generation.  A shard allocates thousands of
#: short-lived objects a round and frees them by reference count; Python's default (700, 10,
#: 10) would search them for cycles dozens of times a second.
GC_THRESHOLDS = (50_000, 20, 20)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """`asyncio.run`, on uvloop where there is one, with a calmer garbage collector."""
    gc.collect()
    gc.freeze()  # what was imported stays for good
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        import uvloop  # noqa: PLC0415 - not to be had everywhere
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)
