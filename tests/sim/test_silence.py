"""The simulation's own judgement of who may be charged for having fallen silent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from swarm.bus.memory_faults import Faults
from swarm.messages import LogEntry, Released
from swarm.testing.sim.mechanism import Said
from swarm.testing.sim.mechanisms.silence import Silence
from swarm.testing.sim.mishaps import Mishap
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Claim, Folded
from swarm.testing.sim.verdict import Verdict, Violation

LEASE_S = 4.0


class Stage:
    """An agent `a2` on machine `a2x`, whose claim in `c1`'s shard lapses at 1020."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.now_s = 1000.0
        self.verdict = Verdict(lambda violation: None)
        scene = SimpleNamespace(
            clock=lambda: self.now_s,
            verdict=self.verdict,
            plan=SimpleNamespace(faults=faults or Faults.none()),
            calm_at_s=2000.0,
        )
        self.silence = Silence(cast(Scene, scene))
        self.silence.boots("a2x")
        self.attach("a2x", "s1")

    def attach(self, node: str, session: str) -> None:
        data = msgspec.json.encode({"session": session})
        self.silence.attaches(Said(node, "swarm.attach.a2", data, "", None))

    def strike(self, kind: str, node: str, at_s: float, for_s: float = 1.0) -> None:
        self.now_s = at_s
        self.silence.struck(Mishap(at_s, kind, node, for_s))

    def lapse(self) -> None:
        event = Released(7, 1, "lapsed", "its agent fell silent")
        entry = LogEntry(2, "i", 1, "o", 1, 1, 1, 0.0, [event])
        claim = Claim("0-7", "1.o.s1", 1, "a2", "s1", LEASE_S)
        self.silence.check(Folded(0, 9, event, entry, "c1", 1020.0, ended=claim))


def test_an_agent_that_was_well_must_not_be_charged() -> None:
    stage = Stage()
    with pytest.raises(Violation, match="was well all the time"):
        stage.lapse()


@pytest.mark.parametrize(
    ("kind", "node"), [("outage", "c1"), ("pause", "c1"), ("partition", "c1"), ("pause", "a3x")]
)
def test_what_befalls_others_is_no_reason(kind: str, node: str) -> None:
    stage = Stage()
    stage.strike(kind, node, 1017.0, for_s=2.0)
    with pytest.raises(Violation):
        stage.lapse()


def test_nor_is_what_was_over_long_before_its_lease() -> None:
    stage = Stage()
    stage.strike("pause", "a2x", 1001.0)
    with pytest.raises(Violation):
        stage.lapse()


@pytest.mark.parametrize("kind", ["pause", "stall", "partition", "deaf", "leave"])
def test_an_agent_that_was_struck_may_be_charged(kind: str) -> None:
    stage = Stage()
    stage.strike(kind, "a2x", 1017.0)
    stage.lapse()


def test_an_agent_that_has_died_may_be_charged() -> None:
    stage = Stage()
    stage.strike("crash", "a2x", 1003.0)
    stage.lapse()
    assert stage.verdict.seen == {"charged an agent": 1}


def test_a_session_whose_place_another_one_asked_for_may_be_silent() -> None:
    stage = Stage()
    stage.attach("a2y", "s2")
    stage.lapse()


def test_lost_messages_cannot_be_told_from_silence() -> None:
    stage = Stage(Faults(loss=0.1))
    stage.lapse()


def test_an_owner_that_drops_messages_does_not_know_it() -> None:
    stage = Stage()
    stage.strike("slow", "c1", 1017.0)
    stage.lapse()
