"""The state of a shard: what its log says, folded.

`Shard.apply` is the only code that changes it.  The owner applies an event the moment
it decides it (`swarm.core.decide`); anyone else applies it when reading it from the
log; both end in the same state.  If the owner's append fails, its state is dropped
whole: nothing is ever undone.

Invariants (checked by `validate`):

- conservation: every item ever submitted is queued, claimed, completed or dead, and
  the event counters agree with a walk over the items;
- an item is in exactly one lane iff it is queued;
- a held item's fence is the item's fence, and its session index entry exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import msgspec
from msgspec import Struct

from swarm.core.dedupe import DedupeWindow
from swarm.core.ids import is_uuid7, uuid7_ms
from swarm.core.lanes import Lanes
from swarm.core.work import RANK, End, Hold, Item, make_token
from swarm.messages import (
    Claimed,
    Completed,
    Died,
    Event,
    Opened,
    Priority,
    Progressed,
    Released,
    Status,
    Submitted,
)


class ShardRules(Struct, frozen=True, kw_only=True):
    """Settings that a shard decides by."""

    ageing_s: float = 60.0
    lease_s: float = 30.0
    dedupe_window_s: float = 86_400.0
    dedupe_count: int = 1_000_000
    #: Most bytes of an item: as submitted, plus result or error and note.
    item_bytes_max: int = 262_144


class _Spec(Struct, gc=False):
    """What a shard reads of a `NewItem`."""

    work_type: str
    priority: Priority = "medium"
    idempotency_key: str = ""
    lease_s: float = 0.0


class Accepted(Struct, frozen=True, gc=False):
    """Answer to a submit: (index, number) of its items."""

    numbers: list[tuple[int, int]]


class Taken(Struct, frozen=True, gc=False):
    """Answer to a command about item `number` under `fence`."""

    number: int
    fence: int
    #: The verb, to tell a repetition from the reuse of an id for something else.
    kind: str


_spec_decoder = msgspec.json.Decoder(_Spec)


class Shard:
    """See the module's docstring.  Read freely; change only by `apply`."""

    def __init__(self, number: int, rules: ShardRules) -> None:
        self.number = number
        self.rules = rules
        self.items: dict[int, Item] = {}
        self.lanes = Lanes(self.items, rules.ageing_s)
        self.commands: DedupeWindow[Accepted | Taken] = DedupeWindow(
            rules.dedupe_window_s, rules.dedupe_count
        )
        #: Item numbers by idempotency key.
        self.keys: DedupeWindow[int] = DedupeWindow(rules.dedupe_window_s, rules.dedupe_count)
        #: Numbers of the held items by (agent, session).
        self.held: dict[tuple[str, str], dict[int, None]] = {}
        self.next_number = 1
        #: By event, independent of `items`: the other side of the conservation check.
        self.submitted = 0
        self.ended: dict[Status, int] = {"completed": 0, "dead": 0}
        self.coordinator = ""

    # --- the only changes ------------------------------------------------------

    def apply(self, event: Event, now: float, nonce: str) -> None:
        """Fold one event of an entry with this `now` and owner nonce."""
        _APPLY[type(event)](self, event, now, nonce)

    def _opened(self, event: Opened, now: float, nonce: str) -> None:
        self.coordinator = event.coordinator

    def _completed(self, event: Completed, now: float, nonce: str) -> None:
        self._ended(event.n, event.fence, End("completed", now, _NO_HOLD, result=event.result))

    def _died(self, event: Died, now: float, nonce: str) -> None:
        self._ended(event.n, event.fence, End("dead", now, _NO_HOLD, error=event.error))

    def _submitted(self, event: Submitted, now: float, nonce: str) -> None:
        assert event.first == self.next_number, "items are numbered without holes"
        number = event.first
        for raw in event.items:
            spec = _spec_decoder.decode(raw)
            item = Item(number, raw, spec.work_type, RANK[spec.priority], now, spec.lease_s)
            self.items[number] = item
            self.lanes.add(item)
            if spec.idempotency_key:
                self.keys.put(spec.idempotency_key, 0, number, now)
            number += 1
        self.submitted += number - event.first
        self.next_number = number
        indexes = event.indexes or range(len(event.items))
        numbers = list(zip(indexes, range(event.first, number), strict=True)) + event.known
        self._remember(event.command_id, Accepted(numbers), now)

    def _claimed(self, event: Claimed, now: float, nonce: str) -> None:
        item = self.items[event.n]
        assert item.hold is None, f"item {event.n} is held already"
        assert item.end is None, f"item {event.n} has ended"
        assert event.fence == item.fence + 1, "fences grow by one with every claim"
        self.lanes.take(item)
        item.fence = event.fence
        item.attempt += 1
        token = make_token(event.fence, nonce, event.session)
        item.hold = Hold(event.agent, event.session, event.fence, token, now, event.lease_s)
        holder = (event.agent, event.session)
        numbers = self.held.get(holder)
        if numbers is None:
            self.held[holder] = {event.n: None}
        else:
            numbers[event.n] = None
        if event.command_id:
            self._remember(event.command_id, Taken(event.n, event.fence, "claim"), now)

    def _progressed(self, event: Progressed, now: float, nonce: str) -> None:
        hold = self.items[event.n].hold
        assert hold is not None, "only a held item makes progress"
        hold.percent, hold.note = event.percent, event.note
        if event.command_id:
            self._remember(event.command_id, Taken(event.n, hold.fence, "progress"), now)

    def _ended(self, number: int, fence: int, end: End) -> None:
        item = self.items[number]
        end.hold = self._let_go(item, fence)
        item.end = end
        self.ended[end.status] += 1

    def _released(self, event: Released, now: float, nonce: str) -> None:
        item = self.items[event.n]
        self._let_go(item, event.fence)
        if event.cause != "lapsed":
            item.attempt -= 1
        self.lanes.give_back(item)
        if event.command_id:
            self._remember(event.command_id, Taken(event.n, event.fence, "release"), now)

    def _let_go(self, item: Item, fence: int) -> Hold:
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

    def _remember(self, command_id: str, answer: Accepted | Taken, now: float) -> None:
        order = uuid7_ms(command_id) if is_uuid7(command_id) else 0
        self.commands.put(command_id, order, answer, now)

    # --- looking ------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Items by status, from a walk over the items: O(items)."""
        counts: dict[str, int] = {"queued": 0, "claimed": 0, "completed": 0, "dead": 0}
        for item in self.items.values():
            counts[item.status] += 1
        return counts

    def holds(self) -> Iterator[tuple[int, Hold]]:
        """(number, hold) of every held item."""
        for numbers in self.held.values():
            for number in numbers:
                hold = self.items[number].hold
                assert hold is not None, "the index lists held items only"
                yield number, hold

    def conservation(self) -> int:
        """Submitted by the events, less what a walk finds and the events ended: 0."""
        counts = self.counts()
        off = sum(abs(counts[status] - number) for status, number in self.ended.items())
        return self.submitted - sum(counts.values()) + off

    def validate(self) -> None:
        """Assert every invariant; for tests and the simulation: O(items)."""
        assert self.conservation() == 0, "conservation"
        queued = sorted(self.lanes)
        assert queued == [n for n, item in self.items.items() if item.status == "queued"], "lanes"
        by_type: dict[str, int] = dict.fromkeys(self.lanes.ready, 0)
        for number in queued:
            by_type[self.items[number].work_type] += 1
        assert by_type == self.lanes.ready, "ready counts"
        held = {number: hold.fence for number, hold in self.holds()}
        for number, item in self.items.items():
            assert item.hold is None or item.end is None, "held and ended"
            assert (number in held) == (item.hold is not None), "session index"
            assert item.hold is None or item.hold.fence == item.fence, "fence"


#: Replaced at once by the hold that ended the item.
_NO_HOLD = Hold("", "", 0, "", 0.0, 0.0)

_APPLY: dict[type[Event], Callable[[Shard, Any, float, str], None]] = {
    Opened: Shard._opened,
    Submitted: Shard._submitted,
    Claimed: Shard._claimed,
    Progressed: Shard._progressed,
    Completed: Shard._completed,
    Died: Shard._died,
    Released: Shard._released,
}
assert set(_APPLY) == set(get_args(Event)), "every kind of event is folded"
