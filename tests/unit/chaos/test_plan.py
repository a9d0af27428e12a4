"""Plans are decided by their seed, and keep the rules that they are drawn by."""

from __future__ import annotations

import itertools
from collections import Counter
from random import Random

import pytest

from swarm.testing.chaos.plan import (
    CATCH_UP_S,
    DECK,
    ESSENTIAL,
    LINK_KINDS,
    Cast,
    Fault,
    draw,
    draw_short,
    label,
)

CAST = Cast(
    servers=["s1", "s2", "s3"],
    coordinators=["c1", "c2", "c3"],
    routers=["r1", "r2"],
    agents=["a1", "a2", "a3"],
    clients=["k1", "k2"],
    shards=6,
)
SEEDS = range(1, 30)
HALF_HOUR_S = 1800.0


def long_plan(seed: int, *, links: bool = True) -> list[Fault]:
    return draw(Random(seed), CAST, HALF_HOUR_S, links=links)


def short_plan(seed: int, *, links: bool = True) -> list[Fault]:
    return draw_short(Random(seed), CAST, links=links)


def test_a_seed_decides_a_plan() -> None:
    assert long_plan(7) == long_plan(7) != long_plan(8)
    assert short_plan(7) == short_plan(7) != short_plan(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_half_hour_has_every_kind_of_fault(seed: int) -> None:
    plan = long_plan(seed)
    assert {fault.label for fault in plan} == {
        label(card.kind, card.role, card.pick) for card in DECK
    }
    assert plan == sorted(plan, key=lambda fault: fault.at_s)
    assert max(fault.end_s for fault in plan) <= HALF_HOUR_S
    assert len(plan) > 120


@pytest.mark.parametrize("seed", SEEDS)
def test_one_fault_at_a_time_for_each_role(seed: int) -> None:
    for plan in (long_plan(seed), short_plan(seed)):
        for role in {fault.role for fault in plan}:
            of_role = [fault for fault in plan if fault.role == role]
            for one, following in itertools.pairwise(of_role):
                assert following.at_s > one.end_s


@pytest.mark.parametrize("seed", SEEDS)
def test_servers_catch_up_before_the_next_is_hit(seed: int) -> None:
    servers = [fault for fault in long_plan(seed) if fault.role == "server"]
    for one, following in itertools.pairwise(servers):
        # Both are rounded to milliseconds.
        assert following.at_s >= one.end_s + CATCH_UP_S - 0.002


@pytest.mark.parametrize("seed", SEEDS)
def test_a_majority_is_hit_only_on_purpose_and_not_for_long(seed: int) -> None:
    for fault in long_plan(seed):
        assert len(set(fault.names)) == (2 if fault.pick == "two" else 1)
        if fault.role == "server" and fault.pick == "two" and fault.kind != "split":
            assert fault.for_s <= 5.0


@pytest.mark.parametrize("seed", SEEDS)
def test_everybody_is_hit_in_the_end(seed: int) -> None:
    hit = Counter(name for fault in long_plan(seed) for name in fault.names)
    everybody = [*CAST.servers, *CAST.coordinators, *CAST.routers, *CAST.agents, *CAST.clients]
    assert set(hit) == set(everybody)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_every_run_must_show_comes_first(seed: int) -> None:
    essential = {label(card.kind, card.role, card.pick) for card in ESSENTIAL}
    early = draw(Random(seed), CAST, 150.0, links=True)
    assert essential <= {fault.label for fault in early}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_short_form_shows_it_in_half_a_minute(seed: int) -> None:
    plan = short_plan(seed)
    assert sorted(fault.label for fault in plan) == sorted(
        label(card.kind, card.role, card.pick) for card in ESSENTIAL
    )
    assert max(fault.end_s for fault in plan) < 40.0
    # An owner that is paused is away for longer than a takeover takes, and comes back.
    (paused,) = [fault for fault in plan if fault.label == "stop shard owner"]
    assert paused.for_s >= 4.0


@pytest.mark.parametrize("seed", SEEDS)
def test_without_links_none_is_cut(seed: int) -> None:
    for plan in (long_plan(seed, links=False), short_plan(seed, links=False)):
        assert plan
        assert not [fault for fault in plan if fault.kind in LINK_KINDS]


def test_names_of_kinds() -> None:
    assert label("kill", "server", "chief") == "kill stream leader"
    assert label("stop", "coordinator", "chief") == "stop shard owner"
    assert label("cut", "server", "two") == "cut two servers"
    assert label("split", "server", "two") == "split two servers"
    assert label("restart", "agent", "any") == "restart agent"
