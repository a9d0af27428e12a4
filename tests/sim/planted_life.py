"""More bugs that the simulation must find: in the life of logs, of shards and of items."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest

from swarm.actors import finished, opening, ownership, standby
from swarm.actors.answers import Answers
from swarm.actors.handoff import Handoffs
from swarm.actors.leaving import Leaving
from swarm.actors.ownership import Ownership
from swarm.actors.requests import Request
from swarm.actors.shard_worker import ShardWorker
from swarm.actors.surroundings import Surroundings
from swarm.bus.log import FencedLog
from swarm.core import life, upkeep
from swarm.core import shard as shard_module
from swarm.core.decide import control, holding, timely
from swarm.core.decide.batch import Batch
from swarm.core.shard import Shard
from swarm.core.urgency import Place
from swarm.messages import (
    NULL,
    Answer,
    Answered,
    Archived,
    Hold,
    Item,
    Prioritized,
    Released,
    Taken,
)
from swarm.testing.sim.mechanisms import cancelling

Patch = pytest.MonkeyPatch


# --- the life of a log ---------------------------------------------------------------


def mark_needs_one_entry_too_few(patch: Patch) -> None:
    """A mark takes the oldest entry that is needed for one that is not."""
    original = upkeep.needs
    patch.setattr(upkeep, "needs", lambda shard: min(original(shard) + 1, shard.seq))


def copy_loses_its_hold(patch: Patch) -> None:
    """An item that is stated again while it is held is stated as if it were queued."""
    encode = upkeep._encode

    def without_hold(what: Any) -> bytes:
        if isinstance(what, Item) and what.hold is not None:
            what = msgspec.structs.replace(what, hold=None)
        return encode(what)

    patch.setattr(upkeep, "_encode", without_hold)


def copy_loses_its_fence(patch: Patch) -> None:
    """An item that is stated again is stated as if it had never been claimed before."""
    encode = upkeep._encode

    def without_fence(what: Any) -> bytes:
        if isinstance(what, Item) and what.hold is None:
            what = msgspec.structs.replace(what, fence=0)
        return encode(what)

    patch.setattr(upkeep, "_encode", without_fence)


def archived_key_forgotten(patch: Patch) -> None:
    """With an archived item its idempotency key is forgotten."""
    original = upkeep.archived

    def archived(shard: Shard, event: Archived) -> None:
        original(shard, event)
        for key in [key for key in shard.keys if _number(shard, key) in event.n]:
            shard.keys._discard(key)

    patch.setitem(shard_module._APPLY, Archived, archived)


def _number(shard: Shard, key: str) -> int:
    keyed = shard.keys.get(key)
    assert keyed is not None, "it is one of them"
    return keyed.number


def archived_before_it_is_recorded(patch: Patch) -> None:
    """Items are said to be in the records before they are."""
    original = finished.FinishedItems._put

    async def put(
        self: finished.FinishedItems, blocks: Any, ended: list[tuple[int, float]]
    ) -> None:
        self._archived(ended)
        await original(self, blocks, [])

    patch.setattr(finished.FinishedItems, "_put", put)


# --- owning a shard ------------------------------------------------------------------


def standby_opens_unread(patch: Patch) -> None:
    """A standby opens without reading the last entries, by the number that the server tells."""
    # It seldom looks, so that there are some.
    patch.setattr(standby, "LOOK_SHORTEST_S", 5.0)
    patch.setattr(standby, "LOOK_LONGEST_S", 5.0)
    original = opening.Opening._open

    async def open_(self: opening.Opening[Any], known: str | None) -> FencedLog:
        reader = self._reader
        if not reader.position.incarnation:
            return await original(self, known)

        async def catch_up(up_to: int = 0) -> None:
            info = await self._around.bus.log_info(reader.position.log)
            reader.position.at = max(info.last_seq, reader.position.at)

        vars(reader)["catch_up"] = catch_up
        try:
            return await original(self, known)
        finally:
            del vars(reader)["catch_up"]

    patch.setattr(opening.Opening, "_open", open_)


def owner_decides_on_after_a_handoff(patch: Patch) -> None:
    """An owner that has handed its shard over goes on with the rounds under way."""

    async def hand_over(self: Ownership, worker: ShardWorker, to: str) -> list[Request]:
        self._owners[worker.number] = to
        worker.tick()
        return []

    patch.setattr(Ownership, "hand_over", hand_over)


def requests_dropped_at_a_handoff(patch: Patch) -> None:
    """What an owner that hands over has not looked at is dropped."""

    async def pass_on(self: Handoffs, shard: int, left: Iterable[Request]) -> None:
        return

    patch.setattr(Handoffs, "_pass_on", pass_on)


def sessions_forgotten_when_draining(patch: Patch) -> None:
    """A coordinator that leaves hands its shards over, and says nothing to its agents."""

    async def send_away(*_arguments: Any) -> None:
        return

    patch.setattr(Leaving, "send_away", send_away)


# --- the life of an item -------------------------------------------------------------


def cancel_forgotten_at_takeover(patch: Patch) -> None:
    """Who opens a shard does not know which holders were asked to stop."""
    original = opening.open_shard

    async def open_shard(around: Surroundings, *arguments: Any) -> ShardWorker:
        worker = await original(around, *arguments)
        for item in worker._shard.items.values():
            if item.story is not None:
                item.story.ask = None
        return worker

    patch.setattr(ownership, "open_shard", open_shard)


def cancel_acknowledged_and_not_logged(patch: Patch) -> None:
    """A cancel is acknowledged, and nothing of it is in the log."""
    patch.setattr(control, "_cancel", lambda item, command, sender, out: None)


def complete_after_the_grace_time(patch: Patch) -> None:
    """The end of a grace time is looked at late."""
    patch.setattr(timely, "_ask_is_over", lambda item, out: "")


def nobody_is_told_to_stop(patch: Patch) -> None:
    """Owners say nothing to those whose claim has ended, or who are to stop."""
    patch.setattr(Answers, "control", lambda self, agent, session, control: None)
    # Handlers take longer, so that it matters.
    patch.setattr(cancelling, "LONG_ONE_OF", 2)
    patch.setattr(cancelling, "LONG_S", (8.0, 10.0))


def answer_not_handed_on(patch: Patch) -> None:
    """Who goes on with an item that has waited does not get the answer."""
    original = life._answered

    def answered(shard: Shard, item: Item, event: Answered) -> None:
        original(shard, item, msgspec.structs.replace(event, answer=NULL))

    patch.setitem(life.LIFE, Answered, answered)


def two_answers_accepted(patch: Patch) -> None:
    """Whoever answers second is told that its answer counts."""
    original = control._answer

    def answer(shard: Shard, item: Item, command: Answer, sender: str, out: Batch) -> None:
        waits = item.story.waits if item.story is not None else 0
        if item.end is None and waits and (item.status != "waiting" or command.wait != waits):
            return
        original(shard, item, command, sender, out)

    patch.setattr(control, "_answer", answer)


def checkpoint_dropped_on_release(patch: Patch) -> None:
    """What is handed back is handed on without the checkpoint that came with it."""
    original = holding._release

    def release(item: Item, hold: Hold, command: Any, out: Batch) -> None:
        original(item, hold, msgspec.structs.replace(command, checkpoint=NULL), out)

    patch.setattr(holding, "_release", release)


def release_is_charged(patch: Patch) -> None:
    """Handing an item back costs an attempt."""
    original = life._released

    def released(shard: Shard, item: Item, event: Released) -> None:
        original(shard, item, event)
        if event.cause == "agent":
            item.attempt += 1

    patch.setitem(life.LIFE, Released, released)


def priority_not_moved(patch: Patch) -> None:
    """An item that was found more urgent keeps its old place among the others."""

    def prioritized(shard: Shard, item: Item, event: Prioritized) -> None:
        shard.remember(event.command_id, Taken(event.n, item.fence, "prioritize"))

    patch.setitem(life.LIFE, Prioritized, prioritized)


def slots_stay_where_they_are(patch: Patch) -> None:
    """A shard takes free slots whatever waits in the others of its coordinator."""
    patch.setattr(Place, "gives_way", lambda self, work_types, score, now: False)


#: Each bug, and the kinds of mishaps that bring it to light.
PLANTED: list[tuple[Callable[[Patch], None], tuple[str, ...]]] = [
    (mark_needs_one_entry_too_few, ()),
    (copy_loses_its_hold, ()),
    (copy_loses_its_fence, ()),
    (archived_key_forgotten, ()),
    (archived_before_it_is_recorded, ()),
    (standby_opens_unread, ("crash",)),
    (owner_decides_on_after_a_handoff, ("leave",)),
    (requests_dropped_at_a_handoff, ("leave",)),
    (sessions_forgotten_when_draining, ("leave",)),
    (cancel_forgotten_at_takeover, ("crash", "leave")),
    (cancel_acknowledged_and_not_logged, ()),
    (complete_after_the_grace_time, ()),
    (nobody_is_told_to_stop, ()),
    (answer_not_handed_on, ()),
    (two_answers_accepted, ()),
    (checkpoint_dropped_on_release, ()),
    (release_is_charged, ()),
    (priority_not_moved, ()),
    (slots_stay_where_they_are, ()),
]
