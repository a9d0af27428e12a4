"""The demo's work, figures and tables."""

from __future__ import annotations

import io
import os
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from swarm.core.admission import check_item
from swarm.demo import tree as trees
from swarm.demo.audit import AUDITS, path_of
from swarm.demo.findings import Audit, Finding
from swarm.demo.report import Starts, Summary, items_per_s, percentile, show, starts
from swarm.demo.run import ALONE_MAX, hold_back
from swarm.demo.screen import Screen
from swarm.errors import BadInput
from swarm.messages import NewItem
from swarm.testing.history import Execution, History, Life, Report
from swarm.testing.history import Hold as LoggedHold

# --- the tree -------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in (
        "a.py",
        "sub/b.py",
        "sub/deep/c.py",
        "sub/notes.txt",
        "__pycache__/d.py",
        ".git/e.py",
        "site-packages/f.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "folder.py").mkdir()
    return tmp_path


def test_python_files_are_found_in_order(source: Path) -> None:
    tree = trees.find(source)
    assert [file.name for file in tree.files] == ["a.py", "sub/b.py", "sub/deep/c.py"]
    assert all(file.size == 6 for file in tree.files)
    assert tree.closed == []


def test_every_file_and_audit_is_an_item_that_the_swarm_accepts(source: Path) -> None:
    items = list(trees.items(trees.find(source)))
    assert len(items) == 3 * len(AUDITS)
    assert {item.work_type for item in items} == set(AUDITS)
    for item in items:
        check_item(msgspec.json.encode(item), 262_144)
    payload = msgspec.json.decode(items[-1].payload)
    assert path_of(payload["uri"]) == source / payload["file"]
    assert items[-1].labels == {"package": "sub"}


def test_file_names_that_are_no_text_are_audited_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"b\xff\xe4d #?%.py")
    path.touch()
    item = next(trees.items(trees.find(tmp_path)))
    payload = msgspec.json.decode(item.payload)
    assert path_of(payload["uri"]) == path
    assert payload["file"] == "b\\xff\\xe4d #?%.py"


@pytest.mark.parametrize(
    ("size", "priority"),
    [(0, "low"), (4_999, "low"), (5_000, "medium"), (25_000, "high"), (80_000, "critical")],
)
def test_the_longest_files_come_first(size: int, priority: str) -> None:
    assert trees.priority_of(size) == priority


def test_a_tree_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere: there is no such directory"):
        trees.find(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"no \.py file in it"):
        trees.find(tmp_path)
    (tmp_path / "file.py").touch()
    with pytest.raises(BadInput, match="is not a directory"):
        trees.find(tmp_path / "file.py")


def test_the_default_tree_has_python_files() -> None:
    assert len(trees.find(trees.default_root()).files) > 500


