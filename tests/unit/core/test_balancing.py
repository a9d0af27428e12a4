"""Each strategy does what its name says; nobody stampedes; routers are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from swarm.core.balancing import LB_STRATEGIES, SETTLE_S, Balancer, RoutersSeen
from swarm.messages import Beat
from tests.builders import beat

NOW = 100.0


def beats(**sessions: int) -> dict[str, Beat]:
    return {name: beat(name, sessions=count) for name, count in sessions.items()}


class Desk:
    """One router, its coordinators, and agents that attach where it says."""

    def __init__(
        self,
        live: dict[str, Beat],
        strategy: str = "least_connections",
        *,
        slow_start_s: float = 0.0,
        times: dict[str, float] | None = None,
        me: str = "r1",
        agents_wanted: int = 0,
    ) -> None:
        self.now = NOW
        self.live = dict(live)
        self.times = times or {}
        self.balancer = Balancer(
            strategy, me, slow_start_s, lambda name: self.times.get(name, 0.0), agents_wanted
        )
        for one in live.values():
            self.balancer.heard(one, self.now)

    def agents(self, count: int) -> dict[str, int]:
        """So many attach between two beats; where."""
        return self._count(
            self.balancer.session(self.live, self.live, self.now) for _ in range(count)
        )

    def submissions(self, count: int, rule: str = "") -> dict[str, int]:
        return self._count(
            self.balancer.request(self.live, self.live, self.now, rule) for _ in range(count)
        )

    def _count(self, chosen: Iterable[str | None]) -> dict[str, int]:
        return dict(sorted(Counter(str(name) for name in chosen).items()))

    def beat(self, name: str, **fields: Any) -> None:
        """The coordinator's next beat arrives."""
        number = self.live[name].number + 1 if name in self.live else 1
        self.live[name] = beat(name, number=number, **fields)
        self.balancer.heard(self.live[name], self.now)


def test_nobody_to_choose() -> None:
    for strategy in ("least_connections", "round_robin", "response_time"):
        desk = Desk({}, strategy)
        assert desk.balancer.session([], {}, NOW) is None
        assert desk.balancer.request([], {}, NOW) is None


# --- least_connections -----------------------------------------------------------------------


def test_the_fewest_agents() -> None:
    desk = Desk(beats(c1=5, c2=3, c3=9))
    assert desk.agents(2) == {"c2": 2}
    assert desk.agents(6) == {"c1": 3, "c2": 3}
    assert desk.agents(8) == {"c1": 3, "c2": 3, "c3": 2}


def test_a_crowd_between_two_beats_is_shared() -> None:
    assert Desk(beats(c1=0, c2=0, c3=0)).agents(300) == {"c1": 100, "c2": 100, "c3": 100}


def test_a_loaded_coordinator_gets_none_until_the_others_have_as_many() -> None:
    desk = Desk(beats(c1=0, loaded=100, c3=0))
    assert desk.agents(200) == {"c1": 100, "c3": 100}
    assert desk.agents(3) == {"c1": 1, "c3": 1, "loaded": 1}


def test_submissions_are_shared_too_and_begin_anew_with_each_beat() -> None:
    desk = Desk(beats(c1=0, c2=0, c3=2))
    assert desk.submissions(13) == {"c1": 5, "c2": 5, "c3": 3}
    desk.beat("c1")
    desk.beat("c2")
    desk.beat("c3", sessions=2)
    assert desk.submissions(4) == {"c1": 2, "c2": 2}


def test_submissions_that_come_one_by_one_do_not_all_go_to_the_same_one() -> None:
    desk = Desk(beats(c1=2, c2=2, c3=2))
    found: list[str] = []
    for _ in range(12):
        found += desk.submissions(1)
        for name in ("c1", "c2", "c3"):
            desk.beat(name, sessions=2)
    assert Counter(found) == {"c1": 4, "c2": 4, "c3": 4}


