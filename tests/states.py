"""What a shard knows, as plain data: to be compared with what another one knows.

`state_of` is everything, and the same for all who fold the same entries.  `meaning_of` is
what is left of it for a reader of a log that was compacted and purged: the items and what
may become of them, without where in the log it stands.
"""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct

from swarm.core.dedupe import DedupeWindow
from swarm.core.lanes import Lanes
from swarm.core.shard import Shard
from swarm.core.work import deadline_of
from swarm.messages import Item


def plain(value: object) -> Any:
    """`value` as dicts, lists and bytes, to be compared deeply."""
    match value:
        case Raw():
            return bytes(value)
        case Struct():
            fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
            return {"is": type(value).__name__, **fields}
        case dict():
            return {key: plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case _:
            return value


def claim_order(shard: Shard) -> dict[str, list[list[int]]]:
    """Ready numbers in the order in which each lane gives them, by work type and priority."""
    order: dict[str, list[list[int]]] = {}
    for work_type, of_type in shard.lanes._lanes.items():
        ready = [sorted(numbers) for numbers in _ready(shard.lanes, work_type, shard.items)]
        if any(ready):
            order[work_type] = ready
        assert [lane.head for lane in of_type] == [next(iter(one), 0) for one in ready], "heads"
    return order


def _ready(lanes: Lanes, work_type: str, items: dict[int, Item]) -> list[list[int]]:
    return [
        [
            number
            for number in dict.fromkeys(lane)
            if number in items
            and (items[number].status, items[number].rank) == ("queued", lane.rank)
        ]
        for lane in lanes._lanes[work_type]
    ]


def scores(shard: Shard) -> dict[int, float]:
    """What each lane's best item competes with."""
    lanes = shard.lanes._lanes.values()
    return {lane.head: lane.score for of_type in lanes for lane in of_type if lane.head}


def wanted_times(item: Item) -> list[float]:
    """The times at which something is to happen to the item."""
    if item.end is not None:
        return []
    ask = item.story.ask if item.story is not None else None
    if ask is not None:
        # It will end by that: nothing else counts any more.
        return [ask.until]
    pause_until = item.pause.until if item.pause is not None else 0.0
    return [at for at in (pause_until, deadline_of(item)) if at]


def timers_of(shard: Shard) -> list[tuple[float, int]]:
    """What is to happen in the future, as far as it is remembered."""
    remembered = dict.fromkeys(shard.timers._heap)
    hints = [(at, number) for number, item in shard.items.items() for at in wanted_times(item)]
    return sorted(hint for hint in hints if hint[0] > shard.now and hint in remembered)


def check_timers(shard: Shard, done_by: float = 0.0) -> None:
    """Nothing that is to happen is forgotten; what was to happen by `done_by` has."""
    remembered = dict.fromkeys(shard.timers._heap)
    for number, item in shard.items.items():
        for at in wanted_times(item):
            assert at > done_by, f"item {number} was due at {at}"
            assert (at, number) in remembered, f"item {number} is due at {at}, and forgotten"


def answers_of(window: DedupeWindow[Any]) -> dict[str, Any]:
    """What is remembered, by id."""
    found: dict[str, Any] = plain(window._answers)
    return found


def meaning_of(shard: Shard) -> dict[str, Any]:
    """What the items are and what may become of them; see the module's docstring."""
    items = plain({number: shard.items[number] for number in sorted(shard.items)})
    for item in items.values():
        del item["seq"]
    return {
        "number": shard.number,
        "items": items,
        "lanes": claim_order(shard),
        "scores": scores(shard),
        "ready": {name: count for name, count in sorted(shard.lanes.ready.items()) if count},
        "held": {holder: sorted(numbers) for holder, numbers in sorted(shard.held.items())},
        "blocked": sorted(shard.blocked),
        "untold": sorted(shard.untold),
        "timers": timers_of(shard),
        "next": shard.next_number,
        "submitted": shard.submitted,
        "ended": dict(shard.ended),
        "archived": dict(shard.archived),
        "live_bytes": shard.live_bytes,
    }


def state_of(shard: Shard) -> dict[str, Any]:
    """All that a shard knows, dict orders included where they decide anything."""
    return {
        **meaning_of(shard),
        "coordinator": shard.coordinator,
        "now": shard.now,
        "nonce": shard.nonce,
        "complete": shard.complete,
        "first_seq": shard.first_seq,
        "items": plain(shard.items),
        "ready": list(shard.lanes.ready.items()),
        "commands": window_of(shard.commands),
        "keys": window_of(shard.keys),
        "held": [(holder, list(numbers)) for holder, numbers in shard.held.items()],
        "blocked": list(shard.blocked),
        "untold": list(shard.untold),
        "finished": {status: list(numbers) for status, numbers in shard.finished.items()},
        "trail": [(item.seq, item.number) for item in shard.trail],
        "marked": shard.marked,
        "needs": shard.needs,
    }


def window_of(window: DedupeWindow[Any]) -> dict[str, Any]:
    """All that a window remembers, and in which order it will forget and restate it."""
    return {
        "answers": list(answers_of(window).items()),
        "groups": plain(list(window._groups.values())),
        "ages": sorted(age for age in window._ages if age in window._groups),
        "horizon": window.horizon,
    }


def differences(one: Any, two: Any, where: str = "") -> list[str]:
    """Where two plain values differ, and how."""
    if isinstance(one, dict) and isinstance(two, dict):
        keys = [*one, *[key for key in two if key not in one]]
        pairs = [(f"{where}.{key}", one.get(key, "-"), two.get(key, "-")) for key in keys]
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        both = zip(one, two, strict=True)
        pairs = [(f"{where}[{place}]", left, right) for place, (left, right) in enumerate(both)]
    else:
        return [] if one == two else [f"{where}: {one!r} is not {two!r}"]
    return [found for pair in pairs for found in differences(pair[1], pair[2], pair[0])]
