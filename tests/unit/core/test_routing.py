"""Routing rules and the choice of a coordinator."""

from __future__ import annotations

import pytest

from swarm.core.routing import choose, least_connections, parse_rules
from swarm.errors import BadConfig
from tests.builders import beat


def test_rules_are_lines_of_a_type_and_a_target() -> None:
    text = """
        # where things go
        feature -> coordinator-1:4000
        bug->c2

        docs   ->\tc3:1
    """
    assert parse_rules(text) == {"feature": "coordinator-1", "bug": "c2", "docs": "c3"}
    assert parse_rules("") == {}
    assert parse_rules("\n\n#only a comment\n") == {}
    assert parse_rules("a -> b\r\nc -> d\r\n") == {"a": "b", "c": "d"}


@pytest.mark.parametrize(
    "line",
    [
        "feature", "feature ->", "-> c1", "feature c1", "feature => c1", "fea ture -> c1",
        "feature -> c 1", "feature -> c1:port", "feature -> c1:", "feature -> c1:123456",
        "feature -> c.1", "feature -> *", "* -> c1", "a.b -> c1", "_ -> c1", "feature -> _c",
        "feature -> c1 # why", "é -> c1", "a" * 65 + " -> c1", "feature -> " + "c" * 65,
    ],
)  # fmt: skip
def test_a_line_that_is_no_rule_is_named(line: str) -> None:
    with pytest.raises(BadConfig) as caught:
        parse_rules(f"# first\nok -> c1\n{line}\nalso -> c2")
    assert "line 3" in str(caught.value)
    assert repr(line) in str(caught.value)
    assert "work_type -> coordinator:port" in str(caught.value)


def test_a_second_rule_for_a_type_is_named() -> None:
    with pytest.raises(BadConfig, match="line 3: a second rule for 'a'"):
        parse_rules("a -> c1\nb -> c1\na -> c1")


# --- balance -----------------------------------------------------------------------------

LIVE = {
    "c1": beat("c1", sessions=5),
    "c2": beat("c2", sessions=3),
    "c3": beat("c3", sessions=1, draining=True),
    "c4": beat("c4", sessions=3),
}


def test_the_fewest_sessions_then_the_name() -> None:
    assert least_connections(LIVE, {}) == "c2"
    assert least_connections(dict(reversed(LIVE.items())), {}) == "c2"


def test_what_was_given_since_the_beat_counts() -> None:
    assert least_connections(LIVE, {"c2": 1}) == "c4"
    assert least_connections(LIVE, {"c2": 2, "c4": 2}) == "c1"
    assert least_connections(LIVE, {"gone": 9}) == "c2"


def test_a_crowd_between_two_beats_is_shared() -> None:
    live = {name: beat(name) for name in ("c1", "c2", "c3")}
    given: dict[str, int] = {}
    for _ in range(300):
        name = least_connections(live, given)
        assert name is not None
        given[name] = given.get(name, 0) + 1
    assert given == {"c1": 100, "c2": 100, "c3": 100}


def test_nobody_to_choose() -> None:
    assert least_connections({}, {"c1": 1}) is None
    assert least_connections({"c3": LIVE["c3"]}, {}) is None
    assert choose({"a": "c3"}, "a", {"c3": LIVE["c3"]}, {}) is None


def test_a_rule_goes_first_while_its_target_is_there() -> None:
    rules = {"feature": "c1", "bug": "c3", "docs": "dead"}
    assert choose(rules, "feature", LIVE, {"c1": 1000}) == "c1"
    assert choose(rules, "bug", LIVE, {}) == "c2", "its target is about to leave"
    assert choose(rules, "docs", LIVE, {}) == "c2", "its target is not alive"
    assert choose(rules, "other", LIVE, {}) == "c2"
    assert choose({}, "feature", LIVE, {}) == "c2"
