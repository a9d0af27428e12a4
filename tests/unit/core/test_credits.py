"""Free slots of sessions: what is on its way, whose turn it is, what peers lend and wish."""

from __future__ import annotations

import pytest

from swarm.core.credits import SETTLE_S, CreditPool, Slots
from swarm.messages import Credit


class Pool(CreditPool):
    """A pool with sessions made in one line."""

    def session(
        self, agent: str, slots: int, *work_types: str, now: float = 0.0, number: int = 1
    ) -> Slots:
        made = self.attach(agent, "s1", work_types or ("t",), now)
        self.update(made, number, slots, 0, now)
        return made

    def takers(self, work_type: str, times: int, now: float = 0.0) -> list[str]:
        """Who gets the next so many items of this type."""
        taken = [self.take(work_type, now) for _ in range(times)]
        return [slots.agent for slots in taken if slots is not None]


# --- free slots --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "received", "stated", "expected"),
    [
        (0, 0, 5, 5),  # nothing under way
        (3, 3, 5, 5),  # all received: the statement holds
        (3, 1, 5, 3),  # two under way take two of the five
        (3, 0, 2, 0),  # more under way than stated: none, and never below
        (3, 0, 0, 0),
        (3, 3, 0, 0),
        (3, 3, -4, 0),
    ],
)
def test_free_is_what_is_stated_less_what_is_on_its_way(
    sent: int, received: int, stated: int, expected: int
) -> None:
    pool = Pool()
    slots = pool.session("a", 10)
    assert pool.takers("t", sent) == ["a"] * sent
    pool.update(slots, 2, stated, received, 0.1)
    assert slots.free == expected
    assert pool.wanted(["t"]) == (["t"] if expected else [])


def test_an_older_statement_arriving_late_changes_nothing_but_proves_life() -> None:
    pool = Pool()
    slots = pool.session("a", 4, number=7)
    pool.update(slots, 6, 0, 0, 3.0)
    assert slots.free == 4
    assert slots.heard_at == 3.0
    pool.update(slots, 7, 4, 0, 4.0)
    assert slots.free == 4


def test_the_same_statement_again_counts_anew() -> None:
    """An agent whose free slots did not change says the same number in each heartbeat."""
    pool = Pool()
    slots = pool.session("a", 1)
    pool.takers("t", 1, now=10.0)
    pool.update(slots, 1, 1, 0, 10.1 + SETTLE_S)
    assert slots.free == 1


def test_the_first_statement_here_sets_what_was_received_elsewhere() -> None:
    pool = Pool()
    slots = pool.attach("a", "s1", ["t"], 0.0)
    assert slots.free == 0, "nothing is known yet"
    pool.update(slots, 40, 3, 250, 0.0)
    assert (slots.free, slots.sent) == (3, 250)


def test_what_is_lost_comes_back_once_nothing_was_sent_for_a_while() -> None:
    pool = Pool()
    slots = pool.session("a", 2)
    pool.takers("t", 2, now=10.0)
    pool.update(slots, 2, 2, 0, 10.0 + SETTLE_S)
    assert slots.free == 0, "it may still arrive"
    pool.update(slots, 3, 2, 0, 10.1 + SETTLE_S)
    assert slots.free == 2
    pool.update(slots, 4, 2, 0, 10.2 + SETTLE_S)
    assert slots.free == 2


def test_a_resent_assignment_counts_as_received_not_as_free() -> None:
    pool = Pool()
    slots = pool.session("a", 3)
    pool.takers("t", 1)
    pool.update(slots, 2, 2, 2, 0.1)  # one assignment, arrived twice
    assert (slots.free, slots.sent) == (2, 2)
    pool.takers("t", 1)
    pool.update(slots, 3, 2, 2, 0.2)
    assert slots.free == 1


def test_attaching_again_keeps_what_is_known() -> None:
    pool = Pool()
    slots = pool.session("a", 3)
    pool.takers("t", 1)
    assert pool.attach("a", "s1", ["t"], 9.0) is slots
    assert (slots.free, slots.sent, slots.heard_at) == (2, 1, 9.0)
    assert pool.idle() == {"t": 2}


def test_a_detached_session_gets_nothing_more() -> None:
    pool = Pool()
    pool.session("a", 3, "t", "u")
    pool.session("b", 1, "t")
    pool.detach("a", "s1")
    pool.detach("a", "s1")
    assert pool.takers("t", 5) == ["b"]
    assert pool.idle() == {"t": 0}
    assert pool.waiting() == []
    pool.detach("b", "s1")
    assert pool.idle() == {}


