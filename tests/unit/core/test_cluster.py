"""The cluster log's state: what it folds to, what the leader decides."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest
from msgspec import structs

from swarm.core import cluster as core
from swarm.core.cluster import Cluster, ClusterBatch
from swarm.core.conflicts import SIDE_CHARS_MAX
from swarm.core.placement import leads_next
from swarm.messages import (
    ClusterEvent,
    Conflict,
    ConflictNoted,
    Controlled,
    ControlReply,
    EarlierMap,
    MapChanged,
    Opened,
    Rebalanced,
    Round,
    RoutingRules,
    RulesSet,
    SetRules,
    ShardMove,
    Stated,
    TellConflict,
)
from tests.builders import NOW, beat, command_id, refusal_of, shard_map

MAP = shard_map()
NAMES = ["c1", "c2"]
CONFLICT = Conflict("idempotency", "key k", "first", "second")


class Book:
    """A cluster log and its owner: one command an entry."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.now = NOW
        self.seq = 0
        self.log: list[tuple[int, float, list[ClusterEvent]]] = []
        self.write(lambda out: out.add(Opened("c1")))
        self.write(lambda out: core.take_over(MAP, out))

    def write(self, decide: Any) -> Any:
        self.seq += 1
        self.cluster.seq = self.seq
        batch = ClusterBatch(self.cluster, "n1", self.now, NAMES)
        result = decide(batch)
        self.log.append((self.seq, self.now, batch.events))
        return result

    def rules(self, text: str, number: int, sender: str = "lisa", **more: Any) -> ControlReply:
        return self.send(SetRules(text, command_id(number, self.now), **more), sender)

    def send(self, command: SetRules, sender: str = "lisa") -> ControlReply:
        reply = self.write(lambda out: core.control("rules", command, sender, out))
        assert isinstance(reply, ControlReply)
        return reply

    def folded(self, first_seq: int = 1) -> Cluster:
        """What a reader makes of the log that begins there."""
        cluster = Cluster(first_seq)
        for seq, now, events in self.log:
            if seq >= first_seq:
                cluster.seq = seq
                for event in msgspec.json.decode(
                    msgspec.json.encode(events), type=list[ClusterEvent]
                ):
                    cluster.apply(event, now, "n1")
        return cluster


def state_of(cluster: Cluster) -> Any:
    told = {
        name: value for name, value in vars(cluster).items() if name not in ("now", "stated_at")
    }
    return {**told, "conflicts": list(cluster.conflicts)}


def test_the_first_leader_takes_over_the_stored_map() -> None:
    book = Book()
    assert book.cluster.map == MAP
    assert book.cluster.coordinator == "c1"
    with pytest.raises(AssertionError, match="there is a map in the log"):
        book.write(lambda out: core.take_over(MAP, out))


def test_a_changed_map_has_the_next_version() -> None:
    book = Book()
    pins = {"c1": [0, 1]}
    after = book.write(lambda out: core.change_map(out, pins=pins))
    before = EarlierMap(NOW, 1, 16)
    assert after == structs.replace(MAP, version=2, pins=pins, earlier=[before])
    assert after == book.cluster.map
    assert book.write(lambda out: core.change_map(out, pins=pins)) == after
    assert book.log[-1][2] == [], "nothing has changed"


def test_rules_are_set_as_a_whole_under_the_next_version() -> None:
    book = Book()
    reply = book.rules("build -> c1:4000\n", 1)
    assert reply == ControlReply(command_id(1), 1, 1)
    assert book.cluster.rules == msgspec.structs.replace(
        book.cluster.rules, version=1, text="build -> c1:4000", by="lisa", at=NOW
    )
    assert book.rules("", 2).rules_version == 2
    assert book.cluster.rules.text == ""


