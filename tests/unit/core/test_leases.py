"""Leases: renewed by what is listed, sent again, given up, lapsed, restarted."""

from __future__ import annotations

import pytest

from swarm.core.leases import UNLISTED_RELEASE, UNLISTED_RESEND, Lease, Leases, Missing

NOTHING = Missing([], [])


def leases(*numbers: int, lease_s: float = 30.0) -> Leases:
    """Leases of these items, all begun at 0."""
    made = Leases()
    for number in numbers:
        made.begin({number: Lease(lease_s)}, 0.0)
    return made


def test_a_lease_lapses_after_its_time_and_not_at_it() -> None:
    held = leases(1, 2)
    held.begin({3: Lease(5.0)}, 0.0)
    assert held.lapsed(5.0) == []
    assert held.lapsed(5.1) == [3]
    assert held.lapsed(30.0) == [3]
    assert held.lapsed(30.1) == [1, 2, 3]


def test_what_lapsed_is_named_until_it_is_ended_in_order_of_number() -> None:
    held = leases(9, 2, 5)
    assert held.lapsed(31.0) == [2, 5, 9]
    held.end([5])
    assert held.lapsed(31.0) == [2, 9]
    assert len(held) == 2


def test_a_renewal_lasts_from_now_and_only_for_that_item() -> None:
    held = leases(1, 2)
    held.renew(1, 29.0)
    assert held.lapsed(31.0) == [2]
    assert held.lapsed(59.0) == [2]
    assert held.lapsed(59.1) == [1, 2]


def test_renewing_or_ending_what_is_not_held_does_nothing() -> None:
    held = leases(1)
    held.renew(7, 0.0)
    held.end([7])
    held.end([1])
    held.end([1])
    assert len(held) == 0
    assert held.lapsed(1e9) == []


def test_exactly_what_is_listed_is_renewed() -> None:
    held = leases(1, 2, 3)
    # 9 is listed without being held by the log: no lease comes into being.
    assert held.heartbeat([1, 2, 3], {1: None, 3: None, 9: None}, 20.0) == NOTHING
    assert held.lapsed(40.0) == [2]
    assert len(held) == 3


def test_another_sessions_heartbeat_is_none_of_ours() -> None:
    held = leases(1, 2)
    for _ in range(10):
        assert held.heartbeat([1], {1: None, 2: None}, 20.0) == NOTHING
    assert held.lapsed(40.0) == [2], "2 is listed by one who does not hold it"


def test_unlisted_twice_is_sent_again_once_then_given_up() -> None:
    held = leases(1)
    answers = [held.heartbeat([1], {}, 1.0) for _ in range(5)]
    assert answers == [
        NOTHING,
        Missing([1], []),
        NOTHING,
        Missing([], [1]),
        Missing([], [1]),
    ]
    assert (UNLISTED_RESEND, UNLISTED_RELEASE) == (2, 4)


def test_being_listed_once_begins_the_count_anew() -> None:
    held = leases(1)
    for _ in range(3):
        held.heartbeat([1], {}, 1.0)
    assert held.heartbeat([1], {1: None}, 1.0) == NOTHING
    assert held.heartbeat([1], {}, 1.0) == NOTHING
    assert held.heartbeat([1], {}, 1.0) == Missing([1], [])


def test_a_word_about_the_item_begins_the_count_anew() -> None:
    held = leases(1)
    held.heartbeat([1], {}, 1.0)
    held.renew(1, 2.0)
    assert held.heartbeat([1], {}, 3.0) == NOTHING


def test_a_new_claim_of_the_same_item_counts_for_itself() -> None:
    held = leases(1)
    for _ in range(3):
        held.heartbeat([1], {}, 1.0)
    held.end([1])
    held.begin({1: Lease(10.0)}, 50.0)
    assert held.heartbeat([1], {}, 51.0) == NOTHING
    assert held.lapsed(60.0) == []
    assert held.lapsed(60.1) == [1]


def test_an_unlisted_item_is_not_renewed() -> None:
    held = leases(1)
    held.heartbeat([1], {}, 29.0)
    assert held.lapsed(30.1) == [1]


def test_items_without_a_lease_yet_are_not_missed() -> None:
    held = leases()
    # Claimed in a batch that is not durable yet: its lease has not begun.
    assert held.heartbeat([1], {}, 1.0) == NOTHING
    assert len(held) == 0


def test_a_restart_gives_each_its_own_time_in_full() -> None:
    held = leases(1)
    held.begin({2: Lease(5.0)}, 0.0)
    held.restart(100.0)
    assert held.lapsed(105.0) == []
    assert held.lapsed(105.1) == [2]
    assert held.lapsed(130.1) == [1, 2]


def test_a_restart_does_not_forgive_what_was_never_listed() -> None:
    held = leases(1)
    for _ in range(3):
        held.heartbeat([1], {}, 1.0)
    held.restart(2.0)
    assert held.heartbeat([1], {}, 3.0) == Missing([], [1])


def test_a_lease_has_a_length() -> None:
    with pytest.raises(AssertionError, match="no length"):
        leases(1, lease_s=0.0)
