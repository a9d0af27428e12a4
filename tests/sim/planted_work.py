"""Planted bugs in the life of work: dependencies, attempts and their charges, times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from swarm.actors import opening, ownership
from swarm.actors.answers import Answers
from swarm.actors.deciding import Deciding
from swarm.actors.shard_worker import ShardWorker
from swarm.actors.surroundings import Surroundings
from swarm.core import decide, life, upkeep
from swarm.core.decide import edges as deciding_edges
from swarm.core.decide import holding, timely
from swarm.core.edge_book import EdgeBook
from swarm.core.leases import Leases
from swarm.core.shard import Shard
from swarm.core.work import backoff_s, deadline_of, unresolved
from swarm.messages import (
    Dependency,
    Edge,
    Heard,
    Item,
    Outcome,
    Released,
    Replayed,
    Resolved,
    Retried,
    Watching,
)
from swarm.subjects import parse_item_id, shard_of_id

Patch = pytest.MonkeyPatch


# --- dependencies --------------------------------------------------------------------------


def outcomes_are_said_once(patch: Patch) -> None:
    """An owner tells how an item ended when it ends, and does not do so again."""
    original = EdgeBook.look

    def look(self: EdgeBook, now: float) -> list[Edge]:
        return [edge for edge in original(self, now) if not isinstance(edge, Outcome)]

    patch.setattr(EdgeBook, "look", look)


def heard_before_it_is_logged(patch: Patch) -> None:
    """An outcome is answered at once, its place in the dependent's log perhaps not durable."""
    workers: dict[Shard, ShardWorker] = {}
    original_init, original_edge = ShardWorker.__init__, Deciding._edge

    def init(self: ShardWorker, around: Surroundings, shard: Shard, *rest: Any) -> None:
        original_init(self, around, shard, *rest)
        workers[shard] = self

    def edge(self: Deciding, message: Any, batch: decide.Batch, answers: Answers) -> None:
        original_edge(self, message, batch, answers)
        if isinstance(message, Outcome):
            around = workers[self.shard]._around
            heard = Heard(message.on, message.dependent, message.status)
            to = around.subjects.shard(shard_of_id(message.on), "edge", around.coordinator)
            around.send.soon(to, msgspec.json.encode(heard))

    patch.setattr(ShardWorker, "__init__", init)
    patch.setattr(Deciding, "_edge", edge)


def told_as_soon_as_it_is_said(patch: Patch) -> None:
    """An owner takes an outcome for known when it has said it, without an answer."""
    original = EdgeBook.of

    def of(self: EdgeBook, number: int, now: float) -> list[Edge]:
        said = original(self, number, now)
        item = self._shard.items.get(number)
        if item is not None and any(isinstance(edge, Outcome) for edge in said):
            self._shard.untold.pop(number, None)
        return said

    patch.setattr(EdgeBook, "of", of)


def released_by_the_first_of_two(patch: Patch) -> None:
    """A dependent is queued as soon as one of its dependencies has completed."""

    def any_of(item: Item) -> list[str]:
        left = unresolved(item)
        known = item.story.depends if item.story is not None else {}
        return left if len(left) == len(known) else []

    patch.setattr(life, "unresolved", any_of)


def an_edge_before_it_is_logged(patch: Patch) -> None:
    """Whoever is asked to tell of an item's end says that it will, and does not note it down."""
    original = deciding_edges._watch

    def watch(shard: Shard, message: Any, out: decide.Batch) -> Edge:
        item = shard.items.get(int(message.on.split("-")[1]))
        if item is not None and item.end is None:
            return Watching(message.on, message.dependent)
        return original(shard, message, out)

    patch.setattr(deciding_edges, "_watch", watch)


def results_mixed_up(patch: Patch) -> None:
    """All dependencies are handed on with the result of the one that ended last."""

    def resolved(shard: Shard, item: Item, event: Resolved) -> None:
        original(shard, item, event)
        if item.story is not None:
            last = item.story.depends[event.on]
            for name, known in item.story.depends.items():
                if known.status == "completed":
                    item.story.depends[name] = Dependency(known.status, last.result)

    original = life.LIFE[Resolved]
    patch.setitem(life.LIFE, Resolved, resolved)


# --- attempts -------------------------------------------------------------------------------


def _opened(patch: Patch, change: Callable[[Shard], None]) -> None:
    """Change the state of every shard that is opened."""
    original = opening.open_shard

    async def open_shard(around: Surroundings, *arguments: Any) -> ShardWorker:
        worker = await original(around, *arguments)
        change(worker._shard)
        return worker

    patch.setattr(ownership, "open_shard", open_shard)


def backoff_forgotten_at_takeover(patch: Patch) -> None:
    """Who opens a shard queues at once what was to be tried again later."""

    def change(shard: Shard) -> None:
        for item in shard.items.values():
            if item.pause is not None and item.pause.status == "scheduled":
                shard.tally.moved(item.number, "scheduled", "queued")
                shard.resume(item)

    _opened(patch, change)


def backoff_does_not_grow(patch: Patch) -> None:
    """The pause after every failed attempt is that after the first one."""
    patch.setattr(
        holding,
        "backoff_s",
        lambda first_s, longest_s, _attempt, jitter: backoff_s(first_s, longest_s, 1, jitter),
    )


def _attempts_change(patch: Patch, kind: type[Any], by: int) -> None:
    original = life.LIFE[kind]

    def charge(shard: Shard, item: Item, event: Any) -> None:
        original(shard, item, event)
        item.attempt += by

    patch.setitem(life.LIFE, kind, charge)


