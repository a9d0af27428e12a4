"""What readers are shown: items in every state, pages and their bounds, counts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from swarm.core import read
from swarm.core.shard import Shard
from swarm.core.work import view
from swarm.messages import STATUSES, Attempt, ItemPage, List, WorkItem
from tests.builders import NOW, Desk, new_item, refusal_of
from tests.states import state_of

ROOM = 1_000_000


def numbers(page: ItemPage) -> list[int]:
    """Numbers of the items of a page."""
    return [int(shown.work_item_id.partition("-")[2]) for shown in page.items]


def all_pages(shard: Shard, bytes_max: int = ROOM, **query: Any) -> list[ItemPage]:
    """Every page, as a client walks through them."""
    pages = [read.page(shard, msgspec.convert(query, List), bytes_max)]
    while pages[-1].after:
        again = msgspec.convert(query | {"after": pages[-1].after}, List)
        pages.append(read.page(shard, again, bytes_max))
    return pages


# --- one item ------------------------------------------------------------------------------


def test_an_item_in_every_state_of_its_life() -> None:
    desk = Desk()
    desk.submit(
        new_item(
            "bug", description="d", priority="high", team="core", labels={"k": "v"},
            story_points=5, payload={"p": [1]}, idempotency_key="key", lease_s=9.0, trace="00-x",
        )
    )  # fmt: skip
    queued = WorkItem(
        "3-1", "bug", "queued", "high", NOW, "d", "core", {"k": "v"}, 5,
        msgspec.Raw(b'{"p":[1]}'), "key", "00-x",
    )  # fmt: skip

    def shown() -> WorkItem:
        return msgspec.structs.replace(view(desk.shard.items[1], desk.shard.number, 0), version="")

    assert shown() == queued

    desk.now += 10
    held = desk.take("a1", work_type="bug")
    claimed = msgspec.structs.replace(
        queued, status="claimed", attempt=1, agent_id="a1", claimed_at=NOW + 10
    )
    assert shown() == claimed

    desk.now += 1
    desk.progress(held, "a1", 40.0, "half way")
    working = msgspec.structs.replace(claimed, progress=40.0, note="half way")
    assert shown() == working

    desk.lapse(held)
    lost = Attempt(1, "a1", NOW + 10, NOW + 11, "lapsed", "silent")
    again = msgspec.structs.replace(queued, attempt=1, history=[lost], deaths=1)
    assert shown() == again

    held = desk.take("a2", work_type="bug")
    desk.now += 1
    desk.complete(held, "a2", {"ok": True})
    assert shown() == msgspec.structs.replace(
        again, status="completed", attempt=2, agent_id="a2", claimed_at=NOW + 11,
        progress=100.0, finished_at=NOW + 12, result=msgspec.Raw(b'{"ok":true}'),
    )  # fmt: skip


def test_a_dead_item_shows_how_far_it_came_and_why() -> None:
    desk = Desk()
    desk.submit(new_item())
    held = desk.take("a1")
    desk.progress(held, "a1", 70.0, "nearly")
    desk.now += 3
    desk.die(held, "a1", "it broke")
    shown = view(desk.shard.items[1], desk.shard.number, 0)
    assert (shown.status, shown.error, shown.progress, shown.note) == (
        "dead", "it broke", 70.0, "nearly",
    )  # fmt: skip
    assert (shown.agent_id, shown.finished_at) == ("a1", NOW + 3)
    assert bytes(shown.result) == b"null"


def test_a_reader_changes_nothing() -> None:
    desk = Desk()
    desk.submit(new_item(labels={"a": "b"}), new_item())
    desk.take("a1")
    before = state_of(desk.shard)
    shown = view(desk.shard.items[1], desk.shard.number, 0)
    shown.labels["a"] = "changed"
    all_pages(desk.shard)
    read.stats(desk.shard)
    assert state_of(desk.shard) == before


# --- pages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
def test_pages_show_every_item_once_oldest_first(limit: int) -> None:
    desk = Desk()
    desk.submit(*[new_item() for _ in range(7)])
    pages = all_pages(desk.shard, limit=limit)
    assert [number for page in pages for number in numbers(page)] == [1, 2, 3, 4, 5, 6, 7]
    assert all(len(page.items) <= limit for page in pages)
    assert len(pages) == -(-7 // limit), "and no empty page at the end"


def test_pages_of_what_is_asked_for() -> None:
    desk = Desk()
    desk.submit(*[new_item(work_type) for work_type in ("a", "b", "a", "b", "a")])
    desk.complete(desk.take("x", work_type="a"), "x")
    desk.die(desk.take("x", work_type="b"), "x")
    desk.take("x", work_type="a")

    def found(**query: Any) -> list[int]:
        return [number for page in all_pages(desk.shard, **query) for number in numbers(page)]

    assert found(status="completed") == [1]
    assert found(status="dead") == [2]
    assert found(status="claimed") == [3]
    assert found(status="queued") == [4, 5]
    assert found(work_type="a") == [1, 3, 5]
    assert found(work_type="a", status="queued") == [5]
    assert found(work_type="nobody's") == []
    assert found(after=3) == [4, 5]
    assert found(after=5) == []
    assert found(after=10**15) == []


def test_an_unknown_status_is_refused_with_those_there_are() -> None:
    refusal = refusal_of(lambda: read.check_query(List("done")))
    assert refusal.code == "bad_request"
    assert "'done'" in refusal.message
    assert ", ".join(STATUSES) in refusal.message
    for status in ("", *STATUSES):
        read.check_query(List(status))


@pytest.mark.parametrize("after", [-1, -5, -(10**15)])
def test_a_negative_position_is_the_beginning_and_costs_nothing(after: int) -> None:
    desk = Desk()
    desk.submit(new_item())
    assert numbers(read.page(desk.shard, List(after=after), ROOM)) == [1]


def test_looking_for_what_is_rare_is_done_in_portions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(read, "LOOKED_AT_MAX", 10)
    desk = Desk()
    desk.submit(*[new_item("common") for _ in range(24)], new_item("rare"))
    pages = all_pages(desk.shard, work_type="rare")
    assert [(numbers(page), page.after) for page in pages] == [([], 10), ([], 20), ([25], 0)]


def test_one_read_looks_at_so_many_items_and_no_more() -> None:
    desk = Desk()
    for _ in range(12):
        desk.submit(*[new_item("common") for _ in range(1000)])
    page = read.page(desk.shard, List(work_type="rare"), ROOM)
    assert (page.items, page.after) == ([], read.LOOKED_AT_MAX)


WIDE = "漢" * 300
ESCAPED = "\n\x01" * 300


@pytest.mark.parametrize("text", ["", "x" * 900, WIDE, ESCAPED], ids=["", "ascii", "wide", "\\n"])
@pytest.mark.parametrize("life", ["queued", "claimed", "completed", "dead"])
def test_a_page_keeps_to_its_bytes(life: str, text: str) -> None:
    desk = Desk(number=SHARD_OF_MANY_DIGITS)
    agent = "a" * 64
    for _ in range(20):
        desk.submit(
            new_item(
                "t" * 64, description=text, priority="critical", team="m", story_points=10**6,
                labels={"k": "v"}, idempotency_key=desk.new_id(), trace="00-" + "f" * 50,
            )
        )  # fmt: skip
        if life != "queued":
            held = desk.take(agent, "s" * 64, "t" * 64)
            desk.progress(held, agent, 33.333333333333336, text)
            if life == "completed":
                desk.complete(held, agent, text)
            elif life == "dead":
                desk.die(held, agent, text)
    pages = all_pages(desk.shard, bytes_max=20_000)
    assert [number for page in pages for number in numbers(page)] == list(range(1, 21))
    sizes = [len(msgspec.json.encode(page)) for page in pages]
    assert max(sizes) <= 20_000 + 100
    if len(pages) > 2:
        # Nor is a page half empty: the bound is close.
        assert min(sizes[:-1]) >= 20_000 / 2


SHARD_OF_MANY_DIGITS = 123456


def test_an_item_larger_than_a_page_has_one_to_itself() -> None:
    desk = Desk()
    desk.submit(new_item(), new_item(description="x" * 5000), new_item())
    pages = all_pages(desk.shard, bytes_max=1000)
    assert [numbers(page) for page in pages] == [[1], [2], [3]]


# --- counts --------------------------------------------------------------------------------


def test_counts_of_a_shard() -> None:
    desk = Desk()
    desk.submit(*[new_item(work_type) for work_type in ("a", "a", "a", "b", "b", "c")])
    desk.complete(desk.take("x", work_type="a"), "x")
    desk.die(desk.take("x", work_type="b"), "x")
    desk.take("x", work_type="a")
    desk.take("x", work_type="c")
    seen = read.stats(desk.shard)
    none = dict.fromkeys(STATUSES, 0)
    assert seen.counts == none | {"queued": 2, "claimed": 2, "completed": 1, "dead": 1}
    assert seen.ready == {"a": 1, "b": 1}
    assert (seen.shard, seen.coordinator, seen.submitted, seen.conservation) == (3, "c1", 6, 0)


@pytest.mark.parametrize("damage", ["lost", "made up", "ended twice", "revived"])
def test_conservation_shows_damage(damage: str) -> None:
    desk = Desk()
    desk.submit(new_item(), new_item())
    desk.complete(desk.take("x"), "x")
    assert desk.shard.conservation() == 0
    match damage:
        case "lost":
            del desk.shard.items[2]
        case "made up":
            desk.shard.items[9] = desk.shard.items[2]
        case "ended twice":
            desk.shard.ended["completed"] += 1
        case _:
            desk.shard.items[1].end = None
    assert desk.shard.conservation() != 0
    with pytest.raises(AssertionError, match="conservation"):
        desk.shard.validate()
