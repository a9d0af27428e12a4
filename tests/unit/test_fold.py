"""The fold knows what every kind of event does to an item, and what it must not do."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from swarm.core.work import make_token
from swarm.messages import (
    Answered,
    Archived,
    Asked,
    Cancelled,
    Claimed,
    Completed,
    Copied,
    Died,
    Due,
    Event,
    Hold,
    Item,
    Marked,
    Prioritized,
    Progressed,
    Released,
    Remembered,
    Replayed,
    Resolved,
    Retried,
    Submitted,
    Told,
    Waited,
    Watched,
)
from swarm.testing.fold import History, read_logs
from swarm.testing.history import Acks, Execution, check
from tests.unit.written_logs import OFF_S, SUBJECTS, Logs

#: Of the entry that submits; the owner's clock is off by `OFF_S`.
SUBMITTED = 10.0
SOON = SUBMITTED + OFF_S + 5
NULL = Raw(b"null")


def new_item(**fields: object) -> Raw:
    return Raw(msgspec.json.encode({"work_type": "build", **fields}))


PLAIN = new_item()


async def fold(item: Raw, *events: Event) -> History:
    """Item 0-1 is submitted (entry 2), and each event is an entry of its own, from 3 on."""
    logs = Logs()
    logs.open(9.0)
    logs.add(SUBMITTED, Submitted("c", 1, [item]))
    for time, event in enumerate(events, start=11):
        logs.add(float(time), event)
    return await read_logs(logs, SUBJECTS, [0])


def claimed(fence: int = 1) -> Claimed:
    return Claimed(1, fence, "agent", "s")


LIVES: list[tuple[Raw, list[Event], str]] = [
    (PLAIN, [], "queued"),
    (new_item(not_before=SOON), [], "scheduled"),
    (new_item(not_before=SUBMITTED + OFF_S), [], "queued"),
    (new_item(not_before=SOON), [Due([1])], "scheduled queued"),
    (PLAIN, [claimed(), Completed(1, 1)], "queued claimed completed"),
    (PLAIN, [claimed(), Progressed(1, 5.0), Prioritized(1, "low")], "queued claimed"),
    (PLAIN, [claimed(), Retried(1, 1, SOON + 9), Due([1])], "queued claimed scheduled queued"),
    (PLAIN, [claimed(), Retried(1, 1, 0.0)], "queued claimed queued"),
    (PLAIN, [claimed(), Released(1, 1, "stalled")], "queued claimed queued"),
    (PLAIN, [claimed(), Died(1, 1)], "queued claimed dead"),
    (PLAIN, [Died(1, 0, cause="deadline")], "queued dead"),
    (PLAIN, [Died(1, 0, cause="deadline"), Replayed(1)], "queued dead queued"),
    (PLAIN, [Replayed(1), claimed(), Replayed(1)], "queued claimed"),
    (new_item(not_before=SOON), [Replayed(1)], "scheduled queued"),
    (PLAIN, [Cancelled(1, 0)], "queued cancelled"),
    (PLAIN, [claimed(), Asked(1, SOON), Cancelled(1, 1)], "queued claimed cancelled"),
    (PLAIN, [claimed(), Waited(1, 1, NULL), Answered(1)], "queued claimed waiting queued"),
    (PLAIN, [claimed(), Waited(1, 1, NULL), Due([1])], "queued claimed waiting queued"),
    (PLAIN, [claimed(), Completed(1, 1), Archived([1])], "queued claimed completed"),
    (
        PLAIN,
        [Watched(1, "2-1"), Told(1, "2-1", "dead"), Remembered(1.0, 0), Marked(1, 1, 1)],
        "queued",
    ),
    # Dependencies.
    (new_item(dependencies=["1-1"]), [], "blocked"),
    (new_item(dependencies=["1-1"]), [Resolved(1, "1-1", "completed")], "blocked queued"),
    (new_item(dependencies=["1-1"]), [Resolved(1, "1-1", "dead")], "blocked"),
    (
        new_item(dependencies=["1-1"]),
        [Resolved(1, "1-1", "dead"), Resolved(1, "1-1", "completed")],
        "blocked queued",
    ),
    (
        new_item(dependencies=["1-1", "2-1"]),
        [Resolved(1, "1-1", "completed"), Resolved(1, "2-1", "completed")],
        "blocked queued",
    ),
    (
        new_item(dependencies=["1-1"], on_dependency_failure="run"),
        [Resolved(1, "1-1", "cancelled")],
        "blocked queued",
    ),
    (
        new_item(dependencies=["1-1"], not_before=SOON + 99),
        [Resolved(1, "1-1", "completed"), Due([1])],
        "blocked scheduled queued",
    ),
    (new_item(dependencies=["1-1"]), [Cancelled(1, 0)], "blocked cancelled"),
    (new_item(dependencies=["1-1"]), [Replayed(1)], "blocked queued"),
]


@pytest.mark.parametrize(("item", "events", "statuses"), LIVES)
async def test_an_items_statuses(item: Raw, events: list[Event], statuses: str) -> None:
    history = await fold(item, *events)
    assert history.contradictions == []
    life = history.items["0-1"]
    assert " ".join(turn.status for turn in life.turns) == statuses
    ended = life.status if life.status in ("completed", "dead", "cancelled") else None
    assert life.ended == ended


BROKEN: list[tuple[Raw, list[Event], str]] = [
    (new_item(not_before=SOON), [claimed()], "is scheduled"),
    (new_item(dependencies=["1-1"]), [claimed()], "is blocked"),
    (PLAIN, [claimed(), Waited(1, 1, NULL), claimed(2)], "is waiting"),
    (PLAIN, [Retried(1, 1, 0.0)], "not so held"),
    (PLAIN, [claimed(), Retried(1, 2, 0.0)], "not so held"),
    (PLAIN, [claimed(), Waited(1, 2, NULL)], "not so held"),
    (PLAIN, [claimed(), Cancelled(1, 0)], "not so held"),
    (PLAIN, [Answered(1)], "is queued and was queued"),
    (PLAIN, [Due([1])], "is queued and was queued"),
    (PLAIN, [claimed(), Completed(1, 1), Replayed(1)], "is queued and was completed"),
    (PLAIN, [Died(1, 0), Cancelled(1, 0)], "is cancelled after its end"),
    (PLAIN, [Archived([1])], "is archived and is queued"),
    (PLAIN, [Resolved(1, "1-1", "completed")], "does not depend on 1-1"),
    (PLAIN, [Answered(2)], "never submitted"),
    (PLAIN, [Archived([2])], "never submitted"),
    (PLAIN, [Resolved(2, "1-1", "dead")], "never submitted"),
    (PLAIN, [Replayed(2)], "never submitted"),
    (PLAIN, [Copied([2], [NULL])], "never submitted"),
]


@pytest.mark.parametrize(("item", "events", "contradiction"), BROKEN)
async def test_what_must_not_follow_is_found(
    item: Raw, events: list[Event], contradiction: str
) -> None:
    (text,) = (await fold(item, *events)).contradictions
    assert contradiction in text
    assert f"entry {2 + len(events)}" in text


# --- compaction ---------------------------------------------------------------------------


def stated(status: str, fence: int = 1, nonce: str = "o1") -> Copied:
    item = Item(1, PLAIN, "build", 2, 10.0, fence=fence)
    if status == "claimed":
        token = make_token(fence, nonce, "s")
        item.hold = Hold("agent", "s", fence, token, 11.0, 0.0)
    return Copied([1], [Raw(msgspec.json.encode(item))])


async def test_what_is_stated_again_as_it_is_passes() -> None:
    history = await fold(
        PLAIN,
        stated("queued", 0),
        claimed(),
        stated("claimed"),
        Released(1, 1, "agent"),
        stated("queued"),
    )
    assert history.contradictions == []
    assert history.items["0-1"].status == "queued"


@pytest.mark.parametrize(
    ("copied", "contradiction"),
    [
        (stated("queued"), "stated again as queued, and is claimed"),
        (
            stated("claimed", nonce="o2"),
            "stated again as claimed under another claim than '1.o1.s'",
        ),
        (stated("claimed", fence=2), "claimed 2 times, not 1"),
    ],
)
async def test_what_is_stated_again_otherwise_is_found(copied: Copied, contradiction: str) -> None:
    history = await fold(PLAIN, claimed(), copied)
    assert any(contradiction in text for text in history.contradictions), history.contradictions


# --- overlaps -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "allowed"),
    [
        # Its holder may be alive, and not know it yet.
        ([Released(1, 1, "lapsed")], True),
        ([Died(1, 1, cause="quarantined"), Replayed(1)], True),
        ([Died(1, 1, cause="deadline"), Replayed(1)], True),
        # It said so itself, when its handler was through.
        ([Retried(1, 1, 0.0)], False),
        ([Died(1, 1, cause="failed"), Replayed(1)], False),
        ([Waited(1, 1, NULL), Answered(1)], False),
    ],
)
async def test_who_may_run_while_the_next_one_does(ending: list[Event], allowed: bool) -> None:
    """Claimed at 11 and let go at 12; its handler runs until 20, the next one's from 16 on."""
    history = await fold(PLAIN, claimed(), *ending, claimed(2), Completed(1, 2))
    runs = [
        Execution("0-1", "1.o1.s", "s", 77, 11.5, 20.0),
        Execution("0-1", "2.o1.s", "s", 78, 16.0, 16.0),
    ]
    assert history.contradictions == []
    history.items["0-1"].holds[-1].ended_time = 16.0
    assert check(runs, Acks({}, {}), history).held_twice == (0 if allowed else 1)


async def test_cancelled_items_are_counted() -> None:
    report = check([], Acks({"0-1": 10.5}, {}), await fold(PLAIN, Cancelled(1, 0)))
    assert (report.cancelled, report.completed, report.lost, report.ok) == (1, 0, 0, True)


async def test_what_has_not_ended_is_called_by_its_status() -> None:
    history = await fold(new_item(not_before=SOON))
    (finding,) = check([], Acks({"0-1": 10.5}, {}), history).findings
    assert finding.endswith("its submission was acknowledged, and it is scheduled still")
