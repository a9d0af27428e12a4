"""Log entries copied into files as they appear, to be folded after they have been purged.

A log is purged from its front while a swarm runs, so its history must be written down while
it happens.  Whoever follows the logs hands every entry to an `EntryLog`, in order and from
the first one; `RecordedLogs` gives them back like a bus does (`swarm.testing.fold.read_logs`).

A recorder that came too late for an entry says so (`missed`): then what was recorded proves
nothing, in neither direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from swarm.bus.base import Entry
from swarm.errors import BadInput, LogMissing
from swarm.testing.records import LineFile


class BoundedEntry(Entry, frozen=True):
    """An entry whose stamp is not known, but that it is not before `time` nor after `latest`."""

    latest: float


class _EntryLine(Struct, omit_defaults=True):
    """An entry, or (without data) the one in whose place there is a hole."""

    seq: int
    time: float = 0.0
    data: bytes | None = None
    #: Of a `BoundedEntry`.
    latest: float = 0.0
    #: Of a hole: the next entry that there was.
    until: int = 0


_decoder = msgspec.json.Decoder(_EntryLine)


class EntryLog:
    """Records the entries of one shard's log."""

    def __init__(self, directory: Path, shard: int) -> None:
        self._lines = LineFile(directory, f"entries-{shard}")
        #: Sequence and stamp of the last entry on record.
        self.last = 0
        self.last_time = 0.0

    def take(self, entry: Entry) -> None:
        """Record the entry; it must be the next one."""
        assert entry.seq == self.last + 1, f"{entry.seq} does not follow {self.last}"
        latest = entry.latest if isinstance(entry, BoundedEntry) else 0.0
        self._lines.append(_EntryLine(entry.seq, entry.time, entry.data, latest))
        self.last, self.last_time = entry.seq, entry.time

    def missed(self, until: int) -> None:
        """The log goes on at `until`; what is between cannot be had any more."""
        assert until > self.last + 1, f"{until} follows {self.last}: nothing is missed"
        self._lines.append(_EntryLine(self.last + 1, until=until))
        self.last = until - 1

    def close(self) -> None:
        """Safe to call twice."""
        self._lines.close()


class RecordedLogs:
    """The entries that were recorded in a directory; a `swarm.testing.fold.LogSource`."""

    def __init__(self, directory: Path, logs: Mapping[str, int]) -> None:
        """`logs`: shard by name of its log.  Raises `BadInput` for a line that is no record."""
        self._logs: dict[str, list[Entry]] = {}
        #: What the recorder came too late for, in words.
        self.missed: list[str] = []
        #: Entries that were recorded twice, each time with other contents.
        self.conflicts: list[str] = []
        for log, shard in logs.items():
            found = self._read(directory, log, shard)
            if found:
                self._logs[log] = [found[seq] for seq in sorted(found)]

    def _read(self, directory: Path, log: str, shard: int) -> dict[int, Entry]:
        found: dict[int, Entry] = {}
        for path in sorted(directory.glob(f"entries-{shard}-*.jsonl")):
            for number, text in enumerate(path.read_bytes().splitlines(), start=1):
                try:
                    line = _decoder.decode(text)
                except msgspec.MsgspecError as error:
                    raise BadInput(f"{path}, line {number} is no log entry: {error}") from error
                if line.data is None:
                    self.missed.append(f"{log}: entries {line.seq} to {line.until - 1}")
                    continue
                entry = Entry(line.seq, line.data, line.time)
                if line.latest:
                    entry = BoundedEntry(line.seq, line.data, line.time, line.latest)
                known = found.setdefault(line.seq, entry)
                if known.data != line.data:
                    self.conflicts.append(f"{log}: entry {line.seq} was seen with two contents")
        return found

    async def read(self, log: str, from_seq: int, limit: int) -> list[Entry]:
        """As `swarm.bus.base.Bus.read`."""
        entries = self._logs.get(log)
        if entries is None:
            raise LogMissing(f"{log}: nothing of it is on record")
        # Entries are numbered from 1; with holes, the wanted one stands further to the left.
        start = min(max(from_seq - 1, 0), len(entries))
        while start > 0 and entries[start - 1].seq >= from_seq:
            start -= 1
        return entries[start : start + limit]

    def last(self, log: str) -> int:
        """Sequence of the last entry on record, 0 without any."""
        entries = self._logs.get(log)
        return entries[-1].seq if entries else 0
