"""`swarm demo`: its exit code is the verdict, and what a failed run leaves can be looked at."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from swarm.cli.main import main
from swarm.demo.report import Starts, Summary
from swarm.demo.run import Demo
from swarm.errors import SwarmError
from swarm.testing.history import Report


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory is one of our own, and there is something to audit."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.py").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def demo_ends_with(monkeypatch: pytest.MonkeyPatch, report: Report | SwarmError) -> None:
    async def run(_demo: Demo) -> Summary:
        if isinstance(report, SwarmError):
            raise report
        none = Starts(0, 0.0, 0.0)
        return Summary({}, report, 3, 1.0, none, none, 1.0, 2.0)

    monkeypatch.setattr(Demo, "run", run)


def test_a_passed_check_is_exit_code_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], temporary: Path
) -> None:
    demo_ends_with(monkeypatch, Report(3, 3, 3, 0, 3))
    assert main(["demo", "--tree", "tree"]) == 0
    assert "check passed" in capsys.readouterr().out
    assert list(temporary.iterdir()) == []


def test_a_failed_check_is_exit_code_1_and_everything_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], temporary: Path
) -> None:
    demo_ends_with(monkeypatch, Report(3, 3, 3, 0, 3, held_twice=1, findings=["held twice: 0-1"]))
    assert main(["demo", "--tree", "tree", "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["held_twice"] == 1
    assert "check FAILED" in printed.err
    assert "held twice: 0-1" in printed.err
    (kept,) = temporary.iterdir()
    assert f"data, logs and records are in {kept}" in printed.err


def test_a_swarm_that_fails_is_exit_code_1_and_its_logs_are_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], temporary: Path
) -> None:
    demo_ends_with(monkeypatch, SwarmError("the swarm is not ready after 30 s"))
    assert main(["demo", "--tree", "tree"]) == 1
    printed = capsys.readouterr()
    assert "swarm: the swarm is not ready after 30 s" in printed.err
    (kept,) = temporary.iterdir()
    assert str(kept) in printed.err
