"""More shards, or fewer: what was placed by an earlier map is not accepted once more."""

from __future__ import annotations

from functools import partial

import pytest
from msgspec import Raw, structs

from swarm.core import cluster as core
from swarm.core import decide
from swarm.core.admission import Admitted, admit, may_have
from swarm.core.decide import CLOCK_AHEAD_MAX_S
from swarm.core.sharding import accepting, before, shard_of
from swarm.messages import (
    EarlierMap,
    KnownReply,
    NewItem,
    Resize,
    ShardMap,
    ShardSubmit,
    Submit,
    SubmitReply,
)
from tests.builders import NOW, Desk, command_id, new_item, refusal_of, shard_map
from tests.unit.core.test_cluster import Book

LIMIT = 100_000
OLD = shard_map(4)
NEW = structs.replace(shard_map(8, version=2), earlier=[EarlierMap(NOW, 1, 4)])


def resized(book: Book, shards: int) -> ShardMap:
    command = Resize(shards, command_id(book.seq + 1000, book.now))
    book.write(lambda out: core.control("resize", command, "lisa", out))
    assert book.cluster.map is not None
    return book.cluster.map


# --- the map -----------------------------------------------------------------------------------


def test_growing_and_shrinking_make_maps_that_know_those_before() -> None:
    book = Book()
    grown = resized(book, 24)
    assert (grown.version, grown.shard_count, accepting(grown), grown.began_with) == (2, 24, 24, 16)
    assert grown.earlier == [EarlierMap(NOW, 1, 16)]
    shrunk = resized(book, 4)
    assert (shrunk.version, shrunk.shard_count, accepting(shrunk)) == (3, 24, 4), "none goes"
    assert [one.version for one in shrunk.earlier] == [1, 2]
    assert before(shrunk) == [
        structs.replace(shard_map(), began_with=16),
        structs.replace(grown, earlier=[]),
    ]
    again = resized(book, 24)
    assert (again.shard_count, again.accepts, again.began_with) == (24, 0, 16)
    assert resized(book, 24) == again, "nothing to do"


def test_maps_are_forgotten_after_the_dedupe_window() -> None:
    book = Book()
    for shards in range(17, 17 + core.EARLIER_MAX):
        resized(book, shards)
    refusal = refusal_of(lambda: resized(book, 99))
    assert (refusal.code, refusal.retry) == ("unavailable", True)
    assert "the next change is possible in 86400 s" in refusal.message
    book.now += 86_401
    assert [one.version for one in resized(book, 99).earlier] == [1 + core.EARLIER_MAX]


def test_what_cannot_be_is_refused() -> None:
    book = Book()
    for shards in (0, -1, 1025):
        refusal = refusal_of(partial(resized, book, shards))
        assert "allowed are 1 to 1024" in refusal.message
    batch = core.ClusterBatch(book.cluster, "n1", NOW, [], ["c1", "c7"])
    refusal = refusal_of(lambda: core.resize(20, batch))
    assert (refusal.code, refusal.retry) == ("unsupported", True)
    assert "c1, c7" in refusal.message


# --- whom to ask -------------------------------------------------------------------------------


def admitted(
    items: list[Raw], number: int = 1, adopted: dict[int, float] | None = None, at: float = NOW
) -> Admitted:
    return admit(Submit(items, command_id(number, at)), "lisa", NEW, LIMIT, adopted)


def test_only_what_has_another_shard_by_now_is_asked_about() -> None:
    items = [new_item(idempotency_key=f"k{number}") for number in range(100)]
    found = admitted(items)
    for shard, part in found.parts.items():
        for index in part.indexes:
            old = shard_of(NewItem("", idempotency_key=f"k{index}"), "", 0, "", OLD)
            assert (index in part.moved) == (old != shard)
            asked = found.asks.get(shard, {}).get(old, [])
            assert (index in asked) == (old != shard)
    assert 30 < sum(len(part.moved) for part in found.parts.values()) < 70


def test_commands_made_after_the_old_shard_knew_need_no_question() -> None:
    items = [new_item() for _ in range(100)]
    assert admitted(items).asks, "it is not known who has adopted the map"
    adopted = dict.fromkeys(range(8), NOW)
    soon = admitted(items, adopted=adopted, at=NOW + CLOCK_AHEAD_MAX_S)
    assert soon.asks, "its maker's clock may be ahead"
    later = admitted(items, adopted=adopted, at=NOW + CLOCK_AHEAD_MAX_S + 0.001)
    assert not later.asks
    assert any(part.moved for part in later.parts.values())
    keyed = [new_item(idempotency_key=f"k{number}") for number in range(100)]
    assert admitted(keyed, adopted=adopted, at=NOW + 9999).asks, "keys have no time"
    assert not may_have(NewItem(""), "no-id", 1, {})


