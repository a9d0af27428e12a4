"""Edits of what holds for the whole swarm that meet: nothing acknowledged is lost."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core import cluster as core
from swarm.core.cluster import Cluster, ClusterBatch
from swarm.core.conflicts import CONFLICT_RESOLUTIONS
from swarm.core.edits import Asked, Command, in_turn
from swarm.core.sharding import accepting
from swarm.errors import Refusal
from swarm.messages import (
    Conflict,
    ConflictNoted,
    ControlReply,
    Opened,
    Priority,
    Resize,
    RulesSet,
    SetRules,
    TellConflict,
)
from tests.builders import NOW, command_id, refusal_of, shard_map

NAMES = ["c1", "c2"]


class Desk:
    """A leader that carries out many commands in one entry."""

    def __init__(self, policy: str = "timestamp", seed: int = 1) -> None:
        self.cluster = Cluster()
        self.policy = policy
        self.rng = Random(seed)
        self.events: list[Any] = []
        self._ids = iter(range(1, 10_000))
        self._write(lambda out: out.add(Opened("c1")))
        self._write(lambda out: core.take_over(shard_map(4), out))

    def _write(self, work: Callable[[ClusterBatch], Any]) -> Any:
        self.cluster.seq += 1
        out = ClusterBatch(self.cluster, "n1", NOW, NAMES, policy=self.policy, rng=self.rng.random)
        done = work(out)
        self.events = out.events
        return done

    def id(self, later_s: float = 0.0) -> str:
        return command_id(next(self._ids), NOW + later_s)

    def rules(self, text: str, based_on: int, later_s: float = 0.0, **more: Any) -> SetRules:
        return SetRules(text, self.id(later_s), based_on, **more)

    def at_once(self, *asked: tuple[str, Command]) -> dict[str, str]:
        """What each sender was answered: "done", or the code of the refusal."""
        answers: dict[str, str] = {}

        def work(out: ClusterBatch) -> None:
            verbs = {SetRules: "rules", Resize: "resize", TellConflict: "conflict"}
            came = [Asked(verbs[type(command)], command, sender) for sender, command in asked]
            for one in in_turn(came, out):
                try:
                    reply = core.control(one.verb, one.command, one.sender, out)
                    assert isinstance(reply, ControlReply)
                    answers[one.sender] = "done"
                except Refusal as refusal:
                    answers[one.sender] = refusal.code

        self._write(work)
        return answers

    @property
    def conflicts(self) -> list[Conflict]:
        return list(self.cluster.conflicts)


def edited(policy: str, seed: int = 1) -> tuple[Desk, dict[str, str]]:
    """Three edits of one version that met: by when each was made, and how urgent it is."""
    desk = Desk(policy, seed)
    desk.at_once(("eve", desk.rules("a -> c1", 0)))
    edits: list[tuple[str, float, Priority]] = [
        ("ann", 0.2, "low"),
        ("bob", 0.3, "medium"),
        ("cleo", 0.1, "critical"),
    ]
    answers = desk.at_once(
        *(
            (name, desk.rules(f"{name} -> c2", 1, later_s, priority=priority))
            for name, later_s, priority in edits
        )
    )
    return desk, answers


@pytest.mark.parametrize(("policy", "winner"), [("timestamp", "bob"), ("priority", "cleo")])
def test_of_edits_of_one_version_that_meet_the_policy_picks_one(policy: str, winner: str) -> None:
    desk, answers = edited(policy)
    assert answers.pop(winner) == "done"
    assert set(answers.values()) == {"conflict"}
    assert desk.cluster.rules.text == f"{winner} -> c2"
    assert desk.cluster.rules.version == 2
    assert desk.cluster.conflict_counts == {"rules": {policy: 2}}
    assert {conflict.by for conflict in desk.conflicts} == set(answers)
    for conflict in desk.conflicts:
        assert conflict.about == "rules, version 1"
        assert conflict.kept == f"{winner}: {winner} -> c2"
        assert conflict.dropped == f"{conflict.by}: {conflict.by} -> c2"


def test_chance_picks_any_of_them_and_one_alone() -> None:
    winners = set()
    for seed in range(40):
        _, answers = edited("random", seed)
        (winner,) = [name for name, answer in answers.items() if answer == "done"]
        winners.add(winner)
    assert winners == {"ann", "bob", "cleo"}


def test_what_is_in_the_log_stays_whatever_the_policy_prefers() -> None:
    for policy in CONFLICT_RESOLUTIONS:
        desk = Desk(policy)
        desk.at_once(("eve", desk.rules("a -> c1", 0)))
        desk.at_once(("ann", desk.rules("ann -> c1", 1, priority="low")))
        later = desk.rules("bob -> c1", 1, 60.0, priority="critical")
        assert desk.at_once(("bob", later)) == {"bob": "conflict"}
        assert desk.cluster.rules.text == "ann -> c1"
        (conflict,) = desk.conflicts
        assert (conflict.kept, conflict.dropped) == ("ann: ann -> c1", "bob: bob -> c1")
        assert conflict.policy == "log"


def test_a_refusal_names_who_has_won_and_why() -> None:
    desk = Desk("priority")
    desk.at_once(("eve", desk.rules("a -> c1", 0)))
    commands = [desk.rules("a -> c1", 1), desk.rules("a -> c2", 1, priority="high")]

    def work(out: ClusterBatch) -> str:
        came = [Asked("rules", one, f"s{place}") for place, one in enumerate(commands)]
        first, second = in_turn(came, out)
        core.control("rules", first.command, first.sender, out)
        return refusal_of(lambda: core.control("rules", second.command, second.sender, out)).message

    assert desk._write(work) == (
        "the rules were edited as of version 1, but there is version 2 by s1, which "
        "CONFLICT_RESOLUTION = priority has chosen; read it and edit that"
    )


def test_an_edit_that_wins_and_is_wrong_leaves_its_place_to_the_next() -> None:
    desk = Desk()
    desk.at_once(("eve", desk.rules("a -> c1", 0)))
    answers = desk.at_once(
        ("ann", desk.rules("ann -> c1", 1)), ("bob", desk.rules("bob -> nowhere", 1, 9.0))
    )
    assert answers == {"ann": "done", "bob": "bad_request"}
    assert desk.conflicts == []


def test_who_asks_to_overwrite_whatever_there_is_does_not_disagree() -> None:
    desk = Desk()
    first, second = desk.rules("a -> c1", 0, 9.0), desk.rules("b -> c1", 0)
    answers = desk.at_once(("ann", first), ("bob", second))
    assert set(answers.values()) == {"done"}
    assert [event.rules.text for event in desk.events if isinstance(event, RulesSet)] == [
        "a -> c1",
        "b -> c1",
    ], "both are in the log, in the order in which they came"
    assert desk.conflicts == []


def test_a_refused_edit_that_is_sent_again_is_one_conflict() -> None:
    desk = Desk()
    desk.at_once(("eve", desk.rules("a -> c1", 0)), ("eve", desk.rules("b -> c1", 0)))
    late = desk.rules("c -> c1", 1)
    for _ in range(3):
        assert desk.at_once(("ann", late)) == {"ann": "conflict"}
    assert desk.cluster.conflict_counts == {"rules": {"log": 1}}


def test_a_repeated_edit_is_answered_and_meets_nobody() -> None:
    desk = Desk()
    desk.at_once(("eve", desk.rules("a -> c1", 0)))
    first = desk.rules("ann -> c1", 1)
    desk.at_once(("ann", first))
    answers = desk.at_once(("ann", first), ("bob", desk.rules("bob -> c1", 2)))
    assert answers == {"ann": "done", "bob": "done"}


@pytest.mark.parametrize(("policy", "shards"), [("timestamp", 9), ("priority", 6)])
def test_so_do_two_that_change_the_number_of_shards(policy: str, shards: int) -> None:
    desk = Desk(policy)
    answers = desk.at_once(
        ("ann", Resize(6, desk.id(), based_on=1, priority="high")),
        ("bob", Resize(9, desk.id(5.0), based_on=1)),
    )
    assert sorted(answers.values()) == ["conflict", "done"]
    assert desk.cluster.map is not None
    assert (accepting(desk.cluster.map), desk.cluster.map.version) == (shards, 2)
    (conflict,) = desk.conflicts
    assert (conflict.kind, conflict.kept) == ("settings", f"{shards} shards")


def test_two_that_want_the_same_number_agree() -> None:
    desk = Desk()
    answers = desk.at_once(
        ("ann", Resize(6, desk.id(), based_on=1)), ("bob", Resize(6, desk.id(), based_on=1))
    )
    assert set(answers.values()) == {"done"}
    assert desk.conflicts == []


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ([], "0 conflicts at once"),
        ([Conflict("rules", "a", "b", "c")] * (core.TOLD_MAX + 1), "21 conflicts at once"),
        ([Conflict("rules", "a", "b", "c", "newest")], "'newest'"),
        ([Conflict("rules", "a", "b", "c", count=0)], "and 0"),
    ],
)
def test_what_is_told_is_checked_as_a_whole(told: list[Conflict], named: str) -> None:
    desk = Desk()
    good = Conflict("opening", "shard 1", "c1", "c2")

    def work(out: ClusterBatch) -> str:
        command = TellConflict([good, *told] if told else [], desk.id())
        return refusal_of(lambda: core.control("conflict", command, "c1", out)).message

    assert named.replace("21", "22") in desk._write(work)
    assert not any(isinstance(event, ConflictNoted) for event in desk.events)


# --- whatever comes --------------------------------------------------------------------------

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "cleo", "dora"]),
        st.integers(0, 3),
        st.floats(0, 10),
        st.sampled_from(["critical", "high", "medium", "low"]),
    ),
    max_size=8,
)


@given(st.sampled_from(CONFLICT_RESOLUTIONS), st.lists(EDITS, max_size=5), st.integers(0, 99))
def test_no_policy_loses_an_acknowledged_edit(
    policy: str, entries: list[list[tuple[str, int, float, Any]]], seed: int
) -> None:
    """Every edit that was answered is a version of its own, made of the one that it names."""
    desk = Desk(policy, seed)
    versions = 0
    for entry in entries:
        before = desk.cluster.rules.version
        numbered = [
            (f"{name}-{place}", desk.rules(f"x{place} -> c1", based_on, later_s, priority=priority))
            for place, (name, based_on, later_s, priority) in enumerate(entry)
        ]
        answers = desk.at_once(*numbered)
        done = [command for sender, command in numbered if answers[sender] == "done"]
        stored = [event.rules for event in desk.events if isinstance(event, RulesSet)]
        assert len(stored) == len(done)
        assert sorted(one.text for one in stored) == sorted(one.text for one in done)
        assert [one.version for one in stored] == list(range(before + 1, before + 1 + len(done)))
        for rules in stored:
            (command,) = [one for sender, one in numbered if sender == rules.by]
            assert command.based_on in (0, rules.version - 1), "no edit is overwritten unread"
        versions += len(done)
        noted = [event for event in desk.events if isinstance(event, ConflictNoted)]
        refused = [sender for sender, answer in answers.items() if answer == "conflict"]
        assert {one.conflict.by for one in noted} <= set(refused)
    assert desk.cluster.rules.version == versions
