"""Admitting a batch: each item for itself, every message naming what is allowed."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from swarm.core.admission import admit, check_item, unheard_of
from swarm.messages import ErrorBody, NewItem, ShardMap, Submit
from tests.builders import Desk, command_id, new_item, refusal_of, shard_map

LIMIT = 262_144
GOOD = new_item(description="fine")


def error_of(raw: bytes) -> ErrorBody:
    """The error of one item in the middle of a batch of good ones."""
    submit = Submit([GOOD, Raw(raw), GOOD], command_id(1))
    admitted = admit(submit, "client", shard_map(1), LIMIT)
    assert [result.index for result in admitted.refused] == [1]
    assert admitted.parts[0].indexes == [0, 2], "the others are not refused with it"
    error = admitted.refused[0].error
    assert error is not None
    assert not error.retry
    return error


@pytest.mark.parametrize(
    ("raw", "code", "named"),
    [
        (b"{}", "bad_request", ["work_type", "required"]),
        (b"7", "bad_request", ["object", "int"]),
        (b"null", "bad_request", ["object"]),
        (b'{"work_type":7}', "bad_request", ["$.work_type", "letters, digits"]),
        (b'{"work_type":""}', "bad_request", ["$.work_type", "1 to 64"]),
        (b'{"work_type":"a b"}', "bad_request", ["$.work_type", "no dots, blanks or wildcards"]),
        (b'{"work_type":"a.b"}', "bad_request", ["$.work_type", "letters, digits"]),
        (b'{"work_type":"*"}', "bad_request", ["$.work_type", "letters, digits"]),
        (b'{"work_type":">"}', "bad_request", ["$.work_type", "letters, digits"]),
        (b'{"work_type":"_"}', "bad_request", ["$.work_type", "begins with"]),
        (b'{"work_type":"a\\n"}', "bad_request", ["$.work_type", "letters, digits"]),
        (b'{"work_type":"' + b"a" * 65 + b'"}', "bad_request", ["$.work_type", "64"]),
        (
            b'{"work_type":"a","priority":"urgent"}',
            "bad_request",
            ["urgent", "critical, high, medium, low"],
        ),
        (b'{"work_type":"a","priority":1}', "bad_request", ["$.priority", "critical, high"]),
        (b'{"work_type":"a","story_points":-1}', "bad_request", ["$.story_points", ">= 0"]),
        (b'{"work_type":"a","story_points":1.5}', "bad_request", ["$.story_points", "int"]),
        (b'{"work_type":"a","lease_s":-1}', "bad_request", ["$.lease_s", ">= 0"]),
        (b'{"work_type":"a","lease_s":604801}', "bad_request", ["$.lease_s", "604800"]),
        (b'{"work_type":"a","labels":{"k":1}}', "bad_request", ["$.labels", "str"]),
        (b'{"work_type":"a","labels":[]}', "bad_request", ["$.labels", "object"]),
        (b'{"work_type":"a","team":null}', "bad_request", ["$.team", "str"]),
        (
            b'{"work_type":"a","idempotency_key":"' + b"k" * 257 + b'"}',
            "bad_request",
            ["$.idempotency_key", "256"],
        ),
        (b'{"work_type":"a","description":"\xff"}', "bad_request", ["UTF-8"]),
        (b'{"work_type":"a","payload":"\xff"}', "bad_request", ["UTF-8"]),
        (
            b'{"work_type":"a","payload":' + b"[" * 300 + b"]" * 300 + b"}",
            "bad_request",
            ["nested too deep", "200"],
        ),
        (b'{"work_type":"a","dependencies":["1-x"]}', "bad_request", ["dependencies", "1-x"]),
        (
            b'{"work_type":"a","payload":"' + b"x" * LIMIT + b'"}',
            "too_large",
            [str(LIMIT + 30), str(LIMIT), "reference", "max_payload"],
        ),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, bytes) else "",
)
def test_a_bad_item_is_refused_alone_and_told_what_is_allowed(
    raw: bytes, code: str, named: list[str]
) -> None:
    error = error_of(raw)
    assert error.code == code
    assert [word for word in named if word not in error.message] == []


@pytest.mark.parametrize(
    "raw", [b"", b'{"work_type":"a"', b"{'work_type':'a'}", b'{"work_type":"a"}{}']
)
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    refusal = refusal_of(lambda: check_item(raw, LIMIT))
    assert refusal.code == "bad_request"
    assert "not valid JSON" in refusal.message


def test_the_largest_item_there_may_be() -> None:
    size = len(memoryview(GOOD))
    assert check_item(GOOD, size)[1] == bytes(GOOD)
    assert refusal_of(lambda: check_item(GOOD, size - 1)).code == "too_large"


def test_an_item_is_measured_and_stored_as_the_swarm_writes_it() -> None:
    raw = b'{ "work_type" : "a",\n "priority":"medium", "later": [1], "payload": {"x" : 1} }'
    item, canonical = check_item(raw, LIMIT)
    assert canonical == b'{"work_type":"a","payload":{"x" : 1}}'
    assert bytes(item.payload) == b'{"x" : 1}', "a payload is handed on as it came"
    assert check_item(canonical, LIMIT)[1] == canonical, "and is so already the second time"
    assert check_item(raw, len(canonical))[1] == canonical


# --- batches -----------------------------------------------------------------------------


def test_an_empty_batch_is_refused() -> None:
    refusal = refusal_of(lambda: admit(Submit([], command_id(1)), "client", shard_map(), LIMIT))
    assert (refusal.code, refusal.retry) == ("bad_request", False)
    assert "at least one" in refusal.message


def test_parts_hold_every_good_item_once_where_it_belongs() -> None:
    items = [new_item(description=str(number)) for number in range(200)]
    submit = Submit(items, command_id(1), 4)
    admitted = admit(submit, "client", shard_map(16, version=9), LIMIT)
    placed = {
        index: bytes(raw)
        for part in admitted.parts.values()
        for index, raw in zip(part.indexes, part.items, strict=True)
    }
    assert placed == {index: bytes(raw) for index, raw in enumerate(items)}
    assert len(admitted.parts) == 16
    for shard, part in admitted.parts.items():
        assert (part.command_id, part.map_version, part.retry) == (command_id(1), 9, 4)
        assert part.indexes == sorted(part.indexes)
        assert admitted.sizes[shard] == sum(len(memoryview(raw)) for raw in part.items)


def test_a_retry_lands_where_the_first_try_did() -> None:
    items = [
        *[new_item(description=str(number)) for number in range(20)],
        *[new_item(idempotency_key=f"k{number}") for number in range(20)],
        Raw(b"{}"),
    ]
    first, again = (
        admit(Submit(items, command_id(1), retry), "client", shard_map(), LIMIT) for retry in (0, 1)
    )
    assert {shard: part.indexes for shard, part in first.parts.items()} == {
        shard: part.indexes for shard, part in again.parts.items()
    }
    assert first.refused == again.refused


def test_a_bad_item_does_not_move_the_others() -> None:
    items = [new_item(description=str(number)) for number in range(50)]
    bad = [*items[:10], Raw(b"{}"), *items[11:]]
    good, mixed = (
        admit(Submit(batch, command_id(1)), "client", shard_map(), LIMIT) for batch in (items, bad)
    )
    where_good, where_mixed = (
        {index: shard for shard, part in one.parts.items() for index in part.indexes}
        for one in (good, mixed)
    )
    del where_good[10]
    assert where_mixed == where_good


def test_whatever_is_admitted_the_shard_accepts() -> None:
    raws = [
        b'{"work_type":"a","payload":' + b"[" * 199 + b"]" * 199 + b"}",
        b'{"work_type":"a","payload":1e999}',
        b'{"work_type":"a","payload":"\\ud83d\\ude00"}',
        b'{"work_type":"a","lease_s":5e-324}',
        b'{"work_type":"a","lease_s":604800,"story_points":0,"labels":{"":""}}',
        b'{"work_type":"a","work_type":"b"}',
        '{"work_type":"a","description":"\u2028\u0000é"}'.replace("\0", "\\u0000").encode(),
    ]
    submit = Submit([Raw(raw) for raw in raws], command_id(1))
    admitted = admit(submit, "client", shard_map(1), LIMIT)
    assert admitted.refused == []
    desk = Desk()
    desk.submit(*admitted.parts[0].items)
    assert desk.shard.submitted == len(raws)
    assert desk.refold().submitted == len(raws)
    while desk.shard.lanes.ready["a"]:
        held = desk.take("x", work_type="a")
        assert held.lease_s > 0
        assert isinstance(msgspec.json.decode(held.item, type=NewItem), NewItem)


def test_a_number_that_python_cannot_hold_is_compared_as_written() -> None:
    desk = Desk()
    big = Raw(b'{"work_type":"a","payload":1e999,"idempotency_key":"k"}')
    bigger = Raw(b'{"work_type":"a","payload":1e9999,"idempotency_key":"k"}')
    spaced = Raw(b'{"work_type":"a","payload":1e999,"idempotency_key":"k" }')
    assert desk.submit(big).results[0].error is None
    assert desk.submit(spaced).results[0].error is None
    error = desk.submit(bigger).results[0].error
    assert error is not None
    assert error.code == "idempotency_conflict"


def test_a_dependency_in_an_unknown_shard_is_neither_accepted_nor_refused() -> None:
    """The swarm may have grown: the leader is to be asked."""
    item = Raw(b'{"work_type":"a","dependencies":["0-1","16-1","17-1"]}')
    admitted = admit(Submit([GOOD, item], command_id(1)), "client", shard_map(1), LIMIT)
    assert admitted.unheard == [(1, "16-1")]
    assert admitted.refused == []
    assert admitted.parts[0].indexes == [0]


@pytest.mark.parametrize(
    ("told", "code", "named"),
    [
        (shard_map(16), "bad_request", "shards 0 to 15"),
        (shard_map(17), "stale_map", "new here"),
        ("nobody leads", "stale_map", "nobody leads"),
    ],
)
def test_only_who_knows_the_map_that_holds_refuses_for_good(
    told: ShardMap | str, code: str, named: str
) -> None:
    refusal = unheard_of("16-1", told)
    assert (refusal.code, refusal.retry) == (code, code == "stale_map")
    assert "16-1" in refusal.message
    assert named in refusal.message
