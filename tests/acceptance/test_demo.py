"""`swarm demo` as a user runs it: real processes, a real NATS, a small real tree."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.testing.history import History, check, read_acks, read_executions
from tests.acceptance.processes import DEADLINE_S, Place, kill, until

FILES = 40


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    # What the demo leaves in the temporary directory can be seen there.
    place = Place(tmp_path, SHARD_COUNT="4", TMPDIR=str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    yield place
    place.clean()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Forty files of the standard library, and one that is no Python."""
    tree = tmp_path / "tree"
    (tree / "package").mkdir(parents=True)
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.glob("[a-f]*.py"))[:FILES]:
        shutil.copy(path, tree / "package")
    (tree / "broken.py").write_text("def f(:\n")
    return tree


def left_over(place: Place) -> list[Path]:
    return list((place.path / "temporary").glob("swarm-demo-*"))


def test_a_tree_is_audited_and_the_swarm_is_checked(place: Place, tree: Path) -> None:
    done = place.run("demo", "--tree", str(tree), "--json")
    assert done.returncode == 0, done.stderr
    *_, details_line, last_line = done.stdout.splitlines()
    last = json.loads(last_line)
    items = 3 * len(list(tree.rglob("*.py")))
    assert items > 100
    speeds = last.pop("items_per_s"), last.pop("p99_start_ms")
    assert all(speed > 0 for speed in speeds)
    assert last == {"items": items, "completed": items, "lost": 0, "held_twice": 0}
    details = json.loads(details_line)
    assert details["check"]["unrecorded"] == 0
    assert details["check"]["acknowledged"] == details["check"]["executions"] == items
    worst = details["audits"]["undocumented"][0]
    assert worst["count"] > 10
    assert (tree / worst["file"]).is_file()
    # For people, apart from the data.
    for fragment in (
        f"{items}/{items} completed",
        "Public names without a docstring",
        "1 files could not be audited",
        "broken.py: cannot be parsed: invalid syntax",
        "check passed",
    ):
        assert fragment in done.stderr
    place.until_empty()
    assert left_over(place) == []


def test_what_is_kept_can_be_checked_again(place: Place, tree: Path) -> None:
    for path in list((tree / "package").iterdir())[5:]:
        path.unlink()
    kept = place.path / "kept"
    done = place.run("demo", "--tree", str(tree), "--keep", str(kept), "--coordinators", "1")
    assert done.returncode == 0, done.stderr
    assert "check passed" in done.stdout
    assert f"data, logs and records are in {kept}" in done.stderr
    executions, acks = read_executions(kept / "records"), read_acks(kept / "records")
    assert len(executions) == len(acks.submitted) == len(acks.completed) == 18
    # Three agents in processes of their own.
    assert len({execution.pid for execution in executions}) == 3
    # Without the log the same records prove a loss.
    assert check(executions, acks, History({}, [])).lost == 18
    place.until_empty()


def test_a_coordinator_killed_in_the_middle_changes_nothing_in_the_end(
    place: Place, tree: Path
) -> None:
    # Enough work that there is a middle.
    for package in ("asyncio", "email", "encodings", "json", "unittest", "xml"):
        shutil.copytree(Path(sysconfig.get_path("stdlib")) / package, tree / package)
    done = place.run("demo", "--tree", str(tree), "--json", "--chaos")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    items = 3 * len([path for path in tree.rglob("*.py") if "__pycache__" not in path.parts])
    assert last["items"] == last["completed"] == items
    assert last["lost"] == last["held_twice"] == 0
    assert last["killed"] in ("coordinator-1", "coordinator-2", "coordinator-3")
    assert 0.5 < last["longest_pause_s"] < 5.0
    assert f"kill -9 of {last['killed']}" in done.stderr
    assert f"{last['killed']} was killed (-9) in the middle of the work" in done.stderr
    assert "check passed" in done.stderr
    place.until_empty()


def executions(place: Place) -> list[str]:
    """Files of executions; unlike `rglob`, a walk goes on where NATS removes a directory."""
    files = (name for *_, names in os.walk(place.path / "temporary") for name in names)
    return [name for name in files if name.startswith("executions-")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(
    place: Place, tree: Path, number: signal.Signals
) -> None:
    demo = place.start("demo", "--tree", str(tree), "--json")
    until("agents work", lambda: executions(place))
    assert len(place.pids()) >= 6
    demo.send_signal(number)
    out, err = demo.communicate(timeout=DEADLINE_S)
    assert demo.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    place.until_empty()
    assert left_over(place) == []


def test_a_killed_demo_leaves_no_process(place: Place, tree: Path) -> None:
    demo = place.start("demo", "--tree", str(tree))
    until("agents work", lambda: executions(place))
    kill(demo.pid)
    demo.communicate(timeout=DEADLINE_S)
    place.until_empty()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tree", "nowhere"], "--tree nowhere: there is no such directory"),
        (["--tree", "empty"], "--tree empty: no .py file in it"),
        (["--tree", "tree/broken.py"], "--tree tree/broken.py is not a directory"),
        (["--tree", "tree", "--keep", "tree"], "--keep tree is not empty"),
        (["--tree", "tree", "--agents", "0"], "'0' is no whole number from 1"),
        (["--tree", "tree", "--coordinators", "none"], "'none' is no whole number from 1"),
        (["--tree", "tree", "--chaos", "--coordinators", "1"], "another one is needed"),
    ],
)
def test_wrong_use_is_explained_in_a_line(
    place: Place, tree: Path, arguments: list[str], complaint: str
) -> None:
    (place.path / "empty").mkdir()
    done = place.run("demo", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert left_over(place) == []
