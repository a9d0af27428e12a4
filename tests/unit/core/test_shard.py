"""The fold: every event once, what is wrong with a log is found, nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from msgspec import Raw, Struct

from swarm.core.life import LIFE
from swarm.core.shard import Shard, ShardRules
from swarm.messages import (
    STATUSES,
    Answered,
    Archived,
    Asked,
    Cancelled,
    Claimed,
    Completed,
    Copied,
    Died,
    Due,
    Event,
    Marked,
    Opened,
    Pause,
    Progressed,
    Released,
    Replayed,
    Retried,
    Story,
    Submitted,
    Waited,
    Watched,
)
from tests.builders import NOW, Desk, new_item
from tests.states import state_of


def busy() -> Desk:
    """One item queued, one held, one completed, one dead."""
    desk = Desk()
    desk.submit(*[new_item() for _ in range(4)])
    desk.complete(desk.take("a1"), "a1")
    desk.die(desk.take("a1"), "a1")
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
        (Died(4, 1), "another fence"),
        (Died(1, 1), "has ended"),
        (Cancelled(2, 1), "has ended"),
        (Cancelled(3, 0), "another fence"),
        (Retried(4, 0, 0.0), "is not held"),
        (Waited(4, 0, Raw(b"1")), "is not held"),
        (Answered(4), "waits for nothing"),
        (Answered(3), "waits for nothing"),
        (Asked(4, NOW), "only a holder"),
        (Replayed(1), "is completed: that is final"),
        (Due([4]), "is not paused"),
        (Due([9]), "there is none"),
        (Archived([4]), "before its end"),
        (Archived([9]), "there is none"),
        (Copied([9], [Raw(b"{}")]), "there is none"),
        (Marked(1, 5, 9), "count of submissions"),
        (Marked(1, 9, 4), "next number"),
        (Watched(9, "1-1"), "that there is not"),
        (Died(3, 9), "another fence"),
        (Released(4, 1, "agent"), "is not held"),
        (Released(3, 2, "lapsed"), "another fence"),
        (Progressed(4, 1.0), "only a held item"),
        (Progressed(1, 1.0), "only a held item"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Struct) else repr(value),
)
def test_an_event_that_breaks_a_rule_is_found_when_folded(event: Event, rule: str) -> None:
    desk = busy()
    with pytest.raises(AssertionError, match=rule):
        desk.shard.apply(event, NOW, "nonce1")


def test_every_kind_of_event_about_an_item_that_there_is_not_is_found() -> None:
    for kind in LIFE:
        fields = {"n": 9, "fence": 0, "until": 0.0, "cause": "lapsed", "percent": 0.0} | {
            "agent": "", "session": "", "what": Raw(b"1"), "priority": "low", "status": "dead",
            "dependent": "1-1", "on": "1-1",
        }  # fmt: skip
        event = msgspec.convert(fields, kind)
        with pytest.raises(AssertionError, match="that there is not"):
            busy().shard.apply(event, NOW, "nonce1")


# --- damage that validate finds ------------------------------------------------------------


def lose(shard: Shard) -> None:
    del shard.items[4]


def leave_the_lane(shard: Shard) -> None:
    shard.lanes.remove(shard.items[4])


def leave_the_trail(shard: Shard) -> None:
    shard.trail._numbers.pop()
    shard.trail._seqs.pop()


def state_out_of_order(shard: Shard) -> None:
    shard.trail.stated(shard.items[4], shard.seq + 1)
    shard.trail._numbers.reverse()
    shard.trail._seqs.reverse()


def mistake_the_size(shard: Shard) -> None:
    shard.live_bytes += 1


def forget_an_end(shard: Shard) -> None:
    shard.finished["dead"].clear()


def block_by_nothing(shard: Shard) -> None:
    shard.take_out(shard.items[4])
    shard.pause(shard.items[4], Pause("blocked"))
    shard.tally.moved(4, "queued", "blocked")


def forget_the_blocked(shard: Shard) -> None:
    block_by_nothing(shard)
    shard.blocked.clear()


def forget_the_untold(shard: Shard) -> None:
    shard.items[1].story = Story(dependents={"1-1": ""})


def miscount_the_archived(shard: Shard) -> None:
    shard.archived["completed"] += 1


def enter_a_lane_twice(shard: Shard) -> None:
    shard.lanes.add(shard.items[4])


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
        (enter_a_lane_twice, "ready counts"),
        (miscount_ready, "ready counts"),
        (leave_the_index, "session index"),
        (hold_under_an_old_fence, "fence"),
        (hold_what_has_ended, "two states at once"),
        (leave_the_trail, "on the trail"),
        (state_out_of_order, "order of the log"),
        (mistake_the_size, "live bytes"),
        (forget_an_end, "ended items"),
        (block_by_nothing, "blocked by nothing"),
        (forget_the_blocked, "index of blocked"),
        (forget_the_untold, "index of untold"),
        (miscount_the_archived, "conservation"),
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
    assert desk.shard.counts() == dict.fromkeys(STATUSES, 0) | {"completed": 50}


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
    desk.die(desk.take("a1"), "a1", 'it "broke"')
    desk.decide(lambda out: None)
    assert state_of(desk.refold()) == state_of(desk.shard)
    desk.shard.apply(Opened("c3"), desk.now, "n")
    assert state_of(desk.refold()) != state_of(desk.shard), "and the comparison can fail"
