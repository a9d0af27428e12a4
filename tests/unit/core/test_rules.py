"""Routing rules: how they are written, which one wins, and what is refused."""

from __future__ import annotations

import pytest

from swarm.core.rules import REFERENCES_MAX, RULES_MAX, TARGETS_MAX, Rules, parse_rules
from swarm.errors import BadConfig

GUIDE = """
feature -> coordinator-1:4000
bug_fix -> coordinator-2:4000
documentation -> coordinator-3:4000
"""
COORDINATORS = ["coordinator-1", "coordinator-2", "coordinator-3"]


def targets(rules: Rules, *values: str) -> list[str]:
    rule = rules.match(*values)
    return [] if rule is None else list(rule.targets)


def refused(text: str, key: str = "work_type", known: list[str] | None = None) -> str:
    with pytest.raises(BadConfig) as caught:
        parse_rules(text, key, known)
    return str(caught.value)


# --- syntax ----------------------------------------------------------------------------------


def test_the_rules_of_the_guide() -> None:
    rules = parse_rules(GUIDE, "work_type", COORDINATORS)
    assert targets(rules, "feature") == ["coordinator-1"]
    assert targets(rules, "bug_fix") == ["coordinator-2"]
    assert targets(rules, "documentation") == ["coordinator-3"]
    assert targets(rules, "other") == []
    assert [rule.line for rule in rules.all] == [2, 3, 4]


def test_blanks_comments_and_line_ends_do_not_matter() -> None:
    text = "\n# where things go\n  feature -> c1:4000\r\nbug->c2\n docs \t->\tc3 , c1:1\n\n"
    rules = parse_rules(text)
    assert rules.lines() == ["feature -> c1", "bug -> c2", "docs -> c3, c1"]
    assert parse_rules("").all == ()
    assert parse_rules("\n\n#only a comment\n").all == ()


@pytest.mark.parametrize(
    "line",
    [
        "feature", "feature ->", "-> c1", "feature c1", "feature => c1", "fea ture -> c1",
        "feature -> c 1", "feature -> c1:port", "feature -> c1:", "feature -> c1:123456",
        "feature -> c1:0", "feature -> c1:65536", "feature -> c.1", "feature -> *",
        "a.b -> c1", "_ -> c1", "feature -> _c", "feature -> c1 # why", "é -> c1",
        "a" * 65 + " -> c1", "feature -> " + "c" * 65, "feature -> c1,", "feature -> ,c1",
        "feature -> c1,,c2", "*x -> c1", "a*b -> c1", "** -> c1", "a** -> c1", "feature -> @",
        "_* -> c1", "é* -> c1", "feature -> c1,c1", "feature -> c1:1\x00",
    ],
)  # fmt: skip
def test_a_line_that_is_no_rule_is_named(line: str) -> None:
    message = refused(f"# first\nok -> c1\n{line}\nalso -> c2")
    assert message.startswith("routing rules, line 3: ")


def test_a_line_that_is_no_rule_comes_with_how_to_write_one() -> None:
    assert "write: feature -> coordinator:port" in refused("feature c1")
    assert "write: high -> coordinator:port" in refused("high c1", "priority")
    assert "write: feature -> coordinator:port" in refused("feature -> c1:x")
    assert "* stands at the end" in refused("a*b -> c1")


# --- which one wins ------------------------------------------------------------------------


def test_the_most_specific_rule_wins_whatever_the_order() -> None:
    lines = ["* -> c0", "d* -> c1", "doc* -> c2", "docs -> c3", "docs_de* -> c4"]
    for text in ("\n".join(lines), "\n".join(reversed(lines))):
        rules = parse_rules(text)
        found = [targets(rules, v) for v in ("x", "d", "draft", "doc", "docs", "docs_x", "docs_de")]
        assert found == [["c0"], ["c1"], ["c1"], ["c2"], ["c3"], ["c2"], ["c4"]]


def test_a_batch_of_several_kinds_fits_the_rest_only() -> None:
    rules = parse_rules("docs -> c1\n* -> c2")
    assert targets(rules) == ["c2"]
    assert targets(rules, "") == ["c2"]
    assert targets(parse_rules("docs -> c1\nd* -> c2")) == []


