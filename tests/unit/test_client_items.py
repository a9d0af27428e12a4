"""Items on their way in: what is refused before anything is sent, and how batches are cut."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from swarm.errors import Refusal
from swarm.messages import Assignment, NewItem, Submit
from swarm.sdk.describing import read
from swarm.sdk.items import SUBMIT_BYTES, ClaimedItem, batches, check_percent, encode_item, to_json

LIMIT = 262_144
NOW = 1_700_000_000.0


def encode(description: Any, limit: int = LIMIT) -> tuple[NewItem, Raw]:
    """As the only item of a call."""
    return encode_item(read(description, 0, NOW).with_ids([]), limit)


def refusal_of(description: Any, limit: int = LIMIT) -> Refusal:
    with pytest.raises(Refusal) as caught:
        encode(description, limit)
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
        ({"work_type": "a", "dependencies": ["a-1"]}, "bad_request", ["dependencies", "3-17"]),
        ({"work_type": "a", "depends_on": "0-1"}, "bad_request", ["depends_on", "a list of ids"]),
        ({"work_type": "a", "depends_on": 5}, "bad_request", ["depends_on", "a list of ids"]),
        ({"work_type": "a", "depends_on": [7]}, "bad_request", ["item 7", "come earlier"]),
        ({"work_type": "a", "depends_on": [-1]}, "bad_request", ["item -1", "come earlier"]),
        ({"work_type": "a", "depends_on": [True]}, "bad_request", ["depends_on has True"]),
        ({"work_type": "a", "depends_on": ["x"]}, "bad_request", ["'x'", "3-17"]),
        ({"work_type": "a", "delay_s": -1}, "bad_request", ["delay_s", "0 or more"]),
        ({"work_type": "a", "delay_s": "1h"}, "bad_request", ["delay_s", "seconds"]),
        ({"work_type": "a", "delay_s": 1, "not_before": 5}, "bad_request", ["exclude each other"]),
        ({"work_type": "a", "deadline": datetime(2030, 1, 1)}, "bad_request", ["time zone"]),  # noqa: DTZ001
        ({"work_type": "a", "max_attempts": -1}, "bad_request", ["$.max_attempts"]),
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
    assert encode(item) == encode(mapping)
    assert encode(item)[0] == item


class Referred:
    work_item_id = "3-1"


def test_what_an_item_may_depend_on() -> None:
    described = read(
        {"work_type": "a", "dependencies": ["0-7"], "depends_on": ["0-9", Referred(), 2, 0, 2]},
        3,
        NOW,
    )
    assert described.earlier == (2, 0)
    fields = described.with_ids(["5-2", "5-0"])
    assert isinstance(fields, dict)
    assert fields["dependencies"] == ["0-7", "0-9", "3-1", "5-2", "5-0"]


def test_times_may_be_said_in_several_ways() -> None:
    later = datetime(2030, 1, 1, tzinfo=UTC)
    fields = read({"work_type": "a", "delay_s": 90, "deadline": later}, 0, NOW).with_ids([])
    assert fields == {"work_type": "a", "not_before": NOW + 90, "deadline": later.timestamp()}


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
            enumerate(items),
            count_max=count_max,
            bytes_max=bytes_max,
            item_bytes_max=150,
            refused=refused,
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
    cut = batches(enumerate(items), count_max=2, bytes_max=10_000, item_bytes_max=1000, refused={})
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
    assert (claimed.dependencies, claimed.waits, bytes(claimed.answer)) == ({}, 0, b"null")
    assert claimed.item.work_type == "a"
    assert (claimed.attempt, claimed.item_bytes) == (2, len(memoryview(raw)))
    assert ClaimedItem.of(Assignment("0-1", "t", 1, 1.0, Raw(b'{"work_type":"a"}'))).payload is None
