"""Counts of who uses a shard: of the last two windows, and in all."""

from __future__ import annotations

from msgspec import Raw

from swarm.core.credits import Slots
from swarm.core.usage import WINDOW_S, UsageCounter
from swarm.messages import Complete, Get, Heartbeat, ShardSubmit, Stats, Usage

NOW = 100.0


def counter() -> UsageCounter:
    return UsageCounter("c1", NOW)


def at(lender: str, session: str) -> Slots:
    return Slots("a", session, ("t",), lender=lender)


def test_requests_and_submitted_items_are_counted_by_the_way_they_came() -> None:
    one = counter()
    one.asked(ShardSubmit("id", [Raw(b"{}")] * 3, [0, 1, 2], 1), remote=False)
    one.asked(Complete("id", "0-1", "t"), remote=True)
    one.asked(Get("0-1"), remote=True)
    assert one.shown(NOW + 5) == Usage(operations=5, seconds=5.0, local=3, remote=2)


def test_what_is_nobodys_work_is_not_counted() -> None:
    one = counter()
    one.asked(Heartbeat("s", "c1", 0, 1, ["t"]), remote=False)
    one.asked(Stats(), remote=True)
    assert one.shown(NOW) == Usage()


def test_assignments_are_counted_by_the_coordinator_of_the_agent() -> None:
    one = counter()
    one.assigned([at("", "s1"), at("", "s1"), at("c2", "s2")])
    one.assigned([at("c2", "s3"), at("c2", "s3")])
    one.assigned([])
    one.claimed()
    shown = one.shown(NOW + 1)
    assert (shown.assigned, shown.sessions) == ({"c1": 2, "c2": 3}, {"c1": 1, "c2": 2})
    assert (shown.operations, shown.claimed) == (5, 1)


def test_what_is_older_than_two_windows_is_forgotten_but_for_the_total() -> None:
    one = counter()
    one.assigned([at("c2", "s2")])
    one.asked(Get("0-1"), remote=True)
    assert one.shown(NOW + WINDOW_S).assigned == {"c2": 1}
    one.assigned([at("", "s1")])
    shown = one.shown(NOW + 2 * WINDOW_S - 1)
    assert (shown.assigned, shown.seconds) == ({"c1": 1, "c2": 1}, 2 * WINDOW_S - 1)
    assert shown.sessions == {"c1": 1, "c2": 1}
    shown = one.shown(NOW + 2 * WINDOW_S)
    assert (shown.assigned, shown.sessions, shown.remote) == ({"c1": 1}, {"c1": 1}, 0)
    assert (shown.operations, shown.seconds) == (3, WINDOW_S)
    shown = one.shown(NOW + 3 * WINDOW_S)
    assert (shown.assigned, shown.sessions, shown.operations) == ({}, {}, 3)


def test_a_session_that_goes_on_is_one_session() -> None:
    one = counter()
    for window in range(5):
        one.assigned([at("c2", "s2")])
        assert one.shown(NOW + window * WINDOW_S).sessions == {"c2": 1}