def test_without_earlier_maps_nobody_is_asked() -> None:
    items = [new_item(idempotency_key=f"k{number}") for number in range(100)]
    found = admit(Submit(items, command_id(1)), "lisa", shard_map(8), LIMIT)
    assert not found.asks
    assert not any(part.moved for part in found.parts.values())


# --- what the earlier shard says ---------------------------------------------------------------


def part(indexes: list[int], *, version: int = 2, number: int = 1, **more: object) -> ShardSubmit:
    items = [new_item("t", description=f"item {index}") for index in indexes]
    command = ShardSubmit(command_id(number), items, indexes, version)
    return structs.replace(command, **more)


def submit(desk: Desk, command: ShardSubmit, adopted: int = 0) -> SubmitReply:
    return desk.decide(
        lambda out: decide.submit(out.shard, command, by(out, adopted or command.map_version))
    )


def known(desk: Desk, command: ShardSubmit, adopted: int = 0) -> KnownReply:
    return desk.decide(
        lambda out: decide.known(out.shard, command, by(out, adopted or command.map_version))
    )


def by(out: decide.Batch, map_version: int) -> decide.Batch:
    """The batch of a shard that has adopted this map."""
    out.map_version = map_version
    return out


def ids(reply: SubmitReply | KnownReply) -> dict[int, str]:
    return {result.index: result.work_item_id for result in reply.results}


def test_an_earlier_shard_tells_what_it_has() -> None:
    desk = Desk()
    submit(desk, part([0, 4], version=1))
    assert ids(known(desk, part([0, 2, 4]))) == {0: "3-1", 4: "3-2"}
    assert ids(known(desk, part([0, 2], number=2))) == {}
    assert desk.shard.submitted == 2, "nothing is accepted"


def test_it_knows_keys_whatever_the_command_and_clashes() -> None:
    desk = Desk()
    keyed = [new_item("t", idempotency_key="k")]
    submit(desk, ShardSubmit(command_id(1), keyed, [0], 1))
    assert ids(known(desk, ShardSubmit(command_id(2), keyed, [5], 2))) == {5: "3-1"}
    other = [new_item("t", idempotency_key="k", description="other")]
    (result,) = known(desk, ShardSubmit(command_id(3), other, [0], 2)).results
    assert result.error is not None
    assert result.error.code == "idempotency_conflict"
    assert known(desk, ShardSubmit(command_id(4), keyed, [0], 2)).at == desk.now


def test_it_answers_only_by_the_map_that_it_has_adopted() -> None:
    desk = Desk()
    refusal = refusal_of(lambda: known(desk, part([0]), adopted=1))
    assert (refusal.code, refusal.retry) == ("stale_map", True)


def test_what_it_may_have_forgotten_is_too_old() -> None:
    desk = Desk()
    desk.shard.commands.horizon = int(NOW * 1000) + 1
    assert refusal_of(lambda: known(desk, part([0], retry=1))).code == "too_old"


# --- what the new shard accepts ----------------------------------------------------------------


def test_what_has_moved_here_is_accepted_beside_what_was_here() -> None:
    desk = Desk()
    assert ids(submit(desk, part([1, 2], version=1))) == {1: "3-1", 2: "3-2"}
    again = part([1, 2, 5], moved=[5], retry=1)
    assert ids(submit(desk, again)) == {1: "3-1", 2: "3-2", 5: "3-3"}
    assert ids(submit(desk, again)) == {1: "3-1", 2: "3-2", 5: "3-3"}, "and only once"
    assert desk.shard.submitted == 3
    desk.shard.validate()
    assert desk.refold().commands.get(command_id(1)) == desk.shard.commands.get(command_id(1))


def test_without_a_move_another_batch_under_the_same_id_is_a_mistake() -> None:
    desk = Desk()
    submit(desk, part([1, 2], version=1))
    results = submit(desk, part([1, 5], retry=1)).results
    errors = {result.index: result.error for result in results}
    assert errors[1] is None
    assert errors[5] is not None
    assert errors[5].code == "idempotency_conflict"


def test_what_another_map_puts_beside_what_is_known_is_not_taken_for_a_mistake() -> None:
    """A coordinator that knows only an earlier map sends what is another shard's by now."""
    desk = Desk()
    submit(desk, part([0], version=2))
    refusal = refusal_of(lambda: submit(desk, part([0, 2], version=1, retry=1), adopted=2))
    assert (refusal.code, refusal.retry) == ("stale_map", True)
    assert ids(submit(desk, part([0], version=1, retry=1), adopted=2)) == {0: "3-1"}


@pytest.mark.parametrize("version", [1, 3])
def test_a_shard_accepts_by_its_own_map_only(version: int) -> None:
    desk = Desk()
    refusal = refusal_of(lambda: submit(desk, part([0], version=version), adopted=2))
    assert (refusal.code, refusal.retry) == ("stale_map", True)
