"""The checker finds every kind of violation that is planted, and nothing where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from msgspec import Raw

from swarm.errors import BadInput, Undecodable
from swarm.messages import (
    Claimed,
    Completed,
    Died,
    Event,
    Progressed,
    Released,
    Submitted,
)
from swarm.testing import fold
from swarm.testing.history import (
    AckLog,
    Acks,
    Execution,
    ExecutionLog,
    History,
    Report,
    check,
    read_acks,
    read_executions,
    read_logs,
)
from swarm.testing.recorded import EntryLog, RecordedLogs
from tests.unit.written_logs import SUBJECTS, Logs

ITEM = Raw(b'{"work_type":"build"}')


@pytest.fixture
def logs() -> Logs:
    """A shard with one item, 0-1, submitted at 10."""
    logs = Logs()
    logs.open(9.0)
    logs.add(10.0, Submitted("c", 1, [ITEM]))
    return logs


def claimed(number: int = 1, fence: int = 1, session: str = "s") -> Claimed:
    return Claimed(number, fence, "agent", session)


def ran(token: str, start: float, end: float | None, item: str = "0-1", pid: int = 77) -> Execution:
    return Execution(item, token, token.rpartition(".")[2], pid, start, end)


async def verdict(
    logs: Logs, executions: list[Execution], acked: str = "0-1", completed: str = ""
) -> Report:
    history = await read_logs(logs, SUBJECTS, range(len(logs.entries)))
    submitted = dict.fromkeys(acked.split(), 10.0)
    return check(executions, Acks(submitted, dict.fromkeys(completed.split(), 10.0)), history)


def violations(report: Report) -> dict[str, int]:
    """The counts that are not 0."""
    counts = {
        "lost": report.lost,
        "held_twice": report.held_twice,
        "unrecorded": report.unrecorded,
        "unended": report.unended,
        "contradictions": report.contradictions,
    }
    found = {name: count for name, count in counts.items() if count}
    assert report.ok == (not found)
    # Unended items that nobody was promised are counted without a sentence each.
    assert len(report.findings) == sum(found.values()) - report.unended
    return found


# --- runs without a fault -------------------------------------------------------------


async def test_a_plain_run_passes(logs: Logs) -> None:
    logs.add(11.0, claimed())
    logs.add(12.0, Progressed(1, 50.0))
    logs.add(13.0, Completed(1, 1))
    report = await verdict(logs, [ran("1.o1.s", 11.5, 12.5)], completed="0-1")
    assert violations(report) == {}
    assert (report.acknowledged, report.submitted, report.completed) == (1, 1, 1)
    assert (report.executions, report.late_starts) == (1, 0)


async def test_stamps_that_are_equal_to_the_handlers_clock_pass(logs: Logs) -> None:
    logs.add(11.0, claimed())
    logs.add(12.0, Completed(1, 1))
    assert violations(await verdict(logs, [ran("1.o1.s", 11.0, 12.0)])) == {}


async def test_a_killed_agents_open_execution_is_excused_once_its_claim_has_lapsed(
    logs: Logs,
) -> None:
    logs.add(11.0, claimed())
    logs.add(17.0, Released(1, 1, "lapsed"))
    logs.add(18.0, claimed(fence=2, session="z"))
    logs.add(20.0, Completed(1, 2))
    report = await verdict(logs, [ran("1.o1.s", 11.5, None), ran("2.o1.z", 18.5, 19.0)])
    assert violations(report) == {}
    assert report.executions == 2


async def test_release_and_next_claim_in_one_entry_pass(logs: Logs) -> None:
    logs.add(11.0, claimed())
    logs.add(17.0, Released(1, 1, "lapsed"), claimed(fence=2))
    logs.add(20.0, Completed(1, 2))
    report = await verdict(logs, [ran("1.o1.s", 11.5, 19.5), ran("2.o1.s", 17.0, 19.0)])
    assert violations(report) == {}


async def test_an_execution_that_begins_after_its_claim_ended_is_reported_and_allowed(
    logs: Logs,
) -> None:
    logs.add(11.0, claimed())
    logs.add(17.0, Released(1, 1, "unlisted"))
    logs.add(18.0, claimed(fence=2))
    logs.add(25.0, Completed(1, 2))
    # The late one starts second and overlaps; its claim was handed on before.
    report = await verdict(logs, [ran("2.o1.s", 18.5, 24.0), ran("1.o1.s", 19.0, 20.0)])
    assert violations(report) == {}
    assert report.late_starts == 1


async def test_a_failed_item_has_ended(logs: Logs) -> None:
    logs.add(11.0, claimed())
    logs.add(12.0, Died(1, 1, "boom"))
    report = await verdict(logs, [ran("1.o1.s", 11.2, 11.8)])
    assert violations(report) == {}
    assert (report.completed, report.dead) == (0, 1)


async def test_tokens_follow_the_owner_through_a_takeover(logs: Logs) -> None:
    logs.add(11.0, claimed())
    logs.open(15.0)
    logs.add(16.0, Released(1, 1, "agent"))
    logs.add(17.0, claimed(fence=2))
    logs.add(20.0, Completed(1, 2))
    report = await verdict(logs, [ran("1.o1.s", 12.0, 14.0), ran("2.o2.s", 17.5, 19.0)])
    assert violations(report) == {}


async def test_foreign_entries_are_skipped_and_counted(logs: Logs) -> None:
    logs.raw(10.5, b"hello")
    logs.add(11.0, claimed())
    logs.add(12.0, Completed(1, 1))
    history = await read_logs(logs, SUBJECTS, [0])
    assert history.foreign == 1
    assert history.items["0-1"].ended == "completed"


async def test_logs_longer_than_a_page_are_read_to_their_end() -> None:
    logs = Logs()
    logs.open(1.0)
    for number in range(1, 701):
        logs.add(float(number), Submitted(f"c{number}", number, [ITEM]))
    history = await read_logs(logs, SUBJECTS, [0])
    assert len(history.items) == 700


async def test_recorded_entries_are_folded_like_the_log(logs: Logs, tmp_path: Path) -> None:
    logs.raw(10.5, b"not ours")
    logs.add(11.0, claimed())
    logs.add(13.0, Completed(1, 1))
    files = EntryLog(tmp_path, 0)
    for entry in logs.entries[SUBJECTS.log(0)]:
        files.take(entry)
    recorded = RecordedLogs(tmp_path, {SUBJECTS.log(0): 0})
    history = await read_logs(recorded, SUBJECTS, range(1))
    assert history == await read_logs(logs, SUBJECTS, range(1))
    assert history.items["0-1"].ended == "completed"
    times = (9.0, 10.0, 10.5, 11.0, 13.0)
    assert history.stamps == {0: {seq: (time, time) for seq, time in enumerate(times, 1)}}


async def test_an_items_status_is_known_as_of_every_entry(logs: Logs) -> None:
    logs.add(11.0, claimed())
    logs.add(12.0, Progressed(1, 50.0))
    logs.add(13.0, Released(1, 1, "agent"), claimed(fence=2))
    logs.add(14.0, Released(1, 2, "lapsed"))
    logs.add(15.0, claimed(fence=3), Died(1, 3))
    life = (await read_logs(logs, SUBJECTS, range(1))).items["0-1"]
    statuses = [life.status_at(seq) for seq in range(8)]
    assert statuses == ["", "", "queued", "claimed", "claimed", "claimed", "queued", "dead"]
    assert life.item == ITEM


def test_every_kind_of_event_has_a_row() -> None:
    assert set(fold._FOLDS) == set(get_args(Event))


async def test_a_kind_of_event_without_a_row_is_reported(
    logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {kind: row for kind, row in fold._FOLDS.items() if kind is not Progressed}
    monkeypatch.setattr(fold, "_FOLDS", rows)
    logs.add(11.0, Progressed(1, 50.0))
    history = await read_logs(logs, SUBJECTS, range(1))
    (text,) = history.contradictions
    assert text == "tlog.0, entry 3: an event that this fold does not know: Progressed"


# --- planted: held twice -----------------------------------------------------------------


async def test_finds_two_holders_at_once(logs: Logs) -> None:
    """The first claim lapses only after the second holder has begun."""
    logs.add(11.0, claimed())
    logs.add(13.0, Released(1, 1, "lapsed"))
    logs.add(13.0, claimed(fence=2))
    logs.add(20.0, Completed(1, 2))
    report = await verdict(logs, [ran("1.o1.s", 11.5, 15.0), ran("2.o1.s", 12.0, 14.0)])
    # Once for the overlap, once for running before its claim was in the log.
    assert violations(report) == {"held_twice": 2}
    assert "two holders at once" in "\n".join(report.findings)


async def test_finds_two_holders_by_a_log_that_gave_the_item_away_twice(logs: Logs) -> None:
    logs.add(11.0, claimed())
    logs.add(12.0, claimed(fence=2, session="z"))
    logs.add(20.0, Completed(1, 2))
    report = await verdict(logs, [ran("1.o1.s", 11.5, 12.5), ran("2.o1.z", 12.1, 14.0)])
    assert violations(report) == {"held_twice": 1, "contradictions": 1}


async def test_a_claim_that_was_completed_excuses_no_overlap(logs: Logs) -> None:
    logs.add(11.0, claimed())
    logs.add(13.0, Completed(1, 1))
    logs.add(14.0, claimed(fence=2))
    report = await verdict(logs, [ran("1.o1.s", 11.5, 16.0), ran("2.o1.s", 14.5, 15.0)])
    found = violations(report)
    assert found == {"held_twice": 1, "contradictions": 1, "unrecorded": 1}


@pytest.mark.parametrize("end", [11.4, None])
async def test_finds_one_claim_run_twice(logs: Logs, end: float | None) -> None:
    logs.add(11.0, claimed())
    logs.add(13.0, Completed(1, 1))
    runs = [ran("1.o1.s", 11.2, end), ran("1.o1.s", 11.5, 12.0, pid=78)]
    report = await verdict(logs, runs)
    assert violations(report) == {"held_twice": 1}
    assert "run twice under one token" in report.findings[0]


@pytest.mark.parametrize("token", ["1.o2.s", "2.o1.s", "1.o1.z"])
async def test_finds_a_token_that_was_never_issued(logs: Logs, token: str) -> None:
    logs.add(11.0, claimed())
    logs.add(13.0, Completed(1, 1))
    report = await verdict(logs, [ran("1.o1.s", 11.2, 11.3), ran(token, 12.0, 12.1)])
    assert violations(report) == {"held_twice": 1}
    assert f"under {token}" in report.findings[0]


async def test_finds_an_execution_of_an_item_that_no_log_has(logs: Logs) -> None:
    logs.add(11.0, claimed())
    logs.add(13.0, Completed(1, 1))
    runs = [ran("1.o1.s", 11.2, 11.3), ran("1.o1.s", 11.2, 11.3, item="0-9")]
    assert violations(await verdict(logs, runs)) == {"held_twice": 1}


async def test_finds_an_execution_before_its_claim_was_in_the_log(logs: Logs) -> None:
    logs.add(11.0, claimed())
    logs.add(13.0, Completed(1, 1))
    report = await verdict(logs, [ran("1.o1.s", 10.999, 11.3)])
    assert violations(report) == {"held_twice": 1}
    assert "before its claim" in report.findings[0]


async def test_an_open_execution_overlaps_all_that_comes_after(logs: Logs) -> None:
    """Nothing in the log took the item from the first holder before the second began."""
    logs.add(11.0, claimed())
    logs.add(30.0, Released(1, 1, "lapsed"))
    logs.add(30.0, claimed(fence=2))
    logs.add(32.0, Completed(1, 2))
    report = await verdict(logs, [ran("1.o1.s", 11.2, None), ran("2.o1.s", 29.0, 31.0)])
    assert violations(report) == {"held_twice": 2}


# --- planted: lost, unrecorded, unended, contradictions ------------------------------------


async def test_finds_an_acknowledged_submission_that_no_log_has(logs: Logs) -> None:
    logs.add(11.0, claimed())
    logs.add(13.0, Completed(1, 1))
    report = await verdict(logs, [ran("1.o1.s", 11.2, 11.3)], acked="0-1 0-2 7-1")
    assert violations(report) == {"lost": 2}
    assert report.findings[0].startswith("lost: 0-2: its submission was acknowledged")


@pytest.mark.parametrize(("events", "state"), [([], "queued"), ([claimed()], "claimed")])
async def test_finds_an_acknowledged_item_that_never_ended(
    logs: Logs, events: list[Event], state: str
) -> None:
    logs.add(11.0, *events)
    report = await verdict(logs, [])
    assert (report.lost, report.unended, report.ok) == (1, 1, False)
    assert f"it is {state} still" in report.findings[0]


async def test_an_item_that_nobody_was_promised_must_end_too(logs: Logs) -> None:
    assert violations(await verdict(logs, [], acked="")) == {"unended": 1}


async def test_finds_a_completion_that_was_acknowledged_and_is_not_in_the_log(
    logs: Logs,
) -> None:
    logs.add(11.0, claimed())
    logs.add(12.0, Died(1, 1, "boom"))
    report = await verdict(logs, [ran("1.o1.s", 11.2, 11.8)], completed="0-1")
    assert violations(report) == {"lost": 1}
    assert "said to be completed" in report.findings[0]


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [ran("1.o1.s", 11.2, None)],
        # Still running when its completion was stored: somebody made the result up.
        [ran("1.o1.s", 11.2, 13.5)],
    ],
)
async def test_finds_a_completion_without_a_finished_execution(
    logs: Logs, runs: list[Execution]
) -> None:
    logs.add(11.0, claimed())
    logs.add(13.0, Completed(1, 1))
    assert violations(await verdict(logs, runs)) == {"unrecorded": 1}


async def test_an_execution_under_another_claim_is_no_record(logs: Logs) -> None:
    logs.add(11.0, claimed())
    logs.add(12.0, Released(1, 1, "agent"))
    logs.add(12.5, claimed(fence=2))
    logs.add(13.0, Completed(1, 2))
    report = await verdict(logs, [ran("1.o1.s", 11.2, 11.8)])
    assert violations(report) == {"unrecorded": 1}
    assert "under 2.o1.s" in report.findings[0]


CONTRADICTIONS: list[tuple[list[Event], str]] = [
    ([Submitted("d", 1, [ITEM])], "a second time"),
    ([claimed(number=2)], "was never submitted"),
    ([claimed(), claimed()], "issued again"),
    ([Completed(1, 1)], "not so held"),
    ([Released(2, 1, "lapsed")], "not so held"),
    ([claimed(), Released(1, 2, "lapsed")], "not so held"),
    ([claimed(), Completed(1, 1), Died(1, 1)], "after its end"),
    ([claimed(), Completed(1, 1), claimed(fence=2)], "after its end"),
]


@pytest.mark.parametrize(("events", "fragment"), CONTRADICTIONS)
async def test_finds_a_log_that_contradicts_itself(
    logs: Logs, events: list[Event], fragment: str
) -> None:
    logs.add(11.0, *events)
    report = await verdict(logs, [])
    assert report.contradictions
    assert not report.ok
    assert any(fragment in finding and "tlog.0, entry 3" in finding for finding in report.findings)


async def test_finds_a_hole_in_a_log(logs: Logs) -> None:
    logs.add(11.0, Submitted("d", 2, [ITEM]))
    logs.add(12.0, claimed())
    del logs.entries["tlog.0"][2]
    report = await verdict(logs, [], acked="0-1 0-2")
    assert (report.contradictions, report.lost) == (1, 2)
    assert "entries between 2 and this one are missing" in report.findings[0]


async def test_finds_a_log_that_is_gone(logs: Logs) -> None:
    history = await read_logs(logs, SUBJECTS, [0, 1])
    assert history.contradictions == ["tlog.1: the log does not exist"]


async def test_an_unreadable_entry_of_ours_is_no_verdict(logs: Logs) -> None:
    logs.raw(11.0, b'{"swarm":99}')
    with pytest.raises(Undecodable, match="entry 3"):
        await read_logs(logs, SUBJECTS, [0])


def test_finds_a_clock_that_was_set_back() -> None:
    report = check([ran("1.o1.s", 12.0, 11.0)], Acks({}, {}), History({}, []))
    assert report.contradictions == 1
    assert "the clock was set back" in report.findings[0]


# --- the records -----------------------------------------------------------------------


@pytest.fixture
def ticking() -> Callable[[], float]:
    """A clock that counts 1, 2, 3, …"""
    times: Iterator[int] = iter(range(1, 1_000_000))
    return lambda: float(next(times))


def test_executions_are_read_as_written(tmp_path: Path, ticking: Callable[[], float]) -> None:
    log = ExecutionLog(tmp_path / "made", ticking)
    with log.execution("3-1", "1.nonce.s42"):
        pass
    with pytest.raises(ValueError, match="boom"), log.execution("3-1", "2.nonce.s42"):
        raise ValueError("boom")
    log.close()
    log.close()
    pid = os.getpid()
    assert read_executions(tmp_path / "made") == [
        Execution("3-1", "1.nonce.s42", "s42", pid, 1.0, 2.0),
        Execution("3-1", "2.nonce.s42", "s42", pid, 3.0, 4.0),
    ]


def test_an_execution_is_on_record_before_its_work_begins(tmp_path: Path) -> None:
    log = ExecutionLog(tmp_path)
    with log.execution("3-1", "1.n.s"):
        (running,) = read_executions(tmp_path)
        assert running.end is None
    (ended,) = read_executions(tmp_path)
    assert ended.end is not None
    assert ended.end >= ended.start
    log.close()


def test_executions_at_once_are_told_apart(tmp_path: Path) -> None:
    log = ExecutionLog(tmp_path)
    barrier = threading.Barrier(8)

    def work() -> None:
        with log.execution("3-1", "1.n.s"):
            barrier.wait(timeout=10)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    executions = read_executions(tmp_path)
    assert len(executions) == 8
    assert all(one.end is not None for one in executions)


KILLED = """
import os, signal, sys
from pathlib import Path
from swarm.testing.history import ExecutionLog
with ExecutionLog(Path(sys.argv[1])).execution("3-1", "1.n.s"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_an_open_execution(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -9
    (execution,) = read_executions(tmp_path)
    assert execution.end is None
    assert execution.pid != os.getpid()


def test_acks_are_read_as_written(tmp_path: Path, ticking: Callable[[], float]) -> None:
    one, other = AckLog(tmp_path, ticking), AckLog(tmp_path, ticking)
    one.submitted(["3-1", "3-2"])
    other.submitted(["3-2", "4-1"])
    one.completed(["3-1"])
    one.close()
    other.close()
    acks = read_acks(tmp_path)
    assert acks.submitted == {"3-1": 1.0, "3-2": 1.0, "4-1": 2.0}
    assert acks.completed == {"3-1": 3.0}


def test_a_record_that_is_being_written_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ExecutionLog(tmp_path)
    with log.execution("3-1", "1.n.s"):
        pass
    log.close()
    (path,) = tmp_path.glob("executions-*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    looks: list[float] = []

    def written_meanwhile(seconds: float) -> None:
        looks.append(seconds)
        path.write_bytes(whole)

    monkeypatch.setattr("swarm.testing.records.time.sleep", written_meanwhile)
    (execution,) = read_executions(tmp_path)
    assert execution.end is not None
    assert len(looks) == 1


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "executions-1-1.jsonl").write_text('{"execution":')
    with pytest.raises(BadInput, match=r"executions-1-1\.jsonl, line 1"):
        read_executions(tmp_path)


def test_no_records_are_no_executions(tmp_path: Path) -> None:
    assert read_executions(tmp_path / "none") == []
    assert read_acks(tmp_path / "none") == Acks({}, {})
