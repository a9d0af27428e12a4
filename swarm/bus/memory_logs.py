"""The logs of a memory world: fence, appends under way, faulty reads, followers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swarm.bus.base import Entry, EntryHandler
from swarm.bus.memory_faults import TICK_S, Wire
from swarm.bus.memory_node import Node, settle
from swarm.errors import AppendRefused, BusError, LogMissing

#: Called with the log, the entry as stored, and the node that sent it ("" if injected).
AppendHook = Callable[[str, Entry, str], None]

#: Entries that a follower is handed in one go.
FOLLOW_CHUNK = 16


class MemoryLog:
    """One log: what is stored, and who follows it."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: The entry with sequence n is at n - 1.
        self.entries: list[Entry] = []
        self.followers: list[Follower] = []


class Logs:
    """All logs of a world.  `wall` is the server's clock, in seconds since the epoch."""

    def __init__(self, wire: Wire, wall: Callable[[], float]) -> None:
        self.on_append: list[AppendHook] = []
        self._wire = wire
        self._wall = wall
        self._logs: dict[str, MemoryLog] = {}

    def create(self, log: str) -> None:
        """Make the log unless it exists."""
        if log not in self._logs:
            self._logs[log] = MemoryLog(log)

    def get(self, log: str) -> MemoryLog:
        """The log; raises `LogMissing`."""
        try:
            return self._logs[log]
        except KeyError:
            known = ", ".join(sorted(self._logs)) or "none"
            raise LogMissing(f"{log}: no such log; there are: {known}") from None

    def append(self, log: str, data: bytes, expected_seq: int, node: str) -> int:
        """Store an entry if the log's last sequence is `expected_seq`."""
        actual = len(self.get(log).entries)
        if actual != expected_seq:
            self._wire.note("refused", node, log, f"expected {expected_seq}, is at {actual}")
            raise AppendRefused(log, expected_seq, actual)
        return self.store(log, data, node)

    def store(self, log: str, data: bytes, node: str) -> int:
        """Store an entry past the fence; returns its sequence."""
        target = self.get(log)
        entry = Entry(len(target.entries) + 1, data, self._wall())
        target.entries.append(entry)
        self._wire.note("stored", node, f"{log}#{entry.seq}", data)
        for hook in self.on_append:
            self._wire.guard(hook, log, entry, node)
        for follower in target.followers:
            follower.wake()
        return entry.seq

    def read(self, log: str, from_seq: int, limit: int, node: str) -> list[Entry]:
        """As the bus does, with the faults of reading."""
        entries = self.get(log).entries
        wire, faults = self._wire, self._wire.faults
        end = len(entries)
        if wire.chance(faults.read_lag):
            end = max(0, end - 1 - wire.rng.randrange(faults.lag_max))
            wire.note("read lags", node, log, f"to {end} of {len(entries)}")
        start = max(from_seq, 1) - 1
        found = entries[start : min(start + limit, end)]
        if len(found) >= 2 and wire.chance(faults.gap):
            # The last one stays: without it this would be a lag and no gap.
            lost_from = wire.rng.randrange(len(found) - 1)
            lost = min(1 + wire.rng.randrange(faults.gap_max), len(found) - 1 - lost_from)
            first = found[lost_from].seq
            wire.note("read gap", node, log, f"{first} to {first + lost - 1}")
            del found[lost_from : lost_from + lost]
        return found


class Append:
    """One append on its way to the log and back."""

    __slots__ = (
        "_answer",
        "_data",
        "_expected_seq",
        "_expires_s",
        "_last_arrival_s",
        "_log",
        "_logs",
        "_node",
        "_wire",
    )

    def __init__(
        self,
        logs: Logs,
        wire: Wire,
        node: Node,
        last_arrival_s: dict[str, float],
        log: str,
        data: bytes,
        expected_seq: int,
        timeout_s: float,
        answer: asyncio.Future[int],
    ) -> None:
        self._logs = logs
        self._wire = wire
        self._node = node
        #: By log, of the same connection: what it sends arrives in the order it sent it.
        self._last_arrival_s = last_arrival_s
        self._log = log
        self._data = data
        self._expected_seq = expected_seq
        self._expires_s = wire.loop.time() + timeout_s
        self._answer = answer

    def set_out(self) -> None:
        """It has left its node: decide its fate."""
        wire, faults, link = self._wire, self._wire.faults, self._node.link
        if wire.chance(faults.append_lost):
            self._note("append lost")
            return
        now_s = wire.loop.time()
        if wire.chance(faults.append_late):
            late_s = max(self._expires_s, now_s) + wire.between(faults.late_s) + TICK_S
            self._note("append late", f"until {late_s:.6f}")
            wire.at(late_s, self._arrive_late)
            return
        took_s = wire.between(faults.append_latency_s)
        arrival_s = max(
            now_s + took_s * wire.rng.random(),
            self._last_arrival_s.get(self._log, 0.0) + TICK_S,
        )
        self._last_arrival_s[self._log] = arrival_s
        wire.at(arrival_s, self._arrive, link, max(now_s + took_s, arrival_s))

    def _arrive(self, link: int, answer_s: float) -> None:
        if not self._node.reaches(link, log=True):
            self._note("append lost", "on a cut connection")
            return
        outcome = self._store()
        if self._wire.chance(self._wire.faults.ack_lost):
            self._note("ack lost", outcome)
            return
        self._wire.at(answer_s, self._return, link, outcome)

    def _arrive_late(self) -> None:
        # It was waiting somewhere in the network or server, so it comes from nobody's
        # connection any more and nobody gets the answer.
        self._note("append lands", self._store())

    def _store(self) -> int | BusError:
        try:
            return self._logs.append(self._log, self._data, self._expected_seq, self._node.name)
        except BusError as error:
            return error

    def _return(self, link: int, outcome: int | BusError) -> None:
        if not self._node.reaches(link, log=True):
            self._note("ack lost", "on a cut connection")
            return
        self._node.enter(settle, self._answer, outcome)

    def _note(self, kind: str, more: object = "") -> None:
        self._wire.note(kind, self._node.name, f"{self._log}#{self._expected_seq + 1}", more)


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
        wire, faults, entries = self._wire, self._wire.faults, self._log.entries
        for _ in range(FOLLOW_CHUNK):
            if self._next_seq <= len(entries) and wire.chance(faults.gap):
                self._lose(1 + wire.rng.randrange(faults.gap_max))
            if self._next_seq > len(entries):
                return
            entry = entries[self._next_seq - 1]
            self._next_seq += 1
            node.enter(self._hand, entry)
        self.wake()

    def _lose(self, count: int) -> None:
        first = self._next_seq
        self._next_seq = min(first + count, len(self._log.entries) + 1)
        lost = f"{first} to {self._next_seq - 1}"
        self._wire.note("follow gap", self._node.name, self._log.name, lost)

    def _hand(self, entry: Entry) -> None:
        if not self.closed:
            self._wire.note("follow", self._node.name, f"{self._log.name}#{entry.seq}")
            self._wire.guard(self._handler, entry)
