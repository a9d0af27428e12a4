"""Answers given, remembered so that a repeated command gets the first one's answer.

Ids that came in one log entry are a group: they are forgotten together, and stated again
together when the log is compacted, so an id costs a place in a list and one in a dict.

A group's *age* is where it was first stated.  Whoever begins to read in the middle of the
log learns the ages of older groups with what is stated again, so that all forget the same
groups first: a reader may remember more than the owner, never less.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Generic, TypeVar

from msgspec import Struct

Answer = TypeVar("Answer")

#: Most ids of a group: so many must fit into an entry beside what else there is.
GROUP_MAX = 256
#: Bits of an age that count the groups of one entry.
PART_BITS = 16


class _Group(Struct, gc=False):
    """Ids that were remembered at one time, and where in the log they were last stated."""

    at: float
    age: int
    seq: int
    ids: list[str]


class Group(Struct, Generic[Answer], frozen=True):
    """What is to be stated again of a group."""

    at: float
    age: int
    answers: list[tuple[str, Answer]]


class DedupeWindow(Generic[Answer]):
    """Remembers `Answer` by id, for `window_s` seconds and for about `count` ids.

    `horizon` is the largest `order` ever forgotten: an id whose order is not above it
    may have been known once.  (The order of a command id is the time inside it, by the
    *sender's* clock; comparing ids only with ids keeps clock differences out of it.)
    """

    def __init__(
        self, window_s: float, count: int, order: Callable[[str], int] = lambda _id: 0
    ) -> None:
        assert window_s > 0, "an empty window would make no retry safe"
        assert count > 0, "an empty window would make no retry safe"
        self._window_s = window_s
        self._count = count
        self._order = order
        self._answers: dict[str, Answer] = {}
        #: By age, in the order of the latest statements: what to state again first.
        self._groups: OrderedDict[int, _Group] = OrderedDict()
        #: A heap of ages, some of groups that are gone: what to forget first.
        self._ages: list[int] = []
        self._latest = _Group(0.0, -1, -1, [])
        self.horizon = -1

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Iterator[str]:
        """The ids that are remembered."""
        return iter(self._answers)

    def get(self, id_: str) -> Answer | None:
        """The answer remembered for this id."""
        return self._answers.get(id_)

    def put(self, id_: str, answer: Answer, now: float, seq: int = 0) -> None:
        """Remember `answer`, which entry `seq` states, and forget what is over the limits.

        An id that is known still has another answer by now, or was forgotten by whoever wrote
        the log: a reader may remember a little more than its owner did.
        """
        if id_ in self._answers:
            self._discard(id_)
        self._answers[id_] = answer
        latest, age = self._latest, seq << PART_BITS
        if latest.age >= age:
            if len(latest.ids) < GROUP_MAX and latest.age in self._groups:
                latest.ids.append(id_)
                return
            age = latest.age + 1
        elif not latest.ids:
            # Its only id is remembered anew: nothing is to be stated of it again.
            self._groups.pop(latest.age, None)
        self._latest = _Group(now, age, seq, [id_])
        self._add(self._latest)
        self.forget(now)

    def forget(self, now: float) -> None:
        """Drop what is older than the window or over the count, whole groups at once."""
        groups, ages = self._groups, self._ages
        while groups:
            oldest = groups.get(ages[0])
            if oldest is None:
                heappop(ages)
                continue
            # The latest group stays, whatever the count.
            over = len(self._answers) > self._count and len(groups) > 1
            if not over and oldest.at >= now - self._window_s:
                return
            heappop(ages)
            del groups[oldest.age]
            for id_ in oldest.ids:
                del self._answers[id_]
                self.horizon = max(self.horizon, self._order(id_))

    def _add(self, group: _Group) -> None:
        self._groups[group.age] = group
        heappush(self._ages, group.age)

    def _discard(self, id_: str) -> None:
        """Forget one id without a trace: it is about to be remembered anew."""
        del self._answers[id_]
        group = next(group for group in self._groups.values() if id_ in group.ids)
        group.ids.remove(id_)
        if not group.ids and group is not self._latest:
            del self._groups[group.age]

    # --- compaction ----------------------------------------------------------------

    def oldest_seq(self) -> int | None:
        """No entry before this one is needed for what is remembered; None: none is."""
        return next(iter(self._groups.values())).seq if self._groups else None

    def oldest(self) -> Group[Answer]:
        """The group that was stated longest ago; there must be one."""
        group = next(iter(self._groups.values()))
        answers = self._answers
        return Group(group.at, group.age, [(id_, answers[id_]) for id_ in group.ids])

    def restate(self, stated: Group[Answer], seq: int) -> None:
        """Entry `seq` states this group again."""
        known = self._groups.get(stated.age)
        if known is not None:
            known.seq = seq
            self._groups.move_to_end(stated.age)
            return
        fresh = {id_: answer for id_, answer in stated.answers if id_ not in self._answers}
        if fresh:
            self._answers.update(fresh)
            self._add(_Group(stated.at, stated.age, seq, list(fresh)))
