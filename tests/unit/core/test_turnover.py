"""Where ready work waits longer for slots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.turnover import LONGER, STARVES_S, UNKNOWN, WINDOW_S, Turnover, waits_longer


def test_rates_are_those_of_the_last_window() -> None:
    turnover = Turnover(100.0)
    both = ["build", "test"]

    def rates() -> tuple[float, float]:
        return turnover.rate("build", 100.9), turnover.rate("test", 100.9)

    turnover.look({"build": 5}, both, 100.0 + WINDOW_S / 2)
    assert rates() == (UNKNOWN, UNKNOWN), "too early to tell"
    turnover.look({"build": 60, "test": 2}, both, 100.0 + 2 * WINDOW_S)
    assert rates() == (30.0 / WINDOW_S, 1.0 / WINDOW_S)
    turnover.look({"build": 61, "test": 2}, both, 100.0 + 2.5 * WINDOW_S)
    assert rates() == (30.0 / WINDOW_S, 1.0 / WINDOW_S)
    turnover.look({"build": 62, "test": 2}, both, 100.0 + 3 * WINDOW_S)
    assert rates() == (2.0 / WINDOW_S, UNKNOWN)


def test_what_was_counted_is_not_counted_again() -> None:
    taken = {"build": 10}
    turnover = Turnover(0.0)
    turnover.look(taken, ["build"], WINDOW_S)
    taken["build"] += 4
    turnover.look(taken, ["build"], 2 * WINDOW_S)
    assert turnover.rate("build", 2 * WINDOW_S) == 4.0 / WINDOW_S


def test_work_starves_when_none_of_it_has_found_a_slot_for_long() -> None:
    turnover = Turnover(0.0)
    turnover.look({}, ["build"], 10.0)
    assert turnover.rate("build", 10.0 + STARVES_S / 2) == UNKNOWN
    turnover.look({}, ["build"], 10.0 + STARVES_S / 2)
    assert turnover.rate("build", 10.0 + STARVES_S) == 0.0
    # One did: it begins anew.
    turnover.look({"build": 1}, ["build"], 10.0 + STARVES_S)
    assert turnover.rate("build", 10.0 + STARVES_S) != 0.0
    turnover.look({"build": 1}, ["build"], 10.1 + STARVES_S)
    turnover.look({"build": 1}, ["build"], 10.0 + 2 * STARVES_S)
    assert turnover.rate("build", 10.0 + 2 * STARVES_S) != 0.0
    assert turnover.rate("build", 10.1 + 2 * STARVES_S) == 0.0
    # There was none to do, and there is some again.
    turnover.look({"build": 1}, [], 20.0)
    turnover.look({"build": 1}, ["build"], 30.0)
    assert turnover.rate("build", 30.0) == UNKNOWN


@pytest.mark.parametrize(
    ("theirs", "ours", "longer"),
    [
        ((10, 1.0), (10, 1.0), False),
        ((19, 1.0), (10, 1.0), False),
        ((21, 1.0), (10, 1.0), True),
        ((10, 1.0), (10, 2.1), True),
        ((10, 2.1), (10, 1.0), False),
        # None of theirs found a slot: nothing starves, whatever waits here.
        ((1, 0.0), (1000, 1.0), True),
        ((1, 0.0), (1000, 0.0), True),
        # None of ours did: theirs go on by themselves.
        ((1000, 1.0), (1, 0.0), False),
        # Who has just begun cannot tell; but nothing starves.
        ((1000, UNKNOWN), (1, 1.0), False),
        ((1000, 1.0), (1, UNKNOWN), False),
        ((1, 0.0), (1000, UNKNOWN), True),
    ],
)
def test_where_work_waits_longer(
    theirs: tuple[int, float], ours: tuple[int, float], longer: bool
) -> None:
    assert waits_longer(*theirs, *ours) is longer


@given(st.integers(1, 10**6), st.floats(0.01, 1e5), st.integers(1, 10**6), st.floats(0.01, 1e5))
def test_of_two_at_most_one_gives(ready: int, rate: float, others: int, speed: float) -> None:
    assert LONGER > 1
    assert not (
        waits_longer(ready, rate, others, speed) and waits_longer(others, speed, ready, rate)
    )
