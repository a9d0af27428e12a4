"""`python -m bench` as a user runs it: small, but with every process and every check."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import enterprise, long_runs, report, results, soak
from bench.plan import LIMIT, NO_SYNC, ONE_200, OURS, OURS_16, PLAIN, SUBMIT, SYNC, TENS
from bench.results import Section, Session, chosen

ROOT = Path(__file__).resolve().parent.parent.parent
#: Far more than it takes: only a run that hangs gets here.
QUICK_RUN_S = 240
SECTIONS = ("rates", "latency", "queue", "idle", "scale")


@pytest.mark.slow
def test_a_quick_run_measures_verifies_and_reports(tmp_path: Path, nats_binary: str) -> None:
    readmes = ROOT / "bench" / "README.md", ROOT / "README.md"
    recorded = [readme.read_text("utf-8") for readme in readmes]
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=QUICK_RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    found = results.load(out / "latest.json")
    assert tuple(found.sections) == SECTIONS
    for section in found.sections.values():
        assert section.quick
        assert not section.void, "a quick run is not judged"
        assert section.machine["cores"] == os.cpu_count()
    _rates_are_complete(found.sections["rates"])
    _others_are_complete(found.sections)

    written = (out / "README.md").read_text("utf-8")
    assert report.of_rates(found.sections["rates"]) in written
    assert report.of_rates(found.sections["rates"]) in done.stdout
    for name in ("latency.png", "queue.png", "agents.png", "shards.png"):
        assert (out / "plots" / name).stat().st_size > 1000
        assert f"](plots/{name})" in written
    assert written.partition(report.BEGIN)[0] == recorded[0].partition(report.BEGIN)[0]
    now = [readme.read_text("utf-8") for readme in readmes]
    assert now == recorded, "a quick run leaves the recorded results alone"


def _rates_are_complete(section: Section) -> None:
    ran = [(s.workload, s.server, s.system) for s in section.sessions]
    assert ran == [
        *((SUBMIT.name, SYNC, system.name) for system in (LIMIT, OURS)),
        *((ONE_200.name, SYNC, system.name) for system in (PLAIN, LIMIT, OURS, OURS_16)),
        *((ONE_200.name, NO_SYNC, system.name) for system in (PLAIN, OURS)),
        *((TENS.name, SYNC, system.name) for system in (PLAIN, OURS)),
    ]
    for session in section.sessions:
        assert 0 < session.measured < session.items, "the warm-up is not measured"
        assert session.rate == pytest.approx(session.measured / session.seconds)
        _is_verified(session)
    sums = results.verified(section.sessions)
    assert sums["conservation"] == 0
    drained = [s for s in section.sessions if s.workload != SUBMIT.name]
    ours = {OURS.name, OURS_16.name}
    assert sums["completed"] == sum(s.items for s in drained if s.system in ours)


def _is_verified(session: Session) -> None:
    """Every session says what it checked, and that all of it was as it must be."""
    drained = session.workload != SUBMIT.name
    left, done = (0, session.items) if drained else (session.items, 0)
    match session.system:
        case "ours" | "ours16":
            assert session.checked == {
                "submitted": session.items,
                "queued": left,
                "claimed": 0,
                "completed": done,
                "dead": 0,
                "scheduled": 0,
                "blocked": 0,
                "waiting": 0,
                "cancelled": 0,
                "conservation": 0,
                "foreign": 0,
                "refused": 0,
            }
            # Complete-and-next is one message: one at a time, one an item and one to begin.
            sent = session.noted.get("next_messages", 0) - session.noted.get("resent_outcomes", 0)
            if session.workload == ONE_200.name:
                assert sent <= session.items + ONE_200.agents
                assert sent > session.items / 2
        case "limit":
            assert session.checked == {"queued": left, "claimed": 0, "completed": done}
        case _:
            assert session.checked == {"stored": left, "unacknowledged": 0, "seen": done}


def _others_are_complete(sections: dict[str, Section]) -> None:
    at_rate, hosted = sections["latency"].sessions
    for session in (at_rate, hosted):
        assert session.checked["completed"] == session.items
        figures = session.figures
        assert 0 < figures["start_p50_ms"] <= figures["start_p99_ms"] <= figures["start_p100_ms"]
    assert hosted.figures["connections"] < hosted.items

    short, long = sections["queue"].sessions
    for session, length in ((short, 1000), (long, 5000)):
        assert session.checked["submitted"] == length + session.items
        assert session.checked["dead"] == session.checked["conservation"] == 0

    (idle,) = sections["idle"].sessions
    assert idle.figures["system_mb"] > 1
    assert idle.checked["submitted"] == 0

    (scaled,) = chosen(sections["scale"], "nodes", "scale_2_4")
    assert scaled.checked["completed"] == scaled.items
    assert {"coordinator-1", "coordinator-2", "router-1", "nats", "load"} == set(scaled.cpu_s)
    assert scaled.figures["cost_us"] > scaled.figures["nats_us"] > 0


@pytest.mark.slow
async def test_a_small_rehearsal(tmp_path: Path, nats_binary: str) -> None:
    plan = enterprise.Plan(coordinators=2, shards=4, agents=20, items=2000, idle_s=0.5)
    run = await enterprise.measure(plan, tmp_path)
    assert run.checked["completed"] == plan.items
    assert run.checked["conservation"] == 0
    assert run.settings["SHARD_COUNT"] == "4"
    named = set(enterprise.GUIDE) | set(enterprise.ONE_MACHINE)
    assert set(run.settings) | set(run.unknown) == named
    assert sum(run.owns.values()) == plan.shards
    assert set(run.rss) == {"nats", "router-1", "coordinator-1", "coordinator-2"}
    assert all(size > 1_000_000 for size in run.rss.values())
    assert run.stored_most >= run.stored > 0
    assert run.network > 100 * plan.items, "the items alone are as many bytes"
    assert run.core_s_per_item > 0
    assert "2,000 items on one machine" in long_runs.of_rehearsal(run)


@pytest.mark.slow
async def test_a_short_soak(tmp_path: Path, nats_binary: str) -> None:
    plan = soak.Plan(minutes=0.05, rate=50.0, agents=5, samples=3)
    run = await soak.measure(plan, tmp_path)
    assert [len(run.samples), run.checked["dead"], run.checked["conservation"]] == [3, 0, 0]
    at = [sample.at_s for sample in run.samples]
    assert at == sorted(at)
    assert run.samples[-1].completed > 50
    whose = {"nats-server", "router-1", "coordinator-1", "coordinator-2"}
    assert all(set(sample.rss) == whose for sample in run.samples)
    assert len(long_runs.verdicts(run)) == len(whose) + 1
