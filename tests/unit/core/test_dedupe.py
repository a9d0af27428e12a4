"""The dedupe window: what it remembers, what it forgets, and what it knows of that."""

from __future__ import annotations

import pytest

from swarm.core.dedupe import DedupeWindow


def window(window_s: float = 1e9, count: int = 10) -> DedupeWindow[int]:
    """A window whose ids are their own order."""
    return DedupeWindow(window_s, count, int)


def test_it_remembers_within_the_window_to_the_second() -> None:
    known = window(60.0)
    known.put("1", 7, 100.0)
    known.forget(160.0)
    assert known.get("1") == 7
    assert known.horizon == -1
    known.forget(160.001)
    assert known.get("1") is None
    assert known.horizon == 1
    assert len(known) == 0


def test_it_remembers_so_many_and_drops_the_oldest() -> None:
    known = window(count=3)
    for number in range(5):
        known.put(str(number), number, float(number), number)
    assert [known.get(str(number)) for number in range(5)] == [None, None, 2, 3, 4]
    assert len(known) == 3
    assert known.horizon == 1


def test_the_horizon_is_the_largest_order_forgotten_not_the_last() -> None:
    known = window(count=1)
    for seq, order in enumerate((50, 7, 8), start=1):
        known.put(str(order), order, 0.0, seq)
    # 50 and 7 are forgotten: a sender's clock was ahead.
    assert known.horizon == 50
    assert known.get("8") == 8


def test_the_horizon_never_goes_back() -> None:
    known = window(count=1)
    seen = []
    for seq, order in enumerate((5, 3, 9, 1, 4), start=1):
        known.put(str(order), order, 0.0, seq)
        seen.append(known.horizon)
    assert seen == sorted(seen) == [-1, 5, 5, 9, 9]


def test_asking_forgets_nothing_so_that_every_fold_is_the_same() -> None:
    known = window(1.0)
    known.put("1", 1, 0.0)
    assert known.get("1") == 1
    known.put("2", 2, 1000.0, 1)
    assert known.get("1") is None


def test_what_was_remembered_together_is_forgotten_together_and_the_latest_never_at_once() -> None:
    known = window(count=2)
    for order in (1, 2, 3):
        known.put(str(order), order, 5.0, 9)
    assert len(known) == 3, "three in one entry, and none in another"
    known.put("4", 4, 5.0, 10)
    assert [known.get(str(order)) for order in (1, 2, 3, 4)] == [None, None, None, 4]
    assert known.horizon == 3


def test_what_is_remembered_anew_counts_from_then() -> None:
    # A reader may know still what the writer of the log had forgotten.
    known = window(10.0)
    known.put("1", 1, 0.0, 1)
    known.put("1", 2, 9.0, 2)
    assert (known.get("1"), len(known)) == (2, 1)
    known.forget(11.0)
    assert known.get("1") == 2
    known.forget(19.1)
    assert (known.get("1"), known.horizon) == (None, 1)


@pytest.mark.parametrize(("window_s", "count"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_an_empty_window_is_no_window(window_s: float, count: int) -> None:
    with pytest.raises(AssertionError, match="retry"):
        window(window_s, count)


def test_it_is_bounded() -> None:
    known = window(count=100)
    for number in range(1000):
        known.put(str(number), number, 0.0, number)
        assert known.oldest_seq() == max(0, number - 99)
    assert len(known) == len(known._groups) == len(known._ages) == 100
