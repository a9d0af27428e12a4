"""Who disagrees, on real processes: seen by the guide's script, and at /metrics."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.processes import Place, command_of, until
from tests.acceptance.test_routes import shell

SETTINGS = {"SHARD_COUNT": "4", "LEASE_S": "8", "HEARTBEAT_S": "0.5", "PARALLEL_WORKERS": "2"}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, **SETTINGS)
    yield made
    made.clean()


def counts(place: Place) -> dict[str, dict[str, int]]:
    """What the guide's script shows; {} while nobody leads."""
    shown = shell(place, "./scripts/monitor_conflicts.sh --json")
    found: dict[str, dict[str, int]] = json.loads(shown.stdout or "{}").get("counts", {})
    return found


def owned(place: Place) -> dict[str, list[int]]:
    """Shards by owner, of those that live."""
    return {one["coordinator"]: one["owns"] for one in place.json("status")["coordinators"]}


def test_conflicts_are_counted_kept_and_shown(place: Place) -> None:
    up = place.up(CONFLICT_RESOLUTION="priority")
    assert place.run("conflicts").stdout == "no conflicts\n"

    # Two operators edit version 1 of the rules; the later one is refused.
    for text in ("feature -> coordinator-1", "feature -> coordinator-2"):
        based_on = "" if text.endswith("1") else "--based-on 1"
        script = f"echo '{text}' | ./scripts/configure_routing_rules.sh {based_on}"
        # The routers do not act by rules here, which the command says.
        assert "start it with ROUTING_ENABLED=1" in shell(place, script).stderr
    script = "echo 'bug -> coordinator-1' | ./scripts/configure_routing_rules.sh --based-on 1"
    late = shell(place, script)
    assert late.returncode == 1
    assert "there is version 2" in late.stderr

    # One key for two things.
    again = ("submit", "--type", "feature", "--idempotency-key", "k")
    assert place.run(*again, "--payload", "1").returncode == 0
    assert place.run(*again, "--payload", "2").returncode == 1
    until("it was told", lambda: counts(place) == {"rules": {"log": 1}, "idempotency": {"log": 1}})
    figures = up.metrics()["swarmsh_conflicts_total"]
    assert figures == {("idempotency", "log"): 1.0, ("rules", "log"): 1.0}

    # An owner that is stopped for longer than a takeover takes, and goes on.
    (pid,) = [pid for pid in place.pids() if "coordinator-2" in command_of(pid)]
    os.kill(pid, signal.SIGSTOP)
    until("the other one owns all", lambda: owned(place) == {"coordinator-1": [0, 1, 2, 3]})
    os.kill(pid, signal.SIGCONT)
    until("the deposed one has told", lambda: counts(place).get("opening", {}).get("log", 0) >= 1)
    table = place.run("conflicts")
    assert table.returncode == 0
    opening = next(line for line in table.stdout.splitlines() if " opening " in line)
    assert "coordinator-1, epoch 2" in opening
    assert "coordinator-2, epoch 1" in opening
    print(table.stdout)
