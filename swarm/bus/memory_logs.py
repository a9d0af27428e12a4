"""The logs of a memory world: fence, purges, faulty reads."""

from __future__ import annotations

from collections.abc import Callable

from swarm.bus.base import Entry, LogInfo
from swarm.bus.memory_disk import Disk
from swarm.bus.memory_faults import Wire
from swarm.errors import AppendRefused, LogMissing, StorageFull

#: Called with the log, the entry as stored, and the node that sent it ("" if injected).
AppendHook = Callable[[str, Entry, str], None]
#: Called with the log, its oldest sequence kept, and the node that purged it.
PurgeHook = Callable[[str, int, str], None]


#: What a server keeps of an entry beside its subject and data, the headers of an append
#: among it.
ENTRY_BYTES = 130


class MemoryLog:
    """One log: what is stored, and what it may take."""

    def __init__(self, name: str, bytes_max: int) -> None:
        self.name = name
        #: What the entries may take (0: no limit of its own).
        self.bytes_max = bytes_max
        self.first_seq = 1
        #: The entry with sequence n is at n - `first_seq`.
        self.entries: list[Entry] = []
        #: What the entries take.
        self.bytes = 0
        #: The last sequence at the latest purge: every replica that has heard of that purge
        #: has all entries up to here.
        self.purged_at = 0

    @property
    def last_seq(self) -> int:
        """Of the newest entry ever stored; 0 when there was none."""
        return self.first_seq + len(self.entries) - 1

    def size_of(self, data: bytes) -> int:
        """What an entry takes, about as on a real server's disk."""
        return ENTRY_BYTES + len(self.name) + len(data)

    def drop_below(self, seq: int) -> int:
        """Purge; returns how many entries went."""
        count = min(max(seq - self.first_seq, 0), len(self.entries))
        if not count:
            return 0
        self.bytes -= sum(self.size_of(entry.data) for entry in self.entries[:count])
        self.purged_at = self.last_seq
        del self.entries[:count]
        self.first_seq += count
        return count


class Logs:
    """All logs of a world.  `wall` is the server's clock, in seconds since the epoch."""

    def __init__(self, wire: Wire, wall: Callable[[], float], disk: Disk) -> None:
        self.on_append: list[AppendHook] = []
        self.on_purge: list[PurgeHook] = []
        self._wire = wire
        self._wall = wall
        self._disk = disk
        self._logs: dict[str, MemoryLog] = {}

    def create(self, log: str, max_bytes: int) -> None:
        """Make the log unless it exists."""
        if log not in self._logs:
            self._logs[log] = MemoryLog(log, max_bytes)

    def delete(self, log: str) -> None:
        """Forget the log, as if it had never been; raises `LogMissing`."""
        self._disk.give(self.get(log).bytes)
        del self._logs[log]
        self._wire.note("deleted", "", log)

    def names(self) -> list[str]:
        """Of all logs."""
        return sorted(self._logs)

    def get(self, log: str) -> MemoryLog:
        """The log; raises `LogMissing`."""
        try:
            return self._logs[log]
        except KeyError:
            known = ", ".join(sorted(self._logs)) or "none"
            raise LogMissing(f"{log}: no such log; there are: {known}") from None

    def append(self, log: str, data: bytes, expected_seq: int, node: str) -> int:
        """Store an entry if the log's last sequence is `expected_seq` and there is room."""
        target = self.get(log)
        actual = target.last_seq
        if actual != expected_seq:
            self._wire.note("refused", node, log, f"expected {expected_seq}, is at {actual}")
            raise AppendRefused(log, expected_seq, actual)
        try:
            self._take(target, data)
        except StorageFull as full:
            self._wire.note("refused", node, log, full)
            raise
        return self._store(target, data, node)

    def inject(self, log: str, data: bytes) -> int:
        """Store an entry past the fence and all limits; returns its sequence."""
        self._disk.used += self.get(log).size_of(data)
        return self._store(self.get(log), data, "")

    def _take(self, target: MemoryLog, data: bytes) -> None:
        size = target.size_of(data)
        if target.bytes_max and target.bytes + size > target.bytes_max:
            raise StorageFull(f"{target.name}: {target.bytes} of {target.bytes_max} bytes are used")
        self._disk.take(f"an append to {target.name}", size)

    def _store(self, target: MemoryLog, data: bytes, node: str) -> int:
        log = target.name
        entry = Entry(target.last_seq + 1, data, self._wall())
        target.entries.append(entry)
        target.bytes += target.size_of(data)
        self._wire.note("stored", node, f"{log}#{entry.seq}", data)
        for hook in self.on_append:
            self._wire.guard(hook, log, entry, node)
        return entry.seq

    def purge(self, log: str, below_seq: int, node: str) -> None:
        """Drop all entries below `below_seq`; no change when they are gone."""
        target = self.get(log)
        before = target.bytes
        count = target.drop_below(below_seq)
        self._disk.give(before - target.bytes)
        self._wire.note("purged", node, log, f"{count} entries, from {target.first_seq} on")
        if count:
            for hook in self.on_purge:
                self._wire.guard(hook, log, target.first_seq, node)

    def info(self, log: str, node: str) -> LogInfo:
        """As the bus does; a server that lags says less than there is."""
        target = self.get(log)
        end = self._end(target, node)
        newer = target.entries[end + 1 - target.first_seq :]
        size = target.bytes - sum(target.size_of(entry.data) for entry in newer)
        return LogInfo(target.first_seq, end, size, target.bytes_max)

    def read(self, log: str, from_seq: int, limit: int, node: str) -> list[Entry]:
        """As the bus does, with the faults of reading."""
        target = self.get(log)
        end = self._end(target, node)
        start = max(from_seq, target.first_seq)
        stop = min(start + max(limit, 0), end + 1)
        found = target.entries[start - target.first_seq : max(stop - target.first_seq, 0)]
        wire, faults = self._wire, self._wire.faults
        if len(found) >= 2 and wire.chance(faults.gap):
            # The last one stays: without it this would be a lag and no gap.
            lost_from = wire.rng.randrange(len(found) - 1)
            lost = min(1 + wire.rng.randrange(faults.gap_max), len(found) - 1 - lost_from)
            first = found[lost_from].seq
            wire.note("read gap", node, log, f"{first} to {first + lost - 1}")
            del found[lost_from : lost_from + lost]
        return found

    def _end(self, target: MemoryLog, node: str) -> int:
        """The last sequence that whichever replica answers has got to."""
        wire, faults, last_seq = self._wire, self._wire.faults, target.last_seq
        if not wire.chance(faults.read_lag):
            return last_seq
        end = max(last_seq - 1 - wire.rng.randrange(faults.lag_max), target.purged_at)
        wire.note("read lags", node, target.name, f"to {end} of {last_seq}")
        return end
