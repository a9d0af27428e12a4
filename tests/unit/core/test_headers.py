"""What submissions are routed by: said by clients, read by routers, checked by coordinators."""

from __future__ import annotations

import pytest

from swarm.core.headers import (
    HEADER_BYTES_MAX,
    Common,
    contradiction,
    label_header,
    labels_of,
    values_of,
)
from swarm.messages import NewItem


def headers_of(*items: NewItem) -> dict[str, str] | None:
    common = Common(items[0])
    for item in items[1:]:
        common.add(item)
    return common.headers()


def test_plain_items_need_no_headers() -> None:
    assert headers_of(NewItem("a")) is None
    assert headers_of(NewItem("a"), NewItem("b")) is None


def test_what_all_items_say_is_in_the_headers() -> None:
    item = NewItem("a", priority="high", team="Core Team", labels={"b": "2", "a": "ü=1,"})
    assert headers_of(item, item) == {
        "Swarm-Priority": "high",
        "Swarm-Team": "Core%20Team",
        "Swarm-Label": "a=%C3%BC%3D1%2C,b=2",
    }


def test_what_items_differ_in_is_said_to_be_so() -> None:
    high = NewItem("a", priority="high", team="x", labels={"a": "1"})
    assert headers_of(high, NewItem("a")) == {
        "Swarm-Priority": "_", "Swarm-Team": "_", "Swarm-Label": "_",
    }  # fmt: skip
    assert headers_of(NewItem("a"), high, NewItem("a")) == headers_of(high, NewItem("a"))
    assert headers_of(high, NewItem("a", priority="high", team="x")) == {
        "Swarm-Priority": "high", "Swarm-Team": "x", "Swarm-Label": "_",
    }  # fmt: skip


def test_labels_that_are_too_long_for_a_header_are_not_sent() -> None:
    item = NewItem("a", labels={"k": "v" * HEADER_BYTES_MAX})
    assert headers_of(item) == {"Swarm-Label": "_"}


@pytest.mark.parametrize(
    "labels", [{}, {"a": ""}, {"a": "b", "c,d": "e=f"}, {"%": "%41", "é": "🐝"}]
)
def test_labels_survive_the_header(labels: dict[str, str]) -> None:
    text = label_header(labels)
    assert labels_of(text) == labels
    assert text.isascii()
    assert " " not in text


def test_a_router_reads_what_the_rules_are_about() -> None:
    headers = {"Swarm-Priority": "low", "Swarm-Team": "Core%20Team", "Swarm-Label": "a=1,b=x%2Cy"}
    assert values_of("work_type", "docs", headers) == ["docs"]
    assert values_of("priority", "docs", headers) == ["low"]
    assert values_of("team", "docs", headers) == ["Core Team"]
    assert values_of("label", "docs", headers) == ["a=1", "b=x,y"]


def test_what_is_not_said_is_the_default_and_what_differs_is_nothing() -> None:
    nothing: list[dict[str, str] | None] = [None, {}]
    for headers in nothing:
        assert values_of("priority", "docs", headers) == ["medium"]
        assert values_of("team", "docs", headers) == []
        assert values_of("label", "docs", headers) == []
    mixed = dict.fromkeys(("Swarm-Priority", "Swarm-Team", "Swarm-Label"), "_")
    assert values_of("work_type", "_", mixed) == []
    for key in ("priority", "team", "label"):
        assert values_of(key, "docs", mixed) == []


ITEM = NewItem("docs", priority="high", team="Core Team", labels={"a": "1", "b": "2"})


def test_headers_that_fit_the_item_are_no_contradiction() -> None:
    said = headers_of(ITEM)
    assert said is not None
    assert contradiction(ITEM, {"Swarm-Type": "docs", **said}) == ""
    assert contradiction(ITEM, {"Swarm-Label": "b=2,a=1"}) == "", "in any order"
    assert contradiction(ITEM, {"Other": "x"}) == ""
    assert contradiction(ITEM, dict.fromkeys(said, "_")) == ""


@pytest.mark.parametrize(
    ("header", "says", "named"),
    [
        ("Swarm-Type", "feature", "work_type is 'docs'"),
        ("Swarm-Priority", "low", "priority is 'high'"),
        ("Swarm-Priority", "", "priority is 'high'"),
        ("Swarm-Team", "core", "team is 'Core Team'"),
        ("Swarm-Label", "a=1", "label is 'a=1,b=2'"),
        ("Swarm-Label", "a=1,b=2,c=3", "label is 'a=1,b=2'"),
    ],
)
def test_a_contradiction_names_both_sides(header: str, says: str, named: str) -> None:
    text = contradiction(ITEM, {header: says})
    assert named in text
    assert header in text
    assert repr(says) in text
