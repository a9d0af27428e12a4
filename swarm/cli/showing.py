"""Work items as people read them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from swarm.cli import common
from swarm.messages import NULL, WorkItem

if TYPE_CHECKING:
    from msgspec import Raw

#: A column's head, and what stands in it.
Column = tuple[str, Callable[[WorkItem, float], str]]

#: Longest text of JSON in a table.
JSON_SHOWN = 60

COLUMNS: tuple[Column, ...] = (
    ("ID", lambda item, _now: item.work_item_id),
    ("TYPE", lambda item, _now: item.work_type),
    ("PRIORITY", lambda item, _now: item.priority),
    ("STATUS", lambda item, _now: item.status),
    ("%", lambda item, _now: f"{item.progress:.0f}" if item.agent_id else ""),
    ("AGENT", lambda item, _now: item.agent_id),
    ("AGE", lambda item, now: age(now - item.submitted_at)),
)
WAITS_FOR: Column = ("WAITS FOR", lambda item, now: pause(item, now))  # noqa: PLW0108 - defined below

DEAD_COLUMNS: tuple[Column, ...] = (
    ("ID", lambda item, _now: item.work_item_id),
    ("TYPE", lambda item, _now: item.work_type),
    ("CAUSE", lambda item, _now: item.cause),
    ("ATTEMPTS", lambda item, _now: str(item.attempt)),
    ("DEATHS", lambda item, _now: str(item.deaths)),
    ("REPLAYS", lambda item, _now: str(item.replays)),
    ("AGENT", lambda item, _now: item.agent_id),
    ("SINCE", lambda item, now: age(now - item.finished_at)),
)


def print_table(
    items: Sequence[WorkItem], columns: Sequence[Column], last: str, text: Callable[[WorkItem], str]
) -> None:
    """A row for each item; the column `last` takes what room is left."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head, _ in columns:
        table.add_column(head, no_wrap=True)
    table.add_column(last, overflow="ellipsis", no_wrap=True)
    now = time.time()
    for item in items:
        cells = [cell(item, now) for _, cell in columns]
        table.add_row(*cells, text(item).replace("\n", " "))
    common.console().print(table)


def print_items(items: Sequence[WorkItem]) -> None:
    """Items of any kind; what paused ones wait for, if there are any."""
    paused = any(item.status in ("scheduled", "blocked", "waiting") for item in items)
    columns = [*COLUMNS, WAITS_FOR] if paused else list(COLUMNS)
    print_table(items, columns, "DESCRIPTION", lambda item: item.description)


def print_item(item: WorkItem) -> None:
    """All about one item."""
    now = time.time()
    rows = {
        "id": item.work_item_id,
        "type": item.work_type,
        "status": item.status + (f" ({item.cause})" if item.cause else ""),
        "waits for": pause(item, now),
        "asked": _asked(item, now),
        "priority": item.priority,
        "description": item.description,
        "team": item.team,
        "labels": ", ".join(f"{name}={value}" for name, value in item.labels.items()),
        "story points": "" if item.story_points is None else str(item.story_points),
        "submitted": moment(item.submitted_at),
        "not before": moment(item.not_before),
        "deadline": moment(item.deadline),
        "agent": item.agent_id,
        "attempt": _attempt(item),
        "claimed": moment(item.claimed_at),
        "progress": f"{item.progress:g} % {item.note}".strip() if item.agent_id else "",
        "finished": moment(item.finished_at),
        "payload": json_text(item.payload),
        "checkpoint": json_text(item.checkpoint),
        "waits": str(item.waits) if item.waits else "",
        "answer": f"{json_text(item.answer)} by {item.answered_by}" if item.answered_by else "",
        "result": json_text(item.result),
        "error": item.error,
        "replays": str(item.replays) if item.replays else "",
    }
    for name, value in rows.items():
        if value:
            print(f"{name:<13}{value}")
    for name, known in item.depends.items():
        print(f"{'depends on':<13}{name} {known.status or 'has not ended'}")
    print_history(item)


def print_history(item: WorkItem) -> None:
    """Every attempt that did not complete the item, oldest first."""
    for number, one in enumerate(item.history, start=1):
        took = age(one.ended_at - one.claimed_at)
        print(f"{f'failure {number}':<13}{one.agent} {one.how} after {took}", end="")
        print(f" at {moment(one.ended_at)}{': ' if one.error else ''}{one.error}")
    if item.deaths:
        print(f"{'deaths':<13}{item.deaths} of its agents fell silent or made no progress")


def pause(item: WorkItem, now: float) -> str:
    """What a paused item waits for; empty for any other."""
    when = f"in {age(item.until - now)}" if item.until > now else "any moment"
    if item.status == "scheduled":
        return when
    if item.status == "blocked":
        names = [name for name, known in item.depends.items() if known.status != "completed"]
        return ", ".join(names)
    if item.status != "waiting":
        return ""
    what = json_text(item.waits_for)
    shown = what if len(what) <= JSON_SHOWN else what[: JSON_SHOWN - 1] + "…"
    return f"{shown or 'an answer'} (until {when})" if item.until else shown


def _asked(item: WorkItem, now: float) -> str:
    ask = item.ask
    if ask is None:
        return ""
    left_s = max(0.0, ask.until - now)
    why = f": {ask.reason}" if ask.reason else ""
    by = f" by {ask.by}" if ask.by else ""
    return f"to stop within {left_s:.0f} s, then {ask.status}{by}{why}"


def _attempt(item: WorkItem) -> str:
    if not item.attempt:
        return ""
    return f"{item.attempt} of {item.max_attempts}" if item.max_attempts else str(item.attempt)


def json_text(raw: Raw) -> str:
    """JSON as it is; empty for null."""
    return "" if raw == NULL else bytes(raw).decode()


def moment(wall: float) -> str:
    """A time of the day, here; empty for none."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall)) if wall else ""


def age(age_s: float) -> str:
    """Roughly so long."""
    age_s = max(age_s, 0.0)
    for unit, size_s in (("d", 86_400), ("h", 3600), ("m", 60)):
        if age_s >= size_s:
            return f"{age_s / size_s:.0f}{unit}"
    return f"{age_s:.0f}s"
