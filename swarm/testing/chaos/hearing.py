"""Appends as they were heard on their way: for entries that are purged before they are read.

A log may be purged up to a few entries before its end, milliseconds after they were stored.
But every append is a message, and whoever listens on the log's subject hears it: what was
stored, and what was refused or sent twice as well.  Which of it is in the log the chain
tells: every entry names its owner, counts its batches and names the entry before it.  So
from an entry that was read one can go back, link by link, to what was recorded before.
"""

from __future__ import annotations

from swarm.bus.base import Entry
from swarm.core.envelope import decode_entry
from swarm.errors import Undecodable
from swarm.messages import LogEntry
from swarm.testing.recorded import BoundedEntry

#: Appends that are remembered of each log: minutes, where a purge takes milliseconds.
HEARD_MAX = 20_000

#: (epoch, owner, batch): no two different entries of a log have the same.
_Key = tuple[int, str, int]


class Heard:
    """The latest appends to one log."""

    def __init__(self, log: str) -> None:
        self._log = log
        self._data: dict[_Key, bytes] = {}

    def note(self, data: bytes) -> None:
        """An append was heard; one that is none of the swarm's is of no interest."""
        entry = self._decoded(data)
        if entry is None:
            return
        self._data.setdefault(_key(entry), data)
        if len(self._data) > HEARD_MAX:
            del self._data[next(iter(self._data))]

    def between(self, last: int, last_time: float, found: Entry) -> list[BoundedEntry]:
        """The entries after `last` and before `found`; [] unless each of them is certain.

        `last_time`: stamp of the entry `last`.  Stamps do not go back along a log.
        """
        entry = self._decoded(found.data)
        chain: list[BoundedEntry] = []
        for seq in range(found.seq - 1, last, -1):
            # What is not the swarm's is in no chain.
            if entry is None or entry.previous != seq:
                return []
            data = self._before(entry)
            entry = None if data is None else self._decoded(data)
            if data is None or entry is None:
                return []
            chain.append(BoundedEntry(seq, data, last_time, found.time))
        if entry is None or entry.previous != last:
            return []
        return chain[::-1]

    def _before(self, entry: LogEntry) -> bytes | None:
        """What the entry before this one must be; None if that is not known."""
        if entry.batch > 0:
            return self._data.get((entry.epoch, entry.owner, entry.batch - 1))
        # An owner's first entry: the last one of the owner before it.
        found = [
            data
            for (epoch, _, batch), data in self._data.items()
            if epoch == entry.epoch - 1 and self._fits(data, batch, entry)
        ]
        return found[0] if len(found) == 1 else None

    def _fits(self, data: bytes, batch: int, entry: LogEntry) -> bool:
        """Whether this may stand just before `entry`, by the entry before it."""
        before = self._decoded(data)
        assert before is not None, "only the swarm's own is remembered"
        return before.previous == entry.previous - 1 and before.batch == batch

    def _decoded(self, data: bytes) -> LogEntry | None:
        try:
            return decode_entry(self._log, 0, data)
        except Undecodable:
            return None  # the fold will say so, if it is in the log


def _key(entry: LogEntry) -> _Key:
    return entry.epoch, entry.owner, entry.batch
