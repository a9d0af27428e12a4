"""What picks between equals, and conflicts on their way to the leader."""

from __future__ import annotations

from random import Random

import pytest

from swarm.core.conflicts import SIDE_CHARS_MAX, UNTOLD_MAX, Untold, best_first, short
from swarm.messages import Conflict, ConflictKind, Priority

#: Name, when it was made, priority.
SIDES: list[tuple[str, int, Priority]] = [
    ("a", 2, "low"),
    ("b", 3, "high"),
    ("c", 1, "critical"),
    ("d", 3, "high"),
]


def ranked(policy: str, seed: int = 1) -> str:
    best = best_first(
        SIDES, policy, lambda side: side[1], lambda side: side[2], Random(seed).random
    )
    return "".join(name for name, _, _ in best)


@pytest.mark.parametrize(("policy", "order"), [("timestamp", "bdac"), ("priority", "cbda")])
def test_the_later_and_the_more_urgent_go_first_and_the_same_as_they_came(
    policy: str, order: str
) -> None:
    assert ranked(policy) == order


def test_chance_prefers_anybody_and_can_be_repeated() -> None:
    firsts = {ranked("random", seed)[0] for seed in range(50)}
    assert firsts == set("abcd")
    assert sorted(ranked("random")) == list("abcd")
    assert ranked("random", 7) == ranked("random", 7)


def test_an_unknown_policy_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="'newest' is no policy"):
        ranked("newest")


def conflict(about: str, kind: ConflictKind = "idempotency", **fields: object) -> Conflict:
    return Conflict(kind, about, "kept", "dropped", **fields)  # type: ignore[arg-type]


def test_long_sides_are_cut() -> None:
    cut = short(Conflict("rules", "x" * 999, "y" * 999, "z", "log", "lisa", 7.0, 3))
    assert (len(cut.about), len(cut.kept), cut.dropped) == (SIDE_CHARS_MAX, SIDE_CHARS_MAX, "z")
    assert (cut.policy, cut.by, cut.at, cut.count) == ("log", "lisa", 7.0, 3)


def test_those_about_the_same_are_one_that_counts_them() -> None:
    untold = Untold()
    for about in ("key a", "key b", "key a", "key a"):
        untold.note(conflict(about))
    untold.note(conflict("key a", policy="random"))
    assert [(one.about, one.policy, one.count) for one in untold.take(9)] == [
        ("key a", "log", 3),
        ("key b", "log", 1),
        ("key a", "random", 1),
    ]
    assert len(untold) == 0


def test_they_are_taken_oldest_first_and_once() -> None:
    untold = Untold()
    for number in range(5):
        untold.note(conflict(f"key {number}"))
    assert [one.about for one in untold.take(2)] == ["key 0", "key 1"]
    assert [one.about for one in untold.take(9)] == ["key 2", "key 3", "key 4"]
    assert untold.take(9) == []


def test_a_flood_is_counted_and_takes_no_more_room() -> None:
    untold = Untold()
    for number in range(10 * UNTOLD_MAX):
        untold.note(conflict(f"key {number}"))
    assert len(untold) == UNTOLD_MAX
    untold.note(conflict("shard 1", "opening"))
    assert len(untold) == UNTOLD_MAX + 1, "another kind is not lost in the flood"
    taken = untold.take(10 * UNTOLD_MAX)
    counts = [one.count for one in taken if one.kind == "idempotency"]
    assert (sum(counts), max(counts)) == (10 * UNTOLD_MAX, 1 + 9 * UNTOLD_MAX)
