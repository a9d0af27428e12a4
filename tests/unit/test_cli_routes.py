"""`swarm routes`, against a whole swarm in memory."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from swarm.cli import routes
from swarm.cli.main import main
from swarm.errors import BadInput
from swarm.messages import CoordinatorRouted, RoutingReport, RuleRouted
from swarm.sdk.client import Swarm
from swarm.sdk.routes import add_up
from swarm.web.metrics import Figures, render
from tests.unit.cli_world import SETTINGS, InMemory

Captured = pytest.CaptureFixture[str]
GUIDE = """
feature -> coordinator-1:4000
bug_fix -> coordinator-2:4000
documentation -> coordinator-3:4000
"""


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROUTING_KEY", raising=False)


def enabled(memory: InMemory, **fields: Any) -> None:
    memory.settings = msgspec.structs.replace(SETTINGS, routing_enabled=True, **fields)


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """This stands on the command's input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


async def some_work(swarm: Swarm) -> None:
    for work_type in ("feature", "feature", "other"):
        await swarm.submit(work_type)


# --- looking -----------------------------------------------------------------------------------


def test_rules_of_the_settings_and_what_they_matched(memory: InMemory, capsys: Captured) -> None:
    enabled(memory, routing_rules="feature -> coordinator-1:4000\nbug* -> coordinator-1")
    memory.prepare = some_work
    assert main(["routes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "2 rules by work_type, of the settings; balancing: least_connections; 1 router"
    )
    cells = [line.split() for line in lines]
    assert ["feature", "coordinator-1", "2", "0", "coordinator-1", "2"] in cells
    assert ["bug*", "coordinator-1", "0", "0"] in cells
    assert ["(no", "rule)", "by", "balancing", "1"] in cells
    (row,) = [row for row in cells if row[:2] == ["coordinator-1", "healthy"]]
    assert row[-2:] == ["0", "3"]


def test_the_same_as_json(memory: InMemory, capsys: Captured) -> None:
    enabled(memory, routing_rules="feature -> coordinator-1")
    memory.prepare = some_work
    assert main(["routes", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["problems"] == []
    routing = shown["routing"]
    assert routing["rules"][0]["matched"] == 2
    assert routing["unmatched"] == 1
    assert routing["coordinators"][0]["submissions"] == 3
    assert len(routing["routers"]) == 1


def test_without_rules_it_says_so(memory: InMemory, capsys: Captured) -> None:
    assert main(["routes"]) == 0
    assert "no rules hold (ROUTING_ENABLED is off)" in capsys.readouterr().out
    enabled(memory)
    assert main(["routes"]) == 0
    assert "there are no rules" in capsys.readouterr().out


def test_watching_shows_it_again_and_again(
    memory: InMemory, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def pause(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 3:
            raise BadInput("enough")

    monkeypatch.setattr(routes, "asyncio", SimpleNamespace(sleep=pause))
    assert main(["routes", "--watch", "--json", "--interval", "500ms"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith('{"routing"')]) == 3
    assert pauses == [0.5] * 3


def report(name: str, **fields: Any) -> RoutingReport:
    base = RoutingReport(name, "least_connections", True, "work_type")
    return msgspec.structs.replace(base, **fields)


def test_reports_of_several_routers_are_added_up() -> None:
    rule = RuleRouted("a", ["c1"], 1, 5, 2, {"c1": 3, "c2": 2})
    routed = add_up(
        [
            report("r1", version=3, rules=[rule], unmatched=2, in_need=1),
            report("r2", version=3, rules=[rule], unmatched=1),
            report("r3", version=2, rules=[RuleRouted("old", ["c1"], 1, 9)]),
        ]
    )
    assert routed.versions == [2, 3]
    assert [rule.pattern for rule in routed.rules] == ["a"], "those of the newest version"
    assert (routed.rules[0].matched, routed.rules[0].fallbacks) == (10, 4)
    assert routed.rules[0].to == {"c1": 6, "c2": 4}
    assert (routed.unmatched, routed.in_need) == (3, 1)
    assert any("different versions" in problem for problem in routes.problems_of(routed))


def test_what_is_wrong_is_said() -> None:
    sick = CoordinatorRouted("c1", True, why="no answer within 5 s")
    fine = CoordinatorRouted("c2", True, healthy=True)
    rules = [RuleRouted("a", ["c1"], 1, 7, 3), RuleRouted("b", ["c1", "c2"])]
    routed = add_up([report("r1", rules=rules, coordinators=[sick, fine])])
    rule, coordinator = routes.problems_of(routed)
    assert rule == (
        "rule 'a': none of its coordinators (c1) can be chosen, so its submissions go elsewhere "
        "(3 so far)"
    )
    assert coordinator == "c1 is unhealthy: no answer within 5 s"


def test_a_coordinator_is_healthy_if_it_is_so_for_every_router() -> None:
    seen = [CoordinatorRouted("c1", True, healthy=good, submissions=2) for good in (True, False)]
    routed = add_up([report(f"r{n}", coordinators=[one]) for n, one in enumerate(seen)])
    (c1,) = routed.coordinators
    assert (c1.live, c1.healthy, c1.submissions) == (True, False, 4)
    assert [routes._health(one) for one in seen] == ["healthy", "unhealthy"]
    assert routes._health(CoordinatorRouted("c1")) == "dead"
    assert routes._health(CoordinatorRouted("c1", True, True, True)) == "draining"


# --- applying ----------------------------------------------------------------------------------


def test_the_rules_of_the_guide_from_the_input(
    memory: InMemory, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["coordinator-1", "coordinator-2", "coordinator-3"]
    enabled(memory, coordinators=names)
    typed(monkeypatch, GUIDE)
    assert main(["routes", "apply"]) == 1, "two of the coordinators are not alive"
    captured = capsys.readouterr()
    assert captured.out == "version 1 of the rules holds: 3 rules\n"
    assert "rule 'bug_fix': none of its coordinators (coordinator-2) can be chosen" in captured.err


def test_rules_from_a_file_as_json(memory: InMemory, capsys: Captured, tmp_path: Path) -> None:
    enabled(memory)
    path = tmp_path / "rules"
    path.write_text("critical -> coordinator-1\n")
    assert main(["routes", "apply", str(path), "--key", "priority", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": 1, "rules": 1, "problems": []}


def test_the_key_of_the_environment(
    memory: InMemory, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    enabled(memory)
    monkeypatch.setenv("ROUTING_KEY", "label")
    typed(monkeypatch, "region=eu -> coordinator-1")
    assert main(["routes", "apply"]) == 0
    assert "1 rule\n" in capsys.readouterr().out
    monkeypatch.setenv("ROUTING_KEY", "colour")
    typed(monkeypatch, "")
    assert main(["routes", "apply"]) == 2
    assert "allowed: work_type, priority, team, label" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("feature -> coordinator-1\nbug -> coordinator-9", "line 2: 'coordinator-9' is no"),
        ("feature coordinator-1", "line 1"),
        ("a -> @a", "in a circle"),
    ],
)
def test_wrong_rules_are_wrong_use(
    memory: InMemory, capsys: Captured, monkeypatch: pytest.MonkeyPatch, text: str, named: str
) -> None:
    enabled(memory)
    typed(monkeypatch, text)
    assert main(["routes", "apply"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert named in captured.err
    assert "the old rules stay" in captured.err


def test_rules_that_were_edited_meanwhile_are_refused(
    memory: InMemory, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def others(swarm: Swarm) -> None:
        await swarm.set_rules("a -> coordinator-1")
        await swarm.set_rules("b -> coordinator-1")

    enabled(memory)
    memory.prepare = others
    typed(monkeypatch, "c -> coordinator-1")
    assert main(["routes", "apply", "--based-on", "1"]) == 1
    assert "there is version 2" in capsys.readouterr().err


def test_a_router_that_acts_by_no_rules_is_named(
    memory: InMemory, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "feature -> coordinator-1")
    assert main(["routes", "apply"]) == 1
    assert "start it with ROUTING_ENABLED=1" in capsys.readouterr().err


def test_rules_that_cannot_be_read_are_named(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["routes", "apply", str(tmp_path / "none")]) == 2
    assert "cannot be read: No such file" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    assert main(["routes", "apply"]) == 2
    assert "not UTF-8" in capsys.readouterr().err


# --- metrics -----------------------------------------------------------------------------------


def test_metrics_of_a_router() -> None:
    routing = report(
        "r1",
        version=4,
        unmatched=6,
        in_need=1,
        rules=[RuleRouted("doc*", ["c1"], 1, 5, 2, {"c1": 3, "c2": 2})],
        coordinators=[
            CoordinatorRouted("c1", True, healthy=True, submissions=9, sessions=4, response_s=0.5),
            CoordinatorRouted("c2", True, healthy=True, draining=True),
        ],
    )
    text = render(Figures(routing=routing)).decode()
    for line in (
        'swarmsh_router_forwarded_total{coordinator="c1",kind="submission"} 9.0',
        'swarmsh_router_forwarded_total{coordinator="c1",kind="session"} 4.0',
        'swarmsh_router_healthy{coordinator="c1"} 1.0',
        'swarmsh_router_healthy{coordinator="c2"} 0.0',
        'swarmsh_router_response_seconds{coordinator="c1"} 0.5',
        'swarmsh_router_rule_matched_total{rule="doc*"} 5.0',
        'swarmsh_router_rule_fallbacks_total{rule="doc*"} 2.0',
        'swarmsh_router_rule_matched_total{rule=""} 6.0',
        "swarmsh_router_in_need_total 1.0",
        "swarmsh_router_rules_version 4.0",
    ):
        assert line in text.splitlines(), line
    assert "swarmsh_router" not in render(Figures()).decode()
