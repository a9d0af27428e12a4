"""Every lie that a client could have been told is found, and nothing where there is none."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from swarm.testing.chaos.testimony import (
    Accepted,
    Acknowledged,
    Counted,
    Finished,
    Line,
    Seen,
    Taken,
    Unanswered,
    Unwanted,
    by_kind,
)
from swarm.testing.chaos.verdict import Verdict, judge
from swarm.testing.chaos.work import Task
from swarm.testing.fold import History, Hold, Life, Turn
from swarm.testing.history import Acks, Execution

ME = "client-1"
TOKEN = "1.o.s"


def new_item(number: int, client: str = ME) -> Raw:
    return Raw(msgspec.json.encode({"work_type": "chaos", "payload": Task(client, number, 1.0)}))


@pytest.fixture
def history() -> History:
    """Shard 0: 0-1 submitted at 10 (entry 1), claimed at 11 (2), completed at 13 (4)."""
    turns = [Turn(1, 10.0, "queued"), Turn(2, 11.0, "claimed"), Turn(4, 13.0, "completed")]
    hold = Hold(TOKEN, (2, 0), 11.0, "completed", (4, 0), 13.0, 13.0, told=True, after="completed")
    life = Life(10.0, [hold], "completed", turns, new_item(1))
    return History(
        {"0-1": life}, [], stamps={0: {seq: (9.0 + seq, 9.0 + seq) for seq in range(1, 5)}}
    )


def verdict(history: History, *lines: Line) -> Verdict:
    ran = [Execution("0-1", TOKEN, "s", 77, 11.5, 12.5)]
    acks = Acks({"0-1": 10.5}, {})
    found = judge(ran, acks, history, by_kind(lines))
    assert found.report.ok
    assert found.ok == (not found.findings)
    return found


def counts(found: Verdict) -> dict[str, int]:
    """The counts that are not 0."""
    fields = ("stale", "wrong", "doubled", "unbalanced", "wrong_results")
    return {name: getattr(found, name) for name in fields if getattr(found, name)}


TRUTHS: list[Line] = [
    Accepted(ME, 1, "0-1", 9.0, 10.1),
    Finished(ME, 1, "0-1", "completed", True, 13.1),
    # Asked between two entries, true as of the one that was made for it, or a later one.
    Seen("0-1", "queued", 1, 9.9, 10.1),
    Seen("0-1", "claimed", 2, 10.5, 11.1),
    Seen("0-1", "claimed", 3, 10.5, 12.5),
    Seen("0-1", "completed", 4, 10.5, 13.5),
    # Asked at the very stamp of an entry: that one need not be in the answer.
    Seen("0-1", "claimed", 2, 12.0, 12.1),
    Counted(0, 3, 0, 0, 11.5, 12.5),
    Taken("0-1", TOKEN, 10.5, 11.1),
    Acknowledged("0-1", TOKEN, "completed", 12.5, 13.1),
]


@pytest.mark.parametrize("line", TRUTHS, ids=str)
def test_the_truth_passes(history: History, line: Line) -> None:
    assert counts(verdict(history, line)) == {}


LIES: list[tuple[Line, str, str]] = [
    # A deposed owner answers from what it remembers.
    (Seen("0-1", "claimed", 2, 12.1, 12.2), "stale", "as of 2.* the log had 3"),
    (Counted(0, 1, 0, 0, 11.5, 11.6), "stale", "counts.* the log had 2"),
    # Not what the log says as of the entry that is named.
    (Seen("0-1", "queued", 2, 10.5, 11.1), "wrong", "queued as of 2; in the log: claimed"),
    (Seen("0-2", "queued", 2, 10.5, 11.1), "wrong", "0-2 .*in the log: in no log"),
    # Said before it was durable, or of a branch of the log that never was.
    (Seen("0-1", "completed", 4, 12.1, 12.9), "wrong", "that entry came 0.1"),
    (Seen("0-1", "completed", 5, 13.1, 13.9), "wrong", "that entry is in no log"),
    (Seen("3-1", "queued", 1, 13.1, 13.9), "wrong", "that entry is in no log"),
    (Seen("0-1", "refused: unknown_item", 0, 11.0, 11.1), "wrong", "refused: unknown_item"),
    (Counted(0, 3, 1, 0, 11.5, 12.5), "unbalanced", "1 items too many or too few"),
    (Accepted(ME, 1, "0-1", 9.0, 9.9), "wrong", "accepted 0.1.* before it was in the log"),
    (Accepted(ME, 2, "0-1", 9.0, 10.1), "doubled", "item 2 is 0-1, and that is another's"),
    (Finished(ME, 1, "0-1", "dead", True, 13.1), "wrong", "said to be dead; in the log: compl"),
    (Finished(ME, 1, "0-9", "completed", True, 13.1), "wrong", "in the log: None"),
    (Finished(ME, 1, "0-1", "completed", True, 12.9), "wrong", "0.1.* s before it was"),
    (Finished(ME, 1, "0-1", "completed", False, 13.1), "wrong_results", "not with what its work"),
    (Taken("0-1", "9.o.s", 10.5, 11.1), "wrong", "under 9.o.s, which no log has"),
    (Taken("0-1", TOKEN, 10.5, 10.9), "wrong", "given away 0.1"),
    (Acknowledged("0-1", "9.o.s", "completed", 12.5, 13.1), "wrong", "in the log: None"),
    (Acknowledged("0-1", TOKEN, "dead", 12.5, 13.1), "wrong", "as dead; in the log: completed"),
    (Acknowledged("0-1", TOKEN, "completed", 12.5, 12.9), "wrong", "0.1.* s early"),
]


@pytest.mark.parametrize(("line", "count", "finding"), LIES, ids=str)
def test_a_lie_is_found(history: History, line: Line, count: str, finding: str) -> None:
    found = verdict(history, line)
    assert counts(found) == {count: 1}
    with pytest.raises(AssertionError, match=finding):
        raise AssertionError(found.findings[0])


def test_an_acknowledged_end_of_a_claim_that_goes_on_is_a_lie(history: History) -> None:
    history.items["0-1"].holds.append(Hold("2.o.s", (5, 0), 14.0))
    line = Acknowledged("0-1", "2.o.s", "queued", 14.0, 15.0)
    found = judge([], Acks({}, {}), history, by_kind([line]))
    assert found.wrong == 1


def test_two_of_an_item_that_was_sent_once_are_found(history: History) -> None:
    first = history.items["0-1"]
    history.items["0-2"] = msgspec.structs.replace(first, holds=[])
    found = judge([], Acks({}, {}), history, by_kind([]))
    assert found.doubled == 1
    assert any("item 1 is 0-1 and 0-2" in text for text in found.findings)


def test_an_entry_that_got_past_the_fence_is_found(history: History) -> None:
    history.foreign = 1
    found = judge([], Acks({}, {}), history, by_kind([]))
    assert (found.foreign, found.ok) == (1, False)
    assert "foreign: 1 entries got past the fence" in found.findings


def test_the_same_number_of_another_client_is_another_item(history: History) -> None:
    first = history.items["0-1"]
    history.items["0-2"] = msgspec.structs.replace(first, item=new_item(1, "client-2"))
    assert judge([], Acks({}, {}), history, by_kind([])).doubled == 0


def test_submissions_that_were_given_up_are_counted_and_allowed(history: History) -> None:
    lines: list[Line] = [
        Unanswered(ME, 1, "no answer", 8.0, 9.0),
        Accepted(ME, 1, "0-1", 9.0, 10.1),
        Unanswered(ME, 2, "no answer", 8.0, 9.0),
    ]
    found = verdict(history, *lines)
    assert (found.given_up, found.ok) == (1, True)


def test_a_stamp_that_is_not_known_gives_the_benefit_of_the_doubt(history: History) -> None:
    history.stamps[0][3] = (11.0, 13.0)
    line = Seen("0-1", "claimed", 2, 12.1, 12.2)
    assert counts(verdict(history, line)) == {}
    late = Seen("0-1", "claimed", 2, 13.05, 13.1)
    assert counts(verdict(history, late)) == {"stale": 1}
    early = Seen("0-1", "claimed", 3, 10.5, 11.5)
    assert counts(verdict(history, early)) == {}


def test_claims_before_their_time_are_found(history: History) -> None:
    life = history.items["0-1"]
    life.depends = {"1-1": "completed"}
    late = Life(9.0, [], "completed", [Turn(1, 9.0, "queued"), Turn(2, 11.5, "completed")])
    history.items["1-1"] = msgspec.structs.replace(late, item=new_item(2))
    found = judge([], Acks({}, {}), history, by_kind([]))
    assert found.too_early == 1
    assert "too early: 0-1 was claimed before 1-1 had ended" in found.findings
    history.items["1-1"].turns[-1] = Turn(2, 10.5, "completed")
    assert judge([], Acks({}, {}), history, by_kind([])).too_early == 0
    history.items["1-1"].ended = "dead"
    assert judge([], Acks({}, {}), history, by_kind([])).wrong == 1


def test_claims_of_delayed_items_before_their_time_are_found(history: History) -> None:
    task = Task(ME, 1, 1.0)
    for not_before, count in ((11.0, 0), (11.5, 1)):
        spec = {"work_type": "chaos", "payload": task, "not_before": not_before}
        history.items["0-1"].item = Raw(msgspec.json.encode(spec))
        assert judge([], Acks({}, {}), history, by_kind([])).too_early == count


def test_a_claim_whose_stamp_is_not_known_may_have_been_in_time(history: History) -> None:
    spec = {"work_type": "chaos", "payload": Task(ME, 1, 1.0), "not_before": 11.5}
    history.items["0-1"].item = Raw(msgspec.json.encode(spec))
    for latest, count in ((11.4, 1), (11.6, 0)):
        history.items["0-1"].holds[0].latest = latest
        assert judge([], Acks({}, {}), history, by_kind([])).too_early == count


def test_a_cancellation_that_was_told_and_is_not_in_the_log_is_found(history: History) -> None:
    assert counts(verdict(history, Unwanted("0-1", "cancelled", 12.0))) == {"wrong": 1}
    assert counts(verdict(history, Unwanted("0-1", "claimed", 12.0))) == {}


def test_answers_are_counted(history: History) -> None:
    # Of the truths, all but being accepted and being told of the end are answers to questions.
    assert verdict(history, *TRUTHS).answers == len(TRUTHS) - 2
