"""Items on their way in: what is refused before anything is sent, and how batches are cut."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from swarm.errors import Refusal
from swarm.messages import Assignment, NewItem, Submit
from swarm.sdk.items import SUBMIT_BYTES, ClaimedItem, batches, check_percent, encode_item, to_json

LIMIT = 262_144


def refusal_of(description: Any, limit: int = LIMIT) -> Refusal:
    with pytest.raises(Refusal) as caught:
        encode_item(description, limit)
    return caught.value


@pytest.mark.parametrize(
    ("description", "code", "parts"),
    [
        ({"work_type": "a b"}, "bad_request", ["$.work_type", "letters, digits"]),
        ({"work_type": "a.b"}, "bad_request", ["$.work_type"]),
        ({"work_type": "*"}, "bad_request", ["$.work_type"]),
        ({}, "bad_request", ["work_type"]),
        (
            {"work_type": "a", "priority": "urgent"},
            "bad_request",
            ["urgent", "critical, high, medium, low"],
        ),
        ({"work_type": "a", "prio": "high"}, "bad_request", ["prio", "priority"]),
        ({"work_type": "a", "lease_s": -1}, "bad_request", ["$.lease_s"]),
        ({"work_type": "a", "payload": object()}, "bad_request", ["object", "JSON"]),
        ({"work_type": "a", "payload": "\ud800"}, "bad_request", ["JSON"]),
        ({"work_type": "a", "dependencies": ["0-1"]}, "unsupported", ["dependencies"]),
        ({"work_type": "a", "payload": "x" * LIMIT}, "too_large", [str(LIMIT), "max_payload"]),
        (["work_type", "a"], "bad_request", ["NewItem or a mapping", "list"]),
        (NewItem("a", priority="urgent"), "bad_request", ["critical, high"]),  # type: ignore[arg-type]
    ],
)
def test_a_bad_item_is_refused_with_what_is_allowed(
    description: Any, code: str, parts: list[str]
) -> None:
    refusal = refusal_of(description)
    assert refusal.code == code
    assert not refusal.retry
    for part in parts:
        assert part in refusal.message


def test_a_payload_that_contains_itself_is_refused() -> None:
    payload: list[Any] = []
    payload.append(payload)
    with pytest.raises(Refusal, match="the payload cannot be written as JSON"):
        to_json("the payload", payload)


def test_a_mapping_and_a_new_item_encode_alike() -> None:
    item = NewItem("feature", "x", priority="high", payload=Raw(b'{"n":[1,2]}'))
    mapping = {
        "work_type": "feature",
        "description": "x",
        "priority": "high",
        "payload": {"n": [1, 2]},
    }
    assert encode_item(item, LIMIT) == encode_item(mapping, LIMIT)
    assert encode_item(item, LIMIT)[0] == "feature"


def test_an_item_of_exactly_the_limit_is_accepted() -> None:
    _, encoded = encode_item({"work_type": "a", "payload": "x" * 100}, LIMIT)
    size = len(memoryview(encoded))
    encode_item({"work_type": "a", "payload": "x" * 100}, size)
    assert refusal_of({"work_type": "a", "payload": "x" * 101}, size).code == "too_large"


@given(
    sizes=st.lists(st.integers(0, 60), max_size=40),
    count_max=st.integers(1, 7),
    bytes_max=st.integers(400, 900),
)
def test_batches_keep_order_and_limits(sizes: list[int], count_max: int, bytes_max: int) -> None:
    items = [
        {"work_type": "ab"[size % 2], "payload": "x" * size} if size % 7 else {"work_type": "?"}
        for size in sizes
    ]
    refused: dict[int, Refusal] = {}
    cut = list(
        batches(
            items, count_max=count_max, bytes_max=bytes_max, item_bytes_max=150, refused=refused
        )
    )
    sent = [position for batch in cut for position in batch.positions]
    assert sent == [position for position in range(len(items)) if position not in refused]
    assert list(refused) == [position for position, size in enumerate(sizes) if not size % 7]
    for batch in cut:
        assert 1 <= len(batch.items) <= count_max
        body = msgspec.json.encode(Submit(batch.items, "0" * 36, 99_999))
        assert len(body) <= bytes_max
        assert len(body) <= batch.size <= len(body) + SUBMIT_BYTES
        types = {msgspec.json.decode(item)["work_type"]: None for item in batch.items}
        assert list(batch.work_types) == list(types)


def test_two_batches_are_cut_only_when_one_is_full() -> None:
    items = [{"work_type": "a"}] * 5
    cut = batches(items, count_max=2, bytes_max=10_000, item_bytes_max=1000, refused={})
    assert [len(batch.items) for batch in cut] == [2, 2, 1]


@pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan")])
def test_an_impossible_percentage_is_refused(percent: float) -> None:
    with pytest.raises(Refusal, match="allowed: 0 to 100"):
        check_percent(percent)
    assert check_percent(0) == 0.0
    assert check_percent(100) == 100.0


def test_a_claimed_item_decodes_its_payload() -> None:
    raw = Raw(b'{"work_type":"a","payload":{"n":1}}')
    claimed = ClaimedItem.of(Assignment("0-1", "1.n.s", 2, 30.0, raw))
    assert claimed.payload == {"n": 1}
    assert claimed.item.work_type == "a"
    assert (claimed.attempt, claimed.item_bytes) == (2, len(memoryview(raw)))
    assert ClaimedItem.of(Assignment("0-1", "t", 1, 1.0, Raw(b'{"work_type":"a"}'))).payload is None
