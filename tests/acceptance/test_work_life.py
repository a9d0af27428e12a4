"""Work lives by commands on real processes: two coordinators, agents that are programs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from swarm import Swarm, WorkItem
from tests.acceptance.processes import DEADLINE_S, SHORT, Place, Up, until

LIFE = {**SHORT, "RETRY_BACKOFF_S": "0.1", "RETRY_BACKOFF_MAX_S": "0.2", "MAX_ATTEMPTS": "2"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("life"), **LIFE)
    yield place
    place.clean()


@pytest.fixture(scope="module")
def up(place: Place) -> Up:
    return place.up()


@pytest.fixture
def work_type(request: pytest.FixtureRequest, up: Up, place: Place) -> Iterator[str]:
    """A type of this test's own; in the end the counts of every shard add up."""
    yield str(request.node.name).replace("_", "-").partition("[")[0][:60]
    status = place.json("status")
    assert status["conservation"] == 0
    assert len(status["shards"]) == int(SHORT["SHARD_COUNT"])
    assert [shard["conservation"] for shard in status["shards"]] == [0] * len(status["shards"])
    assert status["problems"] == []
    counted = sum(status["counts"].values())
    assert counted == status["submitted"]


def submitted(place: Place, work_type: str, *options: str) -> str:
    """The id of a new item."""
    done = place.run("submit", "--type", work_type, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_comes_through_a_pipe_is_submitted_while_the_pipe_stays_open(
    up: Up, place: Place, work_type: str
) -> None:
    writer = place.start_with_pipe("submit", "-", "--json", BATCH_TIMEOUT="50")
    assert writer.stdin is not None, "a pipe"
    assert writer.stdout is not None, "a pipe"
    for number in (1, 2):
        writer.stdin.write(json.dumps({"work_type": work_type}) + "\n")
        writer.stdin.flush()
        answer = json.loads(writer.stdout.readline())
        assert answer["line"] == number
        assert item(up, answer["work_item_id"]).status == "queued"
    out, err = writer.communicate(timeout=DEADLINE_S)
    assert (writer.returncode, out, err) == (0, "", "accepted 2, refused 0\n")


def item(up: Up, work_item_id: str) -> WorkItem:
    """The item as it is now."""

    async def get() -> WorkItem:
        async with Swarm.connect(up.nats_url) as swarm:
            return await swarm.get(work_item_id, timeout_s=DEADLINE_S)

    return asyncio.run(get())


def until_item(up: Up, work_item_id: str, condition: Callable[[WorkItem], bool]) -> WorkItem:
    """The item once the condition holds of it.  (Not by commands: a hundred times as fast.)"""

    async def watch() -> WorkItem:
        last = "it was never seen"
        async with Swarm.connect(up.nats_url) as swarm:
            async for seen in swarm.watch(work_item_id, timeout=DEADLINE_S):
                if condition(seen):
                    return seen
                last = str(seen)
        raise AssertionError(f"not within {DEADLINE_S} s; last: {last}")

    return asyncio.run(watch())


def until_status(up: Up, work_item_id: str, status: str) -> WorkItem:
    """The item once it has this status."""
    return until_item(up, work_item_id, lambda seen: seen.status == status)


def plain(raw: Raw) -> Any:
    """JSON of an item, decoded."""
    return json.loads(bytes(raw))


def agent(place: Place, name: str, work_type: str, script: str) -> subprocess.Popen[str]:
    """`swarm agent --exec` with this shell script."""
    return place.start("agent", "--type", work_type, "--id", name, "--exec", script)


def stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    assert process.wait(DEADLINE_S) == 0


def test_retries_then_dead_then_shown_then_replayed(place: Place, up: Up, work_type: str) -> None:
    fixed = place.path / "fixed"
    script = f"test -e {fixed} && echo '\"done\"' || {{ echo 'no disk' >&2; exit 7; }}"
    worker = agent(place, "a1", work_type, script)
    name = submitted(place, work_type, "--payload", "1")
    dead = until_status(up, name, "dead")
    assert (dead.attempt, dead.cause, dead.error) == (2, "failed", "exit code 7: no disk")

    listed = place.run("dead", "list", "--type", work_type)
    assert listed.returncode == 0
    assert name in listed.stdout
    assert "exit code 7: no disk" in listed.stdout
    shown = place.run("dead", "show", name).stdout
    for number in (1, 2):
        assert f"failure {number}    a1 failed after " in shown

    fixed.touch()
    dry = place.run("dead", "replay", "--type", work_type, "--dry-run")
    assert dry.returncode == 0
    assert f"{name} would be queued again ({work_type}, failed: exit code 7: no disk)" in dry.stdout
    assert item(up, name).status == "dead"
    done = place.run("dead", "replay", "--type", work_type)
    assert (done.returncode, done.stderr) == (0, "replayed 1, refused 0\n")
    completed = until_status(up, name, "completed")
    assert (plain(completed.result), completed.replays) == ("done", 1)
    assert [one.how for one in completed.history] == ["failed", "failed"]
    assert place.run("dead", "replay", name).returncode == 1
    stop(worker)


def test_cancelling_a_running_item(place: Place, up: Up, work_type: str) -> None:
    started, told = place.path / "started", place.path / "told"
    script = f"trap 'touch {told}; exit 1' TERM; touch {started}; while :; do sleep 0.1; done"
    worker = agent(place, "a2", work_type, script)
    name = submitted(place, work_type)
    until("it has begun", started.exists)
    cancelled = place.run("work", "cancel", name, "--reason", "not wanted", "--grace", "20s")
    assert cancelled.stdout == f"{name} claimed (its agent was asked to stop)\n"
    found = until_status(up, name, "cancelled")
    assert (found.error, found.agent_id) == ("not wanted", "a2")
    assert told.exists()
    waited = place.run("work", "watch", name)
    assert waited.returncode == 1
    assert "cancelled not wanted" in waited.stdout
    # The agent goes on with other work.
    started.unlink()
    again = submitted(place, work_type)
    until("it has begun again", started.exists)
    assert place.run("work", "cancel", again, "--grace", "0").stdout == f"{again} cancelled\n"
    stop(worker)


def test_what_is_finished_within_the_grace_counts(place: Place, up: Up, work_type: str) -> None:
    started = place.path / "started-too"
    script = f"trap 'echo 5; exit 0' TERM; touch {started}; while :; do sleep 0.1; done"
    worker = agent(place, "a3", work_type, script)
    name = submitted(place, work_type)
    until("it has begun", started.exists)
    assert place.run("work", "cancel", name, "--grace", "20s").returncode == 0
    assert plain(until_status(up, name, "completed").result) == 5
    stop(worker)


ASKS = """
import json, sys
item = json.load(sys.stdin)
if not item["waits"]:
    print('checkpoint {"step": 1}')
    print('wait 1h ' + json.dumps({"approve": item["payload"]}))
else:
    print(json.dumps([item[key] for key in ("answer", "checkpoint", "attempt", "waits")]))
"""


def test_an_item_waits_is_answered_and_completes_on_another_agent(
    place: Place, up: Up, work_type: str
) -> None:
    script = place.path / "asks.py"
    script.write_text(ASKS)
    command = f"{sys.executable} {script}"
    first = agent(place, "asker", work_type, command)
    name = submitted(place, work_type, "--payload", '"v1.2"')
    waiting = until_status(up, name, "waiting")
    assert plain(waiting.waits_for) == {"approve": "v1.2"}
    assert plain(waiting.checkpoint) == {"step": 1}
    listed = place.run("work", "list", "--status", "waiting").stdout
    assert '{"approve": "v1.2"} (until in 1h)' in listed or "(until in 60m)" in listed
    stop(first)
    second = agent(place, "goer-on", work_type, command)
    answered = place.run("work", "answer", name, '{"yes": true}', "--wait", "1")
    assert answered.returncode == 0, answered.stderr
    completed = until_status(up, name, "completed")
    assert plain(completed.result) == [{"yes": True}, {"step": 1}, 1, 1]
    assert completed.agent_id == "goer-on"
    late = place.run("work", "answer", name, "2")
    assert late.returncode == 1
    assert "already_finished" in late.stderr
    stop(second)


JOINS = """
import json, sys
item = json.load(sys.stdin)
print(json.dumps(sorted(one["result"] for one in item["depends"].values())))
"""


def test_dependencies_across_shards(place: Place, up: Up, work_type: str) -> None:
    script = place.path / "joins.py"
    script.write_text(JOINS)
    joins = f"{sys.executable} {script}"
    last_type = work_type[:50] + "-last"
    lines: list[dict[str, Any]] = [{"work_type": work_type, "payload": n} for n in range(8)]
    lines.append({"work_type": last_type, "depends_on": list(range(1, 9))})
    path = place.path / "graph.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = place.run("submit", str(path), "--json")
    assert done.returncode == 0, done.stderr
    ids = [json.loads(line)["work_item_id"] for line in done.stdout.splitlines()]
    assert len({name.partition("-")[0] for name in ids[:8]}) > 1, "several shards"
    assert item(up, ids[8]).status == "blocked"
    last = agent(place, "joiner", last_type, joins)
    first = agent(place, "maker", work_type, "cat | grep -o '\"payload\":[0-9]*' | cut -d: -f2")
    completed = until_status(up, ids[8], "completed")
    assert plain(completed.result) == list(range(8))
    stop(first)
    stop(last)


def test_a_dead_dependency_cancels_what_depends_on_it(place: Place, up: Up, work_type: str) -> None:
    worker = agent(place, "a4", work_type, "echo give-up; echo no >&2; exit 1")
    first = submitted(place, work_type)
    others = [
        submitted(place, "never", "--depends-on", first, "--on-dependency-failure", "cancel")
        for _ in range(3)
    ]
    assert len(until_status(up, first, "dead").history) == 1
    for other in others:
        why = until_status(up, other, "cancelled").error
        assert why == f"work item {first}, which it depends on, is dead"
    stop(worker)


def test_a_delayed_start(place: Place, up: Up, work_type: str) -> None:
    worker = agent(place, "a5", work_type, "echo 1")
    name = submitted(place, work_type, "--delay", "4s")
    completed = until_status(up, name, "completed")
    assert completed.claimed_at >= completed.not_before > completed.submitted_at
    assert completed.history == []
    stop(worker)


def test_watching_a_life(place: Place, up: Up, work_type: str) -> None:
    gate = place.path / "gate"
    os.mkfifo(gate)
    name = submitted(place, work_type)
    watch = place.start("work", "watch", name)
    assert watch.stdout is not None
    line = watch.stdout.readline()
    assert f" {name} queued" in line
    worker = agent(place, "a6", work_type, f"echo 'progress 40 reading'; cat {gate}; echo 7")
    seen = ""
    while "40 % reading" not in seen:
        seen = watch.stdout.readline()
        assert f" {name} claimed by a6 " in seen
    gate.write_text("")
    assert f" {name} completed 7\n" in watch.stdout.read()
    assert watch.wait(DEADLINE_S) == 0
    stop(worker)


def test_a_killed_agents_checkpoint_is_not_lost(place: Place, up: Up, work_type: str) -> None:
    script = (
        'case "$(cat)" in *\'"checkpoint":{"page":3}\'*) echo \'"went on"\';; '
        "*) echo 'checkpoint {\"page\":3}'; exec sleep 300;; esac"
    )
    first = agent(place, "mortal", work_type, script)
    name = submitted(place, work_type)
    until_item(up, name, lambda seen: plain(seen.checkpoint) == {"page": 3})
    first.send_signal(signal.SIGKILL)
    first.wait(DEADLINE_S)
    second = agent(place, "heir", work_type, script)
    completed = until_status(up, name, "completed")
    assert (plain(completed.result), completed.deaths) == ("went on", 1)
    assert completed.history[0].how == "lapsed"
    stop(second)


def test_a_shell_script_waits_and_goes_on(place: Place, up: Up, work_type: str) -> None:
    name = submitted(place, work_type, "--max-attempts", "3")
    held = place.json("claim", "--type", work_type, "--agent", "sh", "--wait", "10")
    me = ("--agent", "sh", "--token", held["token"])
    progress = place.run("progress", name, "10", "--checkpoint", '{"page": 1}', *me)
    assert progress.returncode == 0, progress.stderr
    waits = place.run("wait", name, "--for", '"ok?"', "--expires", "1h", *me)
    assert waits.stdout == f"{name} waiting\n"
    assert place.run("work", "answer", name, '"yes"').returncode == 0
    again = place.json("claim", "--type", work_type, "--agent", "sh", "--wait", "10")
    assert (again["checkpoint"], again["answer"], again["attempt"]) == ({"page": 1}, "yes", 1)
    me = ("--agent", "sh", "--token", again["token"])
    released = place.run("release", name, "--checkpoint", '{"page": 2}', *me)
    assert released.stdout == f"{name} queued\n"
    last = place.json("claim", "--type", work_type, "--agent", "sh", "--wait", "10")
    assert last["checkpoint"] == {"page": 2}
    me = ("--agent", "sh", "--token", last["token"])
    failed = place.run("fail", name, "--error", "no", "--retry-after", "1h", *me)
    assert failed.stdout == f"{name} scheduled\n"
    assert place.run("work", "retry", name).stdout == f"{name} queued\n"
    end = place.json("claim", "--type", work_type, "--agent", "sh", "--wait", "10")
    assert end["attempt"] == 2
    final = place.run(
        "fail", name, "--error", "never", "--final", "--agent", "sh", "--token", end["token"]
    )
    assert final.stdout == f"{name} dead\n"


def test_archived_items_are_listed(place: Place, work_type: str, tmp_path: Path) -> None:
    """A swarm of its own that keeps next to nothing in memory."""
    small = Place(tmp_path, **LIFE, CACHE_MAX_SIZE="1", LOG_FLOOR_BYTES="2000")
    try:
        small.up()
        path = small.path / "items.jsonl"
        path.write_text("".join(f'{{"work_type": "a", "payload": {n}}}\n' for n in range(60)))
        assert small.run("submit", str(path)).returncode == 0
        worker = small.start("agent", "--type", "a", "--exec", "echo 1", "--concurrency", "4")
        count = ("work", "list", "--status", "completed", "--count")
        until("all are done", lambda: small.json(*count) == {"count": 60})
        until("most are archived", lambda: small.json("status")["archived"] >= 50)
        listed = small.run("work", "list", "--status", "completed", "--limit", "0", "--json")
        assert listed.returncode == 0, listed.stderr
        payloads = [json.loads(line).get("payload") for line in listed.stdout.splitlines()]
        assert sorted(payloads) == list(range(60))
        status = small.json("status")
        assert (status["conservation"], status["submitted"]) == (0, 60)

        def purged() -> bool:
            return any(shard["first_seq"] > 1 for shard in small.json("status")["shards"])

        until("logs are purged", purged)
        assert "finished items in the records only: 5" in small.run("status").stdout
        stop(worker)
    finally:
        small.clean()
