"""The leader's rounds of moves: when they begin and end, how few they are, never to and fro."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core import rebalancer
from swarm.core.rebalance import Plan, PlannedMove
from swarm.core.rebalancer import (
    HOLD_S,
    MOVES_MAX,
    PAUSE_LONGEST_S,
    PAUSE_S,
    REST_S,
    STEADY_S,
    Rebalancer,
    measured,
)
from swarm.messages import Beat
from tests.builders import beat

STEP_S = 0.5


class Place:
    """Coordinators that say what they own and have to do; moves happen at once."""

    def __init__(self, owners: dict[int, str], *names: str, threshold: float = 0.2) -> None:
        self.owners = owners
        self.names = dict.fromkeys(names or sorted(set(owners.values())), "i1")
        self.rebalancer = Rebalancer(threshold)
        self.now = 1000.0
        self.ready: dict[int, int] = {}
        self.operations: dict[int, float] = {}
        self.cpu: dict[str, float] = {}
        self.standby: dict[str, dict[str, float]] = {}
        self.draining: list[str] = []
        #: Rounds: when, and their plans.
        self.rounds: list[tuple[float, Plan]] = []
        #: Whether moves are carried out.
        self.moving = True

    def live(self) -> dict[str, Beat]:
        return {
            name: beat(
                name,
                instance=instance,
                map_version=1,
                owns=[shard for shard, owner in self.owners.items() if owner == name],
                load={
                    str(shard): (self.ready.get(shard, 0), self.operations.get(shard, 0.0))
                    for shard, owner in self.owners.items()
                    if owner == name
                },
                cpu=self.cpu.get(name, 0.0),
                standby=self.standby.get(name, {}),
                draining=name in self.draining,
            )
            for name, instance in sorted(self.names.items())
        }

    def look(self) -> Plan | None:
        return self.rebalancer.look(self.live(), len(self.owners), self.now)

    def run(self, duration_s: float) -> None:
        """As the leader does: look, move, say what was moved."""
        end = self.now + duration_s
        while self.now < end:
            found = self.look()
            if found is not None:
                self.rounds.append((self.now, found))
                done = found.moves if self.moving else []
                for move in done:
                    assert self.owners[move.shard] == move.source
                    self.owners[move.shard] = move.to
                self.rebalancer.done(found, [move.shard for move in done], self.now)
            self.now += STEP_S

    def moves(self) -> list[PlannedMove]:
        return [move for _, found in self.rounds for move in found.moves]

    def has_begun(self) -> bool:
        return self.rebalancer.active

    def counts(self) -> dict[str, int]:
        return dict(Counter(self.owners.values()))


def all_at_c1(shards: int = 16) -> dict[int, str]:
    return dict.fromkeys(range(shards), "c1")


def alternating(shards: int) -> dict[int, str]:
    return {shard: f"c{1 + shard % 2}" for shard in range(shards)}


# --- rounds -----------------------------------------------------------------------------------


def test_shards_spread_in_rounds_of_a_few_with_pauses() -> None:
    place = Place(all_at_c1(), "c1", "c2")
    place.run(300.0)
    assert place.counts() == {"c1": 8, "c2": 8}
    assert [len(found.moves) for _, found in place.rounds] == [MOVES_MAX, MOVES_MAX]
    first, second = (at for at, _ in place.rounds)
    assert first - 1000.0 >= STEADY_S + HOLD_S
    assert second - first >= PAUSE_S


def test_an_even_swarm_is_left_alone() -> None:
    place = Place(alternating(16))
    place.run(600.0)
    assert place.rounds == []


def test_it_begins_above_the_threshold_and_stops_at_half_of_it() -> None:
    # 20 shards: 12 to 8 is 1.2 of an even part, which is allowed; 13 to 7 is not.
    allowed = {shard: "c1" if shard < 12 else "c2" for shard in range(20)}
    place = Place(allowed)
    place.run(300.0)
    assert place.rounds == []
    place = Place({shard: "c1" if shard < 13 else "c2" for shard in range(20)})
    place.run(300.0)
    assert place.counts() == {"c1": 11, "c2": 9}, "1.1 is half of the threshold"
    place.owners[0] = "c1"
    assert place.counts() == {"c1": 12, "c2": 8}
    place.run(600.0)
    assert place.counts() == {"c1": 12, "c2": 8}, "it has stopped, and 1.2 does not begin"


def test_a_short_peak_moves_nothing() -> None:
    place = Place(alternating(8))
    place.run(60.0)
    for _ in range(10):
        place.ready = {0: 5000, 2: 5000, 4: 5000}
        place.run(HOLD_S - 2 * STEP_S)
        place.ready = {}
        place.run(20.0)
    assert place.rounds == []
    place.ready = {0: 5000, 2: 5000, 4: 5000}
    place.run(HOLD_S + 2 * STEP_S)
    assert place.rounds


def test_what_cannot_be_made_even_is_left_alone() -> None:
    # Three shards on two coordinators; one shard with all of the work.
    place = Place({0: "c1", 1: "c1", 2: "c2"})
    place.run(600.0)
    assert place.rounds == []
    hot = Place(alternating(2))
    hot.ready = {0: 10_000}
    hot.run(600.0)
    assert hot.rounds == []


def test_a_moved_shard_rests() -> None:
    """A load that follows the shards around, as noise may: none moves again for a while."""
    place = Place(alternating(8))
    moved_at: dict[int, float] = {}
    seen = 0
    for _ in range(400):
        # Whoever has shard 0 seems to have all the work in its other shards as well.
        place.ready = {s: 1000 for s, owner in place.owners.items() if owner == place.owners[0]}
        place.run(2.0)
        for at, found in place.rounds[seen:]:
            for move in found.moves:
                assert at - moved_at.get(move.shard, float("-inf")) >= REST_S
                moved_at[move.shard] = at
        seen = len(place.rounds)
    assert seen, "something was moved at all"


def test_rounds_that_bring_nothing_become_rare() -> None:
    place = Place(all_at_c1(), "c1", "c2")
    place.moving = False
    place.run(4000.0)
    gaps = [b - a for (a, _), (b, _) in pairwise(place.rounds)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= 2 * PAUSE_S
    assert gaps[-1] == pytest.approx(PAUSE_LONGEST_S, abs=2 * STEP_S)


def test_a_round_that_brought_less_than_planned_doubles_the_pause() -> None:
    place = Place(alternating(16))
    place.cpu = {"c1": 1.0}
    while len(place.rounds) < 2:
        # Whatever is moved away, what is left has as much to do as all had before.
        mine = [shard for shard, owner in place.owners.items() if owner == "c1"]
        place.ready = dict.fromkeys(mine, 1000)
        place.operations = dict.fromkeys(mine, 100.0)
        place.run(STEP_S)
    first, second = (at for at, _ in place.rounds)
    assert second - first == pytest.approx(2 * PAUSE_S, abs=2 * STEP_S)


# --- membership ---------------------------------------------------------------------------------


def test_nothing_moves_while_coordinators_come_and_go() -> None:
    place = Place(all_at_c1(), "c1", "c2")
    for number in range(60):
        place.names["c2"] = f"i{number}"  # restarted again and again
        place.run(STEADY_S - STEP_S)
    assert place.rounds == []
    for number in range(60):
        if number % 2:
            del place.names["c3"]
        else:
            place.names["c3"] = "i1"
        place.run(STEADY_S - STEP_S)
    assert place.rounds == []
    place.run(STEADY_S + HOLD_S + 2 * STEP_S)
    assert place.rounds


def test_nothing_moves_while_somebody_is_about_to_leave() -> None:
    place = Place(all_at_c1(), "c1", "c2", "c3")
    place.draining = ["c3"]
    place.run(300.0)
    assert place.rounds == []


@pytest.mark.parametrize("owner", ["", "both"])
def test_nothing_moves_while_a_shard_has_no_owner_or_two(owner: str) -> None:
    place = Place(all_at_c1(), "c1", "c2")
    honest = place.live

    def live() -> dict[str, Beat]:
        beats = honest()
        if owner:
            beats["c2"].owns.append(0)
        else:
            beats["c1"].owns.remove(0)
        return beats

    place.live = live  # type: ignore[method-assign]
    place.run(300.0)
    assert place.rounds == []
    place.live = honest  # type: ignore[method-assign]
    place.run(HOLD_S + 2 * STEP_S)
    assert place.rounds


def test_nothing_moves_beside_coordinators_of_an_earlier_version() -> None:
    place = Place(all_at_c1(), "c1", "c2")
    live = place.live()
    live["c2"].map_version = 0
    for _ in range(100):
        assert place.rebalancer.look(live, 16, place.now) is None
        place.now += 1.0


def test_a_change_of_members_ends_what_has_begun() -> None:
    place = Place(all_at_c1(), "c1", "c2")
    place.run(STEADY_S + HOLD_S + 2 * STEP_S)
    assert place.has_begun()
    place.names["c3"] = "i1"
    place.run(STEP_S)
    assert not place.has_begun()
    assert not place.rebalancer.is_steady(place.now)


def test_a_single_coordinator_moves_nothing() -> None:
    place = Place(all_at_c1(), "c1")
    place.run(100.0)
    assert place.rounds == []


# --- what is measured -----------------------------------------------------------------------------


def test_each_measure_has_its_part_and_noise_has_none() -> None:
    owners = {0: "c1", 1: "c1", 2: "c2", 3: "c2"}
    place = Place(dict(owners))
    assert measured(place.live(), owners) == pytest.approx(dict.fromkeys(range(4), 0.25))
    place.ready, place.operations, place.cpu = {0: 99}, {0: 9.9}, {"c1": 0.09}
    assert measured(place.live(), owners) == pytest.approx(dict.fromkeys(range(4), 0.25))
    # A quarter by ready items, the rest by number: 0.75 / 4 each.
    place.ready, place.operations, place.cpu = {0: 300, 1: 100}, {}, {}
    found = measured(place.live(), owners)
    assert found == pytest.approx({0: 0.375, 1: 0.25, 2: 0.1875, 3: 0.1875})
    place.ready, place.operations = {}, {0: 300.0, 2: 100.0}
    found = measured(place.live(), owners)
    assert found == pytest.approx({0: 0.375, 1: 0.1875, 2: 0.25, 3: 0.1875})


def test_processor_time_goes_by_operations() -> None:
    owners = {0: "c1", 1: "c1", 2: "c2", 3: "c2"}
    place = Place(dict(owners))
    place.cpu = {"c1": 0.8, "c2": 0.2}
    # Nobody has operations: the shards of each have it in equal parts.
    found = measured(place.live(), owners)
    assert found == pytest.approx({0: 0.2875, 1: 0.2875, 2: 0.2125, 3: 0.2125})
    place.operations = {0: 8.0}  # too few to count by themselves, but they tell: 9 to 1
    found = measured(place.live(), owners)
    assert found[0] - found[1] == pytest.approx(0.25 * 0.8 * 0.8)


def test_a_slow_machine_gives_shards_away() -> None:
    place = Place(alternating(16))
    place.operations = dict.fromkeys(range(16), 100.0)
    place.cpu = {"c1": 1.0, "c2": 0.1}
    place.run(STEADY_S + HOLD_S + 2 * STEP_S)
    assert place.moves()
    assert {move.source for move in place.moves()} == {"c1"}


def test_who_stands_by_for_a_shard_gets_it_first() -> None:
    place = Place(all_at_c1(8), "c1", "c2")
    place.standby = {"c2": {"5": 0.1, "6": -1.0, "7": 0.2}}
    place.run(STEADY_S + HOLD_S + 2 * STEP_S)
    assert [move.shard for move in place.moves()[:2]] == [5, 7]


# --- always ---------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=24),
    st.lists(st.integers(0, 2000), min_size=24, max_size=24),
    st.lists(st.floats(0, 500), min_size=24, max_size=24),
)
def test_rounds_end_and_help(places: list[int], ready: list[int], rates: list[float]) -> None:
    names = ["c1", "c2", "c3", "c4"]
    place = Place({shard: names[at] for shard, at in enumerate(places)}, *names)
    place.ready = dict(enumerate(ready[: len(places)]))
    place.operations = dict(enumerate(rates[: len(places)]))

    def most() -> float:
        load = measured(place.live(), place.owners)
        return rebalancer._most(load, place.owners, names)

    before = most()
    place.run(700.0)
    assert most() <= before + 1e-9
    rounds = len(place.rounds)
    place.run(700.0)
    assert len(place.rounds) <= rounds + 1, "a load that stays as it is comes to rest"
    assert all(len(found.moves) <= MOVES_MAX for _, found in place.rounds)
    times = [at for at, _ in place.rounds]
    assert all(b - a >= PAUSE_S for a, b in pairwise(times))
    again = Counter(move.shard for move in place.moves())
    assert max(again.values(), default=0) <= 3, "no shard wanders"
