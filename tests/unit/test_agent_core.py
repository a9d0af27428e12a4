"""What an agent decides, step by step."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from swarm.core.agent import SILENT_HEARTBEATS, AgentCore
from swarm.core.handling import AgentRules, Cancel, Done, Failed, Reattach, Refused, Start, Stopped
from swarm.core.held import TEXT_BYTES_MAX
from swarm.core.outbox import RESEND_S
from swarm.core.texts import cut_text, text_bytes
from swarm.messages import (
    Ack,
    Assignment,
    Attached,
    Complete,
    Control,
    ErrorBody,
    Fail,
    ItemCommand,
    Next,
    Progress,
    Release,
    Work,
)

NOW = 100.0
HEARTBEAT_S = 5.0
DONE = Done(Raw(b"1"))


def make(concurrency: int = 2, **limits: int) -> AgentCore:
    """An attached agent that has told its slots."""
    limits = {"item_bytes_max": 1000, "message_bytes_max": 5000, **limits}
    rules = AgentRules(work_types=("feature",), concurrency=concurrency, **limits)
    numbers = itertools.count(1)
    core = AgentCore(rules, lambda: f"id-{next(numbers)}")
    core.on_attached(Attached("s1", "c1", 30.0, HEARTBEAT_S), NOW)
    assert [message.slots for message in core.flush(NOW)] == [concurrency]
    return core


def given(number: int = 1, token: str = "1.n.s1", size: int = 30) -> Assignment:
    return Assignment(f"0-{number}", token, 1, 30.0, Raw(b"x" * size))


def assign(core: AgentCore, *items: Assignment, now: float = NOW) -> list[Any]:
    effects = core.on_work(Work(list(items)), now)
    core.validate()
    return effects


def answer(core: AgentCore, command: ItemCommand, code: str = "", retry: bool = False) -> list[Any]:
    error = ErrorBody(code, "scripted", retry) if code else None
    effects = core.on_work(
        Work(acks=[Ack(command.command_id, command.work_item_id, error=error)]), NOW
    )
    core.validate()
    return effects


def said(core: AgentCore, now: float = NOW) -> list[ItemCommand]:
    return [command for message in core.flush(now) for command in message.done]


def only(messages: list[Next]) -> Next:
    (message,) = messages
    return message


# --- assignments ---------------------------------------------------------------------


def test_an_assignment_starts_once_however_often_it_comes() -> None:
    core = make()
    assert assign(core, given()) == [Start(given())]
    assert assign(core, given(), given()) == []
    assert core.received == 3
    core.ended("0-1", "1.n.s1", DONE, NOW)
    assert assign(core, given()) == []
    (complete,) = said(core)
    answer(core, complete)
    # Long finished, and a copy comes late.
    assert assign(core, given()) == []
    assert core.idle


def test_a_new_claim_of_the_same_item_is_another_assignment() -> None:
    core = make()
    assign(core, given(token="1.n.s1"))
    assert assign(core, given(token="2.n.s1")) == [Start(given(token="2.n.s1"))]


def test_taking_what_was_promised_needs_no_message() -> None:
    core = make()
    assign(core, given(1))
    assert core.flush(NOW) == []
    assign(core, given(2))
    assert core.flush(NOW) == []
    assert core.slots() == 0


def test_a_copy_used_up_a_slot_in_the_coordinators_eyes() -> None:
    core = make()
    assign(core, given(1), given(1))
    message = only(core.flush(NOW))
    assert (message.slots, message.received, message.done) == (1, 2, [])


def test_more_than_fits_is_handed_back_at_once() -> None:
    core = make(concurrency=1)
    effects = assign(core, given(1), given(2))
    assert effects == [Start(given(1))]
    message = only(core.flush(NOW))
    (release,) = message.done
    assert isinstance(release, Release)
    assert (release.work_item_id, release.reason) == ("0-2", "no free slot")
    assert (message.slots, message.received) == (0, 2)
    # Until that is acknowledged the item is held, and listed.
    assert ("0-2", "1.n.s1") in core.heartbeat().held
    answer(core, release)
    assert core.heartbeat().held == [("0-1", "1.n.s1")]


def test_unacknowledged_items_are_taken_only_up_to_a_limit() -> None:
    core = make(concurrency=2)
    for number in range(1, core.rules.held_max + 1):
        assert core.slots() > 0
        assign(core, given(number))
        core.ended(f"0-{number}", "1.n.s1", DONE, NOW)
        core.flush(NOW)
    assert core.slots() == 0
    (first, *_) = core.outbox
    answer(core, first)
    assert only(core.flush(NOW)).slots == 1


# --- outcomes ------------------------------------------------------------------------


def test_outcome_and_free_slot_are_one_message() -> None:
    core = make(concurrency=2)
    assign(core, given(1), given(2))
    core.ended("0-1", "1.n.s1", Done(Raw(b'{"a":1}')), NOW)
    core.ended("0-2", "1.n.s1", Failed("ValueError: no"), NOW)
    message = only(core.flush(NOW))
    complete, fail = message.done
    assert isinstance(complete, Complete)
    assert (complete.token, bytes(complete.result)) == ("1.n.s1", b'{"a":1}')
    assert isinstance(fail, Fail)
    assert fail.error == "ValueError: no"
    assert (message.slots, message.received) == (2, 2)
    assert core.flush(NOW) == []


def test_an_outcome_is_repeated_until_it_is_answered() -> None:
    core = make()
    assign(core, given())
    core.ended("0-1", "1.n.s1", DONE, NOW)
    (first,) = said(core)
    assert first.retry == 0
    assert core.outbox.next_due == NOW + RESEND_S
    core.tick(NOW + RESEND_S - 0.01)
    assert said(core, NOW + RESEND_S - 0.01) == []
    core.tick(NOW + RESEND_S)
    (second,) = said(core, NOW + RESEND_S)
    assert (second.command_id, second.retry) == (first.command_id, 1)
    assert core.heartbeat().held == [("0-1", "1.n.s1")]
    answer(core, second)
    core.tick(NOW + 10 * RESEND_S)
    assert said(core, NOW + 10 * RESEND_S) == []
    assert core.heartbeat().held == []
    # A copy of the answer, and one to nobody's command.
    answer(core, second)
    answer(core, Complete("id-99", "0-9", "t"))


def test_what_is_answered_just_before_it_would_be_repeated_is_not() -> None:
    core = make()
    assign(core, given())
    core.ended("0-1", "1.n.s1", DONE, NOW)
    (complete,) = said(core)
    core.tick(NOW + RESEND_S)
    answer(core, complete)
    assert said(core, NOW + RESEND_S) == []


def test_answers_may_come_in_any_order() -> None:
    core = make(concurrency=3)
    assign(core, *map(given, (1, 2, 3)))
    for number in (1, 2, 3):
        core.ended(f"0-{number}", "1.n.s1", DONE, NOW)
    first, second, third = said(core)
    answer(core, third)
    answer(core, first)
    assert core.heartbeat().held == [("0-2", "1.n.s1")]
    answer(core, second)
    assert core.idle


def test_a_refusal_that_may_pass_leaves_the_outcome_under_way() -> None:
    core = make()
    assign(core, given())
    core.ended("0-1", "1.n.s1", DONE, NOW)
    (complete,) = said(core)
    assert answer(core, complete, "overloaded", retry=True) == []
    core.tick(NOW + RESEND_S)
    assert said(core, NOW + RESEND_S) == [complete]


@pytest.mark.parametrize(
    "code", ["stale_token", "not_holder", "not_claimed", "already_finished", "unknown_item"]
)
def test_a_lost_claim_ends_the_outcome(code: str) -> None:
    core = make()
    assign(core, given())
    core.ended("0-1", "1.n.s1", DONE, NOW)
    (complete,) = said(core)
    assert answer(core, complete, code) == [Refused(complete, ErrorBody(code, "scripted"))]
    assert core.idle
    assert core.heartbeat().held == []


def test_a_refused_result_becomes_a_failure_and_then_a_bare_one() -> None:
    core = make()
    assign(core, given())
    core.ended("0-1", "1.n.s1", DONE, NOW)
    (complete,) = said(core)
    answer(core, complete, "too_large")
    (fail,) = said(core)
    assert isinstance(fail, Fail)
    assert fail.error == "the result was refused: too_large: scripted"
    assert fail.command_id != complete.command_id
    answer(core, fail, "too_large")
    (bare,) = said(core)
    assert isinstance(bare, Fail)
    assert bare.error == ""
    answer(core, bare, "bad_request")
    assert core.idle


def test_a_refused_handing_back_is_repeated_without_its_reason() -> None:
    core = make(concurrency=1)
    assign(core, given(1), given(2))
    (release,) = said(core)
    answer(core, release, "too_large")
    (bare,) = said(core)
    assert isinstance(bare, Release)
    assert bare.reason == ""


def test_a_result_too_large_fails_the_item_and_names_the_sizes() -> None:
    core = make(item_bytes_max=1000)
    assign(core, given(1, size=400), given(2, size=400))
    core.ended("0-1", "1.n.s1", Done(Raw(b"x" * 600)), NOW)
    core.ended("0-2", "1.n.s1", Done(Raw(b"x" * 601)), NOW)
    fits, too_large = said(core)
    assert isinstance(fits, Complete)
    assert isinstance(too_large, Fail)
    for part in ("601", "400", "1000", "max_payload"):
        assert part in too_large.error


def test_a_note_counts_as_part_of_the_item() -> None:
    core = make(item_bytes_max=1000)
    assign(core, given(size=400))
    core.progress("0-1", "1.n.s1", 5, "n" * 10, NOW)
    core.ended("0-1", "1.n.s1", Done(Raw(b"x" * 600)), NOW)
    assert [type(command) for command in said(core)] == [Progress, Fail]


def test_a_failure_message_is_cut_to_what_the_item_may_have() -> None:
    core = make(item_bytes_max=100_000, message_bytes_max=200_000, concurrency=3)
    assign(core, given(1), given(2, size=99_990), given(3, size=100_000))
    for number in (1, 2, 3):
        core.ended(f"0-{number}", "1.n.s1", Failed("e" * 50_000), NOW)
    lengths = [text_bytes(f.error) for f in said(core) if isinstance(f, Fail)]
    assert lengths == [TEXT_BYTES_MAX, 10, 0]


def test_outcomes_are_split_into_messages_that_fit() -> None:
    core = make(concurrency=8, message_bytes_max=3000)
    assign(core, *map(given, range(1, 9)))
    for number in range(1, 9):
        core.ended(f"0-{number}", "1.n.s1", Done(Raw(b'"' + b"x" * 700 + b'"')), NOW)
    messages = core.flush(NOW)
    assert len(messages) > 2
    assert [command.work_item_id for message in messages for command in message.done] == [
        f"0-{number}" for number in range(1, 9)
    ]
    assert all(len(msgspec.json.encode(message)) <= 3000 for message in messages)
    numbers = [message.number for message in messages]
    assert numbers == sorted(set(numbers))


# --- progress ------------------------------------------------------------------------


def test_of_reports_in_quick_succession_the_newest_follows_the_first() -> None:
    core = make()
    assign(core, given())
    for percent in (10, 20, 30):
        core.progress("0-1", "1.n.s1", percent, f"at {percent}", NOW)
    (first,) = said(core)
    assert isinstance(first, Progress)
    assert first.percent == 10
    answer(core, first)
    (second,) = said(core)
    assert isinstance(second, Progress)
    assert (second.percent, second.note) == (30, "at 30")
    answer(core, second)
    assert said(core) == []


def test_the_newest_report_goes_along_with_the_outcome_and_is_not_repeated() -> None:
    core = make()
    assign(core, given())
    core.progress("0-1", "1.n.s1", 10, "", NOW)
    said(core)
    core.progress("0-1", "1.n.s1", 90, "nearly", NOW)
    core.ended("0-1", "1.n.s1", DONE, NOW)
    core.validate()
    report, complete = said(core)
    assert isinstance(report, Progress)
    assert report.percent == 90
    assert isinstance(complete, Complete)
    core.tick(NOW + RESEND_S)
    assert said(core, NOW + RESEND_S) == [complete]


def test_a_report_on_a_lost_claim_stops_the_handler() -> None:
    core = make()
    assign(core, given())
    core.progress("0-1", "1.n.s1", 10, "", NOW)
    (report,) = said(core)
    refused, cancel = answer(core, report, "stale_token")
    assert isinstance(refused, Refused)
    assert cancel == Cancel("0-1", "1.n.s1", "scripted")
    core.ended("0-1", "1.n.s1", Stopped(), NOW)
    assert core.idle
    assert said(core) == []


def test_a_refused_report_is_not_repeated_but_the_next_one_is_sent() -> None:
    core = make()
    assign(core, given())
    core.progress("0-1", "1.n.s1", 10, "", NOW)
    (report,) = said(core)
    core.progress("0-1", "1.n.s1", 20, "", NOW)
    (refused,) = answer(core, report, "too_large")
    assert isinstance(refused, Refused)
    (following,) = said(core)
    assert isinstance(following, Progress)
    assert following.percent == 20


def test_a_report_of_an_ended_handler_is_nothing() -> None:
    core = make()
    assign(core, given())
    core.ended("0-1", "1.n.s1", DONE, NOW)
    core.progress("0-1", "1.n.s1", 10, "", NOW)
    assert [type(command) for command in said(core)] == [Complete]


# --- control -------------------------------------------------------------------------


def stop(core: AgentCore, token: str = "1.n.s1") -> list[Any]:
    effects = core.on_control(Control("stop", "0-1", token, "lapsed"), NOW)
    core.validate()
    return effects


def test_a_stopped_item_is_neither_listed_nor_spoken_of_again() -> None:
    core = make(concurrency=1)
    assign(core, given())
    core.progress("0-1", "1.n.s1", 10, "", NOW)
    assert stop(core) == [Cancel("0-1", "1.n.s1", "lapsed")]
    assert core.heartbeat().held == []
    # Its handler still has to end: the slot is not free before.
    assert core.slots() == 0
    assert stop(core) == []
    core.ended("0-1", "1.n.s1", DONE, NOW)
    assert core.slots() == 1
    assert [type(command) for command in said(core)] == [Progress]
    assert core.idle
    assert assign(core, given()) == []


def test_a_copy_of_what_is_stopping_is_not_run_however_much_ended_meanwhile() -> None:
    core = make(concurrency=2)
    assign(core, given(1))
    stop(core)
    for number in range(2, 400):
        assign(core, given(number))
        core.ended(f"0-{number}", "1.n.s1", DONE, NOW)
        for command in said(core):
            answer(core, command)
    assert assign(core, given(1)) == []


def test_a_stop_for_another_claim_or_an_unknown_item_is_nothing() -> None:
    core = make()
    assert stop(core) == []
    assign(core, given())
    assert stop(core, token="2.n.s1") == []
    assert core.heartbeat().held == [("0-1", "1.n.s1")]


def test_a_stop_after_the_outcome_was_decided_is_left_to_its_answer() -> None:
    core = make()
    assign(core, given())
    core.ended("0-1", "1.n.s1", DONE, NOW)
    assert stop(core) == []
    assert [type(command) for command in said(core)] == [Complete]


def test_superseded_takes_no_more_and_finishes_what_it_holds() -> None:
    core = make()
    assign(core, given(1))
    assert core.on_control(Control("superseded", reason="taken over"), NOW) == []
    assert only(core.flush(NOW)).slots == 0
    assert assign(core, given(2)) == []
    (release,) = said(core)
    assert isinstance(release, Release)
    core.ended("0-1", "1.n.s1", DONE, NOW)
    (complete,) = said(core)
    answer(core, release)
    answer(core, complete)
    assert core.idle
    assert core.superseded == "taken over"


def test_superseded_and_without_coordinator_it_speaks_to_the_owners() -> None:
    core = make()
    assign(core, given())
    core.supersede("taken over")
    assert core.direct(NOW) == []
    assert core.lost_coordinator("gone") == []
    core.ended("0-1", "1.n.s1", DONE, NOW)
    assert core.flush(NOW) == []
    (complete,) = core.direct(NOW)
    assert isinstance(complete, Complete)
    answer(core, complete)
    assert core.idle


# --- the session ---------------------------------------------------------------------


def test_after_attaching_again_everything_is_said_again() -> None:
    core = make()
    assign(core, given(1), given(2))
    core.ended("0-1", "1.n.s1", DONE, NOW)
    (complete,) = said(core)
    assert core.lost_coordinator("gone") == [Reattach("gone")]
    assert core.lost_coordinator("gone") == []
    core.ended("0-2", "1.n.s1", DONE, NOW)
    assert core.flush(NOW) == []
    assert core.direct(NOW) == []
    # Heartbeats go on meanwhile.
    assert len(core.heartbeat().held) == 2
    core.on_attached(Attached("s1", "c2", 30.0, HEARTBEAT_S), NOW)
    message = only(core.flush(NOW))
    assert [command.work_item_id for command in message.done] == ["0-2", "0-1"]
    assert complete.retry == 1
    assert (message.slots, message.received) == (2, 2)
    assert core.heartbeat().coordinator == "c2"


def test_a_new_session_counts_its_assignments_anew() -> None:
    core = make()
    assign(core, given(1))
    core.lost_coordinator("gone")
    core.on_attached(Attached("s2", "c2", 30.0, HEARTBEAT_S), NOW)
    message = only(core.flush(NOW))
    assert (message.session, message.received, message.slots) == ("s2", 0, 1)
    assert core.heartbeat().held == [("0-1", "1.n.s1")]


def test_reattach_is_asked_for_by_control_and_by_unknown_session() -> None:
    core = make()
    (effect,) = core.on_control(Control("reattach", reason="c1 is not alive"), NOW)
    assert effect == Reattach("c1 is not alive")
    core = make()
    assign(core, given())
    core.ended("0-1", "1.n.s1", DONE, NOW)
    (complete,) = said(core)
    (effect,) = answer(core, complete, "unknown_session")
    assert isinstance(effect, Reattach)
    assert not core.idle


def test_a_silent_coordinator_is_left_only_while_an_answer_is_awaited() -> None:
    core = make()
    late = NOW + 100 * HEARTBEAT_S
    assert core.tick(late) == []
    assign(core, given(), now=NOW)
    core.ended("0-1", "1.n.s1", DONE, late)
    core.flush(late)
    silence_s = SILENT_HEARTBEATS * HEARTBEAT_S
    assert core.tick(late + silence_s) == []
    (effect,) = core.tick(late + silence_s + 0.1)
    assert isinstance(effect, Reattach)
    assert "c1 has not answered" in effect.reason


def test_anything_heard_breaks_the_silence() -> None:
    core = make()
    assign(core, given())
    core.ended("0-1", "1.n.s1", DONE, NOW)
    core.flush(NOW)
    silence_s = SILENT_HEARTBEATS * HEARTBEAT_S
    core.on_work(Work(), NOW + silence_s)
    assert core.tick(NOW + 2 * silence_s) == []
    assert core.tick(NOW + 2 * silence_s + 0.1)


def test_every_statement_of_slots_has_a_higher_number() -> None:
    core = make()
    numbers = [core.heartbeat().number]
    assign(core, given())
    core.ended("0-1", "1.n.s1", DONE, NOW)
    numbers.append(only(core.flush(NOW)).number)
    numbers.append(core.heartbeat(leaving=True).number)
    assert numbers == sorted(set(numbers))


def test_a_heartbeat_states_the_slots_so_no_message_is_needed() -> None:
    core = make()
    assign(core, given(1), given(1))
    heartbeat = core.heartbeat()
    assert (heartbeat.slots, heartbeat.received) == (1, 2)
    assert core.flush(NOW) == []


# --- leaving -------------------------------------------------------------------------


def test_a_draining_agent_says_so_and_finishes() -> None:
    core = make()
    assign(core, given(1))
    core.drain()
    assert only(core.flush(NOW)).slots == 0
    assert assign(core, given(2)) == []
    (release,) = said(core)
    assert isinstance(release, Release)
    assert release.reason == "the agent is leaving"
    core.ended("0-1", "1.n.s1", DONE, NOW)
    (complete,) = said(core)
    answer(core, release)
    assert not core.idle
    answer(core, complete)
    assert core.idle


def test_handing_back_releases_what_stops_and_completes_what_finished() -> None:
    core = make(concurrency=3)
    assign(core, given(1), given(2), given(3))
    core.on_control(Control("stop", "0-3", "1.n.s1"), NOW)
    core.drain()
    assert core.hand_back("its agent is stopping") == [
        Cancel("0-1", "1.n.s1", "its agent is stopping", "leaving"),
        Cancel("0-2", "1.n.s1", "its agent is stopping", "leaving"),
    ]
    assert core.hand_back("its agent is stopping") == []
    core.ended("0-1", "1.n.s1", Stopped(), NOW)
    core.ended("0-2", "1.n.s1", DONE, NOW)
    core.ended("0-3", "1.n.s1", Stopped(), NOW)
    release, complete = said(core)
    assert isinstance(release, Release)
    assert release.reason == "its agent is stopping"
    assert isinstance(complete, Complete)


# --- texts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bytes_max", "cut"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "…"),
        ("abcde", 4, "a…"),
        ("äöü", 6, "äöü"),
        ("äöüß", 6, "ä…"),
        ("abcd", 2, ""),
        ("abcd", -5, ""),
        ("a\ud800b", 10, "a?b"),
    ],
)
def test_texts_are_cut_between_characters(text: str, bytes_max: int, cut: str) -> None:
    assert cut_text(text, bytes_max) == cut
    assert text_bytes(cut) <= max(0, bytes_max)
