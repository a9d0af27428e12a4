"""Submitting: what is accepted once, known already, in conflict, or refused."""

from __future__ import annotations

import pytest
from msgspec import Raw

from swarm.core import decide
from swarm.core.decide import Batch
from swarm.core.shard import ShardRules
from swarm.messages import ShardSubmit, SubmitReply, Submitted
from tests.builders import Desk, command_id, new_item, refusal_of
from tests.states import state_of

A, B, C = (new_item(description=name) for name in "abc")
KEYED = new_item(description="a", idempotency_key="k1")


def ids_of(reply: SubmitReply) -> list[tuple[int, str]]:
    """(index, id) of the accepted items, by index."""
    return sorted((result.index, result.work_item_id) for result in reply.results)


def codes_of(reply: SubmitReply) -> dict[int, str]:
    """Error code by index, "" where there is none."""
    return {
        result.index: result.error.code if result.error is not None else ""
        for result in reply.results
    }


def last_event(desk: Desk) -> Submitted:
    """The event of a submission that is decided apart, to look at."""
    out = Batch(desk.shard, desk.nonce, desk.now)
    command = ShardSubmit(desk.new_id(), [A, KEYED, B, KEYED], [4, 5, 6, 7], 1)
    decide.submit(desk.shard, command, out)
    (event,) = out.events
    assert isinstance(event, Submitted)
    return event


# --- accepting -------------------------------------------------------------------------------


def test_items_are_numbered_in_order_and_carry_their_shard() -> None:
    desk = Desk()
    assert desk.submit_ids(A, B) == ["3-1", "3-2"]
    assert desk.submit_ids(C) == ["3-3"]
    assert [item.submitted_at for item in desk.shard.items.values()] == [desk.now] * 3
    assert bytes(desk.shard.items[2].spec) == bytes(B)


def test_indexes_are_those_of_the_clients_batch() -> None:
    desk = Desk()
    assert ids_of(desk.submit(A, B, indexes=[7, 2])) == [(2, "3-2"), (7, "3-1")]


def test_an_event_leaves_out_the_indexes_only_when_they_are_0_1_2() -> None:
    desk = Desk()
    event = last_event(desk)
    assert (event.first, event.indexes, event.known) == (1, [4, 5, 6], [(7, 2)])
    desk = Desk()
    out = Batch(desk.shard, desk.nonce, desk.now)
    decide.submit(desk.shard, ShardSubmit(desk.new_id(), [A, B], [0, 1], 1), out)
    assert isinstance(out.events[0], Submitted)
    assert out.events[0].indexes == []


def test_a_batch_of_known_items_only_folds() -> None:
    desk = Desk()
    desk.submit(KEYED)
    assert ids_of(desk.submit(KEYED, KEYED)) == [(0, "3-1"), (1, "3-1")]
    assert state_of(desk.refold()) == state_of(desk.shard)


# --- the same command again ------------------------------------------------------------------


@pytest.mark.parametrize("retry", [0, 1, 7])
def test_the_same_command_again_gets_the_same_ids_and_changes_nothing(retry: int) -> None:
    desk = Desk()
    id_ = desk.new_id()
    first = desk.submit(A, KEYED, id_=id_, indexes=[3, 5])
    before = state_of(desk.shard)
    again = desk.submit(A, KEYED, id_=id_, indexes=[3, 5], retry=retry)
    assert ids_of(again) == ids_of(first)
    assert state_of(desk.shard) == before


def test_the_same_command_again_after_the_items_have_ended() -> None:
    desk = Desk()
    id_ = desk.new_id()
    first = desk.submit(A, B, id_=id_)
    desk.complete(desk.take("a1"), "a1")
    desk.fail(desk.take("a1"), "a1")
    assert ids_of(desk.submit(A, B, id_=id_, retry=1)) == ids_of(first)


