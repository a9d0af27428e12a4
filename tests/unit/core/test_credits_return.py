"""Slots that were lent and not needed go home at once."""

from __future__ import annotations

from swarm.core.credits import CreditPool, Slots
from swarm.messages import Credit


def home_with_slots(count: int) -> tuple[CreditPool, Slots]:
    home = CreditPool()
    slots = home.attach("a", "s1", ["t", "u"], 0.0)
    home.update(slots, 1, count, 0, 0.0)
    return home, slots


def test_a_slot_lent_in_vain_serves_at_home_again() -> None:
    home, slots = home_with_slots(1)
    peer = CreditPool()
    (lent,) = home.lend("t", 1, 0.0)
    assert home.wanted(["t"]) == []
    peer.borrowed(lent, 2.0, "home")
    # The item that it was lent for has been done meanwhile.
    (returned,) = peer.unused({})["home"]
    assert peer.take("t", 0.1) is None
    home.returned(returned)
    assert home.wanted(["t", "u"]) == ["t", "u"]
    assert home.idle() == {"t": 1, "u": 1}
    assert home.take("u", 0.1) is slots


def test_slots_stay_while_any_of_their_types_is_ready() -> None:
    peer = CreditPool()
    peer.borrowed(Credit("a", "s1", 2, ["t", "u"]), 2.0, "home")
    assert peer.unused({"t": 0, "u": 3}) == {}
    assert peer.unused({"v": 1}) == {"home": [Credit("a", "s1", 2, ["t", "u"])]}
    assert peer.unused({}) == {}


def test_only_what_was_not_used_goes_back_to_each_lender() -> None:
    peer = CreditPool()
    peer.borrowed(Credit("a", "s1", 2, ["t"]), 2.0, "one")
    peer.borrowed(Credit("b", "s2", 1, ["t"]), 2.0, "two")
    used = peer.take("t", 0.0)
    assert used is not None
    assert used.agent == "a"
    assert peer.unused({}) == {
        "one": [Credit("a", "s1", 1, ["t"])],
        "two": [Credit("b", "s2", 1, ["t"])],
    }


def test_own_slots_are_nobody_elses() -> None:
    home, _ = home_with_slots(3)
    assert home.unused({}) == {}


def test_a_return_after_the_agent_has_spoken_adds_nothing() -> None:
    """The agent's own statement counts: a slot must not be counted twice."""
    home, slots = home_with_slots(2)
    (lent,) = home.lend("t", 2, 0.0)
    # Long after: what was on its way counts as lost.
    home.update(slots, 2, 2, 0, 60.0)
    assert slots.free == 2
    home.returned(lent)
    assert slots.free == 2


def test_a_return_before_the_agent_speaks_is_counted_once() -> None:
    home, slots = home_with_slots(2)
    (lent,) = home.lend("t", 2, 0.0)
    home.returned(Credit("a", "s1", 1, lent.work_types))
    assert slots.free == 1
    # The other one was used by the peer and has arrived.
    home.update(slots, 2, 1, 1, 0.1)
    assert slots.free == 1


def test_slots_of_a_session_that_has_left_are_dropped() -> None:
    home, _ = home_with_slots(1)
    (lent,) = home.lend("t", 1, 0.0)
    home.detach("a", "s1")
    home.returned(lent)
    assert home.waiting() == []
