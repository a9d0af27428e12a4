"""Who is to own which shard, what happens when one dies, and who stands by."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest

from swarm.core.placement import FRESH_S, Placement, first_choices, orders, stands_by
from swarm.core.sharding import stable_hash
from swarm.messages import Beat
from tests.builders import beat


def named(count: int) -> list[str]:
    return [f"coordinator-{number}" for number in range(1, count + 1)]


# --- preference --------------------------------------------------------------------------


def test_the_order_names_everybody_once_and_is_the_same_for_all() -> None:
    names = named(5)
    for order in orders(64, names):
        assert sorted(order) == names
    assert orders(64, names[::-1]) == orders(64, names)


@pytest.mark.parametrize(("shards", "count"), [(16, 2), (16, 3), (64, 7), (64, 8), (5, 8), (1, 1)])
def test_first_choices_are_even_to_one_shard(shards: int, count: int) -> None:
    firsts = Counter(first_choices(shards, named(count)))
    loads = [firsts.get(name, 0) for name in named(count)]
    assert max(loads) - min(loads) <= 1


def rendezvous(shards: int, names: list[str]) -> list[str]:
    """Without a bound: the fewest moves, and uneven."""
    return [
        min((stable_hash(f"{name} {shard}"), name) for name in names)[1] for shard in range(shards)
    ]


def blocks(shards: int, names: list[str]) -> list[str]:
    """Each a contiguous part: even, and nearly all borders move."""
    return [names[shard * len(names) // shards] for shard in range(shards)]


#: Shards, coordinators before and after: for bounded rendezvous, plain rendezvous and blocks,
#: the shards that move, and the most and the fewest that a coordinator has afterwards.
COMPARED = {
    (16, 2, 3): ((5, 6, 5), (5, 6, 5), (7, 6, 5)),
    (64, 7, 8): ((13, 8, 8), (9, 11, 3), (35, 8, 8)),
    (64, 8, 7): ((13, 10, 9), (9, 13, 3), (35, 10, 9)),
    (64, 10, 11): ((10, 6, 5), (5, 10, 2), (31, 6, 5)),
    (256, 10, 11): ((32, 24, 23), (26, 31, 16), (127, 24, 23)),
}


@pytest.mark.parametrize(("shards", "before", "after"), COMPARED)
def test_few_move_and_it_stays_even(shards: int, before: int, after: int) -> None:
    found = []
    for place in (first_choices, rendezvous, blocks):
        one, two = place(shards, named(before)), place(shards, named(after))
        counts = Counter(dict.fromkeys(named(after), 0) | Counter(two))
        moves = sum(a != b for a, b in zip(one, two, strict=True))
        found.append((moves, max(counts.values()), min(counts.values())))
    assert tuple(found) == COMPARED[shards, before, after]


@pytest.mark.parametrize(("shards", "count"), [(16, 3), (64, 7), (64, 8), (256, 10)])
def test_when_one_dies_only_its_shards_move_and_they_spread(shards: int, count: int) -> None:
    names = named(count)
    ordered = orders(shards, names)
    for dead in names:
        moved = [shard for shard in range(shards) if ordered[shard][0] == dead]
        heirs = Counter(ordered[shard][1] for shard in moved)
        # Even would be `share` each; random heirs stay within five deviations of it.
        share = len(moved) / (count - 1)
        assert max(heirs.values()) <= share + 5 * math.sqrt(share) + 1
        assert len(heirs) > 1, "not all to one"


def test_a_swarm_has_a_coordinator() -> None:
    with pytest.raises(AssertionError, match="at least one"):
        orders(1, [])


# --- what to open ------------------------------------------------------------------------

NAMES = named(3)
SHARDS = 16
PLACEMENT = Placement(SHARDS, NAMES)


def lives(owns: dict[str, list[int]], draining: tuple[str, ...] = ()) -> dict[str, Beat]:
    """Beats of these coordinators, owning these shards."""
    return {
        name: beat(name, owns=shards, draining=name in draining) for name, shards in owns.items()
    }


def opens(
    me: str, live: dict[str, Beat], owned: tuple[int, ...] = (), settled: bool = True
) -> list[int]:
    return PLACEMENT.to_open(me, set(owned), live, settled)


def preference(shard: int, names: list[str]) -> list[str]:
    return orders(SHARDS, names)[shard]


def firsts(me: str) -> list[int]:
    return [shard for shard, first in enumerate(first_choices(SHARDS, NAMES)) if first == me]


def test_before_it_has_settled_it_opens_its_first_choices_only() -> None:
    assert opens(NAMES[0], {}, settled=False) == firsts(NAMES[0])
    assert opens(NAMES[0], {}, settled=True) == list(range(SHARDS))


def test_all_alive_each_opens_its_own() -> None:
    live = lives({name: [] for name in NAMES})
    opened = [opens(name, live) for name in NAMES]
    assert sorted(itertools.chain(*opened)) == list(range(SHARDS))
    assert opened == [firsts(name) for name in NAMES]


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("draining", [(), (NAMES[1],)])
def test_a_live_owner_is_never_replaced_whoever_it_is(
    settled: bool, draining: tuple[str, ...]
) -> None:
    # The second owns everything, wherever it belongs; even one that is not in the map.
    live = lives({NAMES[0]: [], NAMES[1]: list(range(10)), "odd": list(range(10, 16))}, draining)
    for me in NAMES:
        owned = tuple(live[me].owns) if me in live else ()
        assert opens(me, live, owned, settled) == []


def test_what_is_owned_or_being_opened_here_is_not_opened_again() -> None:
    live = lives({name: [] for name in NAMES})
    mine = firsts(NAMES[0])
    assert opens(NAMES[0], live, tuple(mine[:2])) == mine[2:]


def test_an_old_beat_of_our_own_does_not_keep_us_from_opening() -> None:
    live = lives({NAMES[0]: list(range(SHARDS))})
    assert opens(NAMES[0], live) == list(range(SHARDS))


def test_the_shards_of_the_dead_go_to_the_next_in_turn() -> None:
    dead, *others = NAMES
    live = lives({name: firsts(name) for name in others})
    opened = {name: opens(name, live, tuple(firsts(name))) for name in others}
    assert sorted(itertools.chain(*opened.values())) == firsts(dead)
    for name, shards in opened.items():
        assert all(preference(shard, NAMES)[1] == name for shard in shards)


def test_one_that_is_about_to_leave_gets_nothing_new() -> None:
    live = lives({name: [] for name in NAMES}, draining=(NAMES[0],))
    others = [opens(name, live) for name in NAMES[1:]]
    assert sorted(itertools.chain(*others)) == list(range(SHARDS))


def test_one_that_is_not_in_the_map_opens_nothing() -> None:
    assert opens("stranger", {}, settled=True) == []


@pytest.mark.parametrize("starts", list(itertools.product((0, 1, 3), repeat=3)), ids=str)
def test_it_settles_with_one_owner_for_each_shard_and_stays(starts: tuple[int, ...]) -> None:
    """Whenever each starts; each goes by what it heard a round ago."""
    owns: dict[str, list[int]] = {}
    history = []
    for turn in range(10):
        heard = lives(owns)
        for me, start in zip(NAMES, starts, strict=True):
            if turn < start:
                continue
            mine = owns.setdefault(me, [])
            new = opens(me, heard, tuple(mine), settled=turn >= start + 2)
            # The log lets only the first to try open a shard that nobody owned.
            taken = set(itertools.chain(*owns.values()))
            mine.extend(shard for shard in new if shard not in taken)
        history.append({me: list(shards) for me, shards in owns.items()})
    assert sorted(itertools.chain(*owns.values())) == list(range(SHARDS))
    assert history[6:] == history[5:-1], "and nothing moves any more"
    if len(set(starts)) == 1:
        assert owns == {name: firsts(name) for name in NAMES}


# --- standing by -------------------------------------------------------------------------


def follows(
    me: str, live: dict[str, Beat], following: tuple[int, ...] = (), standbys: int = 1
) -> list[int]:
    owned = live[me].owns if me in live else []
    return PLACEMENT.to_follow(me, owned, live, following, standbys)


def with_standby(live: dict[str, Beat], name: str, *shards: int, behind_s: float = 0.1) -> None:
    live[name].standby.update({str(shard): behind_s for shard in shards})


def all_own_their_own() -> dict[str, Beat]:
    return lives({name: firsts(name) for name in NAMES})


@pytest.mark.parametrize("standbys", [0, 1, 2, 3])
def test_every_shard_has_as_many_standbys_as_there_are_to_be(standbys: int) -> None:
    live = all_own_their_own()
    count = Counter(shard for me in NAMES for shard in follows(me, live, standbys=standbys))
    # Three coordinators: besides the owner there are two.
    assert [count[shard] for shard in range(SHARDS)] == [min(standbys, 2)] * SHARDS


def test_the_standby_is_the_next_in_turn_and_never_the_owner() -> None:
    live = all_own_their_own()
    for me in NAMES:
        for shard in follows(me, live):
            assert preference(shard, NAMES)[1] == me
    # Whoever owns it: here the last of all owns everything.
    live = lives({NAMES[0]: [], NAMES[1]: [], NAMES[2]: list(range(SHARDS))})
    for shard in range(SHARDS):
        order = [name for name in preference(shard, NAMES) if name != NAMES[2]]
        assert shard in follows(order[0], live)
        assert shard not in follows(order[1], live)
    assert follows(NAMES[2], live) == []


def test_one_that_leaves_or_is_not_in_the_map_does_not_stand_by() -> None:
    live = lives({name: firsts(name) for name in NAMES}, draining=(NAMES[1],))
    assert follows("stranger", live) == []
    others = [shard for me in (NAMES[0], NAMES[2]) for shard in follows(me, live)]
    assert sorted(others) == list(range(SHARDS)), "the others do for all shards, also of that one"


def test_a_standby_goes_on_until_the_one_that_is_to_relieve_it_has_caught_up() -> None:
    shard = firsts(NAMES[0])[0]
    second, third = preference(shard, NAMES)[1:]
    # Only the owner and the third of its order were there; now the second comes back.
    live = all_own_their_own()
    assert shard in follows(second, live)
    assert shard in follows(third, live, following=(shard,))
    with_standby(live, second, shard, behind_s=FRESH_S + 1)
    assert shard in follows(third, live, following=(shard,))
    with_standby(live, second, shard)
    assert shard not in follows(third, live, following=(shard,))


def test_a_standby_keeps_its_state_while_nobody_owns_the_shard_and_makes_none_then() -> None:
    live = lives({name: [] for name in NAMES})
    assert follows(NAMES[1], live, following=(3,)) == [3]
    assert follows(NAMES[1], live) == []


def test_a_standby_goes_before_who_would_have_to_read_the_whole_log() -> None:
    dead, *others = NAMES
    live = lives({name: firsts(name) for name in others})
    shard = firsts(dead)[0]
    first, second = preference(shard, NAMES)[1:]
    assert PLACEMENT.candidates(shard, live) == [first, second]
    with_standby(live, second, shard)
    assert stands_by(live[second], shard)
    assert PLACEMENT.candidates(shard, live) == [second, first]
    assert shard in opens(second, live, tuple(firsts(second)), settled=False)
    assert shard not in opens(first, live, tuple(firsts(first)))
    # One that has not got there yet, or lags, is not better than anybody.
    for behind_s in (-1.0, FRESH_S + 0.1):
        with_standby(live, second, shard, behind_s=behind_s)
        assert PLACEMENT.candidates(shard, live) == [first, second]


def test_who_cannot_open_a_shard_comes_last() -> None:
    live = lives({name: [] for name in NAMES})
    first, second, third = preference(3, NAMES)
    live[first].closed["3"] = "its clock is off"
    assert PLACEMENT.candidates(3, live) == [second, third, first]
    with_standby(live, first, 3)
    assert PLACEMENT.candidates(3, live) == [second, third, first]


# --- of several standbys, CONFLICT_RESOLUTION picks one ------------------------------------------

FIVE = named(5)


def heirs_by(policy: str, behind_s: dict[str, float], generation: str = "i1") -> list[str]:
    """Who is first to open each shard when all of these stand by for all of them."""
    placement = Placement(SHARDS, FIVE, policy)
    live = {
        name: beat(
            name,
            instance=f"{name}-{generation}",
            standby={str(shard): late_s for shard in range(SHARDS)},
        )
        for name, late_s in behind_s.items()
    }
    return [placement.candidates(shard, live)[0] for shard in range(SHARDS)]


def test_by_timestamp_the_latest_state_goes_first() -> None:
    behind_s = {FIVE[0]: 0.4, FIVE[1]: 0.1, FIVE[2]: 2.0}
    assert set(heirs_by("timestamp", behind_s)) == {FIVE[1]}
    # The same for all: the order decides.
    equal = dict.fromkeys(FIVE, 0.1)
    assert heirs_by("timestamp", equal) == heirs_by("priority", equal)


def test_by_priority_the_placement_order_goes_first() -> None:
    behind_s = {FIVE[0]: 0.4, FIVE[1]: 0.1, FIVE[2]: 2.0}
    order = orders(SHARDS, FIVE)
    assert heirs_by("priority", behind_s) == [
        next(name for name in order[shard] if name in behind_s) for shard in range(SHARDS)
    ]


def test_by_chance_any_goes_first_the_same_for_all_and_others_after_a_change() -> None:
    equal = dict.fromkeys(FIVE, 0.1)
    once = heirs_by("random", equal)
    assert len(set(once)) > 2
    assert heirs_by("random", dict(reversed(equal.items()))) == once
    assert heirs_by("random", equal, "i2") != once


@pytest.mark.parametrize("policy", ["timestamp", "priority", "random"])
def test_a_policy_picks_between_equals_only(policy: str) -> None:
    placement = Placement(SHARDS, FIVE, policy)
    for shard, order in enumerate(orders(SHARDS, FIVE)):
        live = {name: beat(name) for name in FIVE}
        assert placement.candidates(shard, live) == order, "nobody stands by"
        late = {str(shard): FRESH_S + 1}
        live[order[1]] = beat(order[1], standby=late)
        assert placement.candidates(shard, live) == order, "nor does who is too late"
        live[order[4]] = beat(order[4], standby={str(shard): 0.3})
        live[order[3]] = beat(order[3], standby={str(shard): 0.0}, closed={str(shard): "why"})
        ranked = placement.candidates(shard, live)
        assert ranked == [order[4], order[0], order[1], order[2], order[3]]