def test_the_same_command_again_to_the_next_owner() -> None:
    desk = Desk()
    id_ = desk.new_id()
    first = desk.submit(A, B, id_=id_)
    desk.open("c2")
    desk.shard = desk.refold()
    assert ids_of(desk.submit(A, B, id_=id_, retry=1)) == ids_of(first)


def test_a_trace_of_its_own_does_not_make_a_retry_another_content() -> None:
    desk = Desk()
    id_ = desk.new_id()
    desk.submit(new_item(trace="00-one"), id_=id_)
    again = desk.submit(new_item(trace="00-two"), id_=id_, retry=1)
    assert codes_of(again) == {0: ""}


def test_a_command_id_used_again_for_other_items_creates_nothing() -> None:
    desk = Desk()
    id_ = desk.new_id()
    desk.submit(A, B, id_=id_)
    before = state_of(desk.shard)
    again = desk.submit(A, C, id_=id_)
    assert codes_of(again) == {0: "", 1: "idempotency_conflict"}
    error = again.results[1].error
    assert error is not None
    assert "command id" in error.message
    assert "key" not in error.message, "there is none"
    assert state_of(desk.shard) == before


@pytest.mark.parametrize(("items", "indexes"), [(1, [0, 1]), (2, [0]), (2, [0, 0]), (1, [-1])])
@pytest.mark.parametrize("repeated", [False, True])
def test_indexes_that_do_not_fit_are_refused(
    items: int, indexes: list[int], repeated: bool
) -> None:
    desk = Desk()
    id_ = desk.new_id()
    if repeated:
        desk.submit(A, B, id_=id_)
    before = state_of(desk.shard)
    refusal = refusal_of(lambda: desk.submit(*[A, B][:items], id_=id_, indexes=indexes))
    assert refusal.code == "bad_request"
    assert "indexes" in refusal.message
    assert state_of(desk.shard) == before


@pytest.mark.parametrize("id_", ["", "7", "3-1", "0190b5e0-0000-4000-8000-000000000000"])
def test_a_submission_needs_a_uuid7(id_: str) -> None:
    desk = Desk()
    command = ShardSubmit(id_, [A], [0], 1)
    refusal = refusal_of(
        lambda: desk.decide(lambda batch: decide.submit(desk.shard, command, batch))
    )
    assert refusal.code == "bad_request"
    assert repr(id_) in refusal.message
    assert desk.shard.submitted == 0


def test_an_id_that_a_release_used_is_no_id_for_a_submission() -> None:
    desk = Desk()
    desk.submit(A)
    id_ = desk.new_id()
    desk.release(desk.take("a1"), "a1", id_)
    assert refusal_of(lambda: desk.submit(B, id_=id_)).code == "bad_request"


def test_the_window_by_count_a_forgotten_retry_is_too_old() -> None:
    desk = Desk(ShardRules(dedupe_count=2))
    ids = [command_id(1, desk.now + offset_s) for offset_s in (0.0, 0.001, 0.002)]
    for id_ in ids:
        desk.submit(A, id_=id_)
    before = state_of(desk.shard)
    assert refusal_of(lambda: desk.submit(A, id_=ids[0], retry=1)).code == "too_old"
    # Made in the very millisecond that was forgotten: it may have been carried out.
    same_ms = command_id(99, desk.now)
    assert refusal_of(lambda: desk.submit(A, id_=same_ms, retry=1)).code == "too_old"
    assert state_of(desk.shard) == before
    assert ids_of(desk.submit(A, id_=ids[1], retry=1)) == [(0, "3-2")]
    after_ms = command_id(99, desk.now + 0.001)
    assert ids_of(desk.submit(A, id_=after_ms, retry=1)) == [(0, "3-4")]


def test_the_window_by_time_a_forgotten_retry_is_too_old() -> None:
    desk = Desk(ShardRules(dedupe_window_s=60))
    old = command_id(1, desk.now - 5)
    desk.submit(A, id_=old)
    desk.now += 60
    desk.submit(A)
    assert ids_of(desk.submit(A, id_=old, retry=1)) == [(0, "3-1")], "60 s are within"
    desk.now += 0.5
    desk.submit(A)
    assert refusal_of(lambda: desk.submit(A, id_=old, retry=2)).code == "too_old"


