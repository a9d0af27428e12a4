"""Subjects: made and taken apart; what must not become one."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import BadInput
from swarm.messages import TOKEN_PATTERN, NewItem
from swarm.subjects import (
    ITEM_ID_LENGTH_MAX,
    MIXED,
    Subjects,
    check_token,
    item_id,
    parse_item_id,
    reply_allowed,
    sender_of,
    verb_of,
    work_type_of,
)

TOKENS = st.from_regex(TOKEN_PATTERN, fullmatch=True)

GOOD_TOKENS = ["a", "A9", "0", "feature", "a-b_c", "coordinator-1", "x" * 64]
BAD_TOKENS = [
    "", " ", "a b", "a.b", ".", "*", ">", "a*", "-a", "_a", "a\n", "a\r\n", "\na", "a\tb", "a\0",
    "é", "\uff41", "a\u200b", "a/b", "a:b", "$a", "x" * 65,
]  # fmt: skip


@pytest.mark.parametrize("token", GOOD_TOKENS)
def test_a_token_is_returned_as_it_is(token: str) -> None:
    assert check_token("agent id", token) == token


@pytest.mark.parametrize("token", BAD_TOKENS)
def test_what_is_no_token_is_refused_by_name(token: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_token("agent id", token)
    message = str(caught.value)
    assert message.startswith(f"agent id {token!r} cannot be used")
    assert "1 to 64 letters, digits" in message
    assert "\n" not in message


@pytest.mark.parametrize("token", GOOD_TOKENS + BAD_TOKENS)
def test_a_work_type_is_held_to_the_same_rule(token: str) -> None:
    raw = msgspec.json.encode({"work_type": token})
    if token in GOOD_TOKENS:
        assert msgspec.json.decode(raw, type=NewItem).work_type == token
    else:
        with pytest.raises(msgspec.ValidationError, match="work_type"):
            msgspec.json.decode(raw, type=NewItem)


def test_the_pattern_reads_the_same_in_other_languages() -> None:
    # What is special to Python (\A, \Z, possessive or named groups) has no place in a schema.
    assert not re.search(r"\\[AZz]|\(\?P|[*+?]\+", TOKEN_PATTERN)


def test_every_subject() -> None:
    s = Subjects("p")
    assert s.submit("bug", "me") == "p.submit.bug.me"
    assert s.submit(MIXED, "me") == "p.submit._.me"
    assert s.attach("a1") == "p.attach.a1"
    assert s.describe("me") == "p.describe.me"
    assert s.coordinator("c1", "next", "a1") == "p.coordinator.c1.next.a1"
    assert s.shard(3, "complete", "a1") == "p.shard.3.complete.a1"
    assert s.shard(3, "*", "*") == "p.shard.3.*.*"
    assert s.log(3) == "plog.3"
    assert s.agent_work("a1", "s1") == "p.agent.a1.s1.work"
    assert s.agent_control("a1", "s1") == "p.agent.a1.s1.control"
    assert s.heartbeat("a1") == "p.heartbeat.a1"
    assert s.beat("c1") == "p.beat.c1"
    assert s.attached("a1") == "p.attached.a1"
    assert s.gone("c1") == "p.gone.c1"
    assert Subjects().beat("c1") == "swarm.beat.c1"


def test_logs_are_outside_the_tree_of_requests() -> None:
    """So that no permission for requests lets anybody write into a log."""
    s = Subjects("p")
    assert not s.log(3).startswith("p.")
    assert MIXED not in GOOD_TOKENS
    with pytest.raises(BadInput):
        check_token("work type", MIXED)


@given(TOKENS, TOKENS, TOKENS, st.integers(0, 10**6))
def test_what_is_in_a_subject_is_found_in_it(one: str, two: str, sender: str, shard: int) -> None:
    s = Subjects(one)
    assert sender_of(s.submit(two, sender)) == sender
    assert work_type_of(s.submit(two, sender)) == two
    assert sender_of(s.shard(shard, "complete", sender)) == sender
    assert verb_of(s.shard(shard, "complete", sender)) == "complete"
    assert verb_of(s.coordinator(two, "next", sender)) == "next"
    assert sender_of(s.coordinator(two, "next", sender)) == sender
    assert sender_of(s.heartbeat(sender)) == sender
    assert sender_of(s.attach(sender)) == sender


# --- replies -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "allowed"),
    [
        ("_INBOX.me.x", True),
        ("_INBOX.me.x.1", True),
        ("", False),
        ("_INBOX.me", False),
        ("_INBOX.me.", False),
        ("_INBOX.you.x", False),
        ("_INBOX.me2.x", False),
        ("_INBOX.meme.x", False),
        ("_inbox.me.x", False),
        ("swarm._INBOX.me.x", False),
        ("swarmlog.3", False),
        ("swarm.shard.3.complete.me", False),
        ("$JS.API.STREAM.DELETE.x", False),
        ("_INBOX.me.*", False),
        ("_INBOX.me.>", False),
        ("_INBOX.me.x.>", False),
        ("_INBOX.>.me", False),
        (" _INBOX.me.x", False),
    ],
)
def test_only_an_inbox_of_the_sender_is_answered(reply: str, allowed: bool) -> None:
    assert reply_allowed(reply, "me") is allowed


@given(TOKENS, TOKENS)
def test_nobody_is_answered_at_anothers_inbox(one: str, two: str) -> None:
    assert reply_allowed(f"_INBOX.{one}.1", one)
    assert reply_allowed(f"_INBOX.{one}.1", two) == (one == two)


# --- item ids ------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 10**18))
def test_an_id_carries_its_shard_and_its_number(shard: int, number: int) -> None:
    assert parse_item_id(item_id(shard, number)) == (shard, number)


@pytest.mark.parametrize(
    "text",
    [
        "", "-", "3", "3-", "-1", "3-0", "3-01", "03-1", "00-1", "3-1-1", "3--1", "+3-1", "3-+1",
        "3 -1", "3- 1", "3-1 ", "3-1\n", "\n3-1", "3-1.0", "3-1e3", "3_1", "a-1", "3-a", "3-1_0",
        "\u0663-\u0661", "3-\u0661", "3-²", "1" * 20 + "-" + "1" * 10,
    ],
)  # fmt: skip
def test_what_is_no_id_is_refused_with_what_one_looks_like(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_item_id(text)
    assert repr(text) in str(caught.value)
    assert "3-17" in str(caught.value)


def test_an_endless_id_does_not_make_an_endless_message() -> None:
    with pytest.raises(BadInput) as caught:
        parse_item_id("3-" + "1" * 1_000_000)
    assert len(str(caught.value)) < 300
    assert parse_item_id("3-" + "1" * (ITEM_ID_LENGTH_MAX - 2))[0] == 3


@given(st.text(max_size=12))
def test_no_item_goes_by_two_names(text: str) -> None:
    try:
        shard, number = parse_item_id(text)
    except BadInput:
        return
    assert item_id(shard, number) == text
