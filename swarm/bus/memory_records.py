"""The records of a memory world: what is kept by key, until its age ends it."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from swarm.bus.memory_disk import Disk
from swarm.bus.memory_faults import Wire
from swarm.errors import LogMissing, StorageFull

#: What a server keeps of a record beside its data.
RECORD_BYTES = 100


class _Store:
    """One store: when each record was put, its number and its data, by key."""

    def __init__(self) -> None:
        self.max_age_s = inf
        self.last = 0
        self.by_key: dict[str, list[tuple[float, int, bytes]]] = {}


class Records:
    """All stores of a world.  `wall` is the server's clock, in seconds since the epoch."""

    def __init__(self, wire: Wire, wall: Callable[[], float], disk: Disk) -> None:
        self._wire = wire
        self._wall = wall
        self._disk = disk
        disk.reclaim = self._drop_old
        self._stores: dict[str, _Store] = {}

    def create(self, name: str, max_age_s: float) -> None:
        """Make the store unless it exists; either way its records live for `max_age_s`."""
        self._stores.setdefault(name, _Store()).max_age_s = max_age_s or inf

    def delete(self, name: str) -> None:
        """Forget the store; raises `LogMissing`."""
        for records in self._get(name).by_key.values():
            self._disk.give(sum(_size(data) for *_, data in records))
        del self._stores[name]

    def put(self, name: str, key: str, data: bytes, node: str) -> int:
        """Keep one more record under `key`; returns its number.

        Raises `LogMissing`, `StorageFull`.
        """
        kept = self._kept(name, key)
        try:
            self._disk.take(f"a record to {name}.{key}", _size(data))
        except StorageFull as full:
            self._wire.note("refused", node, f"{name}.{key}", full)
            raise
        store = self._get(name)
        store.last += 1
        kept.append((self._wall(), store.last, data))
        store.by_key[key] = kept
        self._wire.note("recorded", node, f"{name}.{key}", data)
        return store.last

    def get(self, name: str, key: str, as_of: int, node: str) -> list[bytes]:
        """All records under `key`, the oldest first; raises `LogMissing`.

        A server that lags knows of those up to `as_of` for sure.
        """
        faults, kept = self._wire.faults, self._kept(name, key)
        if not self._wire.chance(faults.read_lag):
            return self.truly(name, key)
        last = self._get(name).last
        known = max(last - 1 - self._wire.rng.randrange(faults.lag_max), as_of)
        self._wire.note("read lags", node, f"{name}.{key}", f"to {known} of {last}")
        return [data for _, number, data in kept if number <= known]

    def truly(self, name: str, key: str) -> list[bytes]:
        """All records under `key`, whoever may be behind; raises `LogMissing`."""
        return [data for *_, data in self._kept(name, key)]

    def keys(self, name: str) -> list[str]:
        """Every key with a record; raises `LogMissing`."""
        return [key for key in self._get(name).by_key if self._kept(name, key)]

    def _drop_old(self) -> None:
        for name in self._stores:
            self.keys(name)

    def _kept(self, name: str, key: str) -> list[tuple[float, int, bytes]]:
        """Those of `key` that are not too old; the others are dropped."""
        store = self._get(name)
        oldest = self._wall() - store.max_age_s
        before = store.by_key.get(key, [])
        kept = [record for record in before if record[0] > oldest]
        if len(kept) < len(before):
            store.by_key[key] = kept
            self._disk.give(sum(_size(data) for put_at, _, data in before if put_at <= oldest))
        return kept

    def _get(self, name: str) -> _Store:
        try:
            return self._stores[name]
        except KeyError:
            raise LogMissing(f"{name}: no such records") from None


def _size(data: bytes) -> int:
    return RECORD_BYTES + len(data)
