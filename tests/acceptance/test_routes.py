"""Routing and affinity on real processes: the guide's lines as printed, and how fast work moves."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm import Agent, Context, Swarm
from tests.acceptance.processes import ROOT, SHORT, Place

#: The guide's section "Request Routing".
GUIDE = """
./scripts/configure_routing_rules.sh << 'EOF'
feature -> coordinator-1:4000
bug_fix -> coordinator-2:4000
documentation -> coordinator-3:4000
EOF
"""
#: Submit→start of an item whose shard has no local agent takes less than 10 ms at the median on
#: an idle machine; this is for busy ones.
MEDIAN_MAX_S = 0.1
MEASURED = 60


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, **SHORT)
    yield made
    made.clean()


def shell(place: Place, script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run this in a shell, in the checkout, as a user of this place would."""
    return subprocess.run(
        ["sh", "-c", script],
        cwd=ROOT,
        env={**place.env, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_guides_lines_route_a_live_swarm(place: Place) -> None:
    up = place.up(PARALLEL_WORKERS="3", ROUTING_ENABLED="1")
    applied = shell(place, GUIDE, ROUTING_KEY="work_type")
    assert applied.returncode == 0, applied.stderr
    assert applied.stdout == "version 1 of the rules holds: 3 rules\n"
    for work_type in ("feature", "feature", "bug_fix", "documentation", "other"):
        assert place.run("submit", "--type", work_type).returncode == 0
    shown = shell(place, "./scripts/monitor_routing.sh --json")
    assert shown.returncode == 0, shown.stderr
    routing = json.loads(shown.stdout)["routing"]
    assert [(rule["pattern"], rule["to"]) for rule in routing["rules"]] == [
        ("feature", {"coordinator-1": 2}),
        ("bug_fix", {"coordinator-2": 1}),
        ("documentation", {"coordinator-3": 1}),
    ]
    assert routing["unmatched"] == 1
    assert all(one["healthy"] for one in routing["coordinators"])
    assert all(0 < one["response_s"] < 5 for one in routing["coordinators"])
    figures = up.metrics()
    assert figures["swarmsh_router_rule_matched_total"]["feature",] == 2
    assert figures["swarmsh_router_rules_version"][()] == 1

    wrong = shell(place, "echo 'feature -> coordinator-9' | ./scripts/configure_routing_rules.sh")
    assert wrong.returncode == 2
    assert "line 1: 'coordinator-9' is no coordinator of this swarm" in wrong.stderr
    assert "the old rules stay" in wrong.stderr

    # The rules are in the log: they hold after a restart.
    assert up.stop() == 0
    place.until_empty()
    place.up(PARALLEL_WORKERS="3", ROUTING_ENABLED="1")
    again = place.json("routes")["routing"]
    assert (again["versions"], len(again["rules"])) == ([1], 3)


def test_work_whose_shard_has_no_agent_nearby_starts_soon(place: Place) -> None:
    up = place.up(PARALLEL_WORKERS="2", SHARD_COUNT="4")
    waits = asyncio.run(measure(up.nats_url))
    print(f"submit→start in ms, load {os.getloadavg()[0]:.1f}:")
    for where, times in waits.items():
        late = sorted(times)[int(len(times) * 0.95)]
        median = statistics.median(times)
        print(
            f"agent {where}: median {median * 1000:.1f}, p95 {late * 1000:.1f}, {len(times)} items"
        )
    assert statistics.median(waits["elsewhere"]) < MEDIAN_MAX_S


async def measure(url: str) -> dict[str, list[float]]:
    """How long items wait, in seconds, whose shards are where the only agent is, and not."""
    started: dict[str, float] = {}
    agent = Agent(types=["build"])

    @agent.handles("build")
    async def build(ctx: Context) -> None:
        started[ctx.work_item_id] = time.perf_counter()

    running = asyncio.create_task(agent.run(url))
    waits: dict[str, list[float]] = {"here": [], "elsewhere": []}
    try:
        async with Swarm.connect(url) as swarm:
            away = await shards_without_the_agent(swarm)
            while len(waits["elsewhere"]) < MEASURED:
                began = time.perf_counter()
                handle = await swarm.submit("build")
                await handle.result(timeout=30)
                shard = int(handle.work_item_id.split("-")[0])
                waited = started[handle.work_item_id] - began
                waits["elsewhere" if shard in away else "here"].append(waited)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return waits


async def shards_without_the_agent(swarm: Swarm) -> list[int]:
    """Shards of coordinators where the only agent is not attached."""
    async with asyncio.timeout(30):
        while True:
            beats = (await swarm.describe()).coordinators
            home = next((one.coordinator for one in beats if one.sessions), "")
            if home:
                return [s for one in beats if one.coordinator != home for s in one.owns]