def test_a_repeated_command_is_carried_out_once() -> None:
    book = Book()
    first = book.rules("build -> c1", 1)
    book.rules("build -> c2", 2)
    assert book.rules("build -> c1", 1, retry=1) == first
    assert book.cluster.rules.text == "build -> c2"
    assert book.log[-1][2] == []
    assert refusal_of(lambda: book.rules("build -> c1", 1, "bob")).code == "bad_request"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("build to c1", "line 1"),
        ("build -> c1\nbuild -> c2", "a second rule for 'build'"),
        ("build -> c9", "'c9' is no coordinator of this swarm; there are: c1, c2"),
    ],
)
def test_bad_rules_are_refused_and_the_old_ones_stay(text: str, named: str) -> None:
    book = Book()
    book.rules("build -> c1", 1)
    refusal = refusal_of(lambda: book.rules(text, 2))
    assert refusal.code == "bad_request"
    assert named in refusal.message
    assert "the old rules stay" in refusal.message
    assert book.cluster.rules.version == 1


def test_an_edit_of_an_old_version_is_refused_by_name() -> None:
    book = Book()
    book.rules("build -> c1", 1)
    book.rules("build -> c2", 2, "bob", based_on=1)
    refusal = refusal_of(lambda: book.rules("test -> c1", 3, based_on=1))
    assert refusal.code == "conflict"
    assert "there is version 2 by bob" in refusal.message
    assert book.rules("test -> c1", 3, based_on=2).rules_version == 3


def test_ids_that_cannot_be_remembered_are_refused() -> None:
    book = Book()
    for command_id_ in ("no-id", command_id(1, NOW + 3600)):
        refusal = refusal_of(partial(book.send, SetRules("", command_id_)))
        assert refusal.code == "bad_request"


def test_what_is_forgotten_is_refused_when_it_is_retried() -> None:
    book = Book()
    first = command_id(1)
    book.rules("build -> c1", 1)
    for number in range(core.COMMANDS_MAX):
        book.now += 1.0
        book.rules("build -> c2", 2 + number)
    assert first not in book.cluster.commands
    assert len(book.cluster.commands) == core.COMMANDS_MAX
    old = SetRules("build -> c1", first, retry=1)
    refusal = refusal_of(lambda: book.send(old))
    assert refusal.code == "too_old"
    book.now += core.COMMANDS_S + 1
    book.rules("", 9999)
    assert list(book.cluster.commands) == [command_id(9999, book.now)]


def test_conflicts_are_kept_with_both_sides_and_counted() -> None:
    book = Book()
    for number in range(core.CONFLICTS_MAX + 5):
        told = structs.replace(CONFLICT, about=f"key {number} " + "x" * 1000)
        command = TellConflict([told], command_id(number))
        book.write(lambda out, c=command: core.control("conflict", c, "c2", out))
    assert book.cluster.conflict_counts == {"idempotency": {"log": core.CONFLICTS_MAX + 5}}
    kept = book.cluster.conflicts
    assert len(kept) == core.CONFLICTS_MAX
    assert kept[0].about.startswith("key 5 ")
    assert (kept[0].by, kept[0].at, len(kept[0].about)) == ("c2", NOW, SIDE_CHARS_MAX)


def test_a_reader_of_the_log_has_the_same_state() -> None:
    book = Book()
    book.rules("build -> c1", 1)
    book.write(lambda out: out.add(ConflictNoted(CONFLICT)))
    book.write(lambda out: core.change_map(out, pins={"c2": [3]}))
    assert state_of(book.folded()) == state_of(book.cluster)


def test_a_log_that_was_purged_below_a_statement_means_the_same() -> None:
    book = Book()
    book.rules("build -> c1", 1)
    book.write(lambda out: out.add(ConflictNoted(CONFLICT)))
    book.write(core.restate)
    stated = book.seq
    assert book.cluster.stated_at == stated
    book.rules("build -> c2", 2)
    late = book.folded(stated)
    assert late.complete
    seen = state_of(book.cluster)
    # Who owns it is in the envelope of every entry, and in the next `Opened`.
    assert {**state_of(late), "coordinator": "c1"} == seen
    assert not book.folded(stated + 1).complete, "a log that was cut elsewhere"


