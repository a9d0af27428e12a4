"""The fold: every event once, what is wrong with a log is found, nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from swarm.core.shard import Shard, ShardRules
from swarm.messages import (
    Claimed,
    Completed,
    Died,
    Event,
    Opened,
    Progressed,
    Released,
    Submitted,
)
from tests.builders import NOW, Desk, new_item, state_of


def busy() -> Desk:
    """One item queued, one held, one completed, one dead."""
    desk = Desk()
    desk.submit(*[new_item() for _ in range(4)])
    desk.complete(desk.take("a1"), "a1")
    desk.fail(desk.take("a1"), "a1")
    desk.take("a1")
    return desk


# --- events that no owner would have written -----------------------------------------------


@pytest.mark.parametrize(
    ("event", "rule"),
    [
        (Submitted("", 1, [new_item()]), "without holes"),
        (Submitted("", 9, [new_item()]), "without holes"),
        (Claimed(3, 2, "a2", "s1"), "held already"),
        (Claimed(1, 2, "a2", "s1"), "has ended"),
        (Claimed(2, 2, "a2", "s1"), "has ended"),
        (Claimed(4, 2, "a2", "s1"), "grow by one"),
        (Claimed(4, 0, "a2", "s1"), "grow by one"),
        (Completed(4, 0), "is not held"),
        (Completed(3, 2), "another fence"),
        (Completed(1, 1), "is not held"),
        (Died(4, 1), "is not held"),
        (Died(3, 9), "another fence"),
        (Released(4, 1, "agent"), "is not held"),
        (Released(3, 2, "lapsed"), "another fence"),
        (Progressed(4, 1.0), "only a held item"),
        (Progressed(1, 1.0), "only a held item"),
    ],
    ids=repr,
)
def test_an_event_that_breaks_a_rule_is_found_when_folded(event: Event, rule: str) -> None:
    desk = busy()
    with pytest.raises(AssertionError, match=rule):
        desk.shard.apply(event, NOW, "nonce1")


def test_a_claim_behind_the_head_of_its_lane_is_found() -> None:
    desk = Desk()
    desk.submit(new_item(), new_item())
    with pytest.raises(AssertionError, match="does not head"):
        desk.shard.apply(Claimed(2, 1, "a1", "s1"), NOW, "nonce1")


# --- damage that validate finds ------------------------------------------------------------


def lose(shard: Shard) -> None:
    del shard.items[4]


def leave_the_lane(shard: Shard) -> None:
    shard.lanes.take(shard.items[4])


def enter_a_lane_twice(shard: Shard) -> None:
    shard.lanes.give_back(shard.items[4])


def miscount_ready(shard: Shard) -> None:
    shard.lanes.ready["feature"] += 1


def leave_the_index(shard: Shard) -> None:
    shard.held.clear()


def hold_under_an_old_fence(shard: Shard) -> None:
    shard.items[3].fence += 1


def hold_what_has_ended(shard: Shard) -> None:
    shard.items[1].hold = shard.items[3].hold


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lose, "conservation"),
        (leave_the_lane, "lanes"),
        (enter_a_lane_twice, "lanes"),
        (miscount_ready, "ready counts"),
        (leave_the_index, "session index"),
        (hold_under_an_old_fence, "fence"),
        (hold_what_has_ended, "held and ended"),
    ],
)
def test_validate_finds_damage(damage: Callable[[Shard], None], found: str) -> None:
    shard = busy().shard
    shard.validate()
    damage(shard)
    with pytest.raises(AssertionError, match=found):
        shard.validate()


# --- what stays, what goes -----------------------------------------------------------------


def test_nothing_is_kept_of_sessions_that_hold_nothing() -> None:
    desk = Desk()
    for number in range(50):
        desk.submit(new_item())
        held = desk.take("a1", f"s{number}")
        if number % 2:
            desk.complete(held, "a1")
        else:
            desk.lapse(held)
            desk.complete(desk.claim("a2"), "a2")
    assert desk.shard.held == {}
    assert desk.shard.counts() == {"queued": 0, "claimed": 0, "completed": 50, "dead": 0}


def test_what_is_remembered_of_commands_is_bounded() -> None:
    desk = Desk(ShardRules(dedupe_count=10))
    for number in range(50):
        desk.submit(new_item(idempotency_key=f"k{number}"))
        desk.progress(desk.take("a1"), "a1")
    assert len(desk.shard.commands) == 10
    assert len(desk.shard.keys) == 10


def test_a_held_item_is_found_by_its_session_only() -> None:
    desk = Desk()
    desk.submit(*[new_item() for _ in range(3)])
    desk.take("a1", "s1")
    desk.take("a1", "s2")
    desk.take("a2", "s1")
    assert {holder: list(held) for holder, held in desk.shard.held.items()} == {
        ("a1", "s1"): [1],
        ("a1", "s2"): [2],
        ("a2", "s1"): [3],
    }
    assert [number for number, _ in desk.shard.holds()] == [1, 2, 3]


def test_a_life_of_everything_folds_to_the_same_state() -> None:
    desk = Desk()
    desk.submit(*[new_item(priority="low", idempotency_key=f"k{n}", lease_s=5) for n in range(6)])
    desk.submit(new_item(idempotency_key="k1"), new_item("bug"), indexes=[4, 2])
    held = desk.take("a1")
    desk.now += 7.25
    desk.progress(held, "a1", 12.5, "a note with é, 漢 and \n")
    desk.release(held, "a1")
    desk.lapse(desk.take("a2", "s9"))
    desk.open("c2")
    desk.claim("shell", "bug", "feature")
    desk.complete(desk.take("a1"), "a1", {"nested": [1.5, None, "x"]})
    desk.fail(desk.take("a1"), "a1", 'it "broke"')
    desk.decide(lambda out: None)
    assert state_of(desk.refold()) == state_of(desk.shard)
    desk.shard.apply(Opened("c3"), desk.now, "n")
    assert state_of(desk.refold()) != state_of(desk.shard), "and the comparison can fail"
