"""`swarm conflicts`, against a whole swarm in memory; and /metrics."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from swarm.cli import conflicts
from swarm.cli.main import main
from swarm.errors import BadInput, Refusal
from swarm.messages import Conflict
from swarm.sdk.client import Swarm
from swarm.web.metrics import Figures, render
from tests.unit.cli_world import SETTINGS, InMemory

ROOT = Path(__file__).parents[2]
Captured = pytest.CaptureFixture[str]


async def some(swarm: Swarm) -> None:
    """Two edits of one version, and what a coordinator has told."""
    await swarm.set_rules("feature -> coordinator-1")
    await swarm.set_rules("bug -> coordinator-1")
    with pytest.raises(Refusal):
        await swarm.set_rules("doc -> coordinator-1", based_on=1)
    await swarm.tell_conflict(
        Conflict("opening", "shard 3", "c1, epoch 5", "c2, which came second", count=2)
    )


def test_none_is_said_so(memory: InMemory, capsys: Captured) -> None:
    assert main(["conflicts"]) == 0
    assert capsys.readouterr().out == "no conflicts\n"


def test_all_are_counted_and_the_latest_shown_first_with_both_sides(
    memory: InMemory, capsys: Captured
) -> None:
    memory.prepare = some
    assert main(["conflicts"]) == 0
    head, blank, heads, *rows = capsys.readouterr().out.splitlines()
    assert (head, blank) == ("3 conflicts (opening: 2 by log; rules: 1 by log)", "")
    assert heads.split()[:7] == ["WHEN", "KIND", "ABOUT", "TIMES", "BY", "KEPT", "DROPPED"]
    cells = [re.split(r"\s{2,}", row.strip()) for row in rows]
    assert cells[0][1:5] == ["opening", "shard 3", "2", "log"]
    assert cells[0][5:7] == ["c1, epoch 5", "c2, which came second"]
    assert cells[1][1:5] == ["rules", "rules, version 1", "1", "log"]
    assert cells[1][5:7] == ["other: bug -> coordinator-1", "other: doc -> coordinator-1"]


def test_the_same_as_json(memory: InMemory, capsys: Captured) -> None:
    memory.prepare = some
    assert main(["conflicts", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["total"] == 3
    assert shown["counts"] == {"opening": {"log": 2}, "rules": {"log": 1}}
    assert [one["kind"] for one in shown["conflicts"]] == ["rules", "opening"]
    assert shown["conflicts"][1]["kept"] == "c1, epoch 5"


def test_watching_shows_it_again_and_again(
    memory: InMemory, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def pause(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 3:
            raise BadInput("enough")

    monkeypatch.setattr(conflicts, "asyncio", SimpleNamespace(sleep=pause))
    assert main(["conflicts", "--watch", "--json", "--interval", "500ms"]) == 2
    assert [json.loads(line)["total"] for line in capsys.readouterr().out.splitlines()] == [0] * 3
    assert pauses == [0.5] * 3


def test_sides_are_shortened_to_one_line() -> None:
    assert conflicts._short("a\n b\t c") == "a b c"
    long = conflicts._short("x" * 100)
    assert (len(long), long[-1]) == (conflicts.SHOWN_CHARS, "…")


def test_metrics_tell_how_many_there_were() -> None:
    counts = {"rules": {"log": 2, "timestamp": 1}, "opening": {"log": 7}}
    lines = render(Figures(conflicts=counts)).decode().splitlines()
    for line in (
        'swarmsh_conflicts_total{kind="opening",policy="log"} 7.0',
        'swarmsh_conflicts_total{kind="rules",policy="log"} 2.0',
        'swarmsh_conflicts_total{kind="rules",policy="timestamp"} 1.0',
    ):
        assert line in lines
    assert "swarmsh_conflicts" not in render(Figures()).decode(), "somebody else tells"


def test_status_says_what_is_not_told(memory: InMemory, capsys: Captured) -> None:
    memory.settings = msgspec.structs.replace(SETTINGS, sync_enabled=False, shard_affinity="strict")
    assert main(["status"]) == 0
    (row,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("coordinator-1 ")
    ]
    assert row.split()[-2:] == ["-", "-"]


def test_the_guides_script_is_the_command() -> None:
    script = ROOT / "scripts" / "monitor_conflicts.sh"
    assert 'exec swarm conflicts "$@"' in script.read_text()
    assert os.stat(script).st_mode & stat.S_IXUSR
