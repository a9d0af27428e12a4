"""What the benchmarks make of their sessions, by arithmetic."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import __main__, goals, guard, long_runs, plots, recording, report, results
from bench.child import Failed, Meter, check
from bench.load_latency import item_due
from bench.long_runs import Sample, Soak
from bench.peers import install
from bench.peers.apps import hits
from bench.peers.plan import BROKERS, PEERS, REDIS
from bench.plan import LIMIT, NO_SYNC, ONE_200, OURS, PLAIN, SYNC, Job
from bench.results import Results, Section, Session, chosen, judge, ratios, spread
from bench.running import WARM
from bench.sections import PARTS, items_for

CHECKED = dict.fromkeys(("submitted", "completed", "queued", "claimed", "dead", "conservation"), 0)


def session(
    system: str,
    rate: float,
    number: int = 1,
    workload: str = ONE_200.name,
    server: str = SYNC,
    **figures: float,
) -> Session:
    """One of 1,800 items."""
    cpu_s = {"system": 0.1, "load": 0.05, "nats": 0.02}
    return Session(
        number,
        system,
        workload,
        2000,
        1800,
        1800 / rate,
        rate,
        cpu_s,
        dict(CHECKED),
        {},
        30.0,
        server,
        figures,
    )


def section(*sessions: Session, quick: bool = False) -> Section:
    """As if measured."""
    machine: dict[str, str | int | float] = {"cpu": "a fast one", "cores": 2}
    rounds = max((s.round for s in sessions), default=0)
    return Section("2026-01-01 00:00 UTC", 1.0, "x", quick, rounds, machine, {}, list(sessions))


def rates(quick: bool = False, **by_system: list[float]) -> Section:
    """200 agents, one at a time, one session a round."""
    return section(
        *(
            session(system, rate, number)
            for system, of_rounds in by_system.items()
            for number, rate in enumerate(of_rounds, start=1)
        ),
        quick=quick,
    )


# --- ratios, gates, goals ---------------------------------------------------------------------


def test_ratios_are_of_sessions_of_one_round() -> None:
    # The machine slows down by half from round to round; the ratio does not change.
    slowing = rates(limit=[80.0, 40.0, 20.0], ours=[60.0, 30.0, 5.0], plain=[20.0, 10.0])
    ours, limit, plain = (
        chosen(slowing, name, ONE_200.name) for name in ("ours", "limit", "plain")
    )
    assert ratios(ours, limit) == [0.75, 0.75, 0.25]
    assert ratios(limit, plain) == [4.0, 4.0], "a round without one of the two has no ratio"
    found = spread(s.rate for s in limit)
    assert found is not None
    assert (found.median, found.least, found.most) == (40.0, 20.0, 80.0)
    assert spread([]) is None


@pytest.mark.parametrize(
    ("limit", "quick", "void"),
    [(22.0, False, False), (21.9, False, True), (21.9, True, False)],
)
def test_a_run_is_void_when_the_limit_loop_is_slow(limit: float, quick: bool, void: bool) -> None:
    run = rates(quick, plain=[10.0], limit=[limit], ours=[10.0])
    judge(run, [SYNC])
    assert bool(run.void) is void
    assert ("VOID" in report.of_rates(run)) is void


def test_the_gate_holds_on_each_server() -> None:
    run = rates(plain=[10.0], limit=[30.0])
    run.sessions += [
        session(PLAIN.name, 10.0, server=NO_SYNC),
        session("limit", 20.0, 1, server=NO_SYNC),
    ]
    judge(run, [SYNC])
    assert run.void == ""
    judge(run, [SYNC, NO_SYNC])
    assert "with nosync the limit loop reached 2.00 ×" in run.void
    assert goals.reached(Results(sections={"rates": run})) == [], "a void run reaches nothing"


@pytest.mark.parametrize(("ours", "met"), [(70.0, True), (69.0, False)])
def test_goals_are_told_reached_or_missed(ours: float, met: bool) -> None:
    run = rates(plain=[10.0], limit=[100.0], ours=[ours])
    (of_limit, over_plain) = goals.reached(Results(sections={"rates": run}))
    assert of_limit.met is met
    assert over_plain.met
    assert ("**missed**" in report.goals_table(Results(sections={"rates": run}))) is not met


def test_every_goal_can_be_missed() -> None:
    """A goal that no result can miss says nothing."""
    missed = {
        "queue": section(
            session(OURS.name, 10.0, workload="queue_1000"),
            session(OURS.name, 8.9, workload="queue_1000000"),
        ),
        "idle": section(
            session("ours16", 1.0, workload="idle_1000", system_cpu_percent=5.0, system_mb=250.0)
        ),
        "latency": section(
            session("ours16", 1.0, workload="at_1000", start_p50_ms=3.0, start_p99_ms=15.0)
        ),
        "scale": section(
            session("nodes", 1.0, workload="scale_2_16", cost_us=100.0),
            session("nodes", 1.0, workload="scale_8_16", cost_us=116.0),
            session("nodes", 1.0, workload="apart_2_16", cost_us=50.0),
            session("nodes", 1.0, workload="apart_8_16", cost_us=51.0),
        ),
        "peers": section(
            session(OURS.name, 99.0, server=NO_SYNC), session("celery", 10.0, server=REDIS)
        ),
    }
    for name, one in missed.items():
        found = goals.reached(Results(sections={name: one}))
        assert found, name
        assert not any(goal.met for goal in found), found


def test_growth_is_told_with_and_without_what_more_processes_cost_by_themselves() -> None:
    """Round by round: the machine of the second is half as fast."""
    costs = {"scale_2_16": 100.0, "scale_8_16": 150.0, "apart_2_16": 80.0, "apart_8_16": 120.0}
    sessions = [
        session("nodes", 1.0, number, name, cost_us=number * cost)
        for number in (1, 2)
        for name, cost in costs.items()
    ]
    grown, beyond = goals.reached(Results(sections={"scale": section(*sessions)}))
    assert (grown.measured, grown.met) == ("50%", False)
    assert (beyond.measured, beyond.met) == ("10%", True)


# --- recording --------------------------------------------------------------------------------


def test_a_section_replaces_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "results" / "latest.json"
    assert results.load(path) == Results()
    results.store(Results(sections={"rates": rates(ours=[1.0]), "idle": section()}), path)
    merged = results.merge(results.load(path), Results(sections={"rates": rates(ours=[2.0])}))
    assert merged.sections["rates"].sessions[0].rate == 2.0
    assert merged.sections["idle"] == section()
    path.write_text('{"format": 1, "sessions": []}', "utf-8")
    assert results.load(path) == Results(), "what another version wrote is measured anew"


def test_a_readme_without_the_marks_is_refused(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n", "utf-8")
    run = Results(sections={"rates": rates(plain=[1.0], limit=[3.0], ours=[2.0])})
    with pytest.raises(Failed, match="lacks the marks"):
        report.rewrite(readme, readme, tmp_path, run)
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", "utf-8")
    report.rewrite(readme, readme, tmp_path, run)
    text = readme.read_text("utf-8")
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "\nold\n" not in text
    report.rewrite(readme, readme, tmp_path, run)
    assert readme.read_text("utf-8") == text, "written twice, the same"


def test_only_pictures_that_were_drawn_are_shown(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{report.BEGIN}\n{report.END}\n", "utf-8")
    drawn = tmp_path / "bench" / "plots"
    said = plots.draw(Results(sections={"idle": _idle()}), drawn)
    assert "agents.png" in said
    report.show_pictures(readme, drawn)
    assert "](bench/plots/agents.png)" in readme.read_text("utf-8")
    assert "queue.png" not in readme.read_text("utf-8")
    assert set(plots.PLOTS) == set(report.TITLES), "every picture has words for who cannot see it"


def _idle() -> Section:
    return section(
        *(
            session(
                "ours16", 1.0, 1, f"idle_{n}", system_cpu_percent=n / 500, system_mb=50 + n / 50
            )
            for n in (0, 500, 1000)
        )
    )


def test_the_same_results_give_the_same_picture(tmp_path: Path) -> None:
    for name in ("a", "b"):
        plots.draw(Results(sections={"idle": _idle()}), tmp_path / name)
    first, second = ((tmp_path / name / "agents.png").read_bytes() for name in ("a", "b"))
    assert first == second


def test_a_picture_of_every_kind_is_drawn(tmp_path: Path) -> None:
    peers = [
        session(OURS.name, 90.0, server=NO_SYNC),
        session(LIMIT.name, 120.0, server=NO_SYNC),
        session("celery", 3.0, server=REDIS),
    ]
    found = {
        "peers": section(*peers),
        "idle": _idle(),
        "queue": section(*(session(OURS.name, 9.0, 1, f"queue_{n}") for n in (1000, 10_000))),
        "latency": section(
            *(
                session(
                    "ours16",
                    1.0,
                    1,
                    f"at_{n}",
                    start_p50_ms=1.0,
                    start_p99_ms=2.0,
                    submit_p99_ms=2.0,
                )
                for n in (100, 1000)
            )
        ),
        "scale": section(
            *(session("nodes", 1.0, 1, f"scale_{n}_16", cost_us=90.0 + n) for n in (2, 4))
        ),
    }
    plots.draw(Results(sections=found), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(plots.PLOTS)


def test_full_results_are_recorded_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "bench"
    home.mkdir()
    recorded = home / "results" / "latest.json"
    monkeypatch.setattr(__main__, "HERE", home)
    monkeypatch.setattr(__main__, "RECORDED", recorded)
    for readme in (home / "README.md", tmp_path / "README.md"):
        readme.write_text(f"{report.BEGIN}\n{report.END}\n", "utf-8")
    quick, void = _idle(), rates(plain=[10.0], limit=[10.0])
    quick.quick = True
    judge(void, [SYNC])
    said = __main__.write(Results(sections={"idle": quick, "rates": void}), None)
    assert said.startswith("Not recorded")
    assert not recorded.exists()

    said = __main__.write(Results(sections={"idle": _idle(), "rates": void}), None)
    assert str(recorded) in said
    assert list(results.load(recorded).sections) == ["idle"]
    assert "### Idle agents" in (home / "README.md").read_text("utf-8")
    assert "](bench/plots/agents.png)" in (tmp_path / "README.md").read_text("utf-8")


def test_a_small_long_run_is_not_recorded(tmp_path: Path) -> None:
    soak = _soak([1.0] * 6, [5.0] * 6)
    assert "only a full run" in recording.record(soak, long_runs.SOAK, None, full=False)
    said = recording.record(soak, long_runs.SOAK, tmp_path, full=False)
    assert str(tmp_path / long_runs.SOAK) in said
    assert "### Soak" in (tmp_path / "README.md").read_text("utf-8")


# --- flat or not ------------------------------------------------------------------------------


def _soak(megabytes: list[float], p99_ms: list[float]) -> Soak:
    samples = [
        Sample(60.0 * at, {"node": int(size * 1e6)}, 1.0, p99, p99, at)
        for at, (size, p99) in enumerate(zip(megabytes, p99_ms, strict=True))
    ]
    counts = {"completed": 1, "conservation": 0}
    return Soak("now", 1.0, 1.0, 1, {}, samples, counts, {"cores": 2})


@pytest.mark.parametrize(
    ("megabytes", "p99_ms", "flat"),
    [
        # Grows until the bounds are reached, and then no more.
        ([50, 70, 90, 100, 100, 101, 100, 100], [5.0] * 8, [True, True]),
        # 60 MB in the first half, 15 MB in the second: not flat.
        ([40, 60, 80, 100, 105, 110, 115, 120], [5.0] * 8, [False, True]),
        # It shrinks.
        ([200, 190, 180, 170, 160, 150, 140, 130], [5.0] * 8, [True, True]),
        # 4 ms at first, 12 ms at last: more than 1.5 × 4 + 5.
        ([50.0] * 9, [4.0] * 6 + [12.0] * 3, [True, False]),
    ],
)
def test_flat_is_what_does_not_rise(
    megabytes: list[float], p99_ms: list[float], flat: list[bool]
) -> None:
    found = long_runs.verdicts(_soak(megabytes, p99_ms))
    assert [verdict.flat for verdict in found] == flat, found


def test_the_slope_of_a_line() -> None:
    assert long_runs.slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == pytest.approx(2.0)
    assert long_runs.slope([(1.0, 1.0)]) == 0.0


# --- the guard --------------------------------------------------------------------------------


@pytest.mark.parametrize(("now", "bad"), [(0.57, False), (0.55, True), (0.9, False)])
def test_the_guard_compares_ratios(now: float, bad: bool) -> None:
    recorded = rates(limit=[1000.0, 1000.0, 1000.0], ours=[700.0, 700.0, 100.0])
    # A machine ten times slower: only the ratio counts.
    measured = rates(limit=[100.0, 100.0], ours=[100 * now, 100 * now])
    (found,) = guard.compare(recorded, measured.sessions)
    assert found.recorded == 0.7
    assert found.measured == pytest.approx(now)
    assert found.bad is bad
    assert ("**slower**" in guard.told([found])) is bad


def test_the_guard_needs_something_to_compare_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["guard", "--recorded", str(tmp_path / "none.json")])
    assert guard.main() == 1
    assert "has no section rates; run `make bench`" in capsys.readouterr().err


# --- one session ------------------------------------------------------------------------------


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


def test_a_session_has_whole_batches_for_its_time() -> None:
    assert items_for(None, 123, 2.0) == 123
    trial = session(OURS.name, 10_000.0)
    assert items_for(trial, 123, 1.8) == round(10_000 * 1.8 / (1 - WARM), -3) == 20_000
    assert items_for(session(OURS.name, 1.0), 123, 2.0) == 1000, "one batch at least"


@pytest.mark.parametrize("at", [0.0, 1.5, 4567.891234, 9_999_999.0])
def test_an_item_on_schedule_is_as_large_as_the_others(at: float) -> None:
    assert len(item_due(at)) == 91


# --- the command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "0"], "'0' is no number of rounds; 1 to 100 are allowed"),
        (["--rounds", "-1"], "'-1' is no number of rounds; 1 to 100 are allowed"),
        (["--rounds", "many"], "'many' is no number of rounds; 1 to 100 are allowed"),
        (["--rounds", "101"], "'101' is no number of rounds; 1 to 100 are allowed"),
        (["--work", "soon"], "'soon' is no time; 0.1 to 60 seconds are allowed"),
        (["--work", "61"], "'61' is no time; 0.1 to 60 seconds are allowed"),
        (["--only", "rates,speed"], "'speed' is no section; there are: rates, peers"),
    ],
)
def test_a_wrong_argument_is_named(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sections"),
    [
        ([], [name for name in PARTS if name != "peers"]),
        (["--peers"], list(PARTS)),
        (["--only", "queue,rates"], ["rates", "queue"]),
        (["--only", "peers"], ["peers"]),
        (["--only", "idle", "--peers"], ["idle", "peers"]),
    ],
)
def test_sections_are_chosen(
    arguments: list[str], sections: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    assert __main__.parse().only == sections


# --- peers ------------------------------------------------------------------------------------


def test_without_redis_its_peers_are_left_out_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "redis_server", lambda: "")
    peers, said = install.chosen()
    assert {peer.name for peer in peers} == {"taskiq", "faststream"}
    assert len(said) == 1
    assert said[0].startswith("left out: Celery, dramatiq, arq: no redis-server on PATH")
    monkeypatch.setattr(install, "redis_server", lambda: "redis-server")
    assert install.chosen() == (list(PEERS), [])


def test_every_peer_is_pinned_described_and_runnable() -> None:
    apps = Path(install.__file__).parent / "apps"
    for peer in PEERS:
        assert all("==" in package for package in peer.packages), peer
        assert (apps / f"{peer.app}.py").exists()
        assert peer.settings
        assert peer.worker_killed
        assert set(peer.brokers) <= set(BROKERS)


def test_a_task_that_started_shows_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hits"
    path.write_bytes(b"\0" * (3 * hits.SLOT.size))
    monkeypatch.setenv("BENCH_HITS", str(path))
    monkeypatch.setattr(hits, "_slots", None)
    hits.hit(hits.item(2)["id"])
    first = list(hits.SLOT.iter_unpack(path.read_bytes()))[2]
    hits.hit(hits.item(2)["id"])
    missing, _, again = hits.SLOT.iter_unpack(path.read_bytes())
    assert missing == (0.0, 0.0, 0)
    assert first[1] > 0
    assert again == (0.0, first[1], 2), "the first start counts, and all of them"