def failures_are_not_charged(patch: Patch) -> None:
    """An attempt that failed is not counted."""
    _attempts_change(patch, Retried, -1)


def failures_are_charged_twice(patch: Patch) -> None:
    """An attempt that failed counts for two."""
    _attempts_change(patch, Retried, 1)


def handing_back_is_charged(patch: Patch) -> None:
    """An item that its agent never got, or handed back, has lost an attempt."""
    original = life.LIFE[Released]

    def released(shard: Shard, item: Item, event: Released) -> None:
        original(shard, item, event)
        item.attempt += event.cause in ("agent", "unlisted", "trouble")

    patch.setitem(life.LIFE, Released, released)


def deaths_lost_by_compaction(patch: Patch) -> None:
    """Who reads a purged log does not know how many agents have died with an item."""
    original = upkeep._take_in

    def take_in(shard: Shard, item: Item) -> None:
        if item.story is not None:
            item.story.deaths = 0
        original(shard, item)

    patch.setattr(upkeep, "_take_in", take_in)


def no_quarantine(patch: Patch) -> None:
    """An item may kill as many agents as it has attempts."""
    original = timely.give_up

    def give_up(shard: Shard, *rest: Any) -> None:
        rules = shard.rules
        shard.rules = msgspec.structs.replace(rules, quarantine_deaths=1000)
        original(shard, *rest)
        shard.rules = rules

    patch.setattr(decide, "give_up", give_up)


def leases_go_on_through_trouble(patch: Patch) -> None:
    """Agents are charged for the time in which their owner could not be reached."""
    patch.setattr(Leases, "restart", lambda self, now: None)
    patch.setattr(Leases, "is_mass", lambda self, held, now: False)


def brought_back_with_its_old_attempts(patch: Patch) -> None:
    """A dead item that is brought back has no attempts left."""
    original = life.LIFE[Replayed]

    def replayed(shard: Shard, item: Item, event: Any) -> None:
        attempt = item.attempt
        original(shard, item, event)
        item.attempt = attempt

    patch.setitem(life.LIFE, Replayed, replayed)


# --- times ----------------------------------------------------------------------------------


def deadlines_forgotten_at_takeover(patch: Patch) -> None:
    """Who opens a shard does not look at the deadlines of the items that there are."""

    def change(shard: Shard) -> None:
        deadlines = {(deadline_of(item), item.number) for item in shard.items.values()}
        shard.timers._heap = sorted(set(shard.timers._heap) - deadlines)

    _opened(patch, change)


def heartbeats_count_as_progress(patch: Patch) -> None:
    """An agent that lives is taken for one whose work advances."""
    original = Leases.renew

    def renew(self: Leases, number: int, now: float) -> None:
        original(self, number, now)
        lease = self._leases.get(number)
        if lease is not None and lease.progress_s:
            lease.progress_by = now + lease.progress_s

    patch.setattr(Leases, "renew", renew)


def outcomes_are_taken_down_twice(patch: Patch) -> None:
    """An outcome that is told again is taken down again, whatever has become of the item."""
    original = deciding_edges._outcome

    def outcome(shard: Shard, told: Outcome, out: decide.Batch) -> None:
        item = shard.items.get(parse_item_id(told.dependent)[1])
        known = item.story.depends.get(told.on) if item is not None and item.story else None
        if item is None or item.end or known is None or known.status != told.status:
            original(shard, told, out)
            return
        out.add(Resolved(item.number, told.on, told.status, told.result))

    patch.setattr(deciding_edges, "_outcome", outcome)


def progress_is_overlooked(patch: Patch) -> None:
    """A report of progress renews the lease, and nothing else."""
    patch.setattr(Leases, "progressed", Leases.renew)


def delays_are_ignored(patch: Patch) -> None:
    """A new item is queued at once, whatever it is not to be claimed before."""
    original = Shard.schedule

    def schedule(self: Shard, item: Item, until: float) -> None:
        original(self, item, until if item.attempt else 0.0)

    patch.setattr(Shard, "schedule", schedule)


def overdue_items_are_handed_out(patch: Patch) -> None:
    """Deadlines are looked at when an item is not queued."""
    original = timely._deadline_is_over

    def over(shard: Shard, item: Item, out: decide.Batch) -> str:
        return "" if item.status == "queued" else original(shard, item, out)

    patch.setattr(timely, "_deadline_is_over", over)


#: Each bug, and the kinds of mishaps that bring it to light.
PLANTED_WORK: list[tuple[Callable[[Patch], None], tuple[str, ...]]] = [
    (outcomes_are_said_once, ("step",)),
    (heard_before_it_is_logged, ()),
    (told_as_soon_as_it_is_said, ("step",)),
    (released_by_the_first_of_two, ()),
    (an_edge_before_it_is_logged, ()),
    (results_mixed_up, ()),
    (outcomes_are_taken_down_twice, ("stall",)),
    (backoff_forgotten_at_takeover, ("crash",)),
    (backoff_does_not_grow, ()),
    (failures_are_not_charged, ()),
    (failures_are_charged_twice, ()),
    (handing_back_is_charged, ()),
    (deaths_lost_by_compaction, ("crash",)),
    (no_quarantine, ()),
    (leases_go_on_through_trouble, ("deaf",)),
    (brought_back_with_its_old_attempts, ()),
    (deadlines_forgotten_at_takeover, ("crash",)),
    (heartbeats_count_as_progress, ()),
    (progress_is_overlooked, ()),
    (delays_are_ignored, ()),
    (overdue_items_are_handed_out, ()),
]
