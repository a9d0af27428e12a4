"""The work of a chaos run: what items are like, and the handler that does them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from msgspec import Struct

from swarm.messages import PRIORITIES
from swarm.sdk.context import Context
from swarm.testing.history import ExecutionLog

WORK_TYPE = "chaos"
#: Names the directory for the records.
RECORDS_ENV = "CHAOS_RECORDS"
#: A long handler looks this often whether it is to stop, and reports how far it is.
STEP_S = 0.5
#: What nobody answers goes on without an answer, so that a run comes to its end.
ANSWER_S = 60.0
#: Attempts of an item that fails each time; the others have as many as they need.
FAILING_ATTEMPTS = 2


class Task(Struct):
    """The payload of an item."""

    #: Who submitted it; its own count of its items.
    client: str
    number: int
    #: How long the work takes.
    seconds: float
    #: Whether it ends in an error.
    fails: bool = False
    #: Whether it waits for an answer first.
    asks: bool = False
    #: When its client has had enough of it, in seconds; 0: never.
    cancel_s: float = 0.0


class Result(Struct):
    """What a handler gives back."""

    number: int
    #: To what it waited for; None without one.
    answer: str | None = None


class Order(Struct):
    """An item as it is to be submitted, however often that is tried."""

    task: Task
    #: Of a `NewItem`, the payload among them.
    fields: dict[str, Any]
    #: How it may end.
    ends: set[str]


class Known(Struct, frozen=True):
    """An item that others can depend on, and how it may end."""

    name: str
    ends: frozenset[str]


def draw_task(rng: Random, client: str, number: int) -> Task:
    """Mostly short work, some that outlasts a takeover, a little that outlasts a lease."""
    kind = rng.random()
    if kind < 0.85:
        seconds = rng.uniform(0.01, 0.2)
    elif kind < 0.97:
        seconds = rng.uniform(0.5, 2.0)
    else:
        seconds = rng.uniform(6.0, 12.0)
    task = Task(client, number, round(seconds, 3))
    manner = rng.random()
    task.fails = manner < 0.03
    task.asks = 0.03 <= manner < 0.06
    if 0.06 <= manner < 0.09:
        task.cancel_s = round(rng.uniform(0.01, 3.0), 3)
    return task


def order(rng: Random, task: Task, known: Sequence[Known], now: float) -> Order:
    """The item for this task: some are delayed, some depend on some of `known`."""
    fields: dict[str, Any] = {
        "work_type": WORK_TYPE,
        "payload": msgspec.to_builtins(task),
        "priority": rng.choice(PRIORITIES),
    }
    if task.number % 2 == 0:
        # It is tried again until it is accepted.
        fields["idempotency_key"] = f"{task.client}/{task.number}"
    if task.fails:
        fields["max_attempts"] = FAILING_ATTEMPTS
    if rng.random() < 0.1:
        fields["not_before"] = now + rng.uniform(0.2, 8.0)
    ends = {"dead"} if task.fails else {"completed"}
    if task.cancel_s:
        ends.add("cancelled")
    if known and rng.random() < 0.15:
        wanted = rng.sample(known, min(len(known), rng.randint(1, 3)))
        fields["dependencies"] = [one.name for one in wanted]
        ends = _depending(rng, fields, ends, wanted)
    return Order(task, fields, ends)


def _depending(
    rng: Random, fields: dict[str, Any], ends: set[str], wanted: Sequence[Known]
) -> set[str]:
    """How an item may end that depends on these; says what is to be if one does not complete."""
    if all(one.ends == {"completed"} for one in wanted):
        return ends
    # To block would be for ever.
    fields["on_dependency_failure"] = rng.choice(("run", "cancel"))
    if fields["on_dependency_failure"] == "run":
        return ends
    if any("completed" not in one.ends for one in wanted):
        return {"cancelled"}
    return ends | {"cancelled"}


def handle(context: Context) -> dict[str, Any]:
    """Take the time, then give the item's number back, or fail, or wait first."""
    with _records().execution(context.work_item_id, context.token):
        task = msgspec.convert(context.payload, Task)
        if task.asks and not context.waits:
            context.wait_for(question(task), expires_s=ANSWER_S, on_expiry="resume")
        left_s = task.seconds
        while left_s > 0 and not context.cancelled:
            threading.Event().wait(min(left_s, STEP_S))
            left_s -= STEP_S
            if left_s > 0 and not context.cancelled:
                context.progress_sync(100 * (1 - left_s / task.seconds), "under way")
    if task.fails:
        raise RuntimeError(failure(task))
    return result(task, context.answer)


def question(task: Task) -> str:
    """What an item waits for."""
    return f"an answer to {task.client}'s item {task.number}"


def result(task: Task, answer: Any) -> dict[str, Any]:
    """The result of a task that has been done."""
    return {"number": task.number, "answer": answer}


def failure(task: Task) -> str:
    """What the error of a failing item says."""
    return f"{task.client}'s item {task.number} is to fail"


class _New(Struct):
    """Of a submitted item."""

    payload: Task
    not_before: float = 0.0


_new = msgspec.json.Decoder(_New)


def task_of(item: msgspec.Raw) -> Task:
    """The task of a `NewItem`."""
    return _new.decode(item).payload


def not_before(item: msgspec.Raw) -> float:
    """Before which time a `NewItem` must not be claimed; 0: none."""
    return _new.decode(item).not_before


@cache
def _records() -> ExecutionLog:
    return ExecutionLog(Path(os.environ[RECORDS_ENV]))
