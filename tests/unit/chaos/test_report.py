"""A run passes only if nothing was broken, and it has shown something."""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest
from rich.console import Console

from swarm.testing.chaos.faults import Done
from swarm.testing.chaos.plan import Fault
from swarm.testing.chaos.progress import Standstill
from swarm.testing.chaos.report import (
    Summary,
    all_kinds,
    show,
    summarize,
    violations,
    wanted_kinds,
)
from swarm.testing.chaos.run import Traces
from swarm.testing.chaos.verdict import Verdict
from swarm.testing.history import Report

MINUTE = 60.0
START = 1000.0


def traces() -> Traces:
    """A minute of faults, each wanted kind once."""
    done = [Done(kind, ["x-1"], START + 1, START + 3) for kind in sorted(wanted_kinds(links=True))]
    made = Traces([], done=done, calm_s=4.0)
    made.faults_from, made.faults_to = START, START + MINUTE
    return made


def verdict(**changed: int) -> Verdict:
    """200 items and 100 answers, all well but for what is changed."""
    report = Report(acknowledged=200, submitted=200, completed=195, dead=5, executions=210)
    of_report = {name: changed.pop(name) for name in list(changed) if hasattr(report, name)}
    judged = Verdict(msgspec.structs.replace(report, **of_report), answers=100)
    return msgspec.structs.replace(judged, **changed)


def summary(of: Traces | None = None, judged: Verdict | None = None, left_out: str = "") -> Summary:
    stills = [Standstill(START + 2, START + 4.5), Standstill(START + 10, START + 11, 2)]
    return summarize(7, of or traces(), judged or verdict(), stills, left_out=left_out)


def test_a_good_run_passes() -> None:
    good = summary()
    assert (good.ok, good.void, good.surprises) == (True, [], [])
    line = json.loads(json.dumps(good.line()))
    assert (line["ok"], line["items"], line["lost"], line["stale_answers"]) == (True, 200, 0, 0)
    assert line["longest_without_progress_s"] == 2.5
    assert line["longest_without_progress_in_one_shard_s"] == 1.0
    assert line["longest_by_fault"]["kill agent"] == {"overall_s": 2.5, "shard_s": 0.0}
    assert line["longest_by_fault"]["no fault"] == {"overall_s": 0.0, "shard_s": 1.0}
    assert line["standstills"][0]["at_s"] == 2.0
    assert line["faults"]["kill stream leader"] == {"x-1": 1}


@pytest.mark.parametrize(
    "count",
    [
        "lost",
        "held_twice",
        "unrecorded",
        "unended",
        "contradictions",
        "stale",
        "wrong",
        "doubled",
        "foreign",
        "unbalanced",
        "too_early",
        "wrong_results",
    ],
)
def test_one_broken_promise_fails_the_run(count: str) -> None:
    broken = summary(judged=verdict(**{count: 1}))
    assert not broken.ok
    assert broken.void == []
    assert sorted(violations(broken.verdict).values()) == [0] * 11 + [1]
    assert violations(broken.verdict).items() <= broken.line().items()


def test_surprises_fail_the_run() -> None:
    of = traces()
    of.surprises.append("agent-1 ended by itself: exit code 3")
    assert not summary(of).ok
    of = traces()
    of.done[0].well_after_s = -1.0
    assert "x-1 did not get well" in summary(of).surprises[0]


def test_a_void_run_fails() -> None:
    of = traces()
    of.void.append("recorded too late: tlog.0: entries 2 to 4")
    assert (summary(of).ok, summary(of).verdict.ok) == (False, True)


def test_a_run_that_proves_nothing_fails() -> None:
    (few,) = summary(judged=verdict(completed=100)).void
    assert "too few items: 100 were completed in 60 s" in few
    (silent,) = summary(judged=verdict(answers=10)).void
    assert "too few answers" in silent


def test_a_long_run_in_which_no_log_was_purged_fails() -> None:
    of = traces()
    of.faults_to = START + 3 * MINUTE
    judged = verdict(completed=1000, submitted=1000, answers=1000)
    assert summary(of, judged).void == ["no log was purged"]
    of.purged = 1
    assert summary(of, judged).void == []


@pytest.mark.parametrize("kind", sorted(wanted_kinds(links=True)))
def test_a_run_without_a_wanted_kind_of_fault_fails(kind: str) -> None:
    of = traces()
    of.done = [one for one in of.done if one.label != kind]
    assert summary(of).void == [f"a kind of fault never happened: {kind}"]


def test_a_planned_fault_that_did_not_happen_fails_the_run() -> None:
    of = traces()
    of.plan.append(Fault(5.0, "split", "server", "two", ["s1", "s2"], 3.0))
    assert summary(of).void == ["a kind of fault never happened: split two servers"]


def test_where_links_cannot_be_cut_it_is_said() -> None:
    of = traces()
    of.done = [one for one in of.done if not one.label.startswith("cut")]
    left = summary(of, left_out="missing: ip")
    assert left.ok
    assert left.line()["left_out"] == "missing: ip"
    assert "left out (cut links): missing: ip" in shown(left)


def shown(what: Summary) -> str:
    out = io.StringIO()
    show(what, Console(file=out, width=200))
    return out.getvalue()


def test_people_see_what_happened() -> None:
    text = shown(summary())
    for part in ("1.0 minutes of faults, seed 7", "kill stream leader", "x-1 1", "2.5 s", "210"):
        assert part in text
    assert text.rstrip().endswith("every promise was kept")
    bad = verdict(lost=1)
    bad.findings.append("lost: 0-1: it is gone")
    assert "lost: 0-1: it is gone" in shown(summary(judged=bad))
    assert shown(summary(judged=bad)).rstrip().endswith("FAILED")
    assert shown(summary(judged=verdict(completed=1))).rstrip().endswith("VOID")


def test_kinds_are_told_in_the_order_of_the_deck() -> None:
    assert wanted_kinds(links=True) < set(all_kinds())
    assert "cut stream leader" not in wanted_kinds(links=False)


def test_long_lists_are_cut_for_people() -> None:
    bad = verdict(lost=30)
    bad.findings += [f"lost: 0-{number}" for number in range(30)]
    text = shown(summary(judged=bad))
    assert "lost: 0-19" in text
    assert "lost: 0-20" not in text
    assert "and 10 more" in text
    found: Any = summary(judged=bad).line()["findings"]
    assert len(found) == 30
