"""Who is alive, who is to own which shard, and what happens when one dies."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest

from swarm.core.membership import Members, preference, shards_to_open
from swarm.messages import Beat
from tests.builders import beat


def named(count: int) -> list[str]:
    return [f"coordinator-{number}" for number in range(1, count + 1)]


# --- members -----------------------------------------------------------------------------


def test_one_is_alive_until_it_was_missed() -> None:
    members = Members(1.2)
    members.heard(beat("c1"), 10.0)
    assert list(members.live(11.2)) == ["c1"]
    assert list(members.live(11.3)) == []


def test_the_living_are_named_in_order_with_their_latest_beat() -> None:
    members = Members(1.2)
    members.heard(beat("c2", number=1), 10.0)
    members.heard(beat("c1", number=1), 10.0)
    members.heard(beat("c2", number=2, sessions=7), 10.5)
    assert [(name, seen.number) for name, seen in members.live(10.6).items()] == [
        ("c1", 1), ("c2", 2),
    ]  # fmt: skip


@pytest.mark.parametrize("number", [4, 5])
def test_a_beat_overtaken_by_a_later_one_changes_nothing(number: int) -> None:
    members = Members(1.2)
    members.heard(beat("c1", number=5, sessions=3), 10.0)
    members.heard(beat("c1", number=number, sessions=9), 11.0)
    assert members.live(11.0)["c1"].sessions == 3
    assert members.live(11.3) == {}, "and is no sign of life"


def test_a_restarted_coordinator_begins_to_count_anew() -> None:
    members = Members(1.2)
    members.heard(beat("c1", number=500, owns=[1]), 10.0)
    members.heard(beat("c1", number=1, instance="second"), 10.1)
    assert members.live(10.2)["c1"].owns == []


def test_the_dead_are_named_once() -> None:
    members = Members(1.2)
    for name in ("c3", "c1", "c2"):
        members.heard(beat(name), 10.0)
    members.heard(beat("c2", number=2), 11.0)
    assert members.newly_dead(11.2) == []
    assert members.newly_dead(11.3) == ["c1", "c3"]
    assert members.newly_dead(11.3) == []
    assert list(members.live(11.3)) == ["c2"]
    members.heard(beat("c1", number=2), 11.4)
    assert list(members.live(11.4)) == ["c1", "c2"]


def test_who_says_goodbye_is_not_reported_dead() -> None:
    members = Members(1.2)
    members.heard(beat("c1"), 10.0)
    members.left("c1")
    members.left("nobody")
    assert members.live(10.0) == {}
    assert members.newly_dead(99.0) == []


def test_everybody_would_be_dead_at_once() -> None:
    with pytest.raises(AssertionError, match="dead at once"):
        Members(0.0)


# --- preference --------------------------------------------------------------------------


def test_the_order_names_everybody_once_and_is_the_same_for_all() -> None:
    names = named(5)
    for shard in range(64):
        order = preference(shard, names)
        assert sorted(order) == names
        assert preference(shard, names[::-1]) == order


@pytest.mark.parametrize(("shards", "count"), [(16, 2), (16, 3), (64, 7), (64, 8), (5, 8), (1, 1)])
def test_first_choices_are_even_to_one_shard(shards: int, count: int) -> None:
    firsts = Counter(preference(shard, named(count))[0] for shard in range(shards))
    loads = [firsts.get(name, 0) for name in named(count)]
    assert max(loads) - min(loads) <= 1


@pytest.mark.parametrize(("shards", "count"), [(16, 3), (64, 7), (64, 8), (256, 10)])
def test_when_one_dies_only_its_shards_move_and_they_spread(shards: int, count: int) -> None:
    names = named(count)
    for dead in names:
        before = {shard: preference(shard, names)[0] for shard in range(shards)}
        after = {
            shard: next(name for name in preference(shard, names) if name != dead)
            for shard in before
        }
        moved = [shard for shard in before if before[shard] != after[shard]]
        # The fewest possible: what the dead one had.
        assert moved == [shard for shard in before if before[shard] == dead]
        heirs = Counter(after[shard] for shard in moved)
        # Even would be `share` each; random heirs stay within five deviations of it.
        share = len(moved) / (count - 1)
        assert max(heirs.values()) <= share + 5 * math.sqrt(share) + 1
        assert len(heirs) > 1, "not all to one"


def test_a_coordinator_that_returns_is_the_first_choice_for_what_it_had() -> None:
    names = named(4)
    assert {s: preference(s, names)[0] for s in range(16)} == {
        s: preference(s, [*names[1:], names[0]])[0] for s in range(16)
    }


def test_a_swarm_has_a_coordinator() -> None:
    with pytest.raises(AssertionError, match="at least one"):
        preference(0, [])


# --- what to open ------------------------------------------------------------------------

NAMES = named(3)
SHARDS = 16


def lives(owns: dict[str, list[int]], draining: tuple[str, ...] = ()) -> dict[str, Beat]:
    """Beats of these coordinators, owning these shards."""
    return {
        name: beat(name, owns=shards, draining=name in draining) for name, shards in owns.items()
    }


def opens(
    me: str, live: dict[str, Beat], owned: tuple[int, ...] = (), settled: bool = True
) -> list[int]:
    return shards_to_open(me, set(owned), SHARDS, NAMES, live, settled)


def firsts(me: str) -> list[int]:
    return [shard for shard in range(SHARDS) if preference(shard, NAMES)[0] == me]


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
