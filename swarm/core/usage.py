"""What a shard's owner counts of its use: how much, by whom, from where.

Placement follows where a shard's work is done, and that changes: all but the total is of
the last two windows at most.  It is counted for every item that is assigned, so counting
is a few additions.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from swarm.core.credits import Slots
from swarm.messages import Heartbeat, ShardSubmit, Stats, Usage

#: Counts are of the window that runs and the one before it.
WINDOW_S = 150.0

#: Requests that are nobody's work; there are always some.
_NOBODYS = frozenset((Heartbeat, Stats))


class _Window(Struct):
    began: float
    assigned: dict[str, int] = field(default_factory=dict)
    claimed: int = 0
    local: int = 0
    remote: int = 0


class UsageCounter:
    """One shard's counts under one owner, `owner`, from `now` (monotonic) on."""

    def __init__(self, owner: str, now: float) -> None:
        self._owner = owner
        self.operations = 0
        self._running = _Window(now)
        self._before: _Window | None = None
        #: By coordinator: in the how-manieth window each session last got an item.
        self._sessions: dict[str, dict[str, int]] = {}
        self._turn = 0

    def asked(self, body: object, remote: bool) -> None:
        """A request; `remote`: it came to the shard's subject, not from our coordinator."""
        if type(body) in _NOBODYS:
            return
        count = len(body.items) if isinstance(body, ShardSubmit) else 1
        self.operations += count
        if remote:
            self._running.remote += count
        else:
            self._running.local += count

    def assigned(self, given: Sequence[Slots]) -> None:
        """Items go to these sessions, one for each, which are attached here or lent by others."""
        self.operations += len(given)
        assigned, turn = self._running.assigned, self._turn
        for slots in given:
            name = slots.lender or self._owner
            assigned[name] = assigned.get(name, 0) + 1
            sessions = self._sessions.get(name)
            if sessions is None:
                sessions = self._sessions[name] = {}
            sessions[slots.session] = turn

    def claimed(self) -> None:
        """An item was claimed by a request to the shard."""
        self._running.claimed += 1

    def shown(self, now: float) -> Usage:
        """The counts as of now."""
        assert now >= self._running.began, "monotonic time goes forward"
        if now - self._running.began >= WINDOW_S:
            self._next_window(now)
        windows = [self._running] if self._before is None else [self._before, self._running]
        assigned: dict[str, int] = {}
        for window in windows:
            for name, count in window.assigned.items():
                assigned[name] = assigned.get(name, 0) + count
        sessions = {name: len(known) for name, known in self._sessions.items() if known}
        assert sessions.keys() == assigned.keys(), "an item is assigned to a session"
        return Usage(
            self.operations,
            round(now - windows[0].began, 3),
            assigned,
            sessions,
            sum(window.claimed for window in windows),
            sum(window.local for window in windows),
            sum(window.remote for window in windows),
        )

    def _next_window(self, now: float) -> None:
        # What is older than two windows is no more than that if nobody looked meanwhile.
        self._before, self._running = self._running, _Window(now)
        for known in self._sessions.values():
            for session in [name for name, turn in known.items() if turn < self._turn]:
                del known[session]
        self._turn += 1
