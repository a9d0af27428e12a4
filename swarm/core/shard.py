"""The state of a shard: what its log says, folded.

`Shard.apply` is the only code that changes it (with `swarm.core.upkeep`, which folds the
events of compaction).  The owner applies an event the moment it decides it
(`swarm.core.decide`); anyone else applies it when reading it from the log; both end in
the same state.  If the owner's append fails, its state is dropped whole: nothing is ever
undone.

Invariants (checked by `validate`):

- conservation: every item ever submitted is queued, scheduled, blocked, waiting, claimed,
  completed, dead, cancelled or archived, and the event counters agree with a walk over
  the items;
- an item is ready in exactly one lane iff it is queued;
- a held item's fence is the item's fence, and its session index entry exists.

A log that was purged begins in the middle: until the first `Marked` event that covers its
beginning the state is not `complete`, and events about items not stated yet pass by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from hashlib import blake2b
from sys import intern
from typing import Any, get_args

from msgspec import Raw, Struct

from swarm.core import upkeep
from swarm.core.dedupe import DedupeWindow
from swarm.core.ids import command_order
from swarm.core.lanes import Lanes
from swarm.core.life import LIFE
from swarm.core.tally import Tally, Walked
from swarm.core.timers import Timers
from swarm.core.trail import Trail
from swarm.core.work import RANK, Spec, burden, read_spec, story_of, unresolved, untold, weight
from swarm.messages import (
    ENDED,
    STATUSES,
    Accepted,
    Archived,
    Claimed,
    Completed,
    Copied,
    Dependency,
    Due,
    Event,
    Hold,
    Item,
    Keyed,
    Marked,
    Opened,
    Pause,
    Remembered,
    Status,
    Submitted,
    Taken,
)


class ShardRules(Struct, frozen=True, kw_only=True):
    """Settings that a shard decides by."""

    ageing_s: float = 60.0
    lease_s: float = 30.0
    dedupe_window_s: float = 86_400.0
    dedupe_count: int = 1_000_000
    #: Most bytes of an item: as submitted, plus result or error and note.
    item_bytes_max: int = 262_144
    #: Attempts charged before an item is dead, unless it says otherwise.
    max_attempts: int = 3
    #: Pause after a first failed attempt, doubled with each up to the longest.
    backoff_s: float = 1.0
    backoff_max_s: float = 3600.0
    #: After this many agents died with it, an item is dead whatever attempts it has left.
    quarantine_deaths: int = 3
    #: How long an item waits for an answer, unless it says otherwise.
    wait_s: float = 604_800.0
    #: How long a holder has to stop when the deadline of its item has passed.
    grace_s: float = 10.0


def digest(spec: Raw) -> int:
    """63 bits of an item's content, to tell whether a key is used for the same again."""
    return int.from_bytes(blake2b(spec, digest_size=8).digest()) >> 1


