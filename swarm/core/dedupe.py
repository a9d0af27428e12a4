"""Answers given, remembered so that a repeated command gets the first one's answer.

Ids are kept by the log entry that brought them: they are forgotten together, and stated
again together when the log is compacted, so an id costs two places in lists and one in
a dict.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from msgspec import Struct

Answer = TypeVar("Answer")


class _Group(Struct, gc=False):
    """Ids that were remembered at one time, and where in the log they were last stated."""

    at: float
    seq: int
    ids: list[str]


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
        #: By time: what to forget first.
        self._by_age: deque[_Group] = deque()
        #: By place in the log: what to state again first.
        self._trail: deque[_Group] = deque()
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

        An id that is known still was forgotten by whoever wrote the log: a reader may
        remember a little more than its owner did.
        """
        if id_ in self._answers:
            self._discard(id_)
        self._answers[id_] = answer
        last = self._by_age[-1] if self._by_age else None
        if last is not None and last.at == now and last.seq == seq and last is self._trail[-1]:
            last.ids.append(id_)
        else:
            group = _Group(now, seq, [id_])
            self._by_age.append(group)
            self._trail.append(group)
        self.forget(now)

    def forget(self, now: float) -> None:
        """Drop what is older than the window or over the count, whole entries at once."""
        groups = self._by_age
        while groups:
            oldest = groups[0]
            # The latest command stays, whatever the count.
            over = len(self._answers) > self._count and len(groups) > 1
            if not over and oldest.at >= now - self._window_s:
                return
            groups.popleft()
            for id_ in oldest.ids:
                if self._answers.pop(id_, None) is not None:
                    self.horizon = max(self.horizon, self._order(id_))

    def _discard(self, id_: str) -> None:
        for group in self._by_age:
            if id_ in group.ids:
                group.ids.remove(id_)
                break
        del self._answers[id_]

    # --- compaction ----------------------------------------------------------------

    def oldest_seq(self) -> int | None:
        """No entry before this one is needed for what is remembered; None: none is."""
        trail, answers = self._trail, self._answers
        while trail:
            group = trail[0]
            if any(id_ in answers for id_ in group.ids):
                return group.seq
            trail.popleft()
        return None

    def oldest(self, count_max: int) -> tuple[float, list[tuple[str, Answer]]]:
        """When they were remembered, and up to `count_max` of the ids stated longest ago."""
        if self.oldest_seq() is None:
            return 0.0, []
        group = self._trail[0]
        known = [id_ for id_ in group.ids if id_ in self._answers]
        return group.at, [(id_, self._answers[id_]) for id_ in known[:count_max]]

    def restate(self, ids: list[tuple[str, Answer]], at: float, seq: int) -> None:
        """Entry `seq` states these again, which were remembered at `at`."""
        fresh: list[str] = []
        for id_, answer in ids:
            if id_ not in self._answers:
                self._answers[id_] = answer
                fresh.append(id_)
        if fresh:
            self._insert(_Group(at, seq, fresh))
        if self._trail and self._trail[0].at == at:
            stated = {id_: None for id_, _ in ids}
            left = [id_ for id_ in self._trail[0].ids if id_ not in stated]
            head = self._trail.popleft()
            if left:
                # A group of its own: the ids' age does not change.
                self._trail.appendleft(_Group(head.at, head.seq, left))
        self._trail.append(_Group(at, seq, [id_ for id_, _ in ids]))

    def _insert(self, group: _Group) -> None:
        """Into the order of ages; what is stated again is older than what came since."""
        younger: list[_Group] = []
        while self._by_age and self._by_age[-1].at > group.at:
            younger.append(self._by_age.pop())
        self._by_age.append(group)
        self._by_age.extend(reversed(younger))
