"""`python -m bench` as a user runs it: small, but with every process and every check."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench import report
from bench.__main__ import main
from bench.child import Failed, Meter, check
from bench.plan import (
    LIMIT,
    ONE_200,
    OURS,
    OURS_16,
    PLAIN,
    SUBMIT,
    WORKLOADS,
    Job,
    System,
    Workload,
)
from bench.results import Run, Session, conclude

ROOT = Path(__file__).resolve().parent.parent.parent
TENS = WORKLOADS[-1]
#: Far more than it takes: only a run that hangs gets here.
QUICK_RUN_S = 240


@pytest.mark.slow
def test_a_quick_run_measures_verifies_and_reports(tmp_path: Path, nats_binary: str) -> None:
    readme = ROOT / "bench" / "README.md"
    recorded = readme.read_text("utf-8")
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--rounds", "1", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=QUICK_RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    run = msgspec.json.decode((out / "latest.json").read_bytes(), type=Run)
    ran = [(s.workload, s.system) for s in run.sessions]
    everybody = [system.name for system in (PLAIN, LIMIT, OURS, OURS_16)]
    assert ran == [
        *((SUBMIT.name, name) for name in ("limit", "ours")),
        *((ONE_200.name, name) for name in everybody),
        *((TENS.name, name) for name in ("limit", "ours")),
    ]
    for session in run.sessions:
        assert 0 < session.measured < session.items, "the warm-up is not measured"
        assert session.rate == pytest.approx(session.measured / session.seconds)
        _is_verified(session)
    assert run.verified["conservation"] == 0
    assert run.verified["completed"] == sum(
        s.items for s in run.sessions if s.system in {"ours", "ours16"} and s.workload != "submit"
    )
    assert run.ratios.keys() == {"ours/limit", "ours16/limit", "limit/plain"}
    assert run.machine["cores"] == os.cpu_count()
    assert run.quick
    assert not run.void

    written = (out / "README.md").read_text("utf-8")
    for session in run.sessions:
        assert f"{session.seconds}" not in written, "the tables are rounded"
    assert report.ratios_table(run) in written
    assert report.rates_table(run) in done.stdout
    assert written.partition(report.BEGIN)[0] == recorded.partition(report.BEGIN)[0]
    assert readme.read_text("utf-8") == recorded, "a quick run leaves the recorded results alone"


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


# --- the judgement ---------------------------------------------------------------------


def _run(rates: dict[tuple[System, Workload], list[float]], quick: bool = False) -> Run:
    sessions = [
        Session(number, system.name, workload.name, 2000, 1800, 1800 / rate, rate, {}, {}, {}, 30.0)
        for (system, workload), of_rounds in rates.items()
        for number, rate in enumerate(of_rounds, start=1)
    ]
    for session in sessions:
        names = ("submitted", "completed", "queued", "claimed", "dead", "conservation")
        session.checked = dict.fromkeys(names, 0)
    rounds = max(len(of_rounds) for of_rounds in rates.values())
    return Run(1, "now", 1.0, "python -m bench", quick, rounds, {}, {}, sessions)


def test_ratios_are_of_sessions_of_one_round() -> None:
    # The machine slows down by half from round to round; the ratio does not change.
    run = _run(
        {
            (PLAIN, ONE_200): [20.0, 10.0, 5.0],
            (LIMIT, ONE_200): [80.0, 40.0, 20.0],
            (OURS, ONE_200): [60.0, 30.0, 5.0],
        }
    )
    conclude(run)
    assert run.ratios["ours/limit"][ONE_200.name] == [0.75, 0.75, 0.25]
    assert run.ratio_medians["ours/limit"][ONE_200.name] == 0.75
    assert run.ratio_medians["limit/plain"][ONE_200.name] == 4.0
    limit = run.rates["limit"][ONE_200.name]
    assert (limit.median, limit.least, limit.most) == (40.0, 20.0, 80.0)


@pytest.mark.parametrize(
    ("limit", "quick", "void"),
    [(22.0, False, False), (21.9, False, True), (21.9, True, False)],
)
def test_a_run_is_void_when_the_limit_loop_is_slow(limit: float, quick: bool, void: bool) -> None:
    run = _run(
        {(PLAIN, ONE_200): [10.0], (LIMIT, ONE_200): [limit], (OURS, ONE_200): [10.0]}, quick
    )
    conclude(run)
    assert run.void is void
    assert ("VOID" in report.verdict(run)) is void


def test_a_wrong_count_fails_the_session() -> None:
    assert check({"completed": 3, "claimed": 0}, {"completed": 3, "claimed": 0}) == {
        "completed": 3,
        "claimed": 0,
    }
    with pytest.raises(Failed, match="completed is 2, must be 3; lost is None, must be 0"):
        check({"completed": 3, "lost": 0}, {"completed": 2})


def test_the_meter_times_what_follows_the_warm_up() -> None:
    meter = Meter(Job("", "p", 1, 1, 1, items=10, warm=3))
    for _ in range(9):
        meter.count(1)
        assert not meter.finished
    meter.count(1)
    assert meter.finished
    assert meter.measured.items == 7
    assert meter.measured.seconds > 0


def test_a_readme_without_the_marks_is_refused(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n", "utf-8")
    run = _run({(PLAIN, ONE_200): [1.0], (LIMIT, ONE_200): [3.0], (OURS, ONE_200): [2.0]})
    conclude(run)
    with pytest.raises(Failed, match="lacks the marks"):
        report.write_section(readme, run)
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", "utf-8")
    text = report.write_section(readme, run)
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text


@pytest.mark.parametrize("rounds", ["0", "-1", "many", "101"])
def test_a_wrong_number_of_rounds_is_named(
    rounds: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--rounds", rounds])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"{rounds!r} is no number of rounds; 1 to 100 are allowed" in capsys.readouterr().err