def test_the_silent_are_those_not_heard_for_longer() -> None:
    pool = Pool()
    pool.session("a", 1, now=0.0)
    slots = pool.session("b", 1, now=0.0)
    pool.update(slots, 2, 1, 0, 1.0)
    assert pool.silent(15.0, 15.0) == []
    assert pool.silent(15.1, 15.0) == [("a", "s1")]
    assert pool.silent(16.1, 15.0) == [("a", "s1"), ("b", "s1")]


# --- whose turn --------------------------------------------------------------------------


def test_who_has_waited_longest_is_served_first_and_then_queues_again() -> None:
    pool = Pool()
    pool.session("a", 3)
    pool.session("b", 1)
    pool.session("c", 2)
    assert pool.takers("t", 9) == ["a", "b", "c", "a", "c", "a"]


def test_stating_again_while_waiting_keeps_the_place() -> None:
    pool = Pool()
    first = pool.session("a", 1)
    pool.session("b", 1)
    pool.update(first, 2, 5, 0, 1.0)
    assert pool.takers("t", 2) == ["a", "b"]


def test_who_was_busy_queues_behind_those_who_waited() -> None:
    pool = Pool()
    first = pool.session("a", 1)
    pool.session("b", 1)
    pool.session("c", 1)
    pool.takers("t", 1)
    pool.update(first, 2, 1, 1, 1.0)
    assert pool.takers("t", 3) == ["b", "c", "a"]


def test_a_slot_of_several_types_is_one_slot() -> None:
    pool = Pool()
    pool.session("a", 1, "t", "u", "t")
    assert pool.waiting() == ["t", "u"]
    assert pool.idle() == {"t": 1, "u": 1}
    assert pool.takers("u", 1) == ["a"]
    assert pool.waiting() == []
    assert pool.takers("t", 1) == []
    assert pool.idle() == {"t": 0, "u": 0}


def test_being_served_for_one_type_is_being_served() -> None:
    pool = Pool()
    pool.session("a", 2, "t", "u")
    pool.session("b", 2, "t", "u")
    assert pool.takers("t", 1) == ["a"]
    assert pool.takers("u", 1) == ["b"]
    assert pool.takers("u", 1) == ["a"]


def test_wanted_and_waiting_name_types_with_a_free_slot() -> None:
    pool = Pool()
    pool.session("a", 1, "t")
    pool.session("b", 0, "u")
    assert pool.wanted(["u", "t", "v"]) == ["t"]
    assert pool.wanted([]) == []
    assert pool.waiting() == ["t"]


def test_nothing_is_kept_of_types_that_nobody_serves_any_more() -> None:
    pool = Pool()
    for number in range(100):
        slots = pool.session("a", 2, f"type{number}")
        pool.wish(f"type{number}", "c2", 2, 1.0)
        assert pool.grant(f"type{number}", True, 0.0) is not None
        assert pool.grant(f"type{number}", True, 0.0) is None
        assert slots.free == 1
        pool.detach("a", "s1")
        credit = Credit("z", "s9", 1, [f"lent{number}"])
        pool.borrowed(credit, 1.0)
        pool.expire(2.0)
    kept = {name: held for name, held in vars(pool).items() if held and name != "_own_turns"}
    assert kept == {}


# --- lending -----------------------------------------------------------------------------


def test_lent_slots_are_taken_away_here_and_used_there() -> None:
    home, peer = Pool(), Pool()
    home.session("a", 3, "t", "u")
    home.session("b", 1, "t")
    moved = home.lend("t", 3, 0.0)
    assert moved == [Credit("a", "s1", 2, ["t", "u"]), Credit("b", "s1", 1, ["t"])]
    assert home.takers("t", 9) == ["a"]
    for credit in moved:
        peer.borrowed(credit, 2.0)
    assert peer.takers("t", 9) == ["a", "b", "a"]


def test_lending_more_than_is_free_lends_what_is_free() -> None:
    pool = Pool()
    pool.session("a", 2)
    assert pool.lend("t", 64, 0.0) == [Credit("a", "s1", 2, ["t"])]
    assert pool.lend("t", 64, 0.0) == []
    assert pool.lend("v", 64, 0.0) == []
    assert pool.lend("t", 0, 0.0) == []
    assert pool.lend("t", -3, 0.0) == []


def test_what_is_lent_counts_as_on_its_way_until_it_has_settled() -> None:
    pool = Pool()
    slots = pool.session("a", 2)
    pool.lend("t", 1, 10.0)
    pool.update(slots, 2, 2, 0, 11.0)
    assert slots.free == 1
    pool.update(slots, 3, 2, 0, 10.1 + SETTLE_S)
    assert slots.free == 2


