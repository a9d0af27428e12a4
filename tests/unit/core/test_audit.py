"""The audit of a log: silent about what is right, and loud about everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

import msgspec
import pytest
from msgspec import Raw, Struct, structs

from swarm.core.audit import LogAudit, Refold
from swarm.core.shard import Shard
from swarm.messages import (
    Archived,
    Claimed,
    Completed,
    Copied,
    Due,
    Event,
    Marked,
    Opened,
    Progressed,
    Remembered,
    Resolved,
    Retried,
    Submitted,
    Told,
)
from tests.builders import LOG, SHARD
from tests.unit.core.scribe import RULES, Scribe, edited, events_of

E = TypeVar("E", bound=Struct)

SEEDS = range(6)


@cache
def written(seed: int) -> list[bytes]:
    """A log, not to be changed."""
    return Scribe(seed).write(300)


def audit_of(log: list[bytes], first_seq: int = 1) -> LogAudit:
    """The finished audit of these entries."""
    audit = LogAudit(LOG, SHARD, RULES, first_seq)
    for seq, data in enumerate(log, start=1):
        if seq >= first_seq and not audit.take(seq, data):
            break
    audit.finish()
    return audit


def told(audit: LogAudit) -> list[str]:
    return [str(finding) for finding in audit.findings.found]


# --- what is right ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_a_log_of_everything_is_clean(seed: int) -> None:
    log = written(seed)
    audit = audit_of(log)
    assert told(audit) == []
    assert audit.chain.entries == len(log)
    assert audit.ledger.totals.marks > 0
    assert audit.ledger.totals.copies > 0


def test_the_logs_have_everything_in_them() -> None:
    seen = {type(event) for seed in SEEDS for data in written(seed) for event in events_of(data)}
    missing = [kind.__name__ for kind in Event.__args__ if kind not in seen]
    assert missing == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fold_from_any_mark_gives_the_same_state(seed: int) -> None:
    log = written(seed)
    audit = audit_of(log)
    assert audit.marks
    for needs in sorted(set(audit.marks.values()))[-4:]:
        refold = Refold(LOG, SHARD, RULES, needs)
        for seq in range(needs, len(log) + 1):
            assert refold.take(seq, log[seq - 1]), refold.broken
        assert refold.shard.complete
        refold.compare(audit)
        assert told(audit) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_purged_log_is_clean(seed: int) -> None:
    log = written(seed)
    for needs in sorted(set(audit_of(log).marks.values()))[-4:]:
        audit = audit_of(log, needs)
        assert audit.complete
        assert told(audit) == []


# --- what is wrong ------------------------------------------------------------------------------


class Tampering:
    """A log in which something was changed, and what the audit must say of it."""

    def __init__(self, seed: int = 1) -> None:
        self.log = list(written(seed))

    def find(
        self, kind: type[E], wanted: Callable[[E], bool] = lambda _: True, after: int = 0
    ) -> Place[E]:
        """The first entry behind `after` with such an event."""
        for seq, data in enumerate(self.log[after:], start=after + 1):
            for index, event in enumerate(events_of(data)):
                if isinstance(event, kind) and wanted(event):
                    return Place(seq, index, event)
        raise LookupError(f"this log has no such {kind.__name__}")

    def put(self, seq: int, **fields: Any) -> None:
        self.log[seq - 1] = edited(self.log[seq - 1], **fields)

    def change(self, place: Place[Any], *instead: Event) -> None:
        """Put these events in the place of one."""
        events = events_of(self.log[place.seq - 1])
        events[place.index : place.index + 1] = instead
        self.put(place.seq, events=events)

    def change_fields(self, place: Place[Any], **fields: Any) -> None:
        self.change(place, structs.replace(place.event, **fields))

    def say(self, rule: str, words: str, seq: int = 0) -> None:
        """The audit must find that, in that entry."""
        audit = audit_of(self.log)
        found = [f for f in audit.findings.found if f.rule == rule and words in f.what]
        assert found, told(audit)
        if seq:
            assert seq in [finding.seq for finding in found], told(audit)


@dataclass
class Place(Generic[E]):
    seq: int
    index: int
    event: E


def held_twice(log: Tampering) -> None:
    place = log.find(Claimed)
    log.change(place, place.event, structs.replace(place.event, fence=2, agent="thief"))
    log.say("holder", "`claimed`, but it is claimed by a", place.seq)


def a_fence_is_left_out(log: Tampering) -> None:
    place = log.find(Claimed)
    log.change_fields(place, fence=place.event.fence + 1)
    log.say("holder", "claimed under fence 2 after fence 0", place.seq)


def ended_by_another_claim(log: Tampering) -> None:
    place = log.find(Completed)
    log.change_fields(place, fence=place.event.fence + 1)
    log.say("holder", "`completed` under fence", place.seq)


def a_claim_is_missing(log: Tampering) -> None:
    place = log.find(Completed, lambda event: event.fence == 1)
    claim = log.find(Claimed, lambda event: event.n == place.event.n)
    log.change(claim)
    log.say("holder", "`completed`, but it is queued", place.seq)


def ended_twice(log: Tampering) -> None:
    place = log.find(Completed)
    log.change(place, place.event, place.event)
    log.say("holder", "`completed`, but it is completed", place.seq)


def due_before_its_time(log: Tampering) -> None:
    place = log.find(Due)
    paused = log.find(Retried, lambda event: event.n in place.event.n)
    log.change_fields(paused, until=paused.event.until + 1000.0)
    log.say("event", "before its time", place.seq)


def numbered_with_a_hole(log: Tampering) -> None:
    place = log.find(Submitted)
    log.change_fields(place, first=place.event.first + 1)
    log.say("event", "the next number is", place.seq)


def a_command_is_carried_out_twice(log: Tampering) -> None:
    first = log.find(Submitted)
    second = log.find(Submitted, lambda event: event.first > first.event.first)
    log.change_fields(second, command_id=first.event.command_id)
    log.say("repeated", first.event.command_id, second.seq)


def a_key_is_used_for_two_items(log: Tampering) -> None:
    place = log.find(Submitted, lambda event: any(b'"k' in bytes(raw) for raw in event.items))
    after = place.event.first + len(place.event.items)
    later = log.find(Submitted, lambda event: event.first == after)
    keyed = next(raw for raw in place.event.items if b'"k' in bytes(raw))
    log.change_fields(later, items=[keyed, *later.event.items[1:]])
    log.say("repeated", "belongs to another item", later.seq)


def archived_alive(log: Tampering) -> None:
    place = log.find(Claimed)
    log.change(place, place.event, Archived([place.event.n]))
    log.say("event", "`archived`, but it is claimed", place.seq)


def archived_with_its_outcome_unheard(log: Tampering) -> None:
    told = log.find(Told, lambda event: event.status != "dead")
    log.change(told, Archived([told.event.n]))
    log.say("edge", f"archived before {told.event.dependent} heard", told.seq)


def told_another_outcome(log: Tampering) -> None:
    place = log.find(Told, lambda event: event.status == "completed")
    log.change_fields(place, status="dead")
    log.say("event", "was told dead, it is completed", place.seq)


def resolved_what_it_does_not_depend_on(log: Tampering) -> None:
    place = log.find(Resolved)
    log.change_fields(place, on="9-99")
    log.say("event", "9-99, which it does not depend on", place.seq)


def an_event_about_nothing(log: Tampering) -> None:
    place = log.find(Progressed)
    log.change_fields(place, n=100_000)
    log.say("event", "never submitted", place.seq)


def a_mark_miscounts(log: Tampering) -> None:
    place = log.find(Marked)
    log.change_fields(place, submitted=place.event.submitted + 1)
    log.say("counters", "items submitted", place.seq)


def a_mark_miscounts_ends(log: Tampering) -> None:
    place = log.find(Marked, lambda event: event.ended.get("completed", 0) > 0)
    log.change_fields(place, ended={**place.event.ended, "completed": 0})
    log.say("counters", "items that ended completed: 0 by the mark", place.seq)


def a_mark_lets_go_of_an_item(log: Tampering) -> None:
    place = log.find(Marked, after=100)
    log.change_fields(place, needs=place.seq)
    log.say("needs", "only entry", place.seq)


def a_mark_lets_go_of_an_answer(log: Tampering) -> None:
    # What a `remembered` event stated again, an earlier entry states alone without it.
    mark = log.find(Marked, after=100)
    for seq in range(1, mark.seq):
        kept = [e for e in events_of(log.log[seq - 1]) if not isinstance(e, Remembered)]
        log.put(seq, events=kept)
    log.say("needs", "the answer to command", mark.seq)


def a_mark_takes_back_what_it_let_go(log: Tampering) -> None:
    first = log.find(Marked)
    later = log.find(Marked, lambda event: event.needs > first.event.needs)
    log.change_fields(later, needs=first.event.needs - 1)
    log.say("needs", f"mark {first.seq} let go of it", later.seq)


def a_copy_says_something_else(log: Tampering) -> None:
    place = log.find(Copied)
    item = msgspec.json.decode(place.event.items[0])
    item["spec"]["payload"] = "changed"
    raw = Raw(msgspec.json.encode(item))
    log.change_fields(place, items=[raw, *place.event.items[1:]])
    log.say("copy", "different: spec", place.seq)


def a_copy_has_another_holder(log: Tampering) -> None:
    place = log.find(Copied, lambda event: any(b'"hold"' in bytes(raw) for raw in event.items))
    items = [msgspec.json.decode(raw) for raw in place.event.items]
    index = next(i for i, item in enumerate(items) if "hold" in item)
    items[index]["hold"]["agent"] = "thief"
    log.change_fields(place, items=[Raw(msgspec.json.encode(item)) for item in items])
    log.say("copy", "its holder is a", place.seq)


TAMPERINGS = [
    held_twice,
    a_fence_is_left_out,
    ended_by_another_claim,
    a_claim_is_missing,
    ended_twice,
    due_before_its_time,
    numbered_with_a_hole,
    a_command_is_carried_out_twice,
    a_key_is_used_for_two_items,
    archived_alive,
    archived_with_its_outcome_unheard,
    told_another_outcome,
    resolved_what_it_does_not_depend_on,
    an_event_about_nothing,
    a_mark_miscounts,
    a_mark_miscounts_ends,
    a_mark_lets_go_of_an_item,
    a_mark_lets_go_of_an_answer,
    a_mark_takes_back_what_it_let_go,
    a_copy_says_something_else,
    a_copy_has_another_holder,
]


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_tampering_is_found(tamper: Callable[[Tampering], None]) -> None:
    for seed in range(30):
        try:
            tamper(Tampering(seed))
        except LookupError:
            continue  # nothing of the kind in this log
        return
    pytest.fail("no log had what is to be changed")


# --- envelopes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "rule", "words"),
    [
        ({"batch": 999}, "foreign", "(epoch, owner, batch)"),
        ({"epoch": 999}, "foreign", "(epoch, owner, batch)"),
        ({"owner": "thief"}, "foreign", "(epoch, owner, batch)"),
        ({"previous": 1}, "foreign", "its previous is 1, not"),
        ({"incarnation": "i2"}, "foreign", "incarnation i2 in a log of incarnation i1"),
        ({"now": 1.0}, "chain", "the log's time goes back"),
        ({"map_version": 0}, "map", "map version 0 after 1"),
    ],
)
def test_a_wrong_envelope_is_found(fields: dict[str, Any], rule: str, words: str) -> None:
    log = Tampering()
    seq = log.find(Progressed).seq
    log.put(seq, **fields)
    log.say(rule, words, seq)


def test_an_owner_that_opens_twice_or_says_more_is_found() -> None:
    log = Tampering()
    first, second = log.find(Opened), log.find(Opened, lambda event: event.coordinator == "c1")
    log.put(second.seq, owner="nonce1")
    log.say("chain", f"owner nonce1 opened before, by entry {first.seq}", second.seq)
    log = Tampering()
    log.put(second.seq, events=[Opened("c1"), Opened("c1")])
    log.say("chain", "`opened` is not alone", second.seq)


def test_a_foreign_entry_is_found_and_changes_nothing_else() -> None:
    log = Tampering()
    log.log.append(b"hello from a script\n")
    audit = audit_of(log.log)
    assert [finding.rule for finding in audit.findings.found] == ["foreign"]
    assert audit.findings.found[0].seq == len(log.log)


def test_an_entry_damaged_beyond_recognition_is_told_from_a_foreign_one() -> None:
    log = Tampering()
    log.log[99] = bytes(100) + log.log[99][100:]
    log.say("chain", "follows entry 100, which is damaged beyond recognition", 101)
    assert audit_of(log.log).broken_at == 101


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[:-1], "cannot be decoded"),
        (lambda data: data.replace(b'"swarm":2', b'"swarm":9'), "has format 9"),
        (lambda data: data.replace(b'"batch":', b'"bath":'), "cannot be decoded"),
    ],
)
def test_an_entry_that_cannot_be_decoded_ends_the_audit(
    spoil: Callable[[bytes], bytes], words: str
) -> None:
    log = Tampering()
    log.log[99] = spoil(log.log[99])
    audit = audit_of(log.log)
    assert [finding.rule for finding in audit.findings.found] == ["undecodable"]
    assert words in audit.findings.found[0].what
    assert (audit.broken_at, audit.at) == (100, 100)


def test_an_item_that_cannot_be_decoded_ends_the_audit() -> None:
    log = Tampering()
    place = log.find(Submitted)
    log.change_fields(place, items=[Raw(b'{"work_type":7}'), *place.event.items[1:]])
    audit = audit_of(log.log)
    assert audit.broken_at == place.seq
    assert {"undecodable", "fold"} == {finding.rule for finding in audit.findings.found}


# --- state by hand ------------------------------------------------------------------------------


def lose_an_item(shard: Shard) -> None:
    del shard.items[next(iter(shard.lanes))]


def count_one_more(shard: Shard) -> None:
    shard.submitted += 1


def hand_it_over(shard: Shard) -> None:
    hold = next(item.hold for item in shard.items.values() if item.hold)
    hold.agent = "thief"


@pytest.mark.parametrize("damage", [lose_an_item, count_one_more, hand_it_over])
def test_a_fold_that_goes_wrong_is_found(damage: Callable[[Shard], None]) -> None:
    log = written(1)
    audit = LogAudit(LOG, SHARD, RULES, 1)
    for seq, data in enumerate(log, start=1):
        audit.take(seq, data)
    assert audit.shard is not None
    damage(audit.shard)
    audit.finish()
    assert told(audit)


@pytest.mark.parametrize("damage", [lose_an_item, count_one_more, hand_it_over])
def test_a_second_fold_that_differs_is_found(damage: Callable[[Shard], None]) -> None:
    log = written(1)
    audit = audit_of(log)
    needs = max(audit.marks.values())
    refold = Refold(LOG, SHARD, RULES, needs)
    for seq in range(needs, len(log) + 1):
        assert refold.take(seq, log[seq - 1])
    damage(refold.shard)
    refold.compare(audit)
    assert any(f"folded from entry {needs} on" in text for text in told(audit))


def test_a_log_cut_at_the_front_is_not_complete() -> None:
    log = written(1)
    whole = audit_of(log)
    after_the_last = max(whole.marks.values()) + 1
    audit = audit_of(log, after_the_last)
    assert not audit.complete
    assert audit.ledger.totals.passed_by > 0