def test_what_a_beat_counts_is_not_counted_twice_nor_lost() -> None:
    desk = Desk(beats(c1=0, c2=0))
    assert desk.agents(20) == {"c1": 10, "c2": 10}
    # Six of the ten have arrived when this beat is sent; four are still on their way.
    desk.beat("c1", sessions=6, routed={"r1": 6})
    assert desk.agents(2) == {"c1": 1, "c2": 1}
    desk.beat("c2", sessions=11, routed={"r1": 11})
    desk.beat("c1", sessions=11, routed={"r1": 11})
    assert desk.agents(2) == {"c1": 1, "c2": 1}


def test_an_agent_that_was_refused_is_not_counted_for_ever() -> None:
    desk = Desk(beats(c1=0, c2=0))
    desk.agents(10)
    desk.beat("c1", sessions=0, routed={"r1": 5})
    desk.beat("c2", sessions=5, routed={"r1": 5})
    assert desk.agents(5) == {"c1": 5}


def test_what_no_beat_counts_is_forgotten_after_a_while() -> None:
    desk = Desk(beats(c1=0, c2=0))
    desk.agents(10)
    desk.beat("c1", sessions=5, routed={"r1": 5})
    desk.beat("c2", sessions=0)
    assert desk.agents(2) == {"c1": 1, "c2": 1}, "five may be on their way to c2"
    desk.beat("c1", sessions=6, routed={"r1": 6})
    desk.now += SETTLE_S + 0.1
    assert desk.agents(6) == {"c2": 6}, "they are lost: they would have been counted by now"


def test_a_coordinator_that_counts_no_routers_is_not_starved() -> None:
    """One of an earlier version: its beats alone tell how full it is."""
    desk = Desk(beats(c1=0, old=0))
    for second in range(10):
        desk.now = NOW + 3 + second
        joined = desk.agents(20)
        if second:
            assert joined == {"c1": 10, "old": 10}
        there = {name: desk.live[name].sessions + joined[name] for name in desk.live}
        desk.beat("c1", sessions=there["c1"], routed={"r1": desk.balancer.number("c1")})
        desk.beat("old", sessions=there["old"])


def test_a_restarted_coordinator_is_empty() -> None:
    desk = Desk(beats(c1=0, c2=0))
    desk.agents(10)
    desk.beat("c1", sessions=5, routed={"r1": 5})
    desk.beat("c2", sessions=0, instance="c2-i2")
    assert desk.balancer.number("c2") == 0
    assert desk.agents(4) == {"c2": 4}
    assert desk.balancer.number("c2") == 4


# --- round_robin -----------------------------------------------------------------------------


def test_in_turn_whatever_the_load() -> None:
    desk = Desk(beats(c1=0, loaded=500, c3=3), "round_robin")
    assert desk.agents(300) == {"c1": 100, "c3": 100, "loaded": 100}
    assert desk.submissions(30) == {"c1": 10, "c3": 10, "loaded": 10}


def test_agents_and_submissions_have_turns_of_their_own() -> None:
    desk = Desk(beats(c1=0, c2=0), "round_robin")
    both = [(desk.agents(1), desk.submissions(1)) for _ in range(10)]
    assert sum(agents.get("c1", 0) for agents, _ in both) == 5
    assert sum(submissions.get("c1", 0) for _, submissions in both) == 5


def test_turns_go_on_when_somebody_goes_or_comes() -> None:
    desk = Desk(beats(c1=0, c2=0, c3=0), "round_robin")
    desk.agents(100)
    del desk.live["c2"]
    assert desk.agents(10) == {"c1": 5, "c3": 5}
    desk.beat("c2")
    assert desk.agents(9) == {"c1": 3, "c2": 3, "c3": 3}


def test_a_rules_turns_do_not_disturb_the_others() -> None:
    desk = Desk(beats(c1=0, c2=0, c3=0), "round_robin")
    picked = []
    for _ in range(6):
        picked.append(desk.balancer.request(["c1", "c2"], desk.live, NOW, "docs"))
        desk.submissions(2)
    assert sorted(str(name) for name in picked) == ["c1"] * 3 + ["c2"] * 3


