"""The recorder takes every entry once and in order, and believes in a hole only after a while."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.bus.base import Entry
from swarm.testing.chaos import recorder
from swarm.testing.chaos.recorder import Copy
from swarm.testing.recorded import RecordedLogs

LOG = "tlog.0"


def entries(*seqs: int) -> list[Entry]:
    return [Entry(seq, f"entry {seq}".encode(), float(seq)) for seq in seqs]


async def on_record(directory: Path) -> list[int]:
    return [entry.seq for entry in await RecordedLogs(directory, {LOG: 0}).read(LOG, 1, 99)]


async def test_servers_that_overlap_make_one_record(tmp_path: Path) -> None:
    copy = Copy(tmp_path, 0, LOG)
    copy.take(entries(1, 2, 3))
    copy.take(entries(2, 3, 4))
    copy.take(entries(1))
    assert copy.next_seq == 5
    assert await on_record(tmp_path) == [1, 2, 3, 4]


async def test_another_server_fills_a_hole_in_time(tmp_path: Path) -> None:
    copy = Copy(tmp_path, 0, LOG)
    copy.take(entries(1, 4))
    assert copy.next_seq == 2
    copy.take(entries(2, 3, 4, 5))
    assert await on_record(tmp_path) == [1, 2, 3, 4, 5]
    assert RecordedLogs(tmp_path, {LOG: 0}).missed == []


async def test_a_hole_that_stays_is_recorded_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Copy(tmp_path, 0, LOG)
    copy.take(entries(1))
    copy.take(entries(4, 5))
    monkeypatch.setattr(recorder, "HOLE_S", 0.0)
    copy.take(entries(4, 5))
    assert await on_record(tmp_path) == [1, 4, 5]
    assert RecordedLogs(tmp_path, {LOG: 0}).missed == [f"{LOG}: entries 2 to 3"]
