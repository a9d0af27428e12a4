"""Answers that the log must not forget: an auditor's book of command ids and keys."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from swarm.core.ids import command_order


class _Stated(Struct, gc=False):
    """Ids that one entry states, which were remembered at one time."""

    seq: int
    at: float
    ids: list[str]


class AnswerBook:
    """Ids by the entry that stated them last, for `window_s` and about `count` of them.

    Whoever wrote the log may remember for longer, never for less, so nothing is expected
    of what is beyond either limit.
    """

    def __init__(self, window_s: float, count: int) -> None:
        assert window_s > 0, "nothing would be remembered"
        self._window_s = window_s
        self._count = count
        #: (sequence of the last statement, time of the first).
        self._known: dict[str, tuple[int, float]] = {}
        self._by_seq: deque[_Stated] = deque()

    def __len__(self) -> int:
        return len(self._known)

    def first_at(self, id_: str, now: float) -> float | None:
        """When it was remembered, if it must be known still."""
        known = self._known.get(id_)
        if known is None or len(self._known) > self._count:
            return None
        return known[1] if known[1] > now - self._window_s else None

    def state(self, ids: list[str], at: float, seq: int) -> None:
        """Entry `seq` states these, which were remembered at `at`."""
        for id_ in ids:
            known = self._known.get(id_)
            self._known[id_] = (seq, at if known is None else max(known[1], at))
        last = self._by_seq[-1] if self._by_seq else None
        if last is not None and (last.seq, last.at) == (seq, at):
            last.ids.extend(ids)
        else:
            self._by_seq.append(_Stated(seq, at, list(ids)))

    def let_go(self, below_seq: int, now: float, horizon: int | None) -> list[tuple[str, int]]:
        """Nothing below this is needed any more: (id, sequence) of what was needed still.

        `horizon`: ids made by then (`command_order`) are refused as too old, so that
        forgetting them is allowed; None: there is no such thing.
        """
        assert below_seq > 0, "sequences begin with 1"
        lost: list[tuple[str, int]] = []
        full = len(self._known) > self._count
        while self._by_seq and self._by_seq[0].seq < below_seq:
            stated = self._by_seq.popleft()
            for id_ in stated.ids:
                if self._known.get(id_, (0, 0.0))[0] != stated.seq:
                    continue  # stated again since
                del self._known[id_]
                if horizon is not None:
                    allowed = command_order(id_) <= horizon
                else:
                    allowed = full or stated.at < now - self._window_s
                if not allowed:
                    lost.append((id_, stated.seq))
        return lost

    def forget(self, now: float) -> None:
        """Drop what is beyond the limits, as far as that is quick."""
        while self._by_seq:
            oldest = self._by_seq[0]
            over = len(self._known) > 2 * self._count
            if not over and oldest.at >= now - 2 * self._window_s:
                return
            self._by_seq.popleft()
            for id_ in oldest.ids:
                if self._known.get(id_, (0, 0.0))[0] == oldest.seq:
                    del self._known[id_]