def test_an_id_from_the_future_is_refused() -> None:
    desk = Desk()
    refusal = refusal_of(lambda: desk.submit(A, id_=command_id(1, desk.now + 400)))
    assert refusal.code == "bad_request"
    assert "400 s" in refusal.message
    assert desk.shard.submitted == 0


# --- idempotency keys ------------------------------------------------------------------------


def test_a_key_across_batches_yields_the_same_item() -> None:
    desk = Desk()
    assert desk.submit_ids(A, KEYED) == ["3-1", "3-2"]
    assert desk.submit_ids(KEYED, B) == ["3-2", "3-3"]
    assert desk.shard.submitted == 3


def test_a_key_twice_in_a_batch_yields_one_item() -> None:
    desk = Desk()
    other = new_item(description="b", idempotency_key="k2")
    reply = desk.submit(A, KEYED, other, KEYED, B, other)
    assert ids_of(reply) == [
        (0, "3-1"), (1, "3-2"), (2, "3-3"), (3, "3-2"), (4, "3-4"), (5, "3-3"),
    ]  # fmt: skip
    assert desk.shard.submitted == 4
    desk.shard.validate()
    assert state_of(desk.refold()) == state_of(desk.shard)


def test_a_key_with_other_content_is_a_conflict_of_that_item_only() -> None:
    desk = Desk()
    desk.submit(KEYED)
    clash = new_item(description="else", idempotency_key="k1")
    reply = desk.submit(A, clash, B)
    assert codes_of(reply) == {0: "", 1: "idempotency_conflict", 2: ""}
    error = next(result.error for result in reply.results if result.index == 1)
    assert error is not None
    assert not error.retry
    assert "'k1'" in error.message
    assert "3-1" in error.message
    assert desk.shard.submitted == 3


def test_a_conflict_within_a_batch_and_its_repetition() -> None:
    desk = Desk()
    id_ = desk.new_id()
    clash = new_item(description="else", idempotency_key="k1")
    first = desk.submit(KEYED, clash, id_=id_)
    assert codes_of(first) == {0: "", 1: "idempotency_conflict"}
    assert desk.submit(KEYED, clash, id_=id_, retry=1) == first
    assert desk.shard.submitted == 1


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (new_item(payload={"a": 1, "b": [2]}), b'{ "b" : [2],\n"a":1 }', True),
        (new_item(payload={"a": 1}), b'{"a":true}', False),
        (new_item(payload={"a": 1}), b'{"a":1.0}', False),
        (new_item(payload=[1, 2]), b"[2,1]", False),
        (new_item(payload="é"), b'"\\u00e9"', True),
        (new_item(), b"null", True),
    ],
)
def test_content_is_what_the_payload_says_not_how_it_is_written(
    one: Raw, two: bytes, same: bool
) -> None:
    desk = Desk()
    first = bytes(one)[:-1] + b',"idempotency_key":"k"}'
    second = b'{"work_type":"feature","idempotency_key":"k","payload":' + two + b"}"
    desk.submit(Raw(first))
    assert codes_of(desk.submit(Raw(second))) == {0: "" if same else "idempotency_conflict"}


def test_the_order_of_labels_is_no_content() -> None:
    desk = Desk()
    desk.submit(new_item(idempotency_key="k", labels={"a": "1", "b": "2"}))
    again = new_item(idempotency_key="k", labels={"b": "2", "a": "1"})
    assert codes_of(desk.submit(again)) == {0: ""}