def test_what_was_borrowed_goes_back_in_time() -> None:
    pool = Pool()
    pool.borrowed(Credit("a", "s1", 2, ["t"]), 2.0)
    pool.expire(2.0)
    assert pool.takers("t", 1) == ["a"]
    pool.expire(2.1)
    assert pool.takers("t", 1) == []
    assert pool.waiting() == []


def test_borrowing_more_of_a_session_adds_up_and_begins_its_time_anew() -> None:
    pool = Pool()
    pool.borrowed(Credit("a", "s1", 1, ["t"]), 2.0)
    pool.borrowed(Credit("a", "s1", 2, ["t"]), 4.0)
    pool.expire(3.0)
    assert pool.takers("t", 9) == ["a", "a", "a"]


def test_nothing_is_kept_of_borrowed_slots_that_are_used_up() -> None:
    pool = Pool()
    pool.borrowed(Credit("a", "s1", 2, ["t"]), 2.0, "home")
    assert pool.takers("t", 3) == ["a", "a"]
    assert pool._lent == {}
    # Nor of what somebody calls a loan.
    pool.borrowed(Credit("a", "s1", 0, ["t"]), 2.0, "home")
    pool.borrowed(Credit("a", "s1", -1, ["t"]), 2.0, "home")
    assert pool._lent == {}
    assert pool.unused({}) == {}


def test_borrowed_slots_are_nobodys_idle_ones_and_no_session() -> None:
    pool = Pool()
    pool.session("b", 1, "u")
    pool.borrowed(Credit("a", "s1", 1, ["t"]), 2.0)
    assert pool.idle() == {"u": 1}
    assert list(pool.sessions) == [("b", "s1")]
    assert pool.waiting() == ["u", "t"]


def test_borrowed_and_own_slots_of_one_session_are_apart() -> None:
    pool = Pool()
    slots = pool.session("a", 1)
    pool.borrowed(Credit("a", "s1", 1, ["t"]), 2.0)
    assert pool.takers("t", 3) == ["a", "a"]
    pool.borrowed(Credit("a", "s1", 1, ["t"]), 2.0)
    pool.update(slots, 2, 0, 1, 0.0)
    assert pool.takers("t", 3) == ["a"]


def test_what_was_borrowed_is_not_lent_on() -> None:
    """Else a slot could travel for ever, while its home believes that it is lost."""
    pool = Pool()
    pool.borrowed(Credit("x", "s9", 5, ["t"]), 2.0)
    assert pool.lend("t", 5, 1.9) == []
    pool.session("a", 1)
    assert pool.lend("t", 5, 1.9) == [Credit("a", "s1", 1, ["t"])]
    pool.wish("t", "c2", 5, 9.0)
    assert pool.grant("t", False, 1.9) is None
    assert pool.takers("t", 9) == ["x"] * 5


# --- wishes ------------------------------------------------------------------------------


def grants(pool: CreditPool, ready_here: bool, now: float = 0.0) -> list[str]:
    """Who is granted a slot, as often as there is a grant."""
    found = []
    while granted := pool.grant("t", ready_here, now):
        coordinator, moved = granted
        assert [credit.slots for credit in moved] == [1]
        found.append(coordinator)
    return found


def test_a_wish_for_what_nobody_here_can_do_is_no_wish() -> None:
    pool = Pool()
    pool.wish("t", "c2", 1, 9.0)
    assert pool.wished() == []
    pool.session("a", 0)
    pool.wish("t", "c2", 0, 9.0)
    assert pool.wished() == []
    pool.wish("t", "c2", 1, 9.0)
    assert pool.wished() == ["t"]


def test_peers_are_granted_in_turn() -> None:
    pool = Pool()
    slots = pool.session("a", 0)
    pool.wish("t", "c2", 3, 9.0)
    pool.wish("t", "c3", 1, 9.0)
    assert grants(pool, ready_here=False) == []
    pool.update(slots, 2, 5, 0, 0.0)
    assert grants(pool, ready_here=False) == ["c2", "c3", "c2", "c2"]
    assert pool.wished() == []
    assert slots.free == 1


def test_asking_again_replaces_the_wish() -> None:
    pool = Pool()
    slots = pool.session("a", 0)
    pool.wish("t", "c2", 9, 9.0)
    pool.wish("t", "c2", 2, 9.0)
    pool.update(slots, 2, 5, 0, 0.0)
    assert grants(pool, ready_here=False) == ["c2", "c2"]