def test_routers_do_not_all_begin_with_the_same_one() -> None:
    live = beats(c1=0, c2=0, c3=0)
    first = {next(iter(Desk(live, "round_robin", me=f"r{n}").agents(1))) for n in range(20)}
    assert first == {"c1", "c2", "c3"}


# --- response_time ---------------------------------------------------------------------------


def test_a_slow_coordinator_gets_less_in_proportion() -> None:
    times = {"c1": 0.01, "c2": 0.01, "slow": 0.1}
    desk = Desk(beats(c1=0, c2=0, slow=0), "response_time", times=times)
    found = desk.agents(210)
    assert found["c1"] == pytest.approx(100, abs=2)
    assert found["c2"] == pytest.approx(100, abs=2)
    assert found["slow"] == pytest.approx(10, abs=2)
    assert desk.submissions(210)["slow"] == pytest.approx(10, abs=2)


def test_a_loaded_coordinator_gets_less_for_its_agents_too() -> None:
    desk = Desk(beats(c1=0, loaded=90), "response_time", times={"c1": 0.01, "loaded": 0.01})
    assert desk.agents(90) == {"c1": 90}


def test_the_fastest_gets_what_comes_one_by_one() -> None:
    desk = Desk(beats(c1=0, c2=0), "response_time", times={"c1": 0.05, "c2": 0.01})
    for _ in range(10):
        assert desk.submissions(1) == {"c2": 1}
        desk.beat("c1")
        desk.beat("c2")


def test_times_that_are_nearly_alike_make_no_difference() -> None:
    desk = Desk(beats(c1=0, c2=0), "response_time", times={"c1": 0.0004, "c2": 0.0016})
    assert desk.agents(100) == {"c1": 50, "c2": 50}


def test_who_was_not_measured_yet_counts_as_the_middle_one() -> None:
    times = {"c1": 0.01, "c2": 0.02, "c3": 0.04}
    desk = Desk(beats(c1=0, c2=0, c3=0, new=0), "response_time", times=times)
    found = desk.agents(225)
    assert found["new"] == pytest.approx(found["c2"], abs=1)
    assert Desk(beats(c1=0, c2=0), "response_time").agents(10) == {"c1": 5, "c2": 5}


# --- newcomers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["least_connections", "response_time"])
def test_an_empty_newcomer_is_not_stampeded(strategy: str) -> None:
    desk = Desk(beats(c1=100, c2=100), strategy, slow_start_s=10.0)
    desk.now += 60.0
    desk.beat("c1", sessions=100)
    desk.beat("c2", sessions=100)
    desk.beat("new")
    assert desk.agents(30)["new"] == pytest.approx(10, abs=1), "no more than its turn at first"
    desk.now += 5.0
    desk.beat("new", sessions=10, routed={"r1": 10})
    desk.beat("c1", sessions=110, routed={"r1": 10})
    desk.beat("c2", sessions=110, routed={"r1": 10})
    more = desk.agents(45)["new"]
    assert 40 <= more <= 45, "half way: as though it had half of theirs"
    desk.now += 5.0
    desk.beat("new", sessions=55, routed={"r1": 55})
    assert desk.agents(50) == {"new": 50}, "by now it is one of them"


def test_without_slow_start_a_newcomer_gets_all() -> None:
    desk = Desk(beats(c1=100, c2=100))
    desk.now += 60.0
    desk.beat("new")
    assert desk.agents(100) == {"new": 100}


def test_whom_a_router_meets_when_it_begins_is_no_newcomer() -> None:
    desk = Desk({}, slow_start_s=10.0)
    desk.beat("c1", sessions=100)
    desk.now += 0.3
    desk.beat("c2")
    assert desk.agents(100) == {"c2": 100}


def test_where_all_are_new_they_are_alike() -> None:
    desk = Desk(beats(old=0), slow_start_s=10.0)
    desk.now += 60.0
    del desk.live["old"]
    desk.beat("c1")
    desk.beat("c2")
    assert desk.agents(10) == {"c1": 5, "c2": 5}


# --- several routers ---------------------------------------------------------------------------