@pytest.mark.parametrize("count", [0, 1, 3, 120, 5000, 15_000])
def test_a_sample_of_all_audits_is_held_back(count: int) -> None:
    names = list(AUDITS)
    items = [NewItem(names[n % len(names)], description=str(n)) for n in range(count)]
    alone, backlog = hold_back(items)
    assert sorted(map(id, alone + backlog)) == sorted(map(id, items))
    assert len(alone) <= max(1, min(ALONE_MAX, count // 5 + 1))
    if count >= 120:
        assert {item.work_type for item in alone} == set(names)
        assert len(alone) >= count // 10 or len(alone) > ALONE_MAX / 2


# --- the figures ------------------------------------------------------------------------


def test_percentiles_are_nearest_rank() -> None:
    values = [float(n) for n in range(1, 201)]
    assert (percentile(values, 50), percentile(values, 99)) == (100.0, 198.0)
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) == 0.0


def test_a_start_is_measured_from_submit_to_the_first_execution() -> None:
    runs = [
        Execution("0-1", "2.o.s", "s", 1, 15.0, 16.0),
        Execution("0-1", "1.o.s", "s", 1, 12.0, None),
        Execution("0-2", "1.o.s", "s", 1, 10.5, 11.0),
        Execution("0-3", "1.o.s", "s", 1, 99.0, 99.0),
    ]
    assert starts({"0-1": 10.0, "0-2": 10.0}, runs) == Starts(2, 500.0, 2000.0)


def test_items_per_second_run_from_the_submission_to_the_last_completion() -> None:
    def life(ended: float) -> Life:
        hold = LoggedHold("1.o.s", (2, 0), 11.0, "completed", (3, 0), ended)
        return Life(10.5, [hold], "completed")

    history = History({"0-1": life(12.0), "0-2": life(14.0), "0-3": life(99.0)}, [])
    assert items_per_s({"0-1": 10.0, "0-2": 10.0}, history) == 0.5
    assert items_per_s({"0-9": 10.0}, history) == 0.0


# --- what is shown ------------------------------------------------------------------------


def summary(report: Report) -> Summary:
    worst = Audit("pkg/bad.py", 900, 2, [Finding(7, "bare except"), Finding(9, "eval()")])
    worst.kinds = {"bare except": 1, "eval()": 1}
    return Summary(
        audits={
            "suspicious": [worst, Audit("none.py", unreadable="cannot be parsed: what [x]")],
            "undocumented": [Audit("pkg/bad.py", 40, 1, [Finding(3, "Shown.method")])],
            "complexity": [Audit("pkg/bad.py", 12, 1, [Finding(5, "Knot.untie", 47)])],
        },
        report=report,
        items=4,
        items_per_s=123.456,
        free=Starts(1, 2.0, 3.456),
        backlog=Starts(3, 1500.0, 2500.0),
        ready_s=1.5,
        total_s=9.0,
    )


def shown(summary: Summary) -> str:
    out = io.StringIO()
    show(summary, Console(file=out, width=120, force_terminal=False))
    return out.getvalue()


def test_findings_and_figures_are_shown() -> None:
    text = shown(summary(Report(4, 4, 4, 0, 4)))
    for fragment in (
        "bare except",
        "pkg/bad.py",
        "1 of 40",
        "Shown.method (line 3)",
        "Knot.untie",
        "47",
        "none.py: cannot be parsed: what [x]",
        "123 items/s",
        "p99 3.5 ms",
        "p99 2.5 s",
        "check passed",
        "lost 0, held twice 0",
    ):
        assert fragment in text


def test_the_last_line_of_json_has_the_agreed_shape() -> None:
    assert summary(Report(4, 4, 4, 0, 4)).line() == {
        "items": 4,
        "completed": 4,
        "lost": 0,
        "held_twice": 0,
        "items_per_s": 123.5,
        "p99_start_ms": 3.46,
    }


@pytest.mark.parametrize(
    "report",
    [
        Report(4, 4, 4, 0, 4, lost=1),
        Report(4, 4, 4, 0, 4, held_twice=1),
        Report(4, 4, 4, 0, 4, unrecorded=1),
        Report(4, 4, 4, 0, 4, contradictions=1),
        Report(4, 4, 3, 0, 4, unended=1),
        # An audit never fails: a file that cannot be read gives a result.
        Report(4, 4, 3, 1, 4),
    ],
)
def test_any_violation_fails_the_check(report: Report) -> None:
    report.findings = [f"finding {number}" for number in range(30)]
    failed = summary(report)
    assert not failed.ok
    text = shown(failed)
    assert "check FAILED" in text
    assert "finding 0" in text
    assert "and 10 more findings" in text


async def test_progress_without_a_terminal_is_a_line_now_and_then() -> None:
    out = io.StringIO()
    with Screen(Console(file=out, width=200), {"build": 10, "test": 5}) as screen:
        screen.show({"build": 4, "test": 0}, 3)
        # Too soon for another line.
        screen.show({"build": 5, "test": 1}, 4)
        screen.show({"build": 10, "test": 5}, 15)
    assert out.getvalue().splitlines() == [
        "3/15 completed; begun: build 4/10, test 0/5",
        "15/15 completed; begun: build 10/10, test 5/5",
    ]


async def test_progress_on_a_terminal_is_a_bar_for_each_work_type() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True)
    with Screen(console, {"build": 10, "test": 5}) as screen:
        screen.show({"build": 10, "test": 5}, 15)
    for fragment in ("build", "test", "completed", "10/10", "5/5", "15/15"):
        assert fragment in out.getvalue()
