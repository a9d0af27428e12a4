"""What was purged before it was read is taken from what was heard, if that is certain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from swarm.bus.base import Entry, Message
from swarm.core.envelope import decode_entry
from swarm.errors import Undecodable
from swarm.testing.chaos import hearing
from swarm.testing.chaos.hearing import Heard
from swarm.testing.chaos.recorder import Copy
from swarm.testing.recorded import RecordedLogs
from tests.unit.written_logs import SUBJECTS, Logs

LOG = SUBJECTS.log(0)


def written(*owners: int) -> list[Entry]:
    """A log in which each owner writes so many entries, its opening one among them."""
    logs = Logs()
    time = 10.0
    for count in owners:
        logs.open(time)
        for _ in range(count - 1):
            time += 1.0
            logs.add(time)
        time += 1.0
    return logs.entries[LOG]


def heard(entries: list[Entry]) -> Heard:
    found = Heard(LOG)
    for entry in entries:
        found.note(entry.data)
    return found


def same(found: Sequence[Entry], wanted: list[Entry]) -> bool:
    return [(one.seq, one.data) for one in found] == [(one.seq, one.data) for one in wanted]


@pytest.mark.parametrize("owners", [(9,), (4, 5), (2, 1, 6), (3, 1, 1, 4)])
@pytest.mark.parametrize("last", [1, 2, 5, 7])
def test_what_is_missing_is_found_link_by_link(owners: tuple[int, ...], last: int) -> None:
    log = written(*owners)
    found = heard(log).between(last, log[last - 1].time, log[8])
    assert same(found, log[last:8])
    bounds = log[last - 1].time, log[8].time
    assert {(one.time, one.latest) for one in found} <= {bounds}


def test_what_was_sent_twice_or_is_not_ours_changes_nothing() -> None:
    log = written(6)
    listening = heard([*log, *log])
    listening.note(b"not ours")
    listening.note(b'{"swarm":99}')
    assert same(listening.between(2, 0.0, log[5]), log[2:5])


def test_what_was_refused_is_not_taken_for_stored() -> None:
    """Two open after the same entry; then one of the next owner's batches is refused."""
    log = written(3, 4)
    loser = written(3, 1)[3]
    other = Entry(4, loser.data.replace(b'"owner":"o2"', b'"owner":"o9"'), 0.0)
    late = Entry(4, written(4)[3].data, 0.0)
    found = heard([*log[:3], other, late, *log[3:]]).between(1, 0.0, log[6])
    assert same(found, log[1:6])


def test_two_that_may_have_been_stored_are_none() -> None:
    """The last entry before an owner's first one: by whom of two with the same epoch?"""
    log = written(3, 2, 2)
    rival = Entry(5, log[4].data.replace(b'"owner":"o2"', b'"owner":"o9"'), 0.0)
    assert heard([*log, rival]).between(3, 0.0, log[5]) == []
    assert same(heard(log).between(3, 0.0, log[5]), log[3:5])


def test_what_was_not_heard_cannot_be_had() -> None:
    log = written(8)
    for unheard in (3, 4, 5):
        listening = heard([one for one in log if one.seq != unheard])
        assert listening.between(2, 0.0, log[5]) == []
    assert heard(log).between(2, 0.0, Entry(6, b"not ours", 1.0)) == []


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "HEARD_MAX", 3)
    log = written(8)
    assert same(heard(log).between(5, 0.0, log[7]), log[5:7])
    assert heard(log).between(3, 0.0, log[7]) == []


async def test_the_recorder_fills_a_hole_by_what_it_has_heard(tmp_path: Path) -> None:
    log = written(4, 4)
    copy = Copy(tmp_path, 0, LOG)
    copy.take(log[:2])
    for entry in log:
        copy.hear(Message(LOG, entry.data, "_INBOX.x"))
    copy.take(log[6:])
    recorded = RecordedLogs(tmp_path, {LOG: 0})
    assert same(await recorded.read(LOG, 1, 99), log)
    assert recorded.missed == []


def test_the_entries_of_this_test_are_entries() -> None:
    entry = decode_entry(LOG, 4, written(3, 1)[3].data)
    assert entry is not None
    assert (entry.owner, entry.epoch, entry.batch, entry.previous) == ("o2", 2, 0, 3)
    with pytest.raises(Undecodable):
        decode_entry(LOG, 1, b'{"swarm":99}')
