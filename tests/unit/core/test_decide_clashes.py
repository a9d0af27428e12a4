"""One idempotency key, other content: who has it, what is refused, what is told of it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from swarm.core import decide
from swarm.core.conflicts import SIDE_CHARS_MAX
from swarm.core.decide import Batch
from swarm.messages import Conflict, ShardSubmit, SubmitReply
from tests.builders import Desk, new_item, refusal_of
from tests.states import state_of


def item(description: str, key: str = "k1", **fields: Any) -> Raw:
    return new_item(description=description, idempotency_key=key, **fields)


def submit(
    desk: Desk, policy: str, *items: Raw, rng: float = 0.0, id_: str = ""
) -> tuple[SubmitReply, list[Conflict]]:
    told: list[Conflict] = []

    def work(out: Batch) -> SubmitReply:
        out.policy, out.rng = policy, draws(rng)
        command = ShardSubmit(id_ or desk.new_id(), list(items), list(range(len(items))), 1)
        reply = decide.submit(desk.shard, command, out)
        told.extend(out.conflicts)
        return reply

    return desk.decide(work), told


def draws(first: float) -> Any:
    """`first`, then 0.5: below it the first of two items goes first."""
    drawn = iter([first])
    return lambda: next(drawn, 0.5)


def accepted(reply: SubmitReply) -> list[int]:
    return sorted(result.index for result in reply.results if result.error is None)


def described(desk: Desk) -> list[str]:
    texts = [bytes(one.spec).decode() for one in desk.shard.items.values()]
    return [text.split('"description":"')[1].split('"')[0] for text in texts]


@pytest.mark.parametrize("policy", ["timestamp", "priority", "random"])
def test_the_item_in_the_log_has_its_key_whatever_the_policy(policy: str) -> None:
    desk = Desk()
    submit(desk, policy, item("first", priority="low"))
    reply, told = submit(desk, policy, item("second", priority="critical"), rng=0.9)
    assert accepted(reply) == []
    assert described(desk) == ["first"]
    (conflict,) = told
    assert (conflict.kind, conflict.about, conflict.policy) == ("idempotency", "key k1", "log")
    assert conflict.kept.startswith("3-1: {")
    assert "first" in conflict.kept
    assert "second" in conflict.dropped


@pytest.mark.parametrize(
    ("policy", "rng", "has_it"),
    [
        ("timestamp", 0.9, "mild"),
        ("priority", 0.0, "urgent"),
        ("random", 0.1, "mild"),
        ("random", 0.9, "urgent"),
    ],
)
def test_within_a_submission_the_policy_picks(policy: str, rng: float, has_it: str) -> None:
    desk = Desk()
    mild, urgent = item("mild", priority="low"), item("urgent", priority="critical")
    reply, told = submit(desk, policy, item("a", "k0"), mild, urgent, rng=rng)
    assert described(desk) == ["a", has_it]
    assert accepted(reply) == [0, 1 if has_it == "mild" else 2]
    (conflict,) = told
    assert conflict.policy == policy
    assert has_it in conflict.kept
    assert ("mild" if has_it == "urgent" else "urgent") in conflict.dropped
    desk.shard.validate()
    assert state_of(desk.refold()) == state_of(desk.shard)


def test_equals_of_the_same_urgency_are_as_they_came() -> None:
    desk = Desk()
    submit(desk, "priority", item("first"), item("second"))
    assert described(desk) == ["first"]


def test_those_that_were_the_same_as_the_one_that_lost_clash_as_well() -> None:
    desk = Desk()
    mild, urgent = item("mild", priority="low"), item("urgent", priority="critical")
    id_ = desk.new_id()
    reply, told = submit(desk, "priority", mild, mild, urgent, mild, urgent, id_=id_)
    assert described(desk) == ["urgent"]
    assert accepted(reply) == [2, 4]
    assert [one.policy for one in told] == ["priority", "priority"]
    again, told_again = submit(desk, "priority", mild, mild, urgent, mild, urgent, id_=id_)
    assert accepted(again) == [2, 4]
    assert told_again == [], "a retry has not disagreed once more"
    assert state_of(desk.refold()) == state_of(desk.shard)


def test_nothing_is_told_of_a_submission_that_is_refused_as_a_whole() -> None:
    desk = Desk()
    submit(desk, "timestamp", item("first"))
    told: list[Conflict] = []

    def work(out: Batch) -> None:
        command = ShardSubmit(desk.new_id(), [item("second"), Raw(b"[]")], [0, 1], 1)
        assert refusal_of(lambda: decide.submit(desk.shard, command, out)).code == "bad_request"
        told.extend(out.conflicts)

    desk.decide(work)
    assert told == []


def test_sides_are_cut_to_what_is_kept() -> None:
    desk = Desk()
    submit(desk, "timestamp", item("é" * 5000))
    _, (conflict,) = submit(desk, "timestamp", item("ü" * 5000))
    assert len(conflict.dropped) <= SIDE_CHARS_MAX
    assert "ü" in conflict.dropped
