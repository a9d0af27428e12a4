"""Answers given, remembered so that a repeated command gets the first one's answer."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class DedupeWindow(Generic[Answer]):
    """Remembers `Answer` by id, for `window_s` seconds and for at most `count` ids.

    `horizon` is the largest `order` ever forgotten: an id whose order is not above it
    may have been known once.  (The order of a command id is the time inside it, by the
    *sender's* clock; comparing ids only with ids keeps clock differences out of it.)
    """

    def __init__(self, window_s: float, count: int) -> None:
        assert window_s > 0, "an empty window would make no retry safe"
        assert count > 0, "an empty window would make no retry safe"
        self._window_s = window_s
        self._count = count
        self._answers: dict[str, Answer] = {}
        #: (id, its order, when it was remembered), oldest first.
        self._queue: deque[tuple[str, int, float]] = deque()
        self.horizon = -1

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, id_: str) -> Answer | None:
        """The answer remembered for this id."""
        return self._answers.get(id_)

    def put(self, id_: str, order: int, answer: Answer, now: float) -> None:
        """Remember `answer`, and forget what is over the limits."""
        assert id_ not in self._answers, f"{id_} was carried out twice"
        self._answers[id_] = answer
        self._queue.append((id_, order, now))
        self.forget(now)

    def forget(self, now: float) -> None:
        """Drop what is older than the window or over the count."""
        queue = self._queue
        while queue and (len(queue) > self._count or queue[0][2] < now - self._window_s):
            id_, order, _ = queue.popleft()
            del self._answers[id_]
            self.horizon = max(self.horizon, order)
