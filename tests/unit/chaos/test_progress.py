"""Standstills are measured from what waited and what moved."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from swarm.testing.chaos.progress import (
    NO_FAULT,
    Longest,
    Progress,
    Standstill,
    Wait,
    Window,
    longest,
    standstills,
    under_way,
)
from swarm.testing.chaos.testimony import Sent, by_kind
from swarm.testing.chaos.work import Task
from swarm.testing.fold import History, Hold, Life, Turn
from swarm.testing.history import Execution


def waits(text: str) -> list[Wait]:
    """``"1-5 3-8"``: one wait from 1 to 5 and one from 3 to 8."""
    pairs = [part.split("-") for part in text.split()]
    return [Wait(float(start), float(end)) for start, end in pairs]


@pytest.mark.parametrize(
    ("moves", "waited", "expected"),
    [
        # Nothing waits, nothing stands still.
        ([1.0, 9.0], "", []),
        # Until it moves, and again until the wait is over.
        ([4.0], "1-9", [(1, 4), (4, 9)]),
        # Counted from when the wait began, not from the last move.
        ([0.0, 6.0], "5-6", [(5, 6)]),
        # One wait takes over from another without a gap: one standstill.
        ([], "1-5 4-9", [(1, 9)]),
        # In between nothing waited.
        ([], "1-3 6-7", [(1, 3), (6, 7)]),
        # A move while nothing waits is nobody's.
        ([4.0], "1-3 6-7", [(1, 3), (6, 7)]),
    ],
)
def test_standstills(moves: list[float], waited: str, expected: list[tuple[int, int]]) -> None:
    found = [(still.start, still.end) for still in standstills(moves, waits(waited))]
    assert [pair for pair in found if pair[0] < pair[1]] == expected


def new_item(number: int) -> Raw:
    task = Task("client-1", number, 1.0)
    return Raw(msgspec.json.encode({"work_type": "chaos", "payload": task}))


def test_an_item_waits_for_the_swarm_and_not_for_its_handler() -> None:
    """Sent at 1, in the log at 3, claimed at 4, done at 14, completed at 16."""
    hold = Hold("1.o.s", (2, 0), 4.0, "completed", (3, 0), 16.0)
    turns = [Turn(1, 3.0, "queued"), Turn(2, 4.0, "claimed"), Turn(3, 16.0, "completed")]
    life = Life(3.0, [hold], "completed", turns, new_item(7))
    progress = Progress(
        History({"2-1": life}, []),
        by_kind([Sent("client-1", [6, 7], 1.0), Sent("client-1", [7], 2.0)]),
        [Execution("2-1", "1.o.s", "s", 77, 4.0, 14.0)],
    )
    found = [(s.shard, s.start, s.end) for s in progress.standstills() if s.seconds > 0]
    # Overall only ends count; in the shard it moved at 3 already.
    assert found == [
        (-1, 1.0, 4.0),
        (-1, 14.0, 16.0),
        (2, 1.0, 3.0),
        (2, 3.0, 4.0),
        (2, 14.0, 16.0),
    ]


def test_an_item_waits_between_two_claims() -> None:
    holds = [
        Hold("1.o.s", (2, 0), 4.0, "released", (3, 0), 16.0),
        Hold("2.o.s", (4, 0), 19.0),
    ]
    turns = [
        Turn(1, 4.0, "queued"),
        Turn(2, 4.0, "claimed"),
        Turn(3, 16.0, "queued"),
        Turn(4, 19.0, "claimed"),
    ]
    life = Life(4.0, holds, None, turns, new_item(1))
    progress = Progress(History({"0-1": life}, []), by_kind([]), [])
    found = {(s.shard, s.start, s.end) for s in progress.standstills() if s.seconds > 0}
    assert found == {(-1, 16.0, 19.0), (0, 16.0, 19.0)}


def test_shards_stand_still_each_by_itself() -> None:
    lives = {
        f"{shard}-1": Life(
            1.0,
            [Hold("1.o.s", (2, 0), claimed, "dead", (2, 1), claimed)],
            "dead",
            [Turn(1, 1.0, "queued"), Turn(2, claimed, "claimed"), Turn(2, claimed, "dead")],
            new_item(shard),
        )
        for shard, claimed in ((0, 2.0), (1, 9.0))
    }
    stills = Progress(History(lives, []), by_kind([]), []).standstills()
    found = {(s.shard, s.start, s.end) for s in stills if s.seconds > 0}
    assert found == {(-1, 1.0, 2.0), (-1, 2.0, 9.0), (0, 1.0, 2.0), (1, 1.0, 9.0)}


def test_a_standstill_counts_for_every_fault_that_was_under_way() -> None:
    faults = [
        Window("kill agent", 0.0, 1.0),
        Window("cut server", 0.5, 4.0),
        Window("stop router", 9.0, 10.0),
    ]
    assert under_way(Standstill(2.0, 6.0), faults) == ["cut server"]
    assert under_way(Standstill(0.9, 0.95), faults) == ["cut server", "kill agent"]
    assert under_way(Standstill(5.0, 6.0), faults) == [NO_FAULT]
    found = longest(
        [Standstill(0.5, 3.0), Standstill(2.0, 2.5), Standstill(5.0, 6.0), Standstill(0.0, 4.0, 3)],
        faults,
    )
    assert found == {
        "kill agent": Longest(2.5, 4.0),
        "cut server": Longest(2.5, 4.0),
        NO_FAULT: Longest(1.0, 0.0),
    }
