"""What may enter a log: JSON that everybody can read for ever after."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from swarm.core.checks import NESTING_MAX, check_json, stored_bytes
from swarm.core.envelope import FORMAT, decode_entry, encode_entry
from swarm.messages import Completed, LogEntry, Submitted
from tests.builders import refusal_of


def nested(levels: int, core: str = "1") -> str:
    """Arrays and objects in turn, so many within each other, around `core`."""
    opening = "".join('{"k":' if level % 2 else "[" for level in range(levels))
    closing = "".join("}" if level % 2 else "]" for level in reversed(range(levels)))
    return opening + core + closing


def depth(value: Any) -> int:
    """How deep a decoded value is nested, by recursion."""
    if isinstance(value, list):
        return 1 + max((depth(inner) for inner in value), default=0)
    if isinstance(value, dict):
        return 1 + max((depth(inner) for inner in value.values()), default=0)
    return 0


@pytest.mark.parametrize(
    "core", ["1", '"]}]}"', '"\\\\"', '"\\""', '"[[[\\"[["', "[]", "[[],{},[[]]]", '{"]":"["}']
)
def test_nesting_is_counted_exactly_whatever_the_texts_hold(core: str) -> None:
    inner = depth(json.loads(core))
    check_json(Raw(nested(NESTING_MAX - inner, core).encode()), "it")
    deep = Raw(nested(NESTING_MAX - inner + 1, core).encode())
    refusal = refusal_of(lambda: check_json(deep, "the result"))
    assert refusal.code == "bad_request"
    assert "the result is nested too deep" in refusal.message
    assert str(NESTING_MAX) in refusal.message


@pytest.mark.parametrize(
    ("text", "deep"),
    [
        ("[" * 450, True),
        ("]" * 250, False),
        ("[{" * 250, True),
        ('"[' * 300, True),
        ("[]" * 300, False),
    ],
)
def test_what_is_no_json_at_all_is_no_trouble(text: str, deep: bool) -> None:
    raw = Raw(text.encode())
    if deep:
        assert refusal_of(lambda: check_json(raw, "it")).code == "bad_request"
    else:
        check_json(raw, "it")


def test_many_shallow_ones_are_not_deep() -> None:
    wide = json.dumps([{"text": 'a "quoted" [ { \\', "list": [1, [2]]}] * 5000)
    check_json(Raw(wide.encode()), "it")


def test_an_attack_on_the_check_is_answered_quickly() -> None:
    """Work is bounded: each kind of deep text is found without 200 passes over it."""
    for text in (b"[" * 500_000, b"[[]" * 300_000, b'{"a":' * 200_000):
        assert refusal_of(partial(check_json, text, "it")).code == "bad_request"


@pytest.mark.parametrize("raw", [b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"a\x80"'])
def test_what_is_no_utf8_is_refused_with_its_place(raw: bytes) -> None:
    refusal = refusal_of(lambda: check_json(Raw(raw), "the work item"))
    assert refusal.code == "bad_request"
    assert "the work item is not valid UTF-8" in refusal.message
    assert "at byte" in refusal.message


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


@given(TREES, st.booleans())
def test_whatever_json_says_passes_and_is_measured_as_stored(tree: Any, ascii_only: bool) -> None:
    text = json.dumps(tree, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    check_json(text, "it")
    assert stored_bytes(Raw(text)) == len(text)


@given(st.text())
def test_texts_are_measured_as_json_without_their_quotes(text: str) -> None:
    assert stored_bytes(text) == len(msgspec.json.encode(text)) - 2


def test_the_deepest_that_passes_is_read_within_a_log_entry_far_down_the_stack() -> None:
    """The reason for the limit: an entry that was written must be readable, always."""
    raw = Raw(nested(NESTING_MAX - 1).encode())
    item = Raw(b'{"work_type":"t","payload":' + bytes(raw) + b"}")
    check_json(item, "it")
    entry = LogEntry(
        FORMAT, "i1", 1, "n1", 1, 1, 1, 0.0,
        [Submitted("", 1, [item]), Completed(1, 1, "", raw)],
    )  # fmt: skip
    data = encode_entry(entry)

    def down(frames: int) -> LogEntry | None:
        return down(frames - 1) if frames else decode_entry("log", 2, data)

    assert down(500) is not None
