"""What items of a run are like, and how each may end."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any, cast

import msgspec
import pytest
from msgspec import Raw

from swarm.errors import NoAnswer, Refusal
from swarm.messages import NewItem
from swarm.sdk.client import Handle
from swarm.testing.chaos.client import Answers
from swarm.testing.chaos.work import (
    Known,
    Order,
    Task,
    draw_task,
    not_before,
    order,
    result,
    task_of,
)

NOW = 1000.0
DONE = Known("1-1", frozenset({"completed"}))
DEAD = Known("1-2", frozenset({"dead"}))
EITHER = Known("1-3", frozenset({"completed", "cancelled"}))


def orders(count: int, known: list[Known]) -> list[Order]:
    rng = Random(7)
    return [order(rng, draw_task(rng, "c", number), known, NOW) for number in range(1, count + 1)]


def test_a_seed_decides_the_work() -> None:
    assert orders(50, [DONE, DEAD]) == orders(50, [DONE, DEAD])


def test_every_order_is_an_item() -> None:
    for one in orders(500, [DONE, DEAD, EITHER]):
        item = msgspec.convert(one.fields | {"payload": Raw(b"null")}, NewItem)
        raw = Raw(msgspec.json.encode(one.fields))
        assert task_of(raw) == one.task
        assert not_before(raw) == item.not_before
        assert not item.not_before or NOW < item.not_before <= NOW + 8
        # Every other one can be tried again without harm.
        assert bool(item.idempotency_key) == (one.task.number % 2 == 0)
        assert one.ends


def test_there_is_work_of_all_kinds() -> None:
    made = orders(3000, [DONE, DEAD, EITHER])
    kinds = Counter[str]()
    for one in made:
        task = one.task
        kinds["fails"] += task.fails
        kinds["asks"] += task.asks
        kinds["cancelled"] += task.cancel_s > 0
        kinds["delayed"] += "not_before" in one.fields
        kinds["depends"] += "dependencies" in one.fields
        kinds["outlasts a takeover"] += task.seconds > 0.5
        kinds["outlasts a lease"] += task.seconds > 6
        assert task.fails + task.asks + bool(task.cancel_s) <= 1
    assert min(kinds.values()) > 30, kinds
    assert kinds["outlasts a takeover"] < 700


@pytest.mark.parametrize(
    ("task", "known", "mode", "ends"),
    [
        (Task("c", 1, 1.0), DONE, "", {"completed"}),
        (Task("c", 1, 1.0, fails=True), DONE, "", {"dead"}),
        (Task("c", 1, 1.0, cancel_s=1.0), DONE, "", {"completed", "cancelled"}),
        (Task("c", 1, 1.0), DEAD, "run", {"completed"}),
        (Task("c", 1, 1.0, fails=True), DEAD, "run", {"dead"}),
        (Task("c", 1, 1.0), DEAD, "cancel", {"cancelled"}),
        (Task("c", 1, 1.0, fails=True), DEAD, "cancel", {"cancelled"}),
        (Task("c", 1, 1.0), EITHER, "cancel", {"completed", "cancelled"}),
        (Task("c", 1, 1.0, fails=True), EITHER, "cancel", {"dead", "cancelled"}),
    ],
)
def test_how_what_depends_may_end(task: Task, known: Known, mode: str, ends: set[str]) -> None:
    found = 0
    for seed in range(400):
        one = order(Random(seed), task, [known], NOW)
        if "dependencies" not in one.fields:
            continue
        assert one.fields["dependencies"] == [known.name]
        if one.fields.get("on_dependency_failure", "") == mode:
            assert one.ends == ends
            found += 1
    assert found > 10


def test_what_may_never_complete_blocks_nobody() -> None:
    for one in orders(2000, [DONE, DEAD, EITHER]):
        names = one.fields.get("dependencies", [])
        if set(names) - {DONE.name}:
            assert one.fields["on_dependency_failure"] in ("run", "cancel")


def test_results_tell_number_and_answer() -> None:
    assert result(Task("c", 7, 1.0), "first") == {"number": 7, "answer": "first"}


# --- answers ------------------------------------------------------------------------------


class _Waiting:
    """A handle whose answers meet what the test says."""

    def __init__(self, **outcomes: Exception | None) -> None:
        self._outcomes = outcomes

    async def answer(self, text: str, *, wait: int) -> None:
        assert wait == 3
        outcome = self._outcomes[text]
        if outcome is not None:
            raise outcome


TAKEN = Refusal("already_answered", "somebody was quicker")
LOST = NoAnswer("nobody knows")


@pytest.mark.parametrize(
    ("first", "second", "allowed"),
    [
        (None, TAKEN, {"first"}),
        (TAKEN, None, {"second"}),
        (None, LOST, {"first"}),
        (LOST, LOST, {"first", "second", None}),
        (LOST, TAKEN, {"first", None}),
        # Two were told that theirs counts: a lie, whichever it is.
        (None, None, set()),
    ],
)
async def test_the_answer_that_was_accepted_is_the_one(
    first: Exception | None, second: Exception | None, allowed: set[Any]
) -> None:
    answers = Answers()
    handle = cast(Handle, _Waiting(first=first, second=second))
    await asyncio.gather(*(answers.give(handle, text, 3) for text in ("first", "second")))
    assert {text for text in ("first", "second", "third", None) if answers.allow(text)} == allowed
