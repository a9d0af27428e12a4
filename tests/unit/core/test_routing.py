"""A router's choices: rules first, then balance, never who is dead, leaving or unhealthy."""

from __future__ import annotations

import pytest

from swarm.core.balancing import Balancer
from swarm.core.health import Health
from swarm.core.routing import Routing
from swarm.core.rules import Rules, parse_rules
from swarm.messages import Beat
from tests.builders import beat

NOW = 50.0
RULES = parse_rules("feature -> c1\nbug -> c3\ndocs -> dead\nboth -> c1, c2\n* -> c4")


class Desk:
    """A router whose coordinators are `live`, those in `sick` unhealthy."""

    def __init__(self, live: dict[str, Beat], sick: tuple[str, ...] = (), **how: str) -> None:
        health = Health(10.0, 5.0, rise=1, fall=1)
        self.live = live
        self.routing = Routing(Balancer(how.get("strategy", "least_connections"), "r1"), health)
        health.due(live, NOW)
        for name, one in live.items():
            if name in sick:
                health.failed(name, one.instance, "no answer within 5 s")
            else:
                health.answered(name, one.instance, 0.02, ready=True)

    def rules(self, rules: Rules, version: int = 1) -> None:
        self.routing.set_rules(rules, version)

    def submit(self, work_type: str, **headers: str) -> str | None:
        said = {f"Swarm-{name.title()}": value for name, value in headers.items()}
        return self.routing.submission(work_type, said or None, self.live, NOW)

    def attach(self) -> str | None:
        return self.routing.session(self.live, NOW)


def three() -> dict[str, Beat]:
    return {
        "c1": beat("c1", sessions=5),
        "c2": beat("c2", sessions=3),
        "c3": beat("c3", sessions=1, draining=True),
    }


@pytest.mark.parametrize("strategy", ["least_connections", "round_robin", "response_time"])
def test_who_leaves_is_dead_or_unhealthy_is_not_chosen(strategy: str) -> None:
    live = {**three(), "c4": beat("c4")}
    desk = Desk(live, sick=("c4",), strategy=strategy)
    assert {desk.attach() for _ in range(20)} == {"c1", "c2"}
    assert {desk.submit("x") for _ in range(20)} == {"c1", "c2"}
    del live["c1"]
    assert {desk.attach() for _ in range(20)} == {"c2"}


def test_if_none_is_healthy_any_will_do_and_that_is_counted() -> None:
    desk = Desk(three(), sick=("c1", "c2", "c3"))
    assert desk.attach() == "c2"
    assert desk.submit("x") == "c2", "four against five"
    assert desk.routing.report(desk.live, True).in_need == 2


def test_nobody_to_choose() -> None:
    assert Desk({}).attach() is None
    assert Desk({}).submit("x") is None
    desk = Desk({"c3": three()["c3"]})
    desk.rules(RULES)
    assert desk.submit("bug") is None
    report = desk.routing.report(desk.live, True)
    assert report.unmatched == report.in_need == 0, "nothing was chosen"


def test_a_rule_goes_first_whatever_the_load() -> None:
    desk = Desk(three())
    desk.rules(RULES)
    assert [desk.submit("feature") for _ in range(9)] == ["c1"] * 9
    assert desk.attach() == "c2", "rules are for submissions"


def test_several_targets_are_balanced() -> None:
    live = {"c1": beat("c1"), "c2": beat("c2"), "c9": beat("c9")}
    desk = Desk(live)
    desk.rules(RULES)
    found = [desk.submit("both") for _ in range(10)]
    assert (found.count("c1"), found.count("c2")) == (5, 5)
    desk = Desk(live, sick=("c1",))
    desk.rules(RULES)
    assert {desk.submit("both") for _ in range(10)} == {"c2"}
    assert desk.routing.report(live, True).rules[3].fallbacks == 0, "one of them was there"


@pytest.mark.parametrize("work_type", ["bug", "docs"])
def test_a_rule_without_a_target_falls_back_and_that_is_counted(work_type: str) -> None:
    desk = Desk(three())
    desk.rules(RULES)
    assert desk.submit(work_type) == "c2"
    shown = {rule.pattern: rule for rule in desk.routing.report(desk.live, True).rules}
    assert shown[work_type].matched == 1
    assert shown[work_type].fallbacks == 1
    assert shown[work_type].to == {"c2": 1}


def test_an_unhealthy_target_falls_back() -> None:
    desk = Desk(three(), sick=("c1",))
    desk.rules(RULES)
    assert desk.submit("feature") == "c2"
    assert desk.routing.report(desk.live, True).rules[0].fallbacks == 1


def test_routing_by_what_headers_say() -> None:
    desk = Desk(three())
    desk.rules(parse_rules("high -> c1\nmedium -> c2", "priority"))
    assert desk.submit("x", priority="high") == "c1"
    assert desk.submit("x") == "c2", "medium, as nothing else is said"
    desk.rules(parse_rules("Core Team -> c1", "team"))
    assert desk.submit("x", team="Core%20Team") == "c1"
    desk.rules(parse_rules("region=eu -> c1", "label"))
    assert desk.submit("x", label="a=1,region=eu") == "c1"


def test_what_was_chosen_is_reported() -> None:
    desk = Desk({**three(), "c4": beat("c4")}, sick=("c4",))
    desk.rules(RULES, version=7)
    for work_type in ("feature", "feature", "docs", "_"):
        desk.submit(work_type)
    desk.attach()
    del desk.live["c1"]
    report = desk.routing.report(desk.live, True)
    assert (report.router, report.strategy, report.key) == ("r1", "least_connections", "work_type")
    assert (report.enabled, report.version, report.unmatched) == (True, 7, 0)
    matched = {rule.pattern: (rule.matched, rule.fallbacks) for rule in report.rules}
    assert matched == {
        "feature": (2, 0),
        "bug": (0, 0),
        "docs": (1, 1),
        "both": (0, 0),
        "*": (1, 1),
    }
    seen = {one.coordinator: one for one in report.coordinators}
    assert list(seen) == ["c1", "c2", "c3", "c4"]
    assert (seen["c1"].live, seen["c1"].submissions) == (False, 2)
    assert (seen["c2"].live, seen["c2"].attached, seen["c2"].sessions) == (True, 3, 1)
    assert seen["c2"].response_s == 0.02
    assert seen["c3"].draining
    assert (seen["c4"].healthy, seen["c4"].why) == (False, "no answer within 5 s")


def test_counts_of_rules_that_stay_go_on() -> None:
    desk = Desk(three())
    desk.rules(RULES)
    desk.submit("feature")
    desk.submit("docs")
    desk.rules(parse_rules("docs -> c1\nnew -> c2"), version=2)
    desk.submit("docs")
    shown = {rule.pattern: rule for rule in desk.routing.report(desk.live, True).rules}
    assert shown["docs"].matched == 2
    assert shown["docs"].fallbacks == 1
    assert shown["new"].matched == 0
    desk.rules(RULES, version=3)
    report = desk.routing.report(desk.live, True)
    assert report.rules[0].matched == 0, "a rule that was taken back begins anew"
