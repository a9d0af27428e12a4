"""Nearly full, and not nearly full again."""

from __future__ import annotations

from swarm.core.watermark import Watermark


def test_the_alarm_comes_at_the_mark_and_goes_below_it() -> None:
    mark = Watermark(0.85)
    seen = [(mark.seen(used, 1000), mark.nearly_full) for used in (0, 849, 850, 990, 1000)]
    assert seen == [(False, False), (False, False), (True, True), (False, True), (False, True)]
    # A little less is not enough: it would come and go.
    assert (mark.seen(849, 1000), mark.nearly_full) == (False, True)
    assert (mark.seen(800, 1000), mark.nearly_full) == (False, True)
    assert (mark.seen(799, 1000), mark.nearly_full) == (True, False)
    assert (mark.seen(849, 1000), mark.nearly_full) == (False, False)


def test_without_a_limit_nothing_is_full() -> None:
    mark = Watermark(0.85)
    assert not mark.seen(10**15, 0)
    assert (mark.nearly_full, mark.part) == (False, 0.0)
    assert mark.seen(9, 10)
    # The limit was taken away.
    assert mark.seen(9, 0)
    assert not mark.nearly_full


def test_more_than_all_is_full() -> None:
    mark = Watermark(0.85)
    assert mark.seen(12, 10)
    assert mark.part == 1.2
