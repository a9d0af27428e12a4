"""Followers of logs in a memory world."""

from __future__ import annotations

from swarm.bus.base import Entry, EntryHandler
from swarm.bus.memory_faults import Wire
from swarm.bus.memory_logs import MemoryLog
from swarm.bus.memory_node import Node

#: Entries that a follower is handed in one go.
FOLLOW_CHUNK = 16


class Follower:
    """A running `follow`: hands the log's entries on, in order and each at most once."""

    def __init__(
        self, wire: Wire, node: Node, log: MemoryLog, from_seq: int, handler: EntryHandler
    ) -> None:
        self._wire = wire
        self._node = node
        self._log = log
        self._next_seq = max(from_seq, 1)
        self._handler = handler
        self._woken = False
        self.closed = False

    def start(self) -> None:
        """Begin to follow."""
        self._log.followers.append(self)
        self.wake()

    async def unsubscribe(self) -> None:
        """Stop; safe to call twice."""
        self.stop()

    def stop(self) -> None:
        """Stop at once."""
        if self.closed:
            return
        self.closed = True
        if self in self._log.followers:
            self._log.followers.remove(self)

    def wake(self) -> None:
        """There may be something new: look a little later."""
        if self._woken or self.closed:
            return
        self._woken = True
        wire, faults = self._wire, self._wire.faults
        delay_s = wire.between(faults.latency_s)
        if wire.chance(faults.read_lag):
            delay_s += wire.between(faults.lag_s)
        wire.later(delay_s, self._look)

    def _look(self) -> None:
        self._woken = False
        node = self._node
        if self.closed or node.dead or not node.reaches(node.link, log=True):
            return  # it is woken again once the log is within reach
        wire, faults, log = self._wire, self._wire.faults, self._log
        for _ in range(FOLLOW_CHUNK):
            # What has been purged meanwhile is never handed on.
            self._next_seq = max(self._next_seq, log.first_seq)
            if self._next_seq <= log.last_seq and wire.chance(faults.gap):
                self._lose(1 + wire.rng.randrange(faults.gap_max))
            if self._next_seq > log.last_seq:
                return
            entry = log.entry(self._next_seq)
            self._next_seq += 1
            node.enter(self._hand, entry)
        self.wake()

    def _lose(self, count: int) -> None:
        first = self._next_seq
        self._next_seq = min(first + count, self._log.last_seq + 1)
        lost = f"{first} to {self._next_seq - 1}"
        self._wire.note("follow gap", self._node.name, self._log.name, lost)

    def _hand(self, entry: Entry) -> None:
        if not self.closed:
            self._wire.note("follow", self._node.name, f"{self._log.name}#{entry.seq}")
            self._wire.guard(self._handler, entry)
