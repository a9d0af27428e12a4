"""Plans of moves: even enough, as few as can be, nothing made worse."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.rebalance import PlannedMove, loads, plan

EQUAL = dict.fromkeys(range(16), 1 / 16)


def owned(*counts: int) -> dict[int, str]:
    """So many shards of c1, of c2, …"""
    names = [f"c{place}" for place, count in enumerate(counts, start=1) for _ in range(count)]
    return dict(enumerate(names))


def members(count: int) -> list[str]:
    return [f"c{place}" for place in range(1, count + 1)]


@pytest.mark.parametrize(
    ("counts", "moves", "before", "after"),
    [
        ((16, 0), 8, 2.0, 1.0),
        ((8, 8), 0, 1.0, 1.0),
        # One too many is nobody's loss: 16 / 3 = 5.33.
        ((6, 5, 5), 0, 1.125, 1.125),
        ((12, 2, 2), 6, 2.25, 1.125),
        ((16, 0, 0, 0), 12, 4.0, 1.0),
    ],
)
def test_equal_shards_are_moved_until_it_is_even_and_no_further(
    counts: tuple[int, ...], moves: int, before: float, after: float
) -> None:
    found = plan(owned(*counts), EQUAL, members(len(counts)), 0.1, 100)
    assert len(found.moves) == moves
    assert [found.before, found.after] == pytest.approx([before, after])


def test_a_plan_has_at_most_so_many_moves() -> None:
    found = plan(owned(16, 0), EQUAL, members(2), 0.1, 3)
    assert len(found.moves) == 3
    assert found.after == pytest.approx(2.0 * 13 / 16)


def test_what_is_below_the_threshold_stays() -> None:
    assert plan(owned(9, 7), EQUAL, members(2), 0.2, 8).moves == []
    assert len(plan(owned(9, 7), EQUAL, members(2), 0.1, 8).moves) == 1


def test_a_hot_shard_is_moved_once_and_not_back() -> None:
    load = {0: 0.7, 1: 0.1, 2: 0.1, 3: 0.1}
    found = plan(owned(4, 0), load, members(2), 0.1, 8)
    assert [move.shard for move in found.moves] == [0]
    assert found.after == pytest.approx(1.4)


def test_shards_of_those_that_leave_are_not_counted() -> None:
    owners = {0: "c1", 1: "c1", 2: "gone", 3: "c2"}
    found = plan(owners, dict.fromkeys(range(4), 0.25), ["c1", "c2"], 0.0, 8)
    assert all(move.source == "c1" for move in found.moves)


def test_what_rests_stays() -> None:
    found = plan(owned(4, 0), dict.fromkeys(range(4), 0.25), members(2), 0.0, 8, resting=[0, 1, 2])
    assert [move.shard for move in found.moves] == [3]


def test_who_stands_by_gets_a_shard_before_one_that_is_hardly_better() -> None:
    load = {0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25}
    found = plan(owned(4, 0), load, members(2), 0.0, 8, standing={(2, "c2"), (3, "c1")})
    assert [move.shard for move in found.moves] == [2, 0]
    # One that alone makes it even goes before a small one.
    load = {0: 0.5, 1: 0.4, 2: 0.1}
    found = plan(owned(3, 0), load, members(2), 0.0, 1, standing={(2, "c2")})
    assert [move.shard for move in found.moves] == [0]


def test_half_of_a_load_is_for_being_there() -> None:
    assert loads({0: 0, 1: 0}) == {0: 0.5, 1: 0.5}
    assert loads({0: 30, 1: 10}) == {0: 0.25 + 0.375, 1: 0.25 + 0.125}


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.lists(st.integers(0, 1000), min_size=40, max_size=40),
    st.integers(1, 6),
)
def test_every_plan_helps_and_ends(places: list[int], items: list[int], count: int) -> None:
    names = members(count)
    owners = {shard: names[place % count] for shard, place in enumerate(places)}
    load = loads(dict(zip(range(len(places)), items, strict=False)))
    found = plan(owners, load, names, 0.1, 1000)
    assert found.after <= found.before + 1e-9
    assert max(Counter(move.shard for move in found.moves).values(), default=0) <= 1
    for move in found.moves:
        assert isinstance(move, PlannedMove)
        assert owners[move.shard] == move.source != move.to
    if len(set(items[: len(places)])) == 1:
        most = max(Counter(dict.fromkeys(names, 0) | Counter(owners.values())).values())
        least_possible = max(0, most - math.ceil(len(places) / count))
        assert len(found.moves) >= least_possible or found.after <= 1.1 + 1e-9
