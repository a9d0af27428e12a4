"""Health checks: who is asked when, and what answers and silence make of a coordinator."""

from __future__ import annotations

import pytest

from swarm.core.health import Health
from swarm.messages import Beat
from tests.builders import beat

LIVE: dict[str, Beat] = {"c1": beat("c1"), "c2": beat("c2")}


def health(rise: int = 2, fall: int = 3) -> Health:
    """Asks every 10 s, for at most 5 s."""
    return Health(10.0, 5.0, rise, fall)


class Asked:
    """One coordinator, asked again and again."""

    def __init__(self, rise: int = 2, fall: int = 3) -> None:
        self.health = health(rise, fall)
        self.now = 0.0

    def result(self, good: bool, took_s: float = 0.01) -> bool:
        """The next probe ends like this; whether it is healthy then."""
        assert self.health.due({"c1": LIVE["c1"]}, self.now) == ["c1"]
        self.now += 10.0
        if good:
            self.health.answered("c1", "c1-i1", took_s, ready=True)
        else:
            self.health.failed("c1", "c1-i1", "no answer")
        return self.health.healthy("c1")


def test_everybody_is_asked_at_once_and_then_at_each_interval() -> None:
    checks = health()
    assert checks.due(LIVE, 90.0) == ["c1", "c2"]
    assert checks.due(LIVE, 90.1) == [], "they are being asked"
    checks.answered("c1", "c1-i1", 0.01, ready=True)
    checks.answered("c2", "c2-i1", 0.01, ready=True)
    assert checks.due(LIVE, 100.0) == ["c1", "c2"]
    checks.answered("c1", "c1-i1", 0.01, ready=True)
    assert checks.due(LIVE, 109.9) == []
    assert checks.next_due_at(109.9) == 110.0
    assert checks.due(LIVE, 110.0) == ["c1"], "c2 has not answered: one probe at a time"
    checks.failed("c2", "c2-i1", "no answer")
    assert checks.due(LIVE, 110.0) == ["c2"]
    assert checks.next_due_at(110.0) == 120.0, "nobody is to be asked before an answer comes"


def test_a_newcomer_is_asked_at_once() -> None:
    checks = health()
    checks.due(LIVE, 0.0)
    assert checks.due({**LIVE, "c3": beat("c3")}, 3.0) == ["c3"]


def test_who_was_restarted_begins_anew() -> None:
    checks = health(fall=1)
    checks.due(LIVE, 0.0)
    checks.failed("c1", "c1-i1", "no answer")
    assert not checks.healthy("c1")
    live = {**LIVE, "c1": beat("c1", instance="c1-i2")}
    assert checks.due(live, 1.0) == ["c1"]
    assert checks.healthy("c1"), "nothing speaks against the new one"
    checks.failed("c1", "c1-i1", "an answer to the question before")
    assert checks.healthy("c1")
    checks.answered("c1", "c1-i2", 0.5, ready=True)
    assert checks.response_s("c1") == 0.5


def test_who_does_not_live_is_forgotten() -> None:
    checks = health()
    checks.due(LIVE, 0.0)
    checks.failed("c1", "c1-i1", "no answer")
    assert not checks.healthy("c1")
    checks.due({"c2": LIVE["c2"]}, 1.0)
    assert checks.healthy("c1"), "its beats speak for it when they come again"
    assert checks.response_s("c1") == 0.0
    checks.answered("c1", "c1-i1", 1.0, ready=True)
    assert checks.response_s("c1") == 0.0, "nobody waits for this answer"


def test_nobody_is_unhealthy_who_was_not_asked() -> None:
    assert health().healthy("c1")
    assert health().why("c1") == ""


def test_who_has_never_answered_falls_at_once_and_rises_at_once() -> None:
    asked = Asked(rise=2, fall=3)
    assert asked.result(good=False) is False
    assert asked.result(good=False) is False
    assert asked.result(good=True) is True


def test_who_has_never_answered_is_asked_again_soon() -> None:
    checks = health()
    checks.due(LIVE, 0.0)
    checks.failed("c1", "c1-i1", "its own beats do not come back")
    checks.answered("c2", "c2-i1", 0.01, ready=True)
    assert checks.due(LIVE, 0.9) == []
    assert checks.due(LIVE, 1.0) == ["c1", "c2"], "c2 once more, soon after its first answer"
    checks.failed("c1", "c1-i1", "its own beats do not come back")
    checks.answered("c2", "c2-i1", 0.01, ready=True)
    assert checks.due(LIVE, 2.0) == ["c1"]
    checks.answered("c1", "c1-i1", 0.01, ready=True)
    assert checks.due(LIVE, 3.0) == ["c1"]
    checks.answered("c1", "c1-i1", 0.01, ready=True)
    assert checks.due(LIVE, 10.9) == []
    assert checks.due(LIVE, 11.0) == ["c2"]


def test_it_falls_after_so_many_failures_in_a_row() -> None:
    asked = Asked(rise=2, fall=3)
    results = [asked.result(good) for good in (True, False, False, True, False, False, False)]
    assert results == [True, True, True, True, True, True, False]
    assert asked.health.why("c1") == "no answer"


def test_it_rises_after_so_many_answers_in_a_row() -> None:
    asked = Asked(rise=2, fall=1)
    results = [asked.result(good) for good in (True, False, True, False, True, True)]
    assert results == [True, False, False, False, False, True]
    assert asked.health.why("c1") == ""


@pytest.mark.parametrize("fall", [1, 2, 5])
@pytest.mark.parametrize("rise", [1, 2, 5])
def test_rise_and_fall_are_what_they_say(rise: int, fall: int) -> None:
    asked = Asked(rise, fall)
    assert asked.result(good=True)
    assert [asked.result(good=False) for _ in range(fall)] == [True] * (fall - 1) + [False]
    assert [asked.result(good=True) for _ in range(rise)] == [False] * (rise - 1) + [True]


def test_an_answer_that_says_no_is_a_failure() -> None:
    checks = health(fall=1)
    checks.due(LIVE, 0.0)
    checks.answered("c1", "c1-i1", 0.01, ready=False, why="it is about to leave")
    assert not checks.healthy("c1")
    assert checks.why("c1") == "it is about to leave"
    checks.answered("c2", "c2-i1", 0.01, ready=False)
    assert checks.why("c2") == "it is not ready"


def test_a_probe_that_did_not_go_out_says_nothing() -> None:
    checks = health(fall=1)
    checks.due(LIVE, 0.0)
    checks.not_asked("c1")
    checks.not_asked("nobody")
    assert checks.healthy("c1")
    assert checks.due(LIVE, 0.9) == []
    assert checks.due(LIVE, 1.0) == ["c1"]


def test_the_response_time_follows_and_silence_counts_as_the_timeout() -> None:
    asked = Asked()
    asked.result(good=True, took_s=0.1)
    assert asked.health.response_s("c1") == pytest.approx(0.1)
    asked.result(good=True, took_s=0.3)
    assert asked.health.response_s("c1") == pytest.approx(0.2)
    asked.result(good=False)
    assert asked.health.response_s("c1") == pytest.approx(2.6)
