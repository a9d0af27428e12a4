"""Logs as an owner writes them, at times of the test's choosing."""

from __future__ import annotations

from swarm.bus.base import Entry
from swarm.core.envelope import FORMAT, encode_entry
from swarm.errors import LogMissing
from swarm.messages import Event, LogEntry, Opened
from swarm.subjects import Subjects

SUBJECTS = Subjects("t")
#: What the owner's clock is off the server's.
OFF_S = 1000.0


class Logs:
    """Written like an owner does, at times of the test's choosing; read like a bus."""

    def __init__(self) -> None:
        self.entries: dict[str, list[Entry]] = {}
        self._epoch: dict[int, int] = {}
        self._batch: dict[int, int] = {}
        self._owner: dict[int, str] = {}

    def open(self, time: float, shard: int = 0) -> None:
        self._epoch[shard] = self._epoch.get(shard, 0) + 1
        self._batch[shard] = -1
        self._owner[shard] = f"o{self._epoch[shard]}"
        self.add(time, Opened("coordinator-1"), shard=shard)

    def add(self, time: float, *events: Event, shard: int = 0) -> None:
        log = self.entries.setdefault(SUBJECTS.log(shard), [])
        self._batch[shard] += 1
        entry = LogEntry(
            swarm=FORMAT,
            incarnation="i",
            epoch=self._epoch[shard],
            owner=self._owner[shard],
            batch=self._batch[shard],
            previous=self._last_of_ours(log),
            map_version=1,
            # The owner's clock is not the server's: the checker must use the server's.
            now=time + OFF_S,
            events=list(events),
        )
        self.raw(time, encode_entry(entry), shard)

    def raw(self, time: float, data: bytes, shard: int = 0) -> None:
        log = self.entries.setdefault(SUBJECTS.log(shard), [])
        log.append(Entry(log[-1].seq + 1 if log else 1, data, time))

    def _last_of_ours(self, log: list[Entry]) -> int:
        return next((e.seq for e in reversed(log) if e.data.startswith(b'{"swarm"')), 0)

    async def read(self, log: str, from_seq: int, limit: int) -> list[Entry]:
        if log not in self.entries:
            raise LogMissing(log)
        return [entry for entry in self.entries[log] if entry.seq >= from_seq][:limit]
