"""Which of a coordinator's shards takes the next free slot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.core.urgency import NEVER, PATIENCE_S, SLACK_S, Place, Places, most_urgent

TYPES = ("build", "test")


class Shards:
    """Places of some shards, and which of them were woken."""

    def __init__(self, count: int, ageing_s: float = 60.0) -> None:
        self.woken: list[int] = []
        together = Places()
        self.places = [
            Place(together, ageing_s, lambda number=number: self.woken.append(number))  # type: ignore[misc]
            for number in range(count)
        ]
        for place in self.places:
            place.join()


def test_alone_a_shard_takes_any_slot() -> None:
    (place,) = Shards(1).places
    place.show({"build": 5.0})
    assert place.alone
    assert not place.gives_way(TYPES, 1e12, 0.0)


def test_others_count_by_what_the_slot_is_for_and_with_some_slack() -> None:
    here, there, idle = Shards(3).places
    there.show({"build": 10.0, "test": 20.0})
    idle.show({})
    here.show({"build": 30.0})
    assert not here.alone
    assert here.limit == there.limit == 10.0 + SLACK_S
    for work_types, limit in (("build", "test"), 10.0), (("test",), 20.0):
        assert not here.gives_way(work_types, limit + SLACK_S, 0.0)
        assert here.gives_way(work_types, limit + SLACK_S + 0.1, 0.0)
    assert not here.gives_way(("deploy",), 1e12, 0.0)


def test_slack_is_small_beside_a_step_of_priority() -> None:
    here, there = Shards(2, ageing_s=0.5).places
    there.show({"build": 0.0})
    assert here.gives_way(("build",), 0.25, 0.0)


def test_who_is_given_way_to_decides_at_once_and_then_the_other_again() -> None:
    shards = Shards(3)
    here, there, later = shards.places
    there.show({"build": 10.0})
    later.show({"build": 60.0})
    assert here.gives_way(("build",), 50.0, 0.0)
    assert shards.woken == [1], "what is less urgent is not woken"
    assert here.gives_way(("build",), 50.0, 0.1)
    assert shards.woken == [1], "once is enough"
    there.show({"build": 44.9})
    assert shards.woken == [1], "it has something better still"
    there.show({"build": 45.0})
    assert shards.woken == [1, 0]
    there.show({"build": 1.0})
    there.show({})
    assert shards.woken == [1, 0], "it does not wait any more"


def test_a_shard_that_decides_nothing_is_not_waited_for_until_it_does() -> None:
    here, there = Shards(2).places
    there.show({"build": 10.0})
    assert here.gives_way(("build",), 50.0, 7.0)
    assert here.gives_way(("build",), 50.0, 7.0 + PATIENCE_S)
    assert not here.gives_way(("build",), 50.0, 7.1 + PATIENCE_S)
    there.show({"build": 12.0})
    assert here.gives_way(("build",), 50.0, 7.2 + PATIENCE_S)
    there.decline()
    assert here.gives_way(("build",), 50.0, 9.0 + PATIENCE_S), "it has said that it needs none"


def test_a_shard_that_is_not_served_any_more_is_not_waited_for() -> None:
    shards = Shards(2)
    here, there = shards.places
    there.show({"build": 10.0})
    assert here.gives_way(("build",), 50.0, 0.0)
    there.leave()
    assert shards.woken == [1, 0]
    there.show({"build": 1.0})
    there.leave()
    assert not here.gives_way(("build",), 50.0, 0.0)
    assert here.limit == NEVER


heads = st.dictionaries(st.sampled_from(TYPES), st.floats(0, 1000), max_size=2)


@given(st.lists(heads, min_size=2, max_size=5), st.sets(st.sampled_from(TYPES), min_size=1))
def test_of_all_shards_with_work_for_a_slot_the_most_urgent_takes_it_and_nobody_far_behind(
    shown: list[dict[str, float]], work_types: set[str]
) -> None:
    places, slot = Shards(len(shown)).places, tuple(sorted(work_types))
    for place, its in zip(places, [{"build": 0.0}, *shown[1:]], strict=True):
        place.show(its)
    places[0].show(shown[0])  # another one than before
    best = [min((its[name] for name in slot if name in its), default=NEVER) for its in shown]
    for place, score in zip(places, best, strict=True):
        if score == NEVER:
            continue
        assert place.head(slot) == score
        takes = not place.gives_way(slot, score, 0.0)
        assert takes or score > place.limit, "the quick look lets nobody through"
        if score == min(best):
            assert takes
        if score > min(best) + 2 * SLACK_S:
            assert not takes


def test_those_that_wait_for_a_third_do_not_wake_each_other_again_and_again() -> None:
    shards = Shards(3)
    here, there, stuck = shards.places
    heads = {"build": 20.0, "test": 60.0}
    for place in (here, there):
        place.show(heads)
    stuck.show({"build": 10.0})
    for now in (0.0, 0.1, 0.2):
        for place in (here, there):
            assert place.gives_way(("build", "test"), 20.0, now)
            assert place.gives_way(("build", "test"), 60.0, now)
            place.show(heads, gave_way=True)
    assert sorted(shards.woken) == [0, 1, 2]
    assert not here.gives_way(("build",), 20.0, 0.1 + PATIENCE_S), "nor are they waited for"


def test_the_shard_with_the_most_urgent_item_of_each_type() -> None:
    heads = {1: {"build": 50.0}, 2: {"build": 40.0, "test": 9.0}, 3: {}}
    assert most_urgent(heads, {}, 60.0) == {"build": (2, 40.0), "test": (2, 9.0)}
    assert most_urgent({3: {}}, {"build": (1, 50.0)}, 60.0) == {}


def test_it_remains_while_it_has_something_about_as_urgent() -> None:
    before = {"build": (1, 30.0)}
    assert most_urgent({1: {"build": 55.0}, 2: {"build": 40.0}}, before, 60.0) == {
        "build": (1, 55.0)
    }
    assert most_urgent({1: {"build": 55.1}, 2: {"build": 40.0}}, before, 60.0) == {
        "build": (2, 40.0)
    }
    assert most_urgent({2: {"build": 40.0}}, before, 60.0) == {"build": (2, 40.0)}
