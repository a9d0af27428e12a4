"""Who is alive."""

from __future__ import annotations

import pytest

from swarm.core.membership import Members
from tests.builders import beat

# --- members -----------------------------------------------------------------------------


def test_one_is_alive_until_it_was_missed() -> None:
    members = Members(1.2)
    members.heard(beat("c1"), 10.0)
    assert list(members.live(11.2)) == ["c1"]
    assert list(members.live(11.3)) == []


def test_the_living_are_named_in_order_with_their_latest_beat() -> None:
    members = Members(1.2)
    members.heard(beat("c2", number=1), 10.0)
    members.heard(beat("c1", number=1), 10.0)
    members.heard(beat("c2", number=2, sessions=7), 10.5)
    assert [(name, seen.number) for name, seen in members.live(10.6).items()] == [
        ("c1", 1), ("c2", 2),
    ]  # fmt: skip


@pytest.mark.parametrize("number", [4, 5])
def test_a_beat_overtaken_by_a_later_one_changes_nothing(number: int) -> None:
    members = Members(1.2)
    members.heard(beat("c1", number=5, sessions=3), 10.0)
    members.heard(beat("c1", number=number, sessions=9), 11.0)
    assert members.live(11.0)["c1"].sessions == 3
    assert members.live(11.3) == {}, "and is no sign of life"


def test_a_restarted_coordinator_begins_to_count_anew() -> None:
    members = Members(1.2)
    members.heard(beat("c1", number=500, owns=[1]), 10.0)
    members.heard(beat("c1", number=1, instance="second"), 10.1)
    assert members.live(10.2)["c1"].owns == []


def test_the_dead_are_named_once() -> None:
    members = Members(1.2)
    for name in ("c3", "c1", "c2"):
        members.heard(beat(name), 10.0)
    members.heard(beat("c2", number=2), 11.0)
    assert members.newly_dead(11.2) == []
    assert members.newly_dead(11.3) == ["c1", "c3"]
    assert members.newly_dead(11.3) == []
    assert list(members.live(11.3)) == ["c2"]
    members.heard(beat("c1", number=2), 11.4)
    assert list(members.live(11.4)) == ["c1", "c2"]


def test_who_says_goodbye_is_gone_at_once_and_reported_only_if_it_was_needed() -> None:
    members = Members(1.2)
    for name in ("c1", "c2", "c3"):
        members.heard(beat(name, number=1), 10.0)
    members.heard(beat("c1", number=2, leaving=True), 10.1)
    members.heard(beat("c2", number=2, leaving=True, owns=[3]), 10.1)
    members.heard(beat("c3", number=2, leaving=True, sessions=1), 10.1)
    assert members.live(10.1) == {}
    assert members.newly_dead(10.1) == ["c2", "c3"]
    assert members.newly_dead(99.0) == []


def test_a_late_beat_of_one_that_has_left_does_not_bring_it_back() -> None:
    members = Members(1.2)
    members.heard(beat("c1", number=7, leaving=True), 10.0)
    members.heard(beat("c1", number=6), 10.1)
    assert members.live(10.1) == {}
    # Started again, it is another instance.
    members.heard(beat("c1", number=1, instance="second"), 10.2)
    assert list(members.live(10.2)) == ["c1"]


def test_the_next_death_is_known_beforehand() -> None:
    members = Members(1.2)
    members.heard(beat("c1"), 10.0)
    members.heard(beat("c2"), 10.5)
    soon = members.missed_in(11.0)
    assert members.newly_dead(11.0 + soon) == ["c1"]
    assert soon < 0.3
    assert members.missed_in(11.21) > 0.4, "then it is the other's turn"


def test_everybody_would_be_dead_at_once() -> None:
    with pytest.raises(AssertionError, match="dead at once"):
        Members(0.0)