def test_of_several_labels_a_whole_one_wins_over_a_beginning() -> None:
    rules = parse_rules("region=* -> c1\nregion=eu -> c2\nsize=big* -> c3\n* -> c4", "label")
    assert targets(rules, "size=bigger", "region=eu") == ["c2"]
    assert targets(rules, "region=us") == ["c1"]
    assert targets(rules, "region=us", "size=bigger") == ["c3"], "the longer one"
    assert targets(rules, "other=1") == ["c4"]


# --- keys ------------------------------------------------------------------------------------


def test_priorities_must_be_some() -> None:
    rules = parse_rules("critical -> c1\n* -> c2", "priority")
    assert targets(rules, "critical") == ["c1"]
    assert targets(rules, "low") == ["c2"]
    message = refused("high -> c1\nurgent -> c2", "priority")
    assert "line 2: 'urgent' is no priority; allowed: critical, high, medium, low, *" in message


def test_teams_may_be_called_anything() -> None:
    rules = parse_rules("Core Team -> c1\nplat* -> c2\na -> b -> c3", "team")
    assert targets(rules, "Core Team") == ["c1"]
    assert targets(rules, "platform") == ["c2"]
    assert targets(rules, "a -> b") == ["c3"]
    assert "line 1" in refused("x" * 600 + " -> c1", "team")
    assert "control characters" in refused("a\tb -> c1", "team")


def test_labels_have_a_name_and_a_value() -> None:
    assert "write name=value" in refused("region -> c1", "label")
    assert "write name=value" in refused("=eu -> c1", "label")
    assert targets(parse_rules("region= -> c1", "label"), "region=") == ["c1"]


# --- validated as a whole --------------------------------------------------------------------


def test_an_unknown_coordinator_is_named_with_those_that_there_are() -> None:
    message = refused("feature -> coordinator-1, coordinator-9", known=COORDINATORS)
    assert "line 1: 'coordinator-9' is no coordinator of this swarm" in message
    assert "coordinator-1, coordinator-2, coordinator-3" in message
    assert "there are: none" in refused("a -> c1", known=[])


def test_a_second_rule_for_the_same_is_named_with_the_first() -> None:
    message = refused("a -> c1\nb -> c1\na -> c2")
    assert "line 3: a second rule for 'a' (the first is in line 1)" in message
    assert "line 2" in refused("* -> c1\n* -> c2")
    assert "line 2" in refused("a* -> c1\na* -> c2")


def test_a_reference_stands_for_the_targets_of_another_rule() -> None:
    rules = parse_rules("hotfix -> @bug_fix, c9\nbug_fix -> c1, c2:4000\ndoc* -> @hotfix")
    assert targets(rules, "hotfix") == ["c1", "c2", "c9"]
    assert targets(rules, "docs") == ["c1", "c2", "c9"]
    assert rules.lines()[0] == "hotfix -> c1, c2, c9"


def test_rules_that_refer_to_each_other_in_a_circle_are_named() -> None:
    message = refused("a -> c1\nb -> @c\nc -> @d\nd -> c1, @b")
    assert "line 2" in message
    assert "in a circle: b -> @c -> @d -> @b" in message
    assert "a circle: a -> @a" in refused("a -> @a")


def test_a_reference_to_nothing_is_named() -> None:
    assert "line 1: '@b': there is no rule for 'b'" in refused("a -> @b")
    hint = refused("a -> b\nb -> c1", known=["c1"])
    assert "for what the rule for 'b' says, write @b" in hint


def test_references_are_followed_only_so_far_and_each_rule_once() -> None:
    far = [f"r{n} -> @r{n + 1}" for n in range(REFERENCES_MAX + 2)]
    assert "references (@) one after another" in refused(
        "\n".join([*far, f"r{REFERENCES_MAX + 2} -> c1"])
    )
    # Without remembering what was found, this would take 2 ** 16 steps.
    wide = [f"r{n} -> @r{n + 1}, @s{n + 1}\ns{n} -> @r{n + 1}, @s{n + 1}" for n in range(15)]
    rules = parse_rules("\n".join([*wide, "r15 -> c1", "s15 -> c2"]))
    assert targets(rules, "r0") == ["c1", "c2"]


def test_there_is_a_limit_to_rules_and_targets() -> None:
    many = "\n".join(f"t{n} -> c1" for n in range(RULES_MAX))
    assert len(parse_rules(many).all) == RULES_MAX
    assert f"more than {RULES_MAX} rules" in refused(many + "\nmore -> c1")
    wide = ", ".join(f"c{n}" for n in range(TARGETS_MAX + 1))
    assert f"at most {TARGETS_MAX}" in refused(f"a -> {wide}")
