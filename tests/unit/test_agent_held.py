"""What an agent says of an item besides its result: checkpoints, retries, waits; and sizes."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from swarm.core.agent import AgentCore
from swarm.core.checks import stored_bytes
from swarm.core.handling import Cancel, Done, Failed, Kept, Refused, Stopped, Waiting
from swarm.core.held import TEXT_BYTES_MAX, fit_text
from swarm.core.outbox import RESEND_S
from swarm.messages import (
    NULL,
    Assignment,
    Complete,
    Control,
    Dependency,
    ErrorBody,
    Fail,
    Progress,
    Release,
    Wait,
)
from tests.unit.test_agent_core import NOW, answer, assign, given, make, said

KEY = ("0-1", "1.n.s1")
PAGE_3 = Raw(b'{"page":3}')
PAGE_4 = Raw(b'{"page":4}')


def running(**limits: int) -> AgentCore:
    """A core that runs one item."""
    core = make(**limits)
    assign(core, given())
    return core


def leave(core: AgentCore, number: int, checkpoint: Raw) -> None:
    core.checkpoint(*KEY, number, checkpoint, NOW)
    core.validate()


def only(core: AgentCore, kind: Any, now: float = NOW) -> Any:
    """The one command that is said now."""
    (command,) = said(core, now)
    assert isinstance(command, kind)
    return command


# --- checkpoints -----------------------------------------------------------------------


def test_a_checkpoint_travels_with_the_latest_report_and_is_told_once_durable() -> None:
    core = running()
    core.progress(*KEY, 40, "reading", NOW)
    answer(core, only(core, Progress))
    leave(core, 1, PAGE_3)
    report = only(core, Progress)
    assert (report.percent, report.note, report.checkpoint) == (40, "reading", PAGE_3)
    assert answer(core, report) == [Kept(*KEY, 1)]
    # It is there: no need to say it again.
    core.progress(*KEY, 50, "", NOW)
    assert only(core, Progress).checkpoint == NULL


def test_of_checkpoints_in_quick_succession_the_newest_stands_for_all() -> None:
    core = running()
    leave(core, 1, PAGE_3)
    first = only(core, Progress)
    leave(core, 2, PAGE_3)
    core.progress(*KEY, 60, "", NOW)
    leave(core, 3, PAGE_4)
    assert said(core) == []
    assert answer(core, first) == [Kept(*KEY, 1)]
    second = only(core, Progress)
    assert (second.checkpoint, second.percent) == (PAGE_4, 60)
    assert answer(core, second) == [Kept(*KEY, 3)]


def test_a_report_under_way_is_repeated_with_its_checkpoint() -> None:
    core = running()
    leave(core, 1, PAGE_3)
    report = only(core, Progress)
    core.tick(NOW + RESEND_S)
    again = only(core, Progress, NOW + RESEND_S)
    assert (again.command_id, again.checkpoint, again.retry) == (report.command_id, PAGE_3, 1)


def test_a_refused_checkpoint_is_told_and_not_said_again() -> None:
    core = running()
    leave(core, 1, PAGE_3)
    report = only(core, Progress)
    error = ErrorBody("too_large", "scripted")
    assert answer(core, report, "too_large") == [Refused(report, error), Kept(*KEY, 1, error)]
    core.ended(*KEY, Stopped(), NOW)
    assert only(core, Release).checkpoint == NULL


def test_the_newest_checkpoint_goes_along_with_the_handing_back() -> None:
    core = running()
    leave(core, 1, PAGE_3)
    said(core)
    assert core.hand_back("leaving") == [Cancel(*KEY, "leaving", "leaving")]
    leave(core, 2, PAGE_4)
    core.ended(*KEY, Stopped(), NOW)
    report, release = said(core)
    assert isinstance(report, Progress)
    assert isinstance(release, Release)
    assert (release.reason, release.checkpoint) == ("leaving", PAGE_4)


def test_a_durable_checkpoint_is_not_said_again_when_handing_back() -> None:
    core = running()
    leave(core, 1, PAGE_3)
    answer(core, only(core, Progress))
    core.ended(*KEY, Stopped(), NOW)
    assert only(core, Release).checkpoint == NULL


def test_a_failure_says_an_unacknowledged_checkpoint_once_more() -> None:
    core = running()
    leave(core, 1, PAGE_3)
    said(core)  # and is lost
    core.ended(*KEY, Failed("no"), NOW)
    report, fail = said(core)
    assert isinstance(report, Progress)
    assert report.checkpoint == PAGE_3
    assert isinstance(fail, Fail)
    core.tick(NOW + RESEND_S)
    assert said(core, NOW + RESEND_S) == [fail]


def test_a_result_needs_no_checkpoint_beside_it() -> None:
    core = running()
    core.progress(*KEY, 10, "", NOW)
    said(core)
    leave(core, 1, PAGE_3)
    core.ended(*KEY, Done(Raw(b"1")), NOW)
    report, complete = said(core)
    assert isinstance(report, Progress)
    assert report.checkpoint == NULL
    assert isinstance(complete, Complete)


def test_what_an_ended_or_stopped_handler_leaves_is_nothing() -> None:
    core = running()
    core.on_control(Control("stop", *KEY, "lapsed"), NOW)
    leave(core, 1, PAGE_3)
    core.ended(*KEY, Stopped(), NOW)
    leave(core, 2, PAGE_4)
    assert said(core) == []


# --- failing, waiting --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "retry_after", "final"),
    [
        (Failed("no"), None, False),
        (Failed("no", retry_after_s=0.0), 0.0, False),
        (Failed("no", retry_after_s=90.0), 90.0, False),
        (Failed("no", final=True), None, True),
    ],
)
def test_a_failure_says_when_it_may_be_tried_again(
    failed: Failed, retry_after: float | None, final: bool
) -> None:
    core = running()
    core.ended(*KEY, failed, NOW)
    fail = only(core, Fail)
    assert (fail.error, fail.retry_after, fail.final) == ("no", retry_after, final)


def test_a_handler_that_waits_frees_its_slot_at_once() -> None:
    core = running(concurrency=1)
    leave(core, 1, PAGE_3)
    said(core)
    core.ended(*KEY, Waiting(Raw(b'"approval"'), 60.0, "resume"), NOW)
    (message,) = core.flush(NOW)
    (wait,) = message.done
    assert isinstance(wait, Wait)
    assert (wait.waits_for, wait.expires_s, wait.on_expiry) == (Raw(b'"approval"'), 60.0, "resume")
    assert wait.checkpoint == PAGE_3, "the newest one, as it may be lost"
    assert message.slots == 1
    answer(core, wait)
    assert core.idle


def test_a_wait_with_a_checkpoint_of_its_own() -> None:
    core = running()
    leave(core, 1, PAGE_3)
    core.ended(*KEY, Waiting(Raw(b"1"), checkpoint=PAGE_4), NOW)
    wait = said(core)[-1]
    assert isinstance(wait, Wait)
    assert wait.checkpoint == PAGE_4


def test_a_refused_wait_becomes_a_failure() -> None:
    core = running()
    core.ended(*KEY, Waiting(Raw(b"1")), NOW)
    answer(core, only(core, Wait), "bad_request")
    fail = only(core, Fail)
    assert fail.error == "what it was to wait for was refused: bad_request: scripted"


def test_a_refused_failure_keeps_only_that_it_is_final() -> None:
    core = running()
    core.ended(*KEY, Failed("no", final=True), NOW)
    answer(core, only(core, Fail), "too_large")
    bare = only(core, Fail)
    assert (bare.error, bare.final) == ("", True)
    answer(core, bare, "bad_request")
    assert core.idle


def test_a_refused_handing_back_is_repeated_without_its_checkpoint() -> None:
    core = running()
    leave(core, 1, PAGE_3)
    core.ended(*KEY, Stopped(), NOW)
    release = said(core)[-1]
    answer(core, release, "too_large")
    bare = only(core, Release)
    assert (bare.reason, bare.checkpoint) == ("", NULL)
    answer(core, bare, "bad_request")
    assert core.idle


# --- being asked to stop -------------------------------------------------------------------


def test_an_asked_handler_gets_its_grace_and_may_still_complete() -> None:
    core = running()
    ask = Control("cancel", *KEY, "not wanted", 10.0)
    assert core.on_control(ask, NOW) == [Cancel(*KEY, "not wanted", "asked", 10.0)]
    # Told again with each heartbeat: told once to the handler.
    assert core.on_control(ask, NOW) == []
    assert core.heartbeat().held == [KEY]
    core.ended(*KEY, Done(Raw(b"1")), NOW)
    assert only(core, Complete).result == Raw(b"1")


def test_an_asked_handler_that_stops_hands_back_with_the_reason() -> None:
    core = running()
    core.on_control(Control("cancel", *KEY, "not wanted", 10.0), NOW)
    core.ended(*KEY, Stopped(), NOW)
    assert only(core, Release).reason == "not wanted"


def test_after_its_grace_nothing_is_said_of_it() -> None:
    core = running()
    core.on_control(Control("cancel", *KEY, "not wanted", 10.0), NOW)
    stop = Control("stop", *KEY, "it was cancelled")
    assert core.on_control(stop, NOW) == [Cancel(*KEY, "it was cancelled", "lost")]
    core.ended(*KEY, Done(Raw(b"1")), NOW)
    assert said(core) == []
    assert core.idle


def test_a_cancel_for_what_does_not_run_is_nothing() -> None:
    core = running()
    assert core.on_control(Control("cancel", "0-1", "2.n.s1", "other claim"), NOW) == []
    core.ended(*KEY, Done(Raw(b"1")), NOW)
    assert core.on_control(Control("cancel", *KEY, "too late"), NOW) == []
    assert isinstance(only(core, Complete), Complete)


# --- sizes -----------------------------------------------------------------------------------


def resumed(size: int, **left: Any) -> Assignment:
    return Assignment(*KEY, 1, 30.0, Raw(b"x" * size), waits=1, **left)


def test_answer_and_results_of_dependencies_count_a_checkpoint_does_not() -> None:
    depends = {"0-9": Dependency("completed", Raw(b"7" * 100))}
    core = make(item_bytes_max=1000)
    item = resumed(400, checkpoint=Raw(b"7" * 300), answer=Raw(b"7" * 100), depends=depends)
    for result_bytes, kind in ((400, Complete), (401, Fail)):
        assign(core, item)
        core.ended(*KEY, Done(Raw(b"7" * result_bytes)), NOW)
        command = only(core, kind)
        answer(core, command)
        core = make(item_bytes_max=1000)


def test_a_result_that_adds_nothing_is_never_too_large() -> None:
    core = make(item_bytes_max=1000)
    assign(core, resumed(990, answer=Raw(b"7" * 100)))
    core.ended(*KEY, Done(NULL), NOW)
    assert only(core, Complete).result == NULL


def test_an_error_leaves_room_for_the_checkpoint() -> None:
    core = make(item_bytes_max=1000)
    assign(core, resumed(400, checkpoint=Raw(b"7" * 200)))
    leave(core, 1, Raw(b"7" * 350))
    answer(core, only(core, Progress))
    leave(core, 2, Raw(b"7" * 100))
    core.ended(*KEY, Failed("e" * 5000), NOW)
    fail = said(core)[-1]
    assert isinstance(fail, Fail)
    # 4 bytes are the answer null, and the largest checkpoint may be the one that is kept.
    assert len(fail.error.encode()) == 1000 - 400 - 4 - 350


@pytest.mark.parametrize(
    "text", ["", "plain", "line\n" * 40, "\x01" * 30, "ä" * 30, '"quoted"' * 9, "a\ud800b"]
)
@pytest.mark.parametrize("bytes_max", [-1, 0, 1, 5, 20, 100, 1000])
def test_texts_fit_as_they_are_stored(text: str, bytes_max: int) -> None:
    fitted = fit_text(text, bytes_max)
    assert stored_bytes(fitted) <= max(0, bytes_max)
    if stored_bytes(text.replace("\ud800", "?")) <= bytes_max:
        assert fitted == text.replace("\ud800", "?")


def test_long_texts_are_cut_anyhow() -> None:
    core = running(item_bytes_max=100_000, message_bytes_max=200_000)
    core.progress(*KEY, 1, "n" * 50_000, NOW)
    assert len(only(core, Progress).note.encode()) == TEXT_BYTES_MAX
