"""The chain of a log: what continues it, what is foreign, what is missed, what is broken."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from swarm.core.envelope import FORMAT, Link, LogPosition, decode_entry, encode_entry
from swarm.errors import Undecodable
from swarm.messages import Event, LogEntry, Opened, Progressed, Submitted
from tests.builders import LOG, NOW, Desk, new_item
from tests.states import plain

GOLDEN = (
    b'{"swarm":1,"incarnation":"i1","epoch":2,"owner":"n2","batch":0,"previous":1,'
    b'"map_version":4,"now":1800000000.5,"events":[{"t":"opened","coordinator":"c2"}]}'
)


def entry(**fields: Any) -> LogEntry:
    """An entry of batch 1 of epoch 1, with these fields."""
    base: dict[str, Any] = {
        "swarm": FORMAT, "incarnation": "i1", "epoch": 1, "owner": "n1", "batch": 1,
        "previous": 1, "map_version": 1, "now": NOW, "events": [],
    }  # fmt: skip
    return LogEntry(**(base | fields))


def opened(**fields: Any) -> LogEntry:
    """An entry that opens epoch 1, with these fields."""
    return entry(**({"batch": 0, "previous": 0, "events": [Opened("c1")]} | fields))


def position(*entries: LogEntry | None) -> LogPosition:
    """Having read an opening entry and these, from sequence 1 on."""
    reader = LogPosition(LOG)
    for seq, one in enumerate((opened(), *entries), start=1):
        assert reader.advance(seq, one) in (Link.OURS, Link.FOREIGN)
    return reader


# --- bytes -------------------------------------------------------------------------------


def test_an_entry_is_stored_as_it_always_was() -> None:
    made = opened(swarm=1, epoch=2, owner="n2", previous=1, map_version=4, now=NOW + 0.5)
    made = msgspec.structs.replace(made, events=[Opened("c2")])
    assert encode_entry(made) == GOLDEN
    assert decode_entry(LOG, 7, GOLDEN) == made


def test_what_is_written_is_read_back_the_same() -> None:
    events: list[Event] = [
        Submitted("", 1, [new_item(payload={"a": [1, None]})], [3], [(4, 9)]),
        Progressed(1, 33.3, "note \u2713"),
    ]
    made = entry(now=NOW + 1 / 3, events=events)
    read = decode_entry(LOG, 2, encode_entry(made))
    assert plain(read) == plain(made)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"{}", b"[]", b'{"swarm"', b'{ "swarm":1}', b'{"sworm":1,"incarnation"}',
     b"\x00\xff", b" " * 64 + GOLDEN],
)  # fmt: skip
def test_what_does_not_begin_as_ours_is_foreign(data: bytes) -> None:
    assert decode_entry(LOG, 1, data) is None


@pytest.mark.parametrize(
    "data",
    [
        b'{"swarm":1',
        b'{"swarm":"one"}',
        b'{"swarm":1}',
        GOLDEN[:-1],
        GOLDEN + b"}",
        GOLDEN.replace(b"opened", b"exploded"),
        GOLDEN.replace(b'"epoch":2', b'"epoch":"two"'),
        GOLDEN.replace(b"c2", b"\xff"),
        GOLDEN.replace(b'"c2"', b'"c2","x":' + b"[" * 5000 + b"]" * 5000),
        GOLDEN.replace(b'"swarm":1', b'"swarm":3'),
        GOLDEN.replace(b'"swarm":1', b'"swarm":0'),
        # Damaged at its very beginning: which it is not taken for foreign for.
        GOLDEN[1:],
        b" " + GOLDEN,
        b"\xff" + GOLDEN[1:],
        GOLDEN.replace(b"swarm", b"swabm"),
    ],
)
def test_what_claims_to_be_ours_and_cannot_be_read_is_named(data: bytes) -> None:
    with pytest.raises(Undecodable, match=r"swarmlog\.3: entry 17 .*version"):
        decode_entry(LOG, 17, data)


def test_a_field_of_a_later_version_is_passed_over() -> None:
    newer = GOLDEN.replace(b'"c2"', b'"c2","zone":"eu"')[:-1] + b',"later":[1]}'
    assert decode_entry(LOG, 1, newer) == decode_entry(LOG, 1, GOLDEN)


# --- the chain ---------------------------------------------------------------------------


def test_a_chain_of_three_owners() -> None:
    reader = LogPosition(LOG)
    chain = [
        opened(),
        entry(),
        entry(batch=2, previous=2, now=NOW + 1),
        opened(epoch=2, owner="n2", previous=3, now=NOW + 1),
        entry(epoch=2, owner="n2", batch=1, previous=4, now=NOW + 2, map_version=2),
        opened(epoch=3, owner="n3", previous=5, now=NOW + 3),
    ]
    assert [reader.advance(seq, one) for seq, one in enumerate(chain, 1)] == [Link.OURS] * 6
    assert reader == LogPosition(
        LOG, at=6, last=6, incarnation="i1", epoch=3, owner="n3", batch=0, now=NOW + 3,
        map_version=1, foreign=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    "stranger",
    [
        None,
        entry(incarnation="i2"),
        entry(incarnation=""),
        entry(previous=0),
        entry(previous=2),
        entry(previous=99),
        entry(epoch=0),
        entry(epoch=2),
        entry(owner="n9"),
        entry(batch=0),
        entry(batch=2),
        opened(),
        opened(previous=1),
        opened(epoch=2, previous=0),
        opened(epoch=3, previous=1),
        opened(epoch=2, previous=1, batch=1),
        opened(epoch=2, previous=1, incarnation="i2"),
        opened(epoch=2, previous=99),
        entry(epoch=2, owner="n2", batch=0),
    ],
    ids=repr,
)
def test_what_does_not_continue_the_chain_is_foreign_and_changes_nothing(
    stranger: LogEntry | None,
) -> None:
    reader = position()
    before = msgspec.structs.asdict(reader)
    assert reader.advance(2, stranger) is Link.FOREIGN
    strangers = [2] if stranger is None else []
    assert msgspec.structs.asdict(reader) == before | {
        "at": 2, "foreign": 1, "strangers": strangers,
    }  # fmt: skip
    # The chain goes on over it: nothing of ours names a foreign entry as its previous.
    assert reader.advance(3, entry(previous=1)) is Link.OURS


def test_a_deposed_owners_late_entry_is_foreign_to_every_reader_alike() -> None:
    log = [
        opened(),
        entry(),
        opened(epoch=2, owner="n2", previous=2),
        entry(batch=2, previous=2),  # of the deposed one, leaked through its fence
        entry(epoch=2, owner="n2", batch=1, previous=3),
        entry(batch=3, previous=4),  # it believes in its leaked entry, and goes on from it
        entry(epoch=2, owner="n2", batch=2, previous=5),
    ]
    expected = [
        Link.OURS, Link.OURS, Link.OURS, Link.FOREIGN, Link.OURS, Link.FOREIGN, Link.OURS,
    ]  # fmt: skip
    whole = LogPosition(LOG)
    assert [whole.advance(seq, one) for seq, one in enumerate(log, 1)] == expected
    # A follower that reads entry by entry, and one that hears some of them twice.
    twice = LogPosition(LOG)
    links = [twice.advance(seq, one) for seq, one in enumerate(log, 1) for _ in range(2)]
    assert links[::2] == expected
    assert set(links[1::2]) == {Link.OLD}
    assert twice == whole


def test_two_that_open_at_once_one_wins_for_all() -> None:
    reader = position()
    assert reader.advance(2, opened(epoch=2, owner="n2", previous=1)) is Link.OURS
    assert reader.advance(3, opened(epoch=2, owner="n3", previous=1)) is Link.FOREIGN
    assert reader.owner == "n2"


def test_a_log_may_begin_with_foreign_entries() -> None:
    reader = LogPosition(LOG)
    assert reader.advance(1, None) is Link.FOREIGN
    assert reader.advance(2, entry(previous=0)) is Link.FOREIGN, "nobody has opened the log"
    assert reader.advance(3, opened()) is Link.OURS
    assert (reader.at, reader.last, reader.foreign) == (3, 3, 2)


@pytest.mark.parametrize(
    "follows",
    [entry(batch=2, previous=2), opened(epoch=2, owner="n2", previous=2)],
    ids=["same owner", "next owner"],
)
def test_what_a_link_names_as_the_one_before_it_was_ours_whatever_it_looks_like(
    follows: LogEntry,
) -> None:
    reader = position()
    assert reader.advance(2, None) is Link.FOREIGN
    before = msgspec.structs.asdict(reader)
    with pytest.raises(Undecodable, match=r"swarmlog\.3: entry 2 is damaged: entry 3 follows it"):
        reader.advance(3, follows)
    assert msgspec.structs.asdict(reader) == before
    # Of another log, an entry can name whatever it likes.
    other = msgspec.structs.replace(follows, incarnation="i9")
    assert reader.advance(3, other) is Link.FOREIGN


def test_a_damaged_first_entry_is_noticed_by_the_second() -> None:
    reader = LogPosition(LOG)
    assert reader.advance(1, None) is Link.FOREIGN
    with pytest.raises(Undecodable, match="entry 1 is damaged"):
        reader.advance(2, entry())
    # And so in a log that was purged.
    reader = LogPosition.before(LOG, 5)
    assert reader.advance(5, None) is Link.FOREIGN
    with pytest.raises(Undecodable, match="entry 5 is damaged"):
        reader.advance(6, entry(previous=5))


@pytest.mark.parametrize(
    "after_the_hole", [entry(previous=1), entry(batch=2, previous=2), opened(), None]
)
def test_a_hole_in_what_was_read_is_a_gap_whatever_follows(
    after_the_hole: LogEntry | None,
) -> None:
    reader = position()
    before = msgspec.structs.asdict(reader)
    assert reader.advance(3, after_the_hole) is Link.GAP
    assert msgspec.structs.asdict(reader) == before
    fresh = LogPosition(LOG)
    assert fresh.advance(2, after_the_hole) is Link.GAP


@pytest.mark.parametrize("seq", [0, 1])
def test_what_was_read_already_is_old(seq: int) -> None:
    reader = position()
    before = msgspec.structs.asdict(reader)
    for one in (None, entry(), opened(epoch=2, previous=1)):
        assert reader.advance(seq, one) is Link.OLD
    assert msgspec.structs.asdict(reader) == before


def test_the_logs_time_never_goes_backwards() -> None:
    reader = position()
    assert reader.advance(2, entry(now=NOW)) is Link.OURS, "it may stand still"
    with pytest.raises(AssertionError, match=r"swarmlog\.3: time went backwards at 3"):
        reader.advance(3, entry(batch=2, previous=2, now=NOW - 0.001))


def test_a_foreign_entrys_time_is_nobodys_business() -> None:
    reader = position()
    assert reader.advance(2, entry(owner="n9", now=0.0)) is Link.FOREIGN
    assert reader.advance(3, entry(owner="n9", now=1e12)) is Link.FOREIGN
    assert reader.now == NOW


def test_foreign_entries_between_ours_leave_the_fold_as_it_is() -> None:
    desk = Desk()
    desk.submit(new_item(), new_item())
    desk.take("a1")
    junk = [b"junk", encode_entry(entry(incarnation="i9")), encode_entry(entry(epoch=9))]
    reader, folded = LogPosition(LOG), 0
    # Ours name each other by sequence, so the sequences here are those of a log with junk.
    seqs: list[int] = []
    at = 0
    for number, data in enumerate(desk.log):
        ours = decode_entry(LOG, number + 1, data)
        assert ours is not None
        ours = msgspec.structs.replace(ours, previous=seqs[-1] if seqs else 0)
        for stored in (encode_entry(ours), *junk):
            at += 1
            link = reader.advance(at, decode_entry(LOG, at, stored))
            if link is Link.OURS:
                folded += 1
                seqs.append(at)
    assert folded == len(desk.log)
    assert reader.foreign == 3 * len(desk.log)
