"""`swarm agent --exec`: what a program gets, and what is made of its output and its end."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec
import pytest

from swarm.errors import LeaseLost, Refusal
from swarm.messages import Assignment, Dependency, NewItem
from swarm.sdk.endings import GiveUp, RetryLater, WaitRequested
from swarm.sdk.items import ClaimedItem
from swarm.sdk.output import WaitLine, parse_checkpoint, parse_progress, parse_retry, parse_wait
from swarm.sdk.programs import ENV_BYTES_MAX, ERROR_BYTES_MAX, Program, ProgramFailed

DEADLINE_S = 20.0
POLL_S = 0.01


class FakeJob:
    """A context that notes down what is said."""

    def __init__(self, **fields: Any) -> None:
        payload = msgspec.Raw(msgspec.json.encode(fields.pop("payload", None)))
        left = {name: fields.pop(name) for name in LEFT if name in fields}
        item = msgspec.json.encode(NewItem("build", payload=payload, **fields))
        self.claimed = ClaimedItem.of(
            Assignment("3-17", "1.abc.s0", 2, 30.0, msgspec.Raw(item), **left)
        )
        self.grace_s = 0.0
        self.reports: list[tuple[float, str]] = []
        self.checkpoints: list[Any] = []
        self.waits: list[tuple[Any, float, str]] = []
        self.reported = asyncio.Event()
        self.lost = False

    def progress_sync(self, percent: float, note: str = "") -> None:
        if self.lost:
            raise LeaseLost("stop working on 3-17")
        self.reports.append((percent, note))
        self.reported.set()

    def checkpoint_soon(self, value: Any) -> None:
        if self.lost:
            raise LeaseLost("stop working on 3-17")
        if value == msgspec.Raw(b'"too large"'):
            raise Refusal("too_large", "scripted")
        self.checkpoints.append(msgspec.json.decode(value))
        self.reported.set()

    def wait_for(
        self, what: Any, *, expires_s: float = 0.0, on_expiry: Literal["dead", "resume"] = "dead"
    ) -> NoReturn:
        self.waits.append((msgspec.json.decode(what), expires_s, on_expiry))
        raise WaitRequested


LEFT = ("checkpoint", "answer", "answered_by", "waits", "depends")


async def done(command: str, job: FakeJob | None = None) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        result = await Program(command, "agent-1").handle(job or FakeJob())
    return None if result is None else msgspec.json.decode(result)


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        # Nothing tells us of the end of a process that is not our child.
        while alive(pid):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# --- in ------------------------------------------------------------------------------


async def test_the_item_comes_on_stdin() -> None:
    job = FakeJob(
        description="ä", priority="high", team="t", labels={"a": "b"}, payload={"n": [1, None]}
    )
    assert await done("cat", job) == {
        "work_item_id": "3-17",
        "work_type": "build",
        "description": "ä",
        "priority": "high",
        "team": "t",
        "labels": {"a": "b"},
        "story_points": None,
        "payload": {"n": [1, None]},
        "attempt": 2,
        "token": "1.abc.s0",
        "checkpoint": None,
        "answer": None,
        "answered_by": "",
        "waits": 0,
        "depends": {},
    }


async def test_fields_come_in_the_environment() -> None:
    job = FakeJob(description="say 'hi'\nthere", priority="low", team="core", story_points=5)
    names = ["WORK_ITEM_ID", "WORK_TYPE", "PRIORITY", "TEAM", "TOKEN", "ATTEMPT", "DESCRIPTION"]
    names += ["STORY_POINTS", "AGENT_ID", "LABELS"]
    script = f"import json,os; print(json.dumps({{k: os.environ['SWARM_' + k] for k in {names}}}))"
    assert await done(f'python3 -c "{script}"', job) == {
        "WORK_ITEM_ID": "3-17",
        "WORK_TYPE": "build",
        "PRIORITY": "low",
        "TEAM": "core",
        "TOKEN": "1.abc.s0",
        "ATTEMPT": "2",
        "DESCRIPTION": "say 'hi'\nthere",
        "STORY_POINTS": "5",
        "AGENT_ID": "agent-1",
        "LABELS": "{}",
    }


async def test_text_that_an_environment_cannot_hold_is_made_to_fit() -> None:
    job = FakeJob(description="a\0" + "é" * ENV_BYTES_MAX)
    assert await done('printf %s "$SWARM_DESCRIPTION" | wc -c', job) == ENV_BYTES_MAX - 1


async def test_a_program_need_not_read_its_stdin() -> None:
    assert await done("exec true", FakeJob(payload="x" * 200_000)) is None


# --- out -----------------------------------------------------------------------------


async def test_the_last_line_that_is_json_is_the_result() -> None:
    script = """echo '{"a": 1}'; echo 'progress 10'; echo '[2]'; echo 'not json'; echo '{"a":'"""
    assert await done(script) == [2]


async def test_a_last_line_without_its_end_counts() -> None:
    assert await done("printf '{\"a\": 1}\\n7'") == 7


async def test_numbers_stay_as_they_were_written() -> None:
    result = await Program("echo 12345678901234567890.10", "a").handle(FakeJob())
    assert result is not None
    assert bytes(result) == b"12345678901234567890.10"


async def test_without_json_there_is_no_result() -> None:
    assert await done("echo done") is None


async def test_output_that_is_no_utf8_is_no_result() -> None:
    assert await done(r"printf '\377\376\n'; printf '\"\377\"\n'") is None


async def test_a_very_long_line_is_cut_and_the_next_one_read() -> None:
    assert await done("head -c 3000000 /dev/zero | tr '\\0' 1; echo; echo 5") == 5


async def test_progress_is_reported_while_the_program_runs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    job = FakeJob()
    running = asyncio.create_task(done(f"echo 'progress 40 half way'; cat {gate}; echo 1", job))
    async with asyncio.timeout(DEADLINE_S):
        await job.reported.wait()
        assert job.reports == [(40.0, "half way")]
        assert not running.done()
        # The program ends only once it has read this.
        await asyncio.to_thread(gate.write_text, "")
        assert await running == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("progress 40 half way", (40.0, "half way")),
        ("progress 0", (0.0, "")),
        ("progress 99.5%  nearly", (99.5, "nearly")),
        ("progress 101", None),
        ("progress -1", None),
        ("progress nan", None),
        ("progress is good", None),
        ("progress", None),
        ("progressive 4", None),
        ("", None),
    ],
)
def test_progress_lines(line: str, expected: tuple[float, str] | None) -> None:
    assert parse_progress(line) == expected


# --- how it ends ---------------------------------------------------------------------


async def test_a_failure_says_the_exit_code_and_the_end_of_stderr() -> None:
    with pytest.raises(ProgramFailed) as caught:
        await done("echo '{}'; echo before >&2; echo 'no such file' >&2; exit 3")
    assert str(caught.value) == "exit code 3: before\nno such file"


async def test_only_the_end_of_a_long_stderr_is_kept() -> None:
    with pytest.raises(ProgramFailed) as caught:
        await done("head -c 100000 /dev/zero | tr '\\0' x >&2; echo END >&2; exit 1")
    assert str(caught.value).endswith("xxEND")
    assert len(str(caught.value)) < ERROR_BYTES_MAX + 50


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("exit 1", "exit code 1, and nothing on stderr"),
        ("kill -9 $$", "killed by SIGKILL, and nothing on stderr"),
        ("no-such-program-anywhere 2>/dev/null", "exit code 127, and nothing on stderr"),
    ],
)
async def test_every_end_is_named(command: str, message: str) -> None:
    with pytest.raises(ProgramFailed) as caught:
        await done(command)
    assert str(caught.value) == message


async def test_what_it_leaves_in_the_background_does_not_hold_up_its_end(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    assert await done(f"sleep 300 & echo $! > {pid_file}; echo 1") == 1
    os.kill(int(pid_file.read_text()), 9)


async def test_cancelling_ends_the_whole_group() -> None:
    job = FakeJob()
    script = 'sleep 300 & echo "progress 1 $$ $!"; wait'
    running = asyncio.create_task(Program(script, "a").handle(job))
    async with asyncio.timeout(DEADLINE_S):
        await job.reported.wait()
    pids = [int(word) for word in job.reports[0][1].split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for pid in pids:
        await until_gone(pid)


async def test_a_group_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.sdk.programs.GRACE_S", 0.05)
    job = FakeJob()
    script = "trap '' TERM; echo \"progress 1 $$\"; while :; do sleep 0.05; done"
    running = asyncio.create_task(Program(script, "a").handle(job))
    async with asyncio.timeout(DEADLINE_S):
        await job.reported.wait()
    pid = int(job.reports[0][1])
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until_gone(pid)


async def begun(script: str, job: FakeJob) -> asyncio.Task[msgspec.Raw | None]:
    """The script, running since it has said something."""
    running = asyncio.create_task(Program(script, "a").handle(job))
    async with asyncio.timeout(DEADLINE_S):
        await job.reported.wait()
    return running


async def test_what_a_lost_program_says_changes_nothing(tmp_path: Path) -> None:
    job = FakeJob()
    running = await begun(
        "echo progress 1; sleep 300 & trap 'kill $!; echo progress 2' TERM; wait", job
    )
    job.lost = True
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert job.reports == [(1.0, "")]


# --- checkpoints, retries, waits ---------------------------------------------------------


async def test_a_checkpoint_is_left_at_once(tmp_path: Path) -> None:
    job = FakeJob()
    assert await done("""echo 'checkpoint {"page": 3}'; echo checkpoint saved; echo 1""", job) == 1
    assert job.checkpoints == [{"page": 3}]


async def test_a_checkpoint_that_is_refused_fails_the_program() -> None:
    job = FakeJob()
    with pytest.raises(Refusal, match="too_large"):
        await done("""echo 'checkpoint "too large"'; exec sleep 300""", job)
    with pytest.raises(Refusal, match="too_large"):
        await done("""echo 'checkpoint "too large"'; echo 1""", job)


async def test_a_program_may_say_when_to_try_again() -> None:
    with pytest.raises(RetryLater) as later:
        await done("echo retry 10m; echo busy >&2; exit 3")
    assert (later.value.after_s, later.value.reason) == (600.0, "exit code 3: busy")
    with pytest.raises(GiveUp, match="exit code 3: no"):
        await done("echo give-up; echo no >&2; exit 3")
    # Where it ends well, these mean nothing.
    assert await done("echo retry 10m; echo give-up; echo 5") == 5


async def test_a_program_may_wait_for_an_answer() -> None:
    job = FakeJob()
    script = (
        """echo 'checkpoint [1]'; echo '{"some": "result"}'; echo 'wait 2h resume {"ok?": 7}'"""
    )
    with pytest.raises(WaitRequested):
        await done(script, job)
    assert job.waits == [({"ok?": 7}, 7200.0, "resume")]
    with pytest.raises(ProgramFailed):
        await done(script + "; exit 1", job)
    assert len(job.waits) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'wait {"a": 1}', WaitLine(msgspec.Raw(b'{"a": 1}'))),
        (b'wait "a text"', WaitLine(msgspec.Raw(b'"a text"'))),
        (b"wait 30s [1]", WaitLine(msgspec.Raw(b"[1]"), 30.0)),
        (b"wait resume [1]", WaitLine(msgspec.Raw(b"[1]"), 0.0, "resume")),
        (b"wait 1h dead  [1]", WaitLine(msgspec.Raw(b"[1]"), 3600.0, "dead")),
        (b"wait 5", None),
        (b"wait 5 6", None),
        (b"wait", None),
        (b"wait {", None),
        (b"wait a moment", None),
        (b"waiting [1]", None),
        (b"wait 1h", None),
    ],
)
def test_wait_lines(line: bytes, expected: WaitLine | None) -> None:
    assert parse_wait(line) == expected


def test_other_lines() -> None:
    assert parse_retry("retry 90s") == 90.0
    assert [parse_retry(line) for line in ("retry", "retry soon", "retry 3 of 5")] == [None] * 3
    assert parse_checkpoint(b'checkpoint {"a": 1}') == msgspec.Raw(b'{"a": 1}')
    for line in (b"checkpoint", b"checkpoint null", b"checkpoint saved", b"checkpoints [1]"):
        assert parse_checkpoint(line) is None


async def test_what_was_left_comes_on_stdin() -> None:
    job = FakeJob(
        checkpoint=msgspec.Raw(b'{"page":3}'),
        answer=msgspec.Raw(b'"yes"'),
        answered_by="lisa",
        waits=1,
        depends={"0-1": Dependency("completed", msgspec.Raw(b"7"))},
    )
    seen = await done("cat", job)
    assert (seen["checkpoint"], seen["answer"], seen["answered_by"]) == ({"page": 3}, "yes", "lisa")
    assert seen["depends"] == {"0-1": {"status": "completed", "result": 7}}
    assert await done('echo "[$SWARM_WAITS, \\"$SWARM_ANSWERED_BY\\"]"', job) == [1, "lisa"]


TIDY = """
trap 'echo "checkpoint [2]"; echo {LAST}; exit 0' TERM
echo progress 1
while :; do sleep 0.02; done
"""


async def test_a_program_told_to_stop_may_leave_a_checkpoint() -> None:
    job = FakeJob()
    running = await begun(TIDY.replace("{LAST}", "'{}'"), job)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert job.checkpoints == [[2]]


async def test_within_its_grace_a_program_may_finish() -> None:
    job = FakeJob()
    running = await begun(TIDY.replace("{LAST}", "5"), job)
    job.grace_s = DEADLINE_S
    running.cancel()
    assert await running == msgspec.Raw(b"5")


async def test_a_second_cancel_ends_its_grace() -> None:
    job = FakeJob()
    script = "trap 'echo progress 2' TERM; echo progress 1 $$; while :; do sleep 0.02; done"
    running = await begun(script, job)
    pid = int(job.reports[0][1])
    job.grace_s = 100 * DEADLINE_S
    job.reported.clear()
    running.cancel()
    async with asyncio.timeout(DEADLINE_S):
        await job.reported.wait()
    assert alive(pid)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until_gone(pid)


async def test_many_at_once_do_not_mix() -> None:
    jobs = [FakeJob(payload=number) for number in range(20)]
    results = await asyncio.gather(*(done("cat", job) for job in jobs))
    assert [json.loads(json.dumps(result))["payload"] for result in results] == list(range(20))


def test_it_runs_in_another_thread_than_the_main_one() -> None:
    """As in an agent, whose handlers have a loop of their own in a thread."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(done("echo 1; exit 0"))))
    thread.start()
    thread.join(DEADLINE_S)
    assert results == [1]
