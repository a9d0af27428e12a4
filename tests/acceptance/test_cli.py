"""Commands as a user types them, against one running `swarm up`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.processes import DEADLINE_S, ROOT, SHORT, Place, Up, until


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("cli"), **SHORT)
    yield place
    place.clean()


@pytest.fixture(scope="module")
def up(place: Place) -> Up:
    return place.up()


@pytest.fixture
def work_type(request: pytest.FixtureRequest, up: Up) -> str:
    """A type of this test's own, so that tests do not take each other's work."""
    return str(request.node.name).replace("_", "-").partition("[")[0][:60]


def shell(place: Place, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script that calls `swarm`."""
    function = f'swarm() {{ "{sys.executable}" -m swarm "$@"; }}\n'
    return subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", function + script],
        env={**place.env, "PYTHONPATH": str(ROOT)},
        cwd=place.path,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )


# --- shell agents ----------------------------------------------------------------------


def test_a_shell_script_is_an_agent(place: Place, work_type: str) -> None:
    done = shell(
        place,
        f"""
        item=$(swarm submit --type {work_type} --description 'two words' --payload '{{"a": 1}}')
        read -r id token < <(swarm claim --type {work_type} --agent me --lease 1h --wait 10)
        test "$id" = "$item"
        swarm heartbeat "$id" --token "$token" --agent me
        swarm progress "$id" 40 half way --token "$token" --agent me
        swarm complete "$id" --token "$token" --agent me --result '{{"built": true}}'
        swarm work get "$id" --json
        """,
    )
    assert done.returncode == 0, done.stderr
    item = json.loads(done.stdout.splitlines()[-1])
    assert (item["status"], item["result"]) == ("completed", {"built": True})
    assert (item["agent_id"], item["note"]) == ("me", "half way")
    assert "held for 3600 s: two words" in done.stderr


def test_a_failure_from_a_shell(place: Place, work_type: str) -> None:
    done = shell(
        place,
        f"""
        swarm submit --type {work_type} >/dev/null
        read -r id token < <(swarm claim --type {work_type} --agent me --wait 10)
        export SWARM_TOKEN=$token SWARM_AGENT_ID=me
        swarm fail "$id" --error 'no disk' --final
        swarm work get "$id"
        """,
    )
    assert done.returncode == 0, done.stderr
    assert "status       dead (failed)\n" in done.stdout
    assert "error        no disk\n" in done.stdout


def test_stale_tokens_and_other_agents_items_are_refused(place: Place, work_type: str) -> None:
    assert place.run("submit", "--type", work_type).returncode == 0
    held = place.json("claim", "--type", work_type, "--agent", "holder", "--lease", "1h")
    work_item_id, token = held["work_item_id"], held["token"]
    for command in (
        ("heartbeat", work_item_id),
        ("progress", work_item_id, "50"),
        ("complete", work_item_id),
        ("fail", work_item_id),
    ):
        stale = place.run(*command, "--agent", "holder", "--token", "1.x.y")
        assert stale.returncode == 1
        assert "swarm: stale_token: " in stale.stderr
        other = place.run(*command, "--agent", "thief", "--token", token)
        assert other.returncode == 1
        assert "swarm: not_holder: " in other.stderr
    unknown = place.run("complete", "0-999999", "--agent", "holder", "--token", token)
    assert unknown.returncode == 1
    assert "swarm: unknown_item: " in unknown.stderr
    assert place.json("work", "get", work_item_id)["status"] == "claimed"


def test_an_item_of_a_silent_shell_agent_comes_back(place: Place, work_type: str) -> None:
    assert place.run("submit", "--type", work_type).returncode == 0
    first = place.json("claim", "--type", work_type, "--agent", "a", "--lease", "1s")
    again = place.json("claim", "--type", work_type, "--agent", "b", "--wait", "30")
    assert again["work_item_id"] == first["work_item_id"]
    assert again["token"] != first["token"]
    late = place.run("complete", first["work_item_id"], "--agent", "a", "--token", first["token"])
    assert late.returncode == 1
    assert "swarm: not_holder: " in late.stderr


# --- files -----------------------------------------------------------------------------


