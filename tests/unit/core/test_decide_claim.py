"""Claiming by name: the best item, the lease, repetitions, refusals."""

from __future__ import annotations

import pytest

from swarm.core import decide
from swarm.core.shard import ShardRules
from swarm.messages import Claim
from tests.builders import Desk, command_id, new_item, refusal_of
from tests.states import state_of


def test_a_claim_takes_the_best_item_of_its_types_and_holds_it() -> None:
    desk = Desk()
    desk.submit(new_item("bug", priority="low"), new_item("feature", priority="critical"))
    desk.submit(new_item("bug", priority="high"))
    held = desk.claim("a1", "bug", "docs")
    assert (held.work_item_id, held.attempt) == ("3-3", 1)
    hold = desk.shard.items[3].hold
    assert hold is not None
    assert (hold.agent, hold.token, hold.claimed_at) == ("a1", held.token, desk.now)
    assert bytes(held.item) == bytes(desk.shard.items[3].spec)


@pytest.mark.parametrize(
    ("asked_s", "item_s", "expected_s"), [(0, 0, 30), (0, 7, 7), (5, 7, 5), (5, 0, 5)]
)
def test_the_lease_is_the_claims_else_the_items_else_the_swarms(
    asked_s: float, item_s: float, expected_s: float
) -> None:
    desk = Desk(ShardRules(lease_s=30))
    desk.submit(new_item(lease_s=item_s))
    held = desk.claim("a1", lease_s=asked_s)
    assert held.lease_s == expected_s
    assert desk.complete(held, "a1").error is None


def test_an_item_is_never_handed_to_two() -> None:
    desk = Desk()
    desk.submit(new_item(), new_item())
    assert desk.claim("a1").work_item_id == "3-1"
    assert desk.claim("a2").work_item_id == "3-2"
    refusal = refusal_of(lambda: desk.claim("a3"))
    assert (refusal.code, refusal.retry) == ("no_work", True)
    assert "feature" in refusal.message
    assert "shard 3" in refusal.message


def test_a_claim_for_no_type_at_all_is_a_mistake() -> None:
    desk = Desk()
    desk.submit(new_item())
    command = Claim(desk.new_id(), [])
    refusal = refusal_of(
        lambda: desk.decide(lambda out: decide.claim(desk.shard, command, "a1", out))
    )
    assert (refusal.code, refusal.retry) == ("bad_request", False)
    assert "work_types" in refusal.message


@pytest.mark.parametrize("retry", [0, 1])
def test_a_repeated_claim_gets_the_same_assignment(retry: int) -> None:
    desk = Desk()
    desk.submit(new_item(), new_item())
    id_ = desk.new_id()
    first = desk.claim("a1", id_=id_)
    before = state_of(desk.shard)
    assert desk.claim("a1", id_=id_, retry=retry) == first
    assert state_of(desk.shard) == before


@pytest.mark.parametrize("after", ["lapsed", "released", "completed", "another", "own new claim"])
def test_a_repeated_claim_that_is_over_gives_nothing(after: str) -> None:
    desk = Desk()
    desk.submit(new_item())
    id_ = desk.new_id()
    held = desk.claim("a1", id_=id_)
    if after == "completed":
        desk.complete(held, "a1")
    elif after == "released":
        desk.release(held, "a1")
    else:
        desk.lapse(held)
    if after in {"another", "own new claim"}:
        desk.claim("a2" if after == "another" else "a1")
    before = state_of(desk.shard)
    refusal = refusal_of(lambda: desk.claim("a1", id_=id_, retry=1))
    assert (refusal.code, refusal.retry) == ("stale_token", False)
    assert state_of(desk.shard) == before


def test_another_senders_repetition_of_a_claim_learns_no_token() -> None:
    desk = Desk()
    desk.submit(new_item(), new_item())
    id_ = desk.new_id()
    held = desk.claim("a1", id_=id_)
    refusal = refusal_of(lambda: desk.claim("a2", id_=id_))
    assert held.token not in refusal.message
    assert desk.shard.items[2].status == "queued"


@pytest.mark.parametrize("used_for", ["submit", "release", "progress"])
def test_an_id_used_for_another_command_is_refused(used_for: str) -> None:
    desk = Desk()
    id_ = desk.new_id()
    desk.submit(new_item(), new_item(), id_=id_ if used_for == "submit" else "")
    held = desk.take("a1")
    if used_for == "progress":
        desk.progress(held, "a1", id_=id_)
    elif used_for == "release":
        desk.release(held, "a1", id_)
    before = state_of(desk.shard)
    refusal = refusal_of(lambda: desk.claim("a1", id_=id_))
    assert refusal.code == "bad_request"
    assert state_of(desk.shard) == before


@pytest.mark.parametrize(("id_", "named"), [("", "UUIDv7"), (command_id(1, 2e9), "future")])
def test_a_claim_needs_a_uuid7_of_now(id_: str, named: str) -> None:
    desk = Desk()
    desk.submit(new_item())
    command = Claim(id_, ["feature"])
    refusal = refusal_of(
        lambda: desk.decide(lambda out: decide.claim(desk.shard, command, "a1", out))
    )
    assert refusal.code == "bad_request"
    assert named in refusal.message
    assert desk.shard.items[1].fence == 0


def test_a_retry_that_may_have_claimed_before_is_too_old() -> None:
    desk = Desk(ShardRules(dedupe_count=1))
    old = command_id(1, desk.now - 1)
    desk.submit(new_item(), new_item())
    desk.claim("a1", id_=old)
    desk.claim("a1")
    desk.submit(new_item())
    assert refusal_of(lambda: desk.claim("a1", id_=old, retry=1)).code == "too_old"
    assert desk.shard.items[3].status == "queued"


def test_what_one_claims_no_heartbeat_of_the_agents_other_sessions_covers() -> None:
    desk = Desk()
    desk.submit(new_item(), new_item(), new_item())
    desk.take("a1", "s1")
    desk.claim("a1")
    desk.claim("a1")
    assert [len(numbers) for numbers in desk.shard.held.values()] == [1, 1, 1]