def test_a_peer_that_got_all_it_asked_for_wishes_nothing() -> None:
    pool = Pool()
    pool.session("a", 0)
    pool.wish("t", "c2", 9, 9.0)
    pool.wish("t", "c2", 0, 9.0)
    assert pool.wished() == []


@pytest.mark.parametrize("burst", [1, 2, 10])
def test_slots_coming_free_go_to_peers_and_to_our_own_work_in_turn(burst: int) -> None:
    """However many come free before our own shards get to take theirs."""
    pool = Pool()
    slots = pool.session("a", 0)
    pool.wish("t", "c2", 100, 9.0)
    given, own, number = 0, 0, 2
    for _ in range(20 // burst):
        for _ in range(burst):
            stated = slots.free + 1 + (slots.sent - given - own)
            pool.update(slots, number, stated, given + own, 0.0)
            number += 1
            given += len(grants(pool, ready_here=True))
        own += len(pool.takers("t", 99))
    assert (given, own) == (10, 10)


@pytest.mark.parametrize(("own_turns", "given"), [(1, 20), (3, 10), (7, 5)])
def test_our_own_work_goes_before_that_of_peers_as_often_as_is_said(
    own_turns: int, given: int
) -> None:
    pool = Pool(own_turns)
    slots = pool.session("a", 0)
    pool.wish("t", "c2", 100, 9.0)
    taken = 0
    for number in range(40):
        pool.update(slots, number + 2, 1, slots.sent, 0.0)
        taken += len(grants(pool, ready_here=True))
        pool.takers("t", 99)
    assert taken == given


def test_slots_stated_at_once_are_shared_like_those_that_come_one_by_one() -> None:
    pool = Pool()
    slots = pool.session("a", 0)
    pool.wish("t", "c2", 100, 9.0)
    pool.update(slots, 2, 10, 0, 0.0)
    assert len(grants(pool, ready_here=True)) == 5
    assert len(grants(pool, ready_here=True)) == 0, "the others are ours"
    assert len(pool.takers("t", 99)) == 5


def test_what_was_kept_for_our_own_work_is_granted_once_there_is_none() -> None:
    pool = Pool()
    slots = pool.session("a", 0)
    pool.wish("t", "c2", 100, 9.0)
    pool.update(slots, 2, 4, 0, 0.0)
    assert len(grants(pool, ready_here=True)) == 2
    assert len(grants(pool, ready_here=False)) == 2


def test_without_work_here_peers_get_everything() -> None:
    pool = Pool()
    slots = pool.session("a", 0)
    pool.wish("t", "c2", 100, 9.0)
    pool.update(slots, 2, 4, 0, 0.0)
    assert grants(pool, ready_here=False) == ["c2"] * 4


def test_a_wish_ends_in_time_whatever_stands_before_it() -> None:
    pool = Pool()
    slots = pool.session("a", 0)
    pool.wish("t", "c2", 1, 5.0)
    pool.wish("t", "c3", 1, 3.0)
    pool.expire(4.0)
    pool.update(slots, 2, 5, 0, 4.0)
    assert grants(pool, ready_here=False, now=4.0) == ["c2"]


def test_an_ended_wish_does_not_stand_in_the_way_of_others() -> None:
    pool = Pool()
    slots = pool.session("a", 0)
    pool.wish("t", "c2", 1, 3.0)
    pool.wish("t", "c3", 1, 9.0)
    pool.update(slots, 2, 5, 0, 4.0)
    assert grants(pool, ready_here=False, now=4.0) == ["c3"]


def test_a_wish_for_one_type_is_granted_from_a_session_of_several() -> None:
    pool = Pool()
    slots = pool.session("a", 0, "t", "u")
    pool.wish("t", "c2", 1, 9.0)
    pool.update(slots, 2, 1, 0, 0.0)
    assert pool.grant("u", False, 0.0) is None
    assert pool.grant("t", False, 0.0) == ("c2", [Credit("a", "s1", 1, ["t", "u"])])
    assert pool.waiting() == []


def test_sessions_of_an_agent_are_found_without_looking_at_all() -> None:
    pool = Pool()
    for number in range(5):
        pool.session(f"a{number}", 1)
    pool.attach("a3", "s2", ["t"], 0.0)
    assert pool.of_agent("a3") == ["s1", "s2"]
    pool.detach("a3", "s1")
    assert pool.of_agent("a3") == ["s2"]
    pool.detach("a3", "s2")
    assert pool.of_agent("a3") == []
    assert pool.of_agent("nobody") == []
