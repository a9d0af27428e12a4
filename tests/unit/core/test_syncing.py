"""Which beats tell a coordinator's state, and what others make of those that do not."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.core.membership import Members
from swarm.core.syncing import UNTOLD, StateSync, recall
from swarm.messages import Beat
from tests.builders import beat

INTERVAL_S = 5.0


class Teller:
    """A coordinator that beats four times a second."""

    def __init__(self, interval_s: float = INTERVAL_S, *, enabled: bool = True) -> None:
        self.sync = StateSync(interval_s, ageing_s=60.0, enabled=enabled)
        self.now = 100.0
        self.number = 0
        self.listeners = ["c2-i1", "r1"]
        self.ready = {"build": 80}
        self.idle = {"test": 3}
        self.urgent = {"build": (3, 1000.0)}

    def beat(self, *, all_: bool = False) -> Beat:
        self.number += 1
        self.now += 0.25
        shown = beat("c1", number=self.number, ready=dict(self.ready), idle=dict(self.idle))
        shown.urgent = dict(self.urgent)
        self.sync.shape(shown, self.listeners, self.now, all_=all_)
        return shown

    def told(self, **fields: Any) -> bool:
        """Whether the next beat has the state, once these have changed."""
        for name, value in fields.items():
            setattr(self, name, value)
        return self.beat().told == 0


def test_the_first_beat_tells_and_the_next_ones_name_it() -> None:
    teller = Teller()
    first = teller.beat()
    assert (first.told, first.ready, first.idle) == (0, {"build": 80}, {"test": 3})
    assert first.urgent == {"build": (3, 1000.0)}
    for _ in range(5):
        later = teller.beat()
        assert (later.told, later.ready, later.idle, later.urgent) == (1, {}, {}, {})


@pytest.mark.parametrize("interval_s", [1.0, 5.0, 20.0])
def test_it_is_told_once_an_interval_when_nothing_changes(interval_s: float) -> None:
    teller = Teller(interval_s)
    beats = [teller.beat() for _ in range(800)]
    told = [one.number for one in beats if one.told == 0]
    assert told == [number for number in range(1, 801) if (number - 1) % (4 * interval_s) == 0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ready": {"build": 72}}, False),
        ({"ready": {"build": 90}}, False),
        ({"ready": {"build": 69}}, True),
        ({"ready": {"build": 92}}, True),
        ({"ready": {"build": 80, "test": 1}}, True),
        ({"ready": {}}, True),
        ({"idle": {"test": 4}}, True),
        ({"idle": {"test": 0}}, True),
        ({"idle": {"test": 3, "lint": 0}}, True),
        ({"urgent": {"build": (3, 985.0)}}, False),
        ({"urgent": {"build": (7, 1000.0)}}, True),
        ({"urgent": {"build": (3, 1015.0)}}, False),
        ({"urgent": {"build": (3, 984.0)}}, True),
        ({"urgent": {"build": (3, 1016.0)}}, True),
        ({"listeners": ["c2-i1"]}, False),
        ({"listeners": ["c2-i1", "r1", "r2"]}, True),
        ({"listeners": ["c2-i2", "r1"]}, True),
    ],
)
def test_what_is_off_by_over_an_eighth_and_whoever_is_new_gets_it_at_once(
    change: dict[str, Any], told: bool
) -> None:
    teller = Teller()
    teller.beat()
    assert teller.told(**change) is told
    assert not teller.told(), "once"


def test_what_creeps_is_told_in_the_end() -> None:
    teller = Teller(3600.0)
    teller.beat()
    shown = 80
    for count in range(81, 200):
        teller.ready = {"build": count}
        one = teller.beat()
        shown = one.ready["build"] if one.told == 0 else shown
        assert abs(count - shown) * 8 <= count


def test_those_of_an_earlier_version_get_all_of_it_always() -> None:
    teller = Teller()
    assert [teller.beat(all_=True).told for _ in range(3)] == [0, 0, 0]


def test_types_that_are_newly_ready_or_served_are_news() -> None:
    teller = Teller()
    assert teller.sync.is_news({"build"}, {"test"}), "nothing was told yet"
    teller.beat()
    assert not teller.sync.is_news({"build"}, {"test"})
    assert not teller.sync.is_news(set(), {"test"})
    assert teller.sync.is_news({"lint"}, {"test"})
    assert teller.sync.is_news({"build"}, set())
    assert teller.sync.is_news({"build"}, {"test", "lint"})


def test_without_synchronization_nothing_is_ever_told() -> None:
    teller = Teller(0.25, enabled=False)
    for all_ in (False, True, False):
        one = teller.beat(all_=all_)
        assert (one.told, one.ready, one.idle) == (UNTOLD, {}, {})
    assert not teller.sync.is_news({"lint"}, {"lint"})


# --- hearing it ------------------------------------------------------------------------------


def known(members: Members) -> tuple[int, dict[str, int], dict[str, int]]:
    (one,) = members.live(0.0).values()
    return one.told, one.ready, one.idle


def test_who_heard_the_state_goes_on_with_it() -> None:
    members = Members(10.0)
    telling = beat("c1", number=4, ready={"build": 2}, idle={"test": 0})
    telling.urgent = {"build": (3, 9.0)}
    members.heard(telling, 0.0)
    members.heard(beat("c1", number=5, told=4, sessions=7), 0.0)
    assert known(members) == (4, {"build": 2}, {"test": 0})
    assert members.live(0.0)["c1"].urgent == {"build": (3, 9.0)}
    assert members.live(0.0)["c1"].sessions == 7
    members.heard(beat("c1", number=6, told=4), 0.0)
    assert known(members) == (4, {"build": 2}, {"test": 0})
    members.heard(beat("c1", number=7), 0.0)
    assert known(members) == (0, {}, {})


def test_who_has_not_heard_it_knows_that() -> None:
    members = Members(10.0)
    members.heard(beat("c1", number=5, told=4), 0.0)
    assert known(members) == (UNTOLD, {}, {})
    members.heard(beat("c1", number=6, told=4), 0.0)
    assert known(members) == (UNTOLD, {}, {}), "it is not empty, but unknown"
    members.heard(beat("c1", number=7, ready={"build": 1}), 0.0)
    assert known(members) == (0, {"build": 1}, {})


def test_another_process_begins_anew() -> None:
    members = Members(10.0)
    members.heard(beat("c1", number=9, ready={"build": 2}), 0.0)
    members.heard(beat("c1", number=3, instance="c1-i2", told=2), 0.0)
    assert known(members) == (UNTOLD, {}, {})


def test_who_tells_nothing_is_known_to_tell_nothing() -> None:
    members = Members(10.0)
    members.heard(beat("c1", number=1, ready={"build": 2}), 0.0)
    members.heard(beat("c1", number=2, told=UNTOLD), 0.0)
    assert known(members) == (UNTOLD, {}, {})


def test_the_state_of_another_process_is_never_filled_in() -> None:
    with pytest.raises(AssertionError, match="another process"):
        recall(beat("c1", told=1), beat("c1", instance="c1-i2"))
