"""Lanes: first come first served within one, ageing between them, the place of what returns."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from swarm.core.lanes import Lanes
from swarm.core.work import RANK
from swarm.messages import Hold, Item, Pause, Priority

AGEING_S = 60.0


class Yard:
    """Lanes over items that are submitted at chosen times."""

    def __init__(self) -> None:
        self.items: dict[int, Item] = {}
        self.lanes = Lanes(self.items, AGEING_S)

    def add(self, priority: Priority = "medium", at_s: float = 0.0, work_type: str = "t") -> Item:
        number = len(self.items) + 1
        item = Item(number, Raw(b"{}"), work_type, RANK[priority], at_s)
        self.items[number] = item
        self.lanes.add(item)
        return item

    def take(self, *work_types: str) -> int | None:
        """Claim the best item."""
        number = self.lanes.best(work_types or ("t",))
        if number is not None:
            item = self.items[number]
            self.lanes.remove(item)
            item.hold = Hold("a", "s", 1, "t", 0.0, 30.0)
        return number

    def leave(self, item: Item) -> None:
        """It is not queued any more, wherever in its lane it is."""
        self.lanes.remove(item)
        item.pause = Pause("waiting")

    def give_back(self, item: Item) -> None:
        """It is queued again."""
        item.hold = item.pause = None
        self.lanes.add(item)

    def drain(self, *work_types: str) -> list[int]:
        taken = []
        while (number := self.take(*work_types)) is not None:
            taken.append(number)
        return taken


def test_an_empty_yard_gives_nothing() -> None:
    yard = Yard()
    assert yard.take() is None
    assert yard.take("t", "u") is None
    assert yard.lanes.best([]) is None
    yard.add()
    assert yard.take("u") is None
    assert yard.lanes.best([]) is None


def test_first_come_first_served_within_a_lane() -> None:
    yard = Yard()
    for at_s in (0.0, 0.0, 1.0, 1.0, 5.0):
        yard.add(at_s=at_s)
    assert yard.drain() == [1, 2, 3, 4, 5]


def test_the_more_urgent_goes_first_at_the_same_time() -> None:
    yard = Yard()
    for priority in ("low", "medium", "high", "critical"):
        yard.add(priority)
    assert yard.drain() == [4, 3, 2, 1]


@pytest.mark.parametrize(
    ("waited_s", "expected"),
    [
        # A step is worth 60 s: low (rank 3) against high (rank 1) is two steps, 120 s.
        (119.9, [2, 1]),
        # 0 + 3·60 = 180 = 120 + 1·60: the same score, so the older one goes first.
        (120.0, [1, 2]),
        (120.1, [1, 2]),
    ],
)
def test_waiting_is_worth_a_step_of_priority_each_60_s(
    waited_s: float, expected: list[int]
) -> None:
    yard = Yard()
    yard.add("low", 0.0)
    yard.add("high", waited_s)
    assert yard.drain() == expected


def test_nothing_starves_under_a_stream_of_urgent_work() -> None:
    yard = Yard()
    yard.add("low", 0.0)
    # One critical item a second, one claim a second: the low one is worth 180 s.
    order = []
    for second in range(300):
        yard.add("critical", float(second))
        number = yard.take()
        assert number is not None
        order.append(number)
    # Critical items submitted before second 180 score below 180; the low one is 181st.
    assert order.index(1) == 180


def test_the_best_across_types_is_the_best_of_all_their_lanes() -> None:
    yard = Yard()
    yard.add("low", 0.0, "a")  # scores 180
    yard.add("medium", 50.0, "b")  # 170
    yard.add("high", 100.0, "a")  # 160
    yard.add("critical", 170.5, "b")  # 170.5
    yard.add("critical", 10.0, "c")  # 10, of a type not asked for
    assert yard.lanes.best(["a", "b"]) == 3
    assert yard.lanes.best(["b", "a", "a"]) == 3, "neither order nor repetition matters"
    assert yard.lanes.best(["b"]) == 2
    assert yard.drain("b", "a") == [3, 2, 4, 1]
    assert yard.take("c") == 5


def test_equal_scores_go_by_number_whatever_the_order_of_types() -> None:
    for types in (["a", "b"], ["b", "a"]):
        yard = Yard()
        yard.add("high", 0.0, "b")
        yard.add("critical", 60.0, "a")
        assert yard.drain(*types) == [1, 2]


def test_what_returns_takes_the_place_its_number_gives_it() -> None:
    yard = Yard()
    items = [yard.add() for _ in range(6)]
    assert [yard.take() for _ in range(4)] == [1, 2, 3, 4]
    for number in (3, 1, 4):
        yard.give_back(items[number - 1])
    assert sorted(yard.lanes) == [1, 3, 4, 5, 6]
    assert yard.take() == 1
    yard.give_back(items[1])
    assert yard.drain() == [2, 3, 4, 5, 6]


def test_what_returns_to_an_empty_lane_keeps_its_age() -> None:
    yard = Yard()
    old = yard.add("medium", 0.0)
    assert yard.take() == 1
    yard.add("high", 61.0)
    yard.give_back(old)
    # 0 + 2·60 = 120 against 61 + 60 = 121.
    assert yard.drain() == [1, 2]


def test_a_new_item_behind_a_returned_one() -> None:
    yard = Yard()
    first = yard.add()
    assert yard.take() == 1
    second = yard.add()
    yard.give_back(first)
    assert yard.take() == 1
    assert yard.take() == 2
    yard.give_back(second)
    yard.add()
    assert yard.drain() == [2, 3]


def test_ready_counts_follow_and_end_at_zero() -> None:
    yard = Yard()
    item = yard.add(work_type="a")
    yard.add("low", work_type="a")
    yard.add(work_type="b")
    assert yard.lanes.ready == {"a": 2, "b": 1}
    yard.take("a")
    assert yard.lanes.ready == {"a": 1, "b": 1}
    yard.give_back(item)
    assert yard.lanes.ready == {"a": 2, "b": 1}
    assert sorted(yard.drain("a", "b")) == [1, 2, 3]
    assert yard.lanes.ready == {"a": 0, "b": 0}
    assert sorted(yard.lanes) == []


def test_what_is_not_ready_cannot_leave() -> None:
    yard = Yard()
    item = yard.add()
    yard.leave(item)
    with pytest.raises(AssertionError, match="was not ready"):
        yard.lanes.remove(item)


@pytest.mark.parametrize("gone", [(1,), (2,), (3,), (1, 2), (2, 1), (2, 3), (3, 2, 1)])
def test_what_leaves_from_anywhere_is_passed_over(gone: tuple[int, ...]) -> None:
    yard = Yard()
    items = [yard.add() for _ in range(3)]
    for number in gone:
        yard.leave(items[number - 1])
    left = [number for number in (1, 2, 3) if number not in gone]
    assert sorted(yard.lanes) == left
    assert yard.lanes.ready == {"t": len(left)}
    assert yard.drain() == left


def test_what_left_and_came_back_is_given_once() -> None:
    yard = Yard()
    items = [yard.add() for _ in range(3)]
    for _ in range(3):
        # Its first place is still there, stale, when it gets another one.
        yard.leave(items[1])
        yard.give_back(items[1])
    assert sorted(yard.lanes) == [1, 2, 3]
    assert yard.lanes.ready == {"t": 3}
    assert yard.drain() == [1, 2, 3]


def test_an_item_that_changes_its_lane_is_in_the_new_one_only() -> None:
    yard = Yard()
    items = [yard.add("low"), yard.add("low"), yard.add("low")]
    yard.lanes.remove(items[1])
    items[1].rank = RANK["critical"]
    yard.lanes.add(items[1])
    assert yard.lanes.ready == {"t": 3}
    assert yard.drain() == [2, 1, 3]
    # And back, to a place that it has held before.
    yard.give_back(items[0])
    yard.give_back(items[1])
    yard.lanes.remove(items[1])
    items[1].rank = RANK["low"]
    yard.lanes.add(items[1])
    assert sorted(yard.lanes) == [1, 2]
    assert yard.drain() == [1, 2]


def test_what_is_archived_is_no_head() -> None:
    yard = Yard()
    items = [yard.add() for _ in range(3)]
    yard.leave(items[1])
    del yard.items[2]
    assert yard.drain() == [1, 3]


def test_a_claim_costs_the_same_with_few_and_with_many_queued() -> None:
    """Work is counted, not time: `best` looks at one head per lane."""

    class Counted(dict[int, Item]):
        looked = 0

        def __getitem__(self, number: int) -> Item:
            Counted.looked += 1
            return super().__getitem__(number)

        def get(self, number: int, default: Any = None) -> Any:
            Counted.looked += 1
            return super().get(number, default)

    looks = []
    for queued in (10, 10_000):
        items = Counted()
        lanes = Lanes(items, AGEING_S)
        for number in range(1, queued + 1):
            items[number] = Item(number, Raw(b"{}"), "t", number % 4, 0.0)
            lanes.add(items[number])
        Counted.looked = 0
        for _ in range(10):
            number_ = lanes.best(["t"])
            assert number_ is not None
            item = dict.__getitem__(items, number_)
            lanes.remove(item)
            item.hold = Hold("a", "s", 1, "t", 0.0, 30.0)
        looks.append(Counted.looked)
    assert looks[0] >= looks[1] - 10
    assert looks[1] <= 40
