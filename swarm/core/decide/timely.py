"""What the owner decides by itself, because time has passed or an agent is gone."""

from __future__ import annotations

from itertools import islice
from typing import Literal

from swarm.core.decide.batch import Batch
from swarm.core.envelope import FORMAT
from swarm.core.shard import Shard
from swarm.core.work import deadline_of, end_as_asked, read_spec
from swarm.messages import Asked, Died, Due, Hold, Item, Released

#: Why the owner takes an item from its holder.
TakenBack = Literal["unlisted", "lapsed", "stalled", "trouble"]

#: Items looked at for one chunk to archive.
LOOKED_AT_MAX = 2000


def give_up(shard: Shard, number: int, cause: TakenBack, reason: str, out: Batch) -> None:
    """Take a held item from its agent, which is gone, stuck, or never got it."""
    item = shard.items[number]
    hold = item.hold
    assert hold is not None, "only a held item can be given up"
    asked = end_as_asked(item)
    if asked is not None:
        out.add(asked)
        return
    if cause in ("lapsed", "stalled") and out.format >= FORMAT:
        deaths = 1 + (item.story.deaths if item.story is not None else 0)
        attempts = read_spec(item.spec).max_attempts or shard.rules.max_attempts
        if deaths >= shard.rules.quarantine_deaths:
            why = f"{deaths} agents fell silent or made no progress with it; the last: {reason}"
            out.add(Died(number, hold.fence, why, cause="quarantined"))
            return
        if item.attempt >= attempts:
            out.add(Died(number, hold.fence, reason, cause="lapsed"))
            return
    if out.format < FORMAT:
        # By the names that earlier versions know.
        cause = {"stalled": "lapsed", "trouble": "unlisted"}.get(cause, cause)  # type: ignore[assignment]
    out.add(Released(number, hold.fence, cause, reason))


def due(shard: Shard, out: Batch, count_max: int) -> list[tuple[int, Hold, str]]:
    """Do what has come due; (number, hold, why) of the claims that ended by it."""
    assert count_max > 0, "nothing would ever come due"
    if out.format < FORMAT:
        return []
    stopped: list[tuple[int, Hold, str]] = []
    queued: list[int] = []
    for number in shard.timers.due(out.now, count_max):
        item = shard.items.get(number)
        if item is None or item.end is not None:
            continue
        hold = item.hold
        # Each item is named once: whatever has come due about it is looked at.
        why = _ask_is_over(item, out) or _deadline_is_over(shard, item, out)
        if not why:
            _look_at_pause(item, out, queued)
        if hold is not None and item.hold is None:
            stopped.append((number, hold, why))
    if queued:
        out.add(Due(queued))
    return stopped


def _look_at_pause(item: Item, out: Batch, queued: list[int]) -> None:
    pause = item.pause
    if pause is None or not pause.until or pause.until > out.now:
        return
    if pause.status == "waiting" and pause.on_expiry == "dead":
        why = "what it waited for did not come in time"
        out.add(Died(item.number, item.fence, why, cause="expired"))
        return
    queued.append(item.number)


def _ask_is_over(item: Item, out: Batch) -> str:
    ask = item.story.ask if item.story is not None else None
    if ask is None or ask.until > out.now or item.hold is None:
        return ""
    asked = end_as_asked(item)
    assert asked is not None, "it was asked"
    out.add(asked)
    return f"it was asked to stop, and did not in time: {ask.reason}"


def _deadline_is_over(shard: Shard, item: Item, out: Batch) -> str:
    deadline = deadline_of(item)
    if not deadline or deadline > out.now:
        return ""
    why = "its deadline has passed"
    if item.hold is None:
        out.add(Died(item.number, item.fence, why, cause="deadline"))
    elif item.story is None or item.story.ask is None:
        out.add(Asked(item.number, out.now + shard.rules.grace_s, "dead", why))
    return why


def may_archive(shard: Shard, kept: int, dead_before: float, count_max: int) -> list[int]:
    """Up to `count_max` ended items to archive: the oldest of those over `kept`, and items
    that died before `dead_before`; none whose dependents have not been told."""
    assert kept >= 0, "less than nothing cannot be kept"
    found: list[int] = []
    for status, numbers in shard.finished.items():
        over = shard.ended[status] - shard.archived[status] - kept
        for number in islice(numbers, LOOKED_AT_MAX):
            item = shard.items.get(number)
            if item is None or item.end is None or number in shard.untold:
                continue
            if status == "dead" and item.end.at >= dead_before:
                break
            if (status != "dead" and over <= 0) or len(found) >= count_max:
                break
            over -= 1
            found.append(number)
    return list(dict.fromkeys(found))