class Shard:
    """See the module's docstring.  Read freely; change only by `apply`."""

    def __init__(self, number: int, rules: ShardRules, first_seq: int = 1) -> None:
        self.number = number
        self.rules = rules
        #: Where the log begins, and whether all that was before is known again.
        self.first_seq = first_seq
        self.complete = first_seq <= 1
        #: Sequence of the entry whose events are applied, or one before it.
        self.seq = first_seq - 1
        #: Of that entry: the owner's clock, and its nonce.
        self.now = 0.0
        self.nonce = ""
        self.items: dict[int, Item] = {}
        #: Archived items that somebody asked for; not part of the state.
        self.thawed: dict[int, Item] = {}
        self.lanes = Lanes(self.items, rules.ageing_s)
        self.timers = Timers(self.items)
        window = rules.dedupe_window_s, rules.dedupe_count
        self.commands: DedupeWindow[Accepted | Taken] = DedupeWindow(*window, command_order)
        #: Items by idempotency key.
        self.keys: DedupeWindow[Keyed] = DedupeWindow(*window)
        #: Numbers of the held items by (agent, session).
        self.held: dict[tuple[str, str], dict[int, None]] = {}
        #: Items that wait for dependencies, and ended ones whose dependents must be told.
        self.blocked: dict[int, None] = {}
        self.untold: dict[int, None] = {}
        #: Ended items by how they ended, in the order of their ends; some have gone since.
        self.finished: dict[Status, deque[int]] = {status: deque() for status in ENDED}
        #: Of the items whose work must be seen to advance: how often, in seconds.
        self.progress_s: dict[int, float] = {}
        self.trail = Trail(self.items)
        #: Items by status, and what the latest walk over them has found.
        self.tally = Tally(self.items)
        self.walked = Walked()
        self.next_number = 1
        #: By event, independent of `items`: the other side of the conservation check.
        self.submitted = 0
        self.ended: dict[Status, int] = dict.fromkeys(ENDED, 0)
        self.archived: dict[Status, int] = dict.fromkeys(ENDED, 0)
        #: Roughly what a log without history would take.
        self.live_bytes = 0
        #: Where the last mark was made, and what it needs.
        self.marked = 0
        self.needs = first_seq
        self.coordinator = ""

    # --- the only changes ------------------------------------------------------

    def apply(self, event: Event, now: float, nonce: str) -> None:
        """Fold one event of entry `self.seq`, with the entry's `now` and owner nonce."""
        self.now, self.nonce = now, nonce
        kind = type(event)
        life = LIFE.get(kind)
        if life is None:
            _APPLY[kind](self, event)
            return
        number: int = getattr(event, "n")  # noqa: B009 - events of items have it
        item = self.items.get(number)
        if item is not None:
            if kind is Claimed:
                # Every item is claimed, and weighs as much as before.
                life(self, item, event)
                self.tally.moved(number, "queued", "claimed")
                return
            if kind is Completed and item.story is None:
                # And nearly every one is completed: by its holder, and weighs more by the result.
                life(self, item, event)
                self.live_bytes += len(memoryview(getattr(event, "result")))  # noqa: B009
                self.tally.moved(number, "claimed", "completed")
                return
            weighed, before = burden(item), item.status
            life(self, item, event)
            self.live_bytes += burden(item) - weighed
            after = item.status
            if after != before:
                self.tally.moved(number, before, after)
            return
        assert not self.complete, f"{event} is about an item that there is not"
        upkeep.pass_by(self, event)

    def _opened(self, event: Opened) -> None:
        self.coordinator = event.coordinator

    def _submitted(self, event: Submitted) -> None:
        assert event.first == self.next_number or not self.complete, "numbered without holes"
        number = event.first
        for raw in event.items:
            # A copy: a view would keep the whole entry in memory as long as any of its items.
            self._add_new(number, raw.copy(), read_spec(raw))
            number += 1
        self.submitted += number - event.first
        self.next_number = number
        accepted = Accepted(
            event.first, len(event.items), event.indexes, event.known, event.clashes
        )
        self.remember(event.command_id, accepted)

    def _add_new(self, number: int, raw: Raw, spec: Spec) -> None:
        work_type = intern(spec.work_type)
        item = Item(number, raw, work_type, RANK[spec.priority], self.now, spec.lease_s)
        if spec.dependencies:
            story_of(item).depends = {name: Dependency() for name in spec.dependencies}
        self.insert(item)
        if spec.dependencies:
            self.pause(item, Pause("blocked"))
        else:
            self.schedule(item, spec.not_before)
        self.tally.added(item)
        if spec.progress_s:
            self.progress_s[number] = spec.progress_s
        if spec.deadline:
            self.timers.add(spec.deadline, number)
        if spec.idempotency_key:
            keyed = Keyed(number, digest(raw))
            self.keys.put(spec.idempotency_key, keyed, self.now, self.seq)

    def _due(self, event: Due) -> None:
        for number in event.n:
            item = self.items.get(number)
            if item is None:
                assert not self.complete, f"item {number} is due, and there is none"
                continue
            weighed, before = burden(item), item.status
            self.resume(item)
            self.live_bytes += burden(item) - weighed
            self.tally.moved(number, before, item.status)

    # --- steps that events are made of ---------------------------------------------

    def insert(self, item: Item) -> None:
        """The log states this item whole, for the first time in what is read."""
        item.seq = 0
        self.items[item.number] = item
        self.trail.stated(item, self.seq)
        self.live_bytes += weight(item)

    def drop(self, item: Item) -> None:
        """The item is not part of the state any more."""
        del self.items[item.number]
        self.progress_s.pop(item.number, None)
        self.tally.removed(item)
        self.live_bytes -= weight(item)

    def schedule(self, item: Item, until: float) -> None:
        """Queue an item that nobody holds, or pause it until its time."""
        if until > self.now:
            self.pause(item, Pause("scheduled", until))
        else:
            item.pause = None
            self.lanes.add(item)

    def pause(self, item: Item, pause: Pause) -> None:
        """The item cannot be claimed for now."""
        assert item.hold is None, f"item {item.number} is held"
        item.pause = pause
        if pause.until:
            self.timers.add(pause.until, item.number)
        if pause.status == "blocked":
            self.blocked[item.number] = None

    def resume(self, item: Item) -> None:
        """What kept the item from being claimed is over."""
        assert item.pause is not None, f"item {item.number} is not paused"
        item.pause = None
        self.blocked.pop(item.number, None)
        self.lanes.add(item)

    def hold(self, item: Item, hold: Hold) -> None:
        """The queued item is held from here on."""
        self.lanes.remove(item)
        item.hold = hold
        self.index_hold(item.number, hold)

    def index_hold(self, number: int, hold: Hold) -> None:
        """The session holds this item."""
        holder = (hold.agent, hold.session)
        numbers = self.held.get(holder)
        if numbers is None:
            self.held[holder] = {number: None}
        else:
            numbers[number] = None

    def let_go(self, item: Item, fence: int) -> Hold:
        """The claim under this fence is over."""
        hold = item.hold
        assert hold is not None, f"item {item.number} is not held"
        assert hold.fence == fence, f"item {item.number} is held under another fence"
        item.hold = None
        holder = (hold.agent, hold.session)
        numbers = self.held[holder]
        del numbers[item.number]
        if not numbers:
            del self.held[holder]
        return hold

    def take_out(self, item: Item) -> None:
        """An item that nobody holds leaves its lane or its pause."""
        if item.pause is not None:
            item.pause = None
            self.blocked.pop(item.number, None)
        else:
            self.lanes.remove(item)

    def index_end(self, item: Item) -> None:
        """The item has ended: it can be archived, and its dependents are told."""
        assert item.end is not None, f"item {item.number} has not ended"
        self.finished[item.end.status].append(item.number)
        if untold(item):
            self.untold[item.number] = None

    def remember(self, command_id: str, answer: Accepted | Taken) -> None:
        """The answer to a command; without an id nobody can ask for it again."""
        if command_id:
            self.commands.put(command_id, answer, self.now, self.seq)

    # --- looking ------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Items by status, archived ones included, as counted event by event."""
        counts: dict[str, int] = {str(s): count for s, count in self.tally.counts.items()}
        for status, number in self.archived.items():
            counts[status] += number
        return counts

    def is_archived(self, item: Item) -> bool:
        """Whether the item is in the finished records only."""
        return item.number not in self.items

    def holds(self) -> Iterator[tuple[int, Hold]]:
        """(number, hold) of every held item."""
        for numbers in self.held.values():
            for number in numbers:
                hold = self.items[number].hold
                assert hold is not None, "the index lists held items only"
                yield number, hold

    def conservation(self) -> int:
        """How far a walk over all items is from what the events say: 0.  O(items)."""
        found: dict[Status, int] = dict.fromkeys(STATUSES, 0)
        for item in self.items.values():
            found[item.status] += 1
        return self._off(found)

    def walk(self, numbers: int, seq: int) -> None:
        """Look at so many items more; after the last one, `walked` tells, as of entry `seq`.

        All of which must be decided, if not durable: until then it must not be shown.
        """
        if self.tally.walk(numbers, self.next_number):
            found = self.tally.found
            self.walked = Walked(self._off(found), seq, sum(found.values()))
            self.tally.begin(self.next_number)

    def _off(self, found: dict[Status, int]) -> int:
        """Each kind of count, by a walk and by events; and the numbers given out."""
        off = sum(abs(count - self.tally.counts[status]) for status, count in found.items())
        off += sum(
            abs(found[status] + self.archived[status] - count)
            for status, count in self.ended.items()
        )
        there = sum(found.values()) + sum(self.archived.values())
        return off + abs(self.submitted - there) + abs(self.next_number - 1 - there)

    def validate(self) -> None:
        """Assert every invariant; for tests and the simulation: O(items)."""
        assert self.conservation() == 0, "conservation"
        queued = sorted(self.lanes)
        found = sorted(n for n, item in self.items.items() if item.status == "queued")
        assert queued == found, "lanes"
        by_type: dict[str, int] = dict.fromkeys(self.lanes.ready, 0)
        for number in queued:
            by_type[self.items[number].work_type] += 1
        assert by_type == self.lanes.ready, "ready counts"
        held = {number: hold.fence for number, hold in self.holds()}
        finished = {status: set(numbers) for status, numbers in self.finished.items()}
        for number, item in self.items.items():
            states = (item.hold, item.end, item.pause)
            assert sum(state is not None for state in states) <= 1, "two states at once"
            assert (number in held) == (item.hold is not None), "session index"
            assert item.hold is None or item.hold.fence == item.fence, "fence"
            blocked = item.status == "blocked"
            assert (number in self.blocked) == blocked, "index of blocked items"
            assert bool(unresolved(item)) or not blocked, "blocked by nothing"
            assert (number in self.untold) == bool(untold(item)), "index of untold dependents"
            assert item.end is None or number in finished[item.end.status], "ended items"
            progress_s = self.progress_s.get(number, 0.0)
            assert read_spec(item.spec).progress_s == progress_s, "index of progress demanded"
        stated = [item.seq for item in self.trail]
        assert len(stated) == len(self.items), "every item is on the trail, once"
        assert stated == sorted(stated), "the trail is in the order of the log"
        assert self.live_bytes == sum(map(weight, self.items.values())), "live bytes"


_APPLY: dict[type[Event], Callable[[Shard, Any], None]] = {
    Opened: Shard._opened,
    Submitted: Shard._submitted,
    Due: Shard._due,
    Archived: upkeep.archived,
    Copied: upkeep.copied,
    Remembered: upkeep.remembered,
    Marked: upkeep.marked,
}
assert not set(_APPLY) & set(LIFE), "every kind of event is folded in one place"
assert {*_APPLY, *LIFE} >= set(get_args(Event)), "every kind of event is folded"
