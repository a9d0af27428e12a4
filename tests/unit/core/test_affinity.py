"""Placement by use: shards go where their agents are, as far as the load allows."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.affinity import GAIN_MIN, SEEN_MIN, Local, optimize


def equal(shards: int) -> dict[int, float]:
    return dict.fromkeys(range(shards), 1 / shards)


def by(**counts: int) -> dict[str, int]:
    return counts


def test_a_shard_goes_where_its_agents_are() -> None:
    owners = {0: "c1", 1: "c1", 2: "c1", 3: "c2"}
    assigned = {0: by(c1=90, c2=10), 1: by(c1=10, c2=90), 2: by(c1=50, c2=50), 3: by(c2=100)}
    plan = optimize(owners, assigned, equal(4), ["c1", "c2"], 0.2, 8)
    assert [(move.shard, move.source, move.to) for move in plan.moves] == [(1, "c1", "c2")]
    # 90 + 10 + 50 + 100 of 400, then 90 + 90 + 50 + 100.
    assert (plan.before, plan.after) == pytest.approx((0.625, 0.825))
    assert (plan.load_before, plan.load_after) == pytest.approx((1.5, 1.0))


def test_two_are_exchanged_where_one_would_be_too_much() -> None:
    owners = {0: "c1", 1: "c1", 2: "c2", 3: "c2"}
    assigned = {0: by(c2=100), 1: by(c1=100), 2: by(c1=60, c2=40), 3: by(c2=100)}
    plan = optimize(owners, assigned, equal(4), ["c1", "c2"], 0.2, 8)
    assert {(move.shard, move.to) for move in plan.moves} == {(0, "c2"), (2, "c1")}
    assert plan.after == pytest.approx(0.9)
    assert plan.load_after == pytest.approx(1.0)


def test_an_exchange_that_brings_little_is_none() -> None:
    owners = {0: "c1", 1: "c2"}
    # One gains 119, the other loses 100: a tenth of both would be 21.9.
    assigned = {0: by(c2=119), 1: by(c2=100)}
    assert optimize(owners, assigned, equal(2), ["c1", "c2"], 0.2, 8).moves == []
    assigned = {0: by(c2=130), 1: by(c2=100)}
    assert len(optimize(owners, assigned, equal(2), ["c1", "c2"], 0.2, 8).moves) == 2


def test_no_exchange_begins_that_the_number_of_moves_does_not_allow() -> None:
    owners = {0: "c1", 1: "c2"}
    assigned = {0: by(c2=100), 1: by(c1=100)}
    assert optimize(owners, assigned, equal(2), ["c1", "c2"], 0.2, 1).moves == []
    assert len(optimize(owners, assigned, equal(2), ["c1", "c2"], 0.2, 2).moves) == 2


def test_the_bound_holds_though_all_agents_are_at_one_place() -> None:
    owners = {shard: f"c{1 + shard % 2}" for shard in range(10)}
    assigned = {shard: by(c2=100) for shard in range(10)}
    plan = optimize(owners, assigned, equal(10), ["c1", "c2"], 0.2, 8)
    assert len(plan.moves) == 1, "6 of 10 are 1.2 of an even part"
    assert plan.load_after == pytest.approx(1.2)
    free = optimize(owners, assigned, equal(10), ["c1", "c2"], 1.0, 8)
    assert len(free.moves) == 5
    assert free.after == pytest.approx(1.0)


def test_little_use_and_little_gain_move_nothing() -> None:
    owners = {0: "c1", 1: "c2"}
    few = {0: by(c2=SEEN_MIN - 1)}
    assert optimize(owners, few, equal(2), ["c1", "c2"], 1.0, 8).moves == []
    enough = {0: by(c2=SEEN_MIN)}
    assert len(optimize(owners, enough, equal(2), ["c1", "c2"], 1.0, 8).moves) == 1
    even = {0: by(c1=48, c2=52)}
    assert optimize(owners, even, equal(2), ["c1", "c2"], 1.0, 8).moves == []


def test_nothing_is_known_of_what_nobody_uses() -> None:
    plan = optimize({0: "c1", 1: "c2"}, {}, equal(2), ["c1", "c2"], 0.2, 8)
    assert plan == Local([], 1.0, 1.0, 1.0, 1.0)


def test_use_from_those_that_are_gone_is_no_reason() -> None:
    owners = {0: "c1", 1: "c2"}
    plan = optimize(owners, {0: by(gone=100)}, equal(2), ["c1", "c2"], 1.0, 8)
    assert plan.moves == []
    assert plan.before == 0.0, "but it is not local either"


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=20),
    st.lists(st.tuples(*[st.integers(0, 100)] * 3), min_size=20, max_size=20),
    st.floats(0, 1),
    st.integers(1, 10),
)
def test_every_plan_helps_and_keeps_the_bound(
    places: list[int], counts: list[tuple[int, int, int]], slack: float, moves_max: int
) -> None:
    names = ["c1", "c2", "c3"]
    owners = {shard: names[place] for shard, place in enumerate(places)}
    assigned = {shard: dict(zip(names, counts[shard], strict=True)) for shard in range(len(places))}
    load = equal(len(places))
    plan = optimize(owners, assigned, load, names, slack, moves_max)
    assert len(plan.moves) <= moves_max
    assert plan.after >= plan.before - 1e-9
    assert plan.after > plan.before or not plan.moves
    assert max(Counter(move.shard for move in plan.moves).values(), default=0) <= 1
    after = owners | {move.shard: move.to for move in plan.moves}
    assert all(owners[move.shard] == move.source != move.to for move in plan.moves)
    has = dict.fromkeys(names, 0.0)
    for shard, owner in after.items():
        has[owner] += load[shard]
    assert max(has.values()) * 3 == pytest.approx(plan.load_after)
    assert plan.load_after <= max(1 + slack, plan.load_before) + 1e-6
    assert 0 < GAIN_MIN < 1