def test_one_bad_line_in_ten_thousand(place: Place, work_type: str) -> None:
    path = place.path / "items.jsonl"
    lines = [json.dumps({"work_type": work_type, "payload": n}) for n in range(10_000)]
    lines[6_788] = lines[6_788][:-1]
    path.write_text("\n".join(lines) + "\n")
    done = place.run("submit", str(path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("line 6789: bad_request: ")
    assert done.stderr.splitlines()[1:] == ["accepted 9999, refused 1"]
    assert place.json("work", "list", "--type", work_type, "--count") == {"count": 9999}


def test_a_file_through_a_pipe(place: Place, work_type: str) -> None:
    done = shell(
        place,
        f"""
        for n in 1 2 3; do echo '{{"work_type": "{work_type}"}}'; done | swarm submit - --json
        """,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["line"] for line in done.stdout.splitlines()] == [1, 2, 3]


def test_a_reader_that_has_enough(place: Place, work_type: str) -> None:
    path = place.path / "many.jsonl"
    path.write_text((json.dumps({"work_type": work_type}) + "\n") * 3000)
    script = f"swarm submit {path}; set +o pipefail; swarm work list --limit 0 --json | head -n 1"
    done = shell(place, script)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == "accepted 3000, refused 0\n"


# --- agents ----------------------------------------------------------------------------


def test_an_agent_runs_any_program(place: Place, work_type: str) -> None:
    script = 'echo "progress 50 adding"; echo "{\\"sum\\": $(cat | grep -c payload)}"'
    agent = place.start("agent", "--type", work_type, "--exec", script, "--id", "worker-1")
    done = place.run("submit", "--type", work_type, "--payload", "[1, 2]", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["result"] == {"sum": 1}
    item = place.json("work", "get", answer["work_item_id"])
    assert (item["agent_id"], item["note"]) == ("worker-1", "adding")
    agent.terminate()
    assert agent.wait(DEADLINE_S) == 0


def test_a_failing_program_fails_the_item(place: Place, work_type: str) -> None:
    script = "echo 'cannot open file' >&2; exit 7"
    agent = place.start("agent", "--type", work_type, "--exec", script)
    done = place.run("submit", "--type", work_type, "--max-attempts", "1", "--wait")
    assert done.returncode == 1
    assert "exit code 7: cannot open file" in done.stderr
    agent.terminate()
    assert agent.wait(DEADLINE_S) == 0


def test_progress_shows_while_the_program_runs(place: Place, work_type: str) -> None:
    gate = place.path / "gate"
    os.mkfifo(gate)
    script = f"echo 'progress 25 waiting'; cat {gate}; echo 1"
    agent = place.start("agent", "--type", work_type, "--exec", script)
    work_item_id = place.run("submit", "--type", work_type).stdout.strip()

    def note() -> bool:
        return bool(place.json("work", "get", work_item_id).get("note") == "waiting")

    until("the note shows", note)
    item = place.json("work", "get", work_item_id)
    assert (item["status"], item["progress"]) == ("claimed", 25.0)
    gate.write_text("")
    agent.terminate()
    # It finishes what it holds.
    assert agent.wait(DEADLINE_S) == 0
    assert place.json("work", "get", work_item_id)["status"] == "completed"


def test_what_cannot_be_finished_in_time_is_handed_back(place: Place, work_type: str) -> None:
    started = place.path / "started"
    script = f"touch {started}; exec sleep 300"
    agent = place.start("agent", "--type", work_type, "--exec", script, "--drain", "200ms")
    work_item_id = place.run("submit", "--type", work_type).stdout.strip()
    until("it has begun", started.exists)
    agent.terminate()
    assert agent.wait(DEADLINE_S) == 0
    item = place.json("work", "get", work_item_id)
    assert item["status"] == "queued"
    assert item.get("attempt", 0) == 0
    until("the program is gone", lambda: not sleeping(place))


def sleeping(place: Place) -> list[int]:
    def command(pid: int) -> bytes:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:
            return b""

    return [pid for pid in place.pids() if command(pid).startswith(b"sleep")]


def test_an_agent_id_can_be_used_once(place: Place, work_type: str) -> None:
    first = place.start("agent", "--type", work_type, "--exec", "echo 1", "--id", "only")
    done = place.run("submit", "--type", work_type, "--wait")
    assert done.returncode == 0, done.stderr
    second = place.run("agent", "--type", work_type, "--exec", "echo 2", "--id", "only")
    assert second.returncode == 1
    assert "swarm: agent_id_in_use: " in second.stderr
    third = place.start(
        "agent", "--type", work_type, "--exec", "echo 3", "--id", "only", "--takeover"
    )
    # The one that was replaced says so and ends.
    assert first.wait(DEADLINE_S) == 1
    assert place.run("submit", "--type", work_type, "--wait").stdout == "3\n"
    third.terminate()
    assert third.wait(DEADLINE_S) == 0
