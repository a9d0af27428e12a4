"""Where ready work waits longer for slots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.turnover import LONGER, WINDOW_S, Turnover, waits_longer


def test_rates_are_those_of_the_last_window() -> None:
    turnover = Turnover(100.0)
    turnover.look({"build": 5}, 100.5)
    assert turnover.rates == {}, "too early to tell"
    turnover.look({"build": 30, "test": 1}, 102.0)
    assert turnover.rates == {"build": 15.0, "test": 0.5}
    turnover.look({"build": 31, "test": 1}, 102.5)
    assert turnover.rates == {"build": 15.0, "test": 0.5}
    turnover.look({"build": 32, "test": 1}, 102.0 + WINDOW_S)
    assert turnover.rates == {"build": 2.0 / WINDOW_S}


def test_what_was_counted_is_not_counted_again() -> None:
    taken = {"build": 10}
    turnover = Turnover(0.0)
    turnover.look(taken, 1.0)
    taken["build"] += 4
    turnover.look(taken, 2.0)
    assert turnover.rates == {"build": 4.0}


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
