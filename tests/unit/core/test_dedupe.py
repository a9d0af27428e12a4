"""The dedupe window: what it remembers, what it forgets, and what it knows of that."""

from __future__ import annotations

import pytest

from swarm.core.dedupe import DedupeWindow


def test_it_remembers_within_the_window_to_the_second() -> None:
    window: DedupeWindow[str] = DedupeWindow(60.0, 10)
    window.put("a", 1, "answer", 100.0)
    window.forget(160.0)
    assert window.get("a") == "answer"
    assert window.horizon == -1
    window.forget(160.001)
    assert window.get("a") is None
    assert window.horizon == 1
    assert len(window) == 0


def test_it_remembers_so_many_and_drops_the_oldest() -> None:
    window: DedupeWindow[int] = DedupeWindow(1e9, 3)
    for number in range(5):
        window.put(f"id{number}", 10 * number, number, float(number))
    assert [window.get(f"id{number}") for number in range(5)] == [None, None, 2, 3, 4]
    assert len(window) == 3
    assert window.horizon == 10


def test_the_horizon_is_the_largest_order_forgotten_not_the_last() -> None:
    window: DedupeWindow[int] = DedupeWindow(1e9, 1)
    for order in (50, 7, 8):
        window.put(f"id{order}", order, order, 0.0)
    # 50 and 7 are forgotten: a sender's clock was ahead.
    assert window.horizon == 50
    assert window.get("id8") == 8


def test_the_horizon_never_goes_back() -> None:
    window: DedupeWindow[int] = DedupeWindow(1e9, 1)
    seen = []
    for number, order in enumerate((5, 3, 9, 1, 4)):
        window.put(str(number), order, number, 0.0)
        seen.append(window.horizon)
    assert seen == sorted(seen) == [-1, 5, 5, 9, 9]


def test_asking_forgets_nothing_so_that_every_fold_is_the_same() -> None:
    window: DedupeWindow[int] = DedupeWindow(1.0, 10)
    window.put("a", 1, 1, 0.0)
    assert window.get("a") == 1
    window.put("b", 2, 2, 1000.0)
    assert window.get("a") is None


def test_nothing_is_remembered_twice() -> None:
    window: DedupeWindow[int] = DedupeWindow(1.0, 10)
    window.put("a", 1, 1, 0.0)
    with pytest.raises(AssertionError, match="twice"):
        window.put("a", 1, 1, 0.0)
    window.put("a2", 1, 1, 5.0)
    window.put("a", 1, 2, 5.0)
    assert window.get("a") == 2


@pytest.mark.parametrize(("window_s", "count"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_an_empty_window_is_no_window(window_s: float, count: int) -> None:
    with pytest.raises(AssertionError, match="retry"):
        DedupeWindow(window_s, count)


def test_it_is_bounded() -> None:
    window: DedupeWindow[int] = DedupeWindow(1e9, 100)
    for number in range(1000):
        window.put(str(number), number, number, 0.0)
    assert len(window) == len(window._queue) == 100
