"""Log entries that were copied into files are folded like the log itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.bus.base import Entry
from swarm.errors import BadInput, LogMissing
from swarm.testing.recorded import BoundedEntry, EntryLog, RecordedLogs

LOG = "tlog.3"
ENTRIES = [Entry(seq, f"entry {seq} \xff".encode("latin-1"), 100.5 + seq) for seq in range(1, 8)]


@pytest.fixture
def files(tmp_path: Path) -> EntryLog:
    return EntryLog(tmp_path, 3)


def recorded(directory: Path) -> RecordedLogs:
    return RecordedLogs(directory, {LOG: 3})


async def test_entries_are_read_as_recorded(tmp_path: Path, files: EntryLog) -> None:
    for entry in ENTRIES:
        files.take(entry)
    logs = recorded(tmp_path)
    assert await logs.read(LOG, 1, 100) == ENTRIES
    assert await logs.read(LOG, 3, 2) == ENTRIES[2:4]
    assert await logs.read(LOG, 8, 2) == []
    assert (files.last, logs.last(LOG), logs.missed, logs.conflicts) == (7, 7, [], [])


async def test_what_is_recorded_is_there_at_once(tmp_path: Path, files: EntryLog) -> None:
    files.take(ENTRIES[0])
    assert await recorded(tmp_path).read(LOG, 1, 9) == ENTRIES[:1]
    files.take(ENTRIES[1])
    files.close()
    files.close()
    assert recorded(tmp_path).last(LOG) == 2


async def test_a_log_of_which_nothing_is_on_record_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LogMissing, match=LOG):
        await recorded(tmp_path).read(LOG, 1, 1)
    assert recorded(tmp_path).last(LOG) == 0


async def test_shards_are_told_apart(tmp_path: Path) -> None:
    for shard in (1, 11):
        EntryLog(tmp_path, shard).take(Entry(1, str(shard).encode(), 1.0))
    logs = RecordedLogs(tmp_path, {"one": 1, "eleven": 11})
    assert [entry.data for entry in await logs.read("one", 1, 9)] == [b"1"]
    assert [entry.data for entry in await logs.read("eleven", 1, 9)] == [b"11"]


async def test_what_came_too_late_is_said(tmp_path: Path, files: EntryLog) -> None:
    files.take(ENTRIES[0])
    files.missed(5)
    files.take(ENTRIES[4])
    logs = recorded(tmp_path)
    assert logs.missed == [f"{LOG}: entries 2 to 4"]
    assert await logs.read(LOG, 1, 9) == [ENTRIES[0], ENTRIES[4]]
    assert await logs.read(LOG, 2, 9) == [ENTRIES[4]]
    assert await logs.read(LOG, 6, 9) == []


async def test_bounds_of_an_unknown_stamp_are_kept(tmp_path: Path, files: EntryLog) -> None:
    files.take(ENTRIES[0])
    bounded = BoundedEntry(2, b"x", 101.5, 103.5)
    files.take(bounded)
    assert await recorded(tmp_path).read(LOG, 1, 9) == [ENTRIES[0], bounded]


def test_entries_are_taken_in_order_only(files: EntryLog) -> None:
    files.take(ENTRIES[0])
    for wrong in (ENTRIES[0], ENTRIES[2]):
        with pytest.raises(AssertionError, match="does not follow 1"):
            files.take(wrong)
    with pytest.raises(AssertionError, match="nothing is missed"):
        files.missed(2)


async def test_several_recorders_make_one_record(tmp_path: Path) -> None:
    first, second = EntryLog(tmp_path, 3), EntryLog(tmp_path, 3)
    for entry in ENTRIES[:4]:
        first.take(entry)
    for entry in ENTRIES:
        second.take(entry)
    logs = recorded(tmp_path)
    assert await logs.read(LOG, 1, 100) == ENTRIES
    assert logs.conflicts == []


def test_two_contents_of_one_entry_are_found(tmp_path: Path) -> None:
    for text in (b"one", b"other"):
        EntryLog(tmp_path, 3).take(Entry(1, text, 1.0))
    assert recorded(tmp_path).conflicts == [f"{LOG}: entry 1 was seen with two contents"]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "entries-3-1.jsonl").write_text('{"seq":1,"data":"eA=="}\n{"seq":\n')
    with pytest.raises(BadInput, match=r"entries-3-1\.jsonl, line 2 is no log entry"):
        recorded(tmp_path)
