"""The work of a chaos run: what items are like, and the handler that does them."""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path
from random import Random

import msgspec
from msgspec import Struct

from swarm.sdk.context import Context
from swarm.testing.history import ExecutionLog

WORK_TYPE = "chaos"
#: Names the directory for the records.
RECORDS_ENV = "CHAOS_RECORDS"
#: A long handler looks this often whether it is to stop, and reports how far it is.
STEP_S = 0.5


class Task(Struct):
    """The payload of an item."""

    #: Who submitted it; its own count of its items.
    client: str
    number: int
    #: How long the work takes.
    seconds: float
    #: Whether it ends in an error.
    fails: bool = False


def draw_task(rng: Random, client: str, number: int) -> Task:
    """Mostly short work, some that outlasts a takeover, a little that outlasts a lease."""
    kind = rng.random()
    if kind < 0.85:
        seconds = rng.uniform(0.01, 0.2)
    elif kind < 0.97:
        seconds = rng.uniform(0.5, 2.0)
    else:
        seconds = rng.uniform(6.0, 12.0)
    return Task(client, number, round(seconds, 3), fails=rng.random() < 0.03)


def handle(context: Context) -> int:
    """Take the time, then give the item's number back, or fail."""
    with _records().execution(context.work_item_id, context.token):
        task = msgspec.convert(context.payload, Task)
        left_s = task.seconds
        while left_s > 0 and not context.cancelled:
            threading.Event().wait(min(left_s, STEP_S))
            left_s -= STEP_S
            if left_s > 0 and not context.cancelled:
                context.progress_sync(100 * (1 - left_s / task.seconds), "under way")
    if task.fails:
        raise RuntimeError(failure(task))
    return task.number


class _New(Struct):
    """Of a submitted item."""

    payload: Task


_new = msgspec.json.Decoder(_New)


def task_of(item: msgspec.Raw) -> Task:
    """The task of a `NewItem`."""
    return _new.decode(item).payload


def failure(task: Task) -> str:
    """What the error of a failing item says."""
    return f"{task.client}'s item {task.number} is to fail"


@cache
def _records() -> ExecutionLog:
    return ExecutionLog(Path(os.environ[RECORDS_ENV]))