# --- how many agents each --------------------------------------------------------------------


@pytest.mark.parametrize("strategy", LB_STRATEGIES)
def test_who_has_as_many_agents_as_it_is_to_have_gets_none_while_others_have_fewer(
    strategy: str,
) -> None:
    fast = {"c1": 0.01, "c2": 0.5, "c3": 0.5}
    desk = Desk(beats(c1=9, c2=4, c3=10), strategy, times=fast, agents_wanted=10)
    found = desk.agents(7)
    assert found == {"c1": 1, "c2": 6}
    # What was sent is counted before any beat does.
    assert desk.agents(3) != {}


@pytest.mark.parametrize("strategy", LB_STRATEGIES)
def test_where_all_have_as_many_no_agent_is_left_without_a_coordinator(strategy: str) -> None:
    desk = Desk(beats(c1=10, c2=10), strategy, agents_wanted=10)
    assert desk.agents(20) == {"c1": 10, "c2": 10}


def test_a_newcomer_is_not_spared_where_the_others_have_as_many_as_they_are_to_have() -> None:
    desk = Desk(beats(c1=10, c2=10), slow_start_s=10.0, agents_wanted=10)
    desk.now += 60.0
    desk.beat("c3", sessions=0)
    assert desk.agents(5) == {"c3": 5}


def test_submissions_go_to_coordinators_with_as_many_agents_as_ever() -> None:
    desk = Desk(beats(c1=10, c2=10, c3=0), "round_robin", agents_wanted=10)
    assert desk.submissions(6) == {"c1": 2, "c2": 2, "c3": 2}


def test_each_of_several_routers_leaves_room_for_what_the_others_send() -> None:
    # The beats name two routers: each may send half of what there is room for.
    live = {"c1": beat("c1", sessions=4, routed={"r1": 0, "r2": 0}), "c2": beat("c2", sessions=90)}
    desks = [Desk(live, "round_robin", me=me, agents_wanted=10) for me in ("r1", "r2")]
    assert sum(desk.agents(3).get("c1", 0) for desk in desks) == 6


def test_the_beats_tell_how_many_routers_there_are() -> None:
    live = {"c1": beat("c1", routed={"r1": 3, "r2": 0}), "c2": beat("c2", routed={"r3": 1})}
    desk = Desk(live)
    assert desk.balancer.routers(live) == 3
    assert desk.balancer.routers(beats(c1=0)) == 1, "this one at least"


def test_each_of_several_routers_fills_its_part_of_an_empty_place() -> None:
    routed = {"r1": 0, "r2": 0, "r3": 0}
    live = {
        "c1": beat("c1", sessions=90, routed=routed),
        "c2": beat("c2", sessions=90, routed=routed),
        "low": beat("low", sessions=0, routed=routed),
    }
    found = [Desk(live, me=f"r{n}").agents(100) for n in (1, 2, 3)]
    low = sum(one["low"] for one in found)
    c1 = 90 + sum(one["c1"] for one in found)
    assert abs(low - c1) <= 3, "not three times what it lacked"


def test_routers_are_seen_with_their_latest_number_and_forgotten() -> None:
    seen = RoutersSeen(forget_s=30.0)
    assert seen.shown(0.0) == {}
    seen.heard("r1", 0, 0.0)
    seen.heard("r1", 7, 1.0)
    seen.heard("r2", 3, 2.0)
    seen.heard("r1", 0, 20.0)
    assert seen.shown(20.0) == {"r1": 7, "r2": 3}, "a probe takes no number back"
    assert seen.shown(40.0) == {"r1": 7}
    assert seen.shown(60.0) == {}


def test_no_more_routers_are_noted_than_fit_into_a_beat() -> None:
    seen = RoutersSeen(forget_s=30.0)
    for number in range(200):
        seen.heard(f"r{number}", 1, 0.0)
    assert len(seen.shown(0.0)) == RoutersSeen.ROUTERS_MAX
    seen.heard("r0", 9, 1.0)
    assert seen.shown(1.0)["r0"] == 9