def test_it_is_time_to_state_everything_after_some_entries() -> None:
    book = Book()
    while not core.is_long(book.cluster):
        book.now += 1
        book.rules("", book.seq)
        assert book.seq <= core.RESTATE_AFTER + 2
    book.write(core.restate)
    assert not core.is_long(book.cluster)
    assert isinstance(book.log[-1][2][0], Stated)


def test_everything_that_can_be_remembered_fits_into_one_entry() -> None:
    book = Book()
    for number in range(core.COMMANDS_MAX + 1):
        side = f"{number}" + "\x01" * SIDE_CHARS_MAX
        told = Conflict("idempotency", side, side, side, "timestamp")
        command = TellConflict([told], command_id(number))
        book.write(lambda out, c=command: core.control("conflict", c, "c" * 64, out))
    book.write(core.restate)
    assert len(msgspec.json.encode(book.log[-1][2])) < 1024 * 1024 * 3 // 4 - 1024 * 1024 // 8


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (Controlled(command_id(1), "rules", "x"), "carried out twice"),
        (RulesSet(RoutingRules(9)), "one after the other"),
        (MapChanged(shard_map(version=7)), "one after the other"),
    ],
)
def test_a_log_that_says_what_cannot_be_is_noticed(event: ClusterEvent, why: str) -> None:
    book = Book()
    book.rules("", 1)
    with pytest.raises(AssertionError, match=why):
        book.cluster.apply(event, NOW, "n1")


# --- who leads --------------------------------------------------------------------------------


def test_the_first_that_lives_and_stays_leads() -> None:
    live = {name: beat(name) for name in ("c2", "c3")}
    assert leads_next("c2", live, ["c1", "c2", "c3"], settled=True)
    assert not leads_next("c3", live, ["c1", "c2", "c3"], settled=True)
    live["c2"] = beat("c2", draining=True)
    assert leads_next("c3", live, ["c1", "c2", "c3"], settled=True)


def test_before_everybody_was_heard_only_the_first_of_all_leads() -> None:
    live = {"c2": beat("c2")}
    assert not leads_next("c2", live, ["c1", "c2"], settled=False)
    assert leads_next("c1", {}, ["c1", "c2"], settled=False)


def test_who_cannot_lead_comes_last() -> None:
    live = {"c1": beat("c1", cannot_lead="its clock is wrong"), "c2": beat("c2")}
    assert leads_next("c2", live, ["c1", "c2"], settled=True)
    assert not leads_next("c1", live, ["c1", "c2"], settled=True)
    live["c2"] = beat("c2", cannot_lead="the log is gone")
    assert leads_next("c1", live, ["c1", "c2"], settled=True)


# --- rounds of rebalancing ----------------------------------------------------------------------


def test_rounds_are_counted_and_the_latest_is_kept() -> None:
    book = Book()
    assert book.cluster.round == Round()
    moves = [ShardMove(0, "c1", "c2"), ShardMove(1, "c1", "c2")]
    book.write(lambda out: core.note_round(Round(why="uneven", moves=moves), out))
    book.now += 60
    book.write(lambda out: core.note_round(Round(why="still", failed="no answer"), out))
    assert [type(event) for event in book.log[-1][2]] == [Rebalanced]
    last = Round(2, NOW + 60, "still", [], "no answer", moved=2)
    assert book.cluster.round == last
    assert book.cluster.view(1, book.seq).round == last
    book.write(core.restate)
    assert state_of(book.folded()) == state_of(book.cluster)
    assert book.folded(book.seq).round == last, "it is stated again with everything else"


def test_a_round_in_which_nothing_was_tried_is_none() -> None:
    with pytest.raises(AssertionError, match="something was tried"):
        Book().write(lambda out: core.note_round(Round(), out))