def test_a_key_is_free_again_after_the_window() -> None:
    desk = Desk(ShardRules(dedupe_window_s=60))
    desk.submit(KEYED)
    desk.now += 61
    desk.submit(new_item(idempotency_key="k2"))
    assert ids_of(desk.submit(new_item(description="new", idempotency_key="k1"))) == [(0, "3-3")]
    desk.shard.validate()
    assert state_of(desk.refold()) == state_of(desk.shard)


def test_more_keys_in_one_batch_than_the_window_remembers() -> None:
    desk = Desk(ShardRules(dedupe_count=3))
    items = [new_item(idempotency_key=f"k{number}") for number in range(10)]
    assert len(desk.submit_ids(*items, items[0])) == 11
    assert desk.shard.submitted == 10, "within one batch a key is known however short the window"
    # What was remembered together is forgotten together, the latest never at once.
    assert len(desk.shard.keys) == 10
    assert desk.submit_ids(new_item(idempotency_key="k")) == ["3-11"]
    assert len(desk.shard.keys) == 1
    assert state_of(desk.refold()) == state_of(desk.shard)


# --- what must never enter a log -------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "code", "named"),
    [
        (b"{}", "bad_request", "work_type"),
        (b"[]", "bad_request", "object"),
        (b'{"work_type":"a b"}', "bad_request", "work_type"),
        (b'{"work_type":"a\\n"}', "bad_request", "work_type"),
        (b'{"work_type":"a","priority":"urgent"}', "bad_request", "urgent"),
        (b'{"work_type":"a"', "bad_request", "truncated"),
        (b'{"work_type":"a","lease_s":-1}', "bad_request", "lease_s"),
        (b'{"work_type":"a","description":"\xff"}', "bad_request", "UTF-8"),
        (b'{"work_type":"a","payload":"\xff"}', "bad_request", "UTF-8"),
        (b'{"work_type":"a","payload":' + b"[" * 900 + b"]" * 900 + b"}", "bad_request", "deep"),
        (b'{"work_type":"a","payload":' + b"[" * 9000 + b"]" * 9000 + b"}", "bad_request", "deep"),
        (b'{"work_type":"a","dependencies":["3"]}', "bad_request", "dependencies"),
        (b'{"work_type":"a","dependencies":[1]}', "bad_request", "dependencies"),
        (b'{"work_type":"a","payload":"' + b"x" * 300_000 + b'"}', "too_large", "262144"),
    ],
)
def test_a_bad_item_handed_to_the_shard_directly_is_refused(
    raw: bytes, code: str, named: str
) -> None:
    desk = Desk()
    before = state_of(desk.shard)
    refusal = refusal_of(lambda: desk.submit(A, Raw(raw), B))
    assert refusal.code == code
    assert named in refusal.message
    assert state_of(desk.shard) == before, "and nothing of its batch was accepted"


def test_the_largest_item_is_accepted() -> None:
    item = new_item()
    desk = Desk(ShardRules(item_bytes_max=len(memoryview(item))))
    assert desk.submit_ids(item) == ["3-1"]
    assert refusal_of(lambda: desk.submit(new_item("feature2"))).code == "too_large"


def test_a_part_placed_by_another_map_is_refused_and_may_come_again() -> None:
    desk = Desk()
    out = Batch(desk.shard, desk.nonce, desk.now, map_version=2)
    refused = refusal_of(
        lambda: decide.submit(desk.shard, ShardSubmit(desk.new_id(), [A], [0], 1), out)
    )
    assert (refused.code, refused.retry, out.events) == ("stale_map", True, [])


def test_an_index_that_the_first_try_did_not_have_is_answered_as_a_conflict() -> None:
    desk = Desk()
    id_ = desk.new_id()
    out = Batch(desk.shard, desk.nonce, desk.now)
    decide.submit(desk.shard, ShardSubmit(id_, [A], [0], 1), out)
    reply = decide.submit(desk.shard, ShardSubmit(id_, [A, B], [0, 1], 1, retry=1), out)
    assert codes_of(reply) == {0: "", 1: "idempotency_conflict"}
    assert desk.shard.submitted == 1
