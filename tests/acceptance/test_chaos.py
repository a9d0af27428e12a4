"""The shortened form of `make chaos`, and that nothing of a run outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swarm.testing.chaos.report import wanted_kinds
from tests.acceptance.processes import DEADLINE_S, ROOT, kill, until

#: Starting, half a minute of faults, and the calm.
RUN_S = 240.0
SEED = 1


class Run:
    """`python -m swarm.testing.chaos …` in a directory of its own."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.records = path / "kept" / "records"
        self.report = path / "report.json"
        where = ("--keep", str(path / "kept"), "--report", str(self.report))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "swarm.testing.chaos", *where, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pids(self) -> list[int]:
        """Every member that is alive."""
        mark = f"CHAOS_RECORDS={self.records}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            # It may end while we look at it.
            try:
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found

    def clean(self) -> None:
        """End all that is left."""
        self.process.kill()
        self.process.communicate()
        for pid in self.pids():
            kill(pid)


@pytest.fixture
def start(tmp_path: Path, nats_binary: str) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(*arguments: str) -> Run:
        runs.append(Run(tmp_path, *arguments))
        return runs[-1]

    yield start
    for run in runs:
        run.clean()


@pytest.mark.slow
def test_every_promise_is_kept_under_the_essential_faults(start: Callable[..., Run]) -> None:
    run = start("--short", "--seed", str(SEED), "--json")
    out, err = run.process.communicate(timeout=RUN_S)
    assert run.process.returncode == 0, f"{err}\n{out}"
    report = json.loads(out)
    assert report == json.loads(run.report.read_text())
    broken = ("lost", "held_twice", "unrecorded", "stale_answers", "wrong_answers", "doubled")
    assert [report[name] for name in broken] == [0] * len(broken)
    assert (report["ok"], report["findings"], report["surprises"]) == (True, [], [])
    ends = [report[name] for name in ("completed", "dead", "cancelled")]
    assert report["items"] == sum(ends) > 100
    # Where links cannot be cut, the report says so, and does not claim to have done it.
    links = not report["left_out"]
    assert wanted_kinds(links=links) == set(report["faults"])
    if os.environ.get("SWARM_REQUIRE_LINKS") == "1":
        assert links, report["left_out"]
    assert run.pids() == []


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_nobody_behind(start: Callable[..., Run]) -> None:
    run = start("--minutes", "5", "--seed", str(SEED))
    # Servers and recorder, coordinators, routers and agents, clients.
    until("the clients run", lambda: len(run.pids()) >= 14, 3 * DEADLINE_S)
    run.process.send_signal(signal.SIGKILL)
    run.process.wait()
    until("no process is left", lambda: not run.pids())


@pytest.mark.slow
def test_a_run_that_is_interrupted_ends_everybody(start: Callable[..., Run]) -> None:
    run = start("--minutes", "5", "--seed", str(SEED), "--no-links")
    lines: list[str] = []
    assert run.process.stdout is not None
    stream = run.process.stdout
    threading.Thread(target=lambda: lines.extend(stream), daemon=True).start()
    until("the servers run", lambda: len(run.pids()) >= 4, 3 * DEADLINE_S)
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(DEADLINE_S) == 130
    assert run.pids() == []
