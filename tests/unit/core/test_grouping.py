"""When a shard divides what waits for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.core.grouping import ALL, ITEMS_MIN, WAIT_MAX_S, Grouping

WAITS = st.floats(min_value=-1e9, max_value=1e9)


def after(agents_s: float, log_s: float, rounds: int = 200) -> Grouping:
    """One that waited so long in each round."""
    grouping = Grouping()
    for _ in range(rounds):
        grouping.idle_s = agents_s
        grouping.logged(log_s)
    return grouping


def test_a_pile_is_halved_if_agents_are_waited_for_longer_than_the_log() -> None:
    grouping = after(0.001, 0.0002)
    grouping.idle_s = 0.001
    assert grouping.part(200, 200) == 100


def test_it_is_not_if_the_log_takes_longer() -> None:
    grouping = after(0.001, 0.0012)
    grouping.idle_s = 0.001
    assert grouping.part(200, 200) == 0


def test_it_is_not_if_others_are_still_at_work() -> None:
    grouping = after(0.001, 0.0002)
    grouping.idle_s = 0.001
    assert grouping.part(149, 200) == 0
    assert grouping.part(150, 200) == 75


def test_it_is_not_if_it_came_during_the_round_before() -> None:
    grouping = after(0.001, 0.0002)
    assert grouping.idle_s == 0
    assert grouping.part(200, 200) == 0


def test_it_is_not_if_it_is_small() -> None:
    grouping = after(0.001, 0.0002)
    grouping.idle_s = 0.001
    assert grouping.part(ITEMS_MIN - 1, ITEMS_MIN - 1) == 0
    assert grouping.part(ITEMS_MIN, ITEMS_MIN) == ITEMS_MIN // 2


def test_an_hour_without_work_counts_as_one_odd_round() -> None:
    grouping = after(0.0001, 0.0005)
    grouping.idle_s = 3600.0
    grouping.logged(0.0005)
    assert grouping.agents_s < 0.0005


@given(st.lists(st.tuples(WAITS, WAITS)), st.integers(0, 10**6), st.integers(0, 10**6))
def test_whatever_clocks_say_a_part_is_some_of_it(
    waits: list[tuple[float, float]], waiting: int, held: int
) -> None:
    grouping = Grouping()
    for idle_s, log_s in waits:
        grouping.idle_s = idle_s
        grouping.logged(log_s)
    assert 0 <= grouping.agents_s <= WAIT_MAX_S
    assert 0 <= grouping.log_s <= WAIT_MAX_S
    grouping.idle_s = 0.001
    part = grouping.part(waiting, held)
    assert part == 0 or (0 < part < waiting and waiting >= ALL * held)
