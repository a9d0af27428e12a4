"""Folding the events of single items: each changes its item, and the shard's indexes of it.

What may be decided when is `swarm.core.decide`'s; here an event that cannot follow what
the log said before is a broken log, and asserted against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from swarm.core.texts import cut_text
from swarm.core.work import (
    RANK,
    deadline_of,
    make_token,
    read_spec,
    story_of,
    unresolved,
    untold,
)
from swarm.messages import (
    HISTORY_MAX,
    NULL,
    Answered,
    Ask,
    Asked,
    Attempt,
    AttemptEnd,
    Cancelled,
    Claimed,
    Completed,
    Dependency,
    Died,
    End,
    Event,
    Hold,
    Item,
    Pause,
    Prioritized,
    Progressed,
    Released,
    Replayed,
    Resolved,
    Retried,
    Taken,
    Told,
    Waited,
    Watched,
)

if TYPE_CHECKING:
    from swarm.core.shard import Shard

#: Bytes of a failed attempt's error that are kept in the item's history.
ERROR_KEPT_BYTES = 500

#: What an ended attempt is called in the history, by what ended it.
_ENDS: dict[str, AttemptEnd] = {"lapsed": "lapsed", "stalled": "stalled", "quarantined": "lapsed"}


def _claimed(shard: Shard, item: Item, event: Claimed) -> None:
    assert item.hold is None, f"item {event.n} is held already"
    assert item.end is None, f"item {event.n} has ended"
    assert item.pause is None, f"item {event.n} is not to be claimed yet"
    assert event.fence == item.fence + 1, "fences grow by one with every claim"
    item.fence = event.fence
    item.attempt += 1
    token = make_token(event.fence, shard.nonce, event.session)
    hold = Hold(event.agent, event.session, event.fence, token, shard.now, event.lease_s)
    shard.hold(item, hold)
    if event.command_id:
        shard.remember(event.command_id, Taken(event.n, event.fence, "claim"))


def _progressed(shard: Shard, item: Item, event: Progressed) -> None:
    hold = item.hold
    assert hold is not None, "only a held item makes progress"
    hold.percent, hold.note = event.percent, event.note
    _keep_checkpoint(item, event.checkpoint)
    shard.remember(event.command_id, Taken(event.n, hold.fence, "progress"))


def _completed(shard: Shard, item: Item, event: Completed) -> None:
    hold = shard.let_go(item, event.fence)
    if item.story is not None and item.story.checkpoint != NULL:
        # Nobody goes on with it any more.
        item.story.checkpoint = NULL
    _end(shard, item, End("completed", shard.now, hold, result=event.result.copy()))


def _died(shard: Shard, item: Item, event: Died) -> None:
    hold = _leave(shard, item, event.fence)
    if hold is not None:
        _keep_attempt(shard, item, hold, _ENDS.get(event.cause, "failed"), event.error)
    _end(shard, item, End("dead", shard.now, hold, error=event.error, cause=event.cause))


def _cancelled(shard: Shard, item: Item, event: Cancelled) -> None:
    hold = _leave(shard, item, event.fence)
    _end(shard, item, End("cancelled", shard.now, hold, error=event.reason))
    shard.remember(event.command_id, Taken(event.n, event.fence, "cancel"))


def _retried(shard: Shard, item: Item, event: Retried) -> None:
    assert event.until >= 0, "times are seconds since the epoch"
    hold = shard.let_go(item, event.fence)
    _keep_attempt(shard, item, hold, "failed", event.error)
    shard.schedule(item, event.until)
    shard.remember(event.command_id, Taken(event.n, event.fence, "fail"))


def _released(shard: Shard, item: Item, event: Released) -> None:
    hold = shard.let_go(item, event.fence)
    if event.cause in ("lapsed", "stalled"):
        _keep_attempt(shard, item, hold, _ENDS[event.cause], event.reason)
    else:
        item.attempt -= 1
    _keep_checkpoint(item, event.checkpoint)
    shard.schedule(item, 0.0)
    shard.remember(event.command_id, Taken(event.n, event.fence, "release"))


def _waited(shard: Shard, item: Item, event: Waited) -> None:
    shard.let_go(item, event.fence)
    item.attempt -= 1
    _keep_checkpoint(item, event.checkpoint)
    story = story_of(item)
    story.waits += 1
    story.answer, story.answered_by = NULL, ""
    shard.pause(item, Pause("waiting", event.until, event.what.copy(), shard.now, event.on_expiry))
    shard.remember(event.command_id, Taken(event.n, event.fence, "wait"))


def _answered(shard: Shard, item: Item, event: Answered) -> None:
    assert item.status == "waiting", f"item {event.n} waits for nothing"
    story = story_of(item)
    story.answer, story.answered_by = event.answer.copy(), event.by
    shard.resume(item)
    shard.remember(event.command_id, Taken(event.n, story.waits, "answer"))


def _asked(shard: Shard, item: Item, event: Asked) -> None:
    assert item.hold is not None, "only a holder can be asked"
    story_of(item).ask = Ask(event.status, event.until, event.reason, event.by)
    shard.timers.add(event.until, item.number)
    shard.remember(event.command_id, Taken(event.n, item.fence, "cancel"))


def _prioritized(shard: Shard, item: Item, event: Prioritized) -> None:
    assert item.end is None, f"item {event.n} has ended"
    queued = item.status == "queued"
    if queued:
        shard.lanes.remove(item)
    item.rank = RANK[event.priority]
    if queued:
        shard.lanes.add(item)
    shard.remember(event.command_id, Taken(event.n, item.fence, "prioritize"))


def _replayed(shard: Shard, item: Item, event: Replayed) -> None:
    end = item.end
    if item.pause is not None:
        shard.resume(item)
    elif end is not None:
        assert end.status == "dead", f"item {event.n} is {end.status}: that is final"
        item.end = None
        item.attempt = 0
        story = story_of(item)
        story.deaths = 0
        story.replays += 1
        story.replayed_by, story.replayed_at = event.by, shard.now
        deadline = deadline_of(item)
        if deadline:
            shard.timers.add(deadline, item.number)
        shard.ended["dead"] -= 1
        shard.untold.pop(item.number, None)
        shard.lanes.add(item)
    shard.remember(event.command_id, Taken(event.n, item.fence, "retry"))


def _watched(shard: Shard, item: Item, event: Watched) -> None:
    story_of(item).dependents.setdefault(event.dependent, "")
    if untold(item):
        shard.untold[item.number] = None


def _told(shard: Shard, item: Item, event: Told) -> None:
    dependents = story_of(item).dependents
    if event.status == "dead":
        # It may be brought back, and end otherwise.
        dependents[event.dependent] = event.status
    else:
        dependents.pop(event.dependent, None)
    if not untold(item):
        shard.untold.pop(item.number, None)


def _resolved(shard: Shard, item: Item, event: Resolved) -> None:
    assert item.end is None, f"item {event.n} has ended"
    known = Dependency(event.status, event.result.copy(), event.omitted)
    story_of(item).depends[event.on] = known
    if item.status == "blocked" and not unresolved(item):
        del shard.blocked[item.number]
        shard.schedule(item, read_spec(item.spec).not_before)


# --- steps ------------------------------------------------------------------------


def _leave(shard: Shard, item: Item, fence: int) -> Hold | None:
    """The item stops being whatever it is; the hold, if it was held."""
    assert item.end is None, f"item {item.number} has ended already"
    if item.hold is not None:
        return shard.let_go(item, fence)
    assert fence == item.fence, f"item {item.number} is under another fence"
    shard.take_out(item)
    return None


def _end(shard: Shard, item: Item, end: End) -> None:
    item.end = end
    if item.story is not None:
        item.story.ask = None
    shard.ended[end.status] += 1
    shard.index_end(item)


def _keep_attempt(shard: Shard, item: Item, hold: Hold, how: AttemptEnd, error: str) -> None:
    story = story_of(item)
    kept = cut_text(error, ERROR_KEPT_BYTES)
    story.history.append(Attempt(hold.fence, hold.agent, hold.claimed_at, shard.now, how, kept))
    del story.history[:-HISTORY_MAX]
    if how != "failed":
        story.deaths += 1


def _keep_checkpoint(item: Item, checkpoint: Raw) -> None:
    if checkpoint == NULL:
        return
    story_of(item).checkpoint = checkpoint.copy()


#: How each event changes the item that it is about.
LIFE: dict[type[Event], Callable[[Shard, Item, Any], None]] = {
    Claimed: _claimed,
    Progressed: _progressed,
    Completed: _completed,
    Died: _died,
    Cancelled: _cancelled,
    Retried: _retried,
    Released: _released,
    Waited: _waited,
    Answered: _answered,
    Asked: _asked,
    Prioritized: _prioritized,
    Replayed: _replayed,
    Watched: _watched,
    Told: _told,
    Resolved: _resolved,
}

#: Those whose command is remembered by its id, and the verb of the command.
REMEMBERED: dict[type[Event], str] = {
    Claimed: "claim",
    Progressed: "progress",
    Released: "release",
    Retried: "fail",
    Waited: "wait",
    Answered: "answer",
    Asked: "cancel",
    Cancelled: "cancel",
    Prioritized: "prioritize",
    Replayed: "retry",
}
