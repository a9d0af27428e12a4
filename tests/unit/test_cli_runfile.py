"""How a client finds the running `swarm up`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from swarm.errors import BadInput
from swarm.hosting.runfile import Announcement, RunFile, find_run, find_url

ROOT = Path(__file__).parents[2]


def run_in(data_dir: Path, url: str = "nats://127.0.0.1:1") -> RunFile:
    return RunFile(url, "http://127.0.0.1:2", 123, str(data_dir))


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "data").mkdir()
    return {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "HOME": str(tmp_path / "home")}


def announce(env: dict[str, str], data_dir: Path, url: str = "nats://127.0.0.1:1") -> Announcement:
    data_dir.mkdir(exist_ok=True)
    announcement = Announcement(data_dir, env)
    announcement.publish(run_in(data_dir, url))
    return announcement


def test_nats_url_wins(env: dict[str, str], tmp_path: Path) -> None:
    announcement = announce(env, tmp_path / "data")
    assert find_url({**env, "NATS_URL": " nats://h:1 "}) == "nats://h:1"
    announcement.withdraw()


def test_a_running_swarm_is_found_until_it_withdraws(env: dict[str, str], tmp_path: Path) -> None:
    announcement = announce(env, tmp_path / "data")
    assert find_url(env) == "nats://127.0.0.1:1"
    assert find_run(env) == run_in(tmp_path / "data")
    announcement.withdraw()
    announcement.withdraw()
    with pytest.raises(BadInput, match="no swarm is running here; start one with `swarm up`"):
        find_url(env)
    assert list((tmp_path / "run" / "swarm").iterdir()) == []


def test_before_it_is_ready_it_is_not_found(env: dict[str, str], tmp_path: Path) -> None:
    announcement = Announcement(tmp_path / "data", env)
    with pytest.raises(BadInput, match="no swarm is running"):
        find_url(env)
    announcement.withdraw()


def test_a_copy_lies_in_the_data_directory(env: dict[str, str], tmp_path: Path) -> None:
    announcement = announce(env, tmp_path / "data")
    text = (tmp_path / "data" / "up.json").read_bytes()
    assert msgspec.json.decode(text, type=RunFile) == run_in(tmp_path / "data")
    announcement.withdraw()
    assert not (tmp_path / "data" / "up.json").exists()


def test_several_are_named_instead_of_guessing(env: dict[str, str], tmp_path: Path) -> None:
    first = announce(env, tmp_path / "a", "nats://127.0.0.1:1")
    second = announce(env, tmp_path / "b", "nats://127.0.0.1:2")
    with pytest.raises(BadInput) as caught:
        find_url(env)
    assert "2 swarms are running here" in str(caught.value)
    assert "nats://127.0.0.1:1" in str(caught.value)
    assert "nats://127.0.0.1:2" in str(caught.value)
    second.withdraw()
    assert find_url(env) == "nats://127.0.0.1:1"
    first.withdraw()


def test_a_second_one_on_the_same_data_directory_is_refused(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarm.hosting.runfile.LOCK_TRIES_S", 0.0)
    first = announce(env, tmp_path / "data")
    with pytest.raises(BadInput, match="another `swarm up` with this data directory is running"):
        Announcement(tmp_path / "data", env)
    first.withdraw()
    Announcement(tmp_path / "data", env).withdraw()


def test_what_a_killed_one_left_is_not_believed(env: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from swarm.hosting.runfile import Announcement, RunFile\n"
        "data = Path(sys.argv[1])\n"
        "a = Announcement(data, os.environ)\n"
        "a.publish(RunFile('nats://h:1', '', os.getpid(), str(data)))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "data")]
    ended = subprocess.run(command, env=env, cwd=ROOT, check=False)
    assert ended.returncode == -9
    assert len(list((tmp_path / "run" / "swarm").iterdir())) == 1
    with pytest.raises(BadInput, match="no swarm is running"):
        find_url(env)
    # Its place is free for the next one.
    announcement = announce(env, tmp_path / "data", "nats://h:2")
    assert find_url(env) == "nats://h:2"
    announcement.withdraw()


def test_a_client_without_the_runtime_directory_looks_in_the_cache(
    env: dict[str, str], tmp_path: Path
) -> None:
    home_only = {"HOME": env["HOME"]}
    announcement = announce(home_only, tmp_path / "data")
    assert find_url(env) == "nats://127.0.0.1:1"
    announcement.withdraw()


def test_a_place_that_cannot_be_written_is_skipped(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a directory")
    announcement = announce(env, tmp_path / "data")
    assert find_url(env) == "nats://127.0.0.1:1"
    announcement.withdraw()


def test_without_any_place_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="set XDG_RUNTIME_DIR to a directory of yours"):
        Announcement(tmp_path, {})
