"""The records of a memory world: what is kept by key, until its age ends it."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from swarm.bus.memory_faults import Wire
from swarm.errors import LogMissing


class _Store:
    """One store: when each record was put, and its data, by key."""

    def __init__(self) -> None:
        self.max_age_s = inf
        self.by_key: dict[str, list[tuple[float, bytes]]] = {}


class Records:
    """All stores of a world.  `wall` is the server's clock, in seconds since the epoch."""

    def __init__(self, wire: Wire, wall: Callable[[], float]) -> None:
        self._wire = wire
        self._wall = wall
        self._stores: dict[str, _Store] = {}

    def create(self, name: str, max_age_s: float) -> None:
        """Make the store unless it exists; either way its records live for `max_age_s`."""
        self._stores.setdefault(name, _Store()).max_age_s = max_age_s or inf

    def put(self, name: str, key: str, data: bytes, node: str) -> None:
        """Keep one more record under `key`; raises `LogMissing`."""
        kept = self._kept(name, key)
        kept.append((self._wall(), data))
        self._get(name).by_key[key] = kept
        self._wire.note("recorded", node, f"{name}.{key}", data)

    def get(self, name: str, key: str) -> list[bytes]:
        """All records under `key`, the oldest first; raises `LogMissing`."""
        return [data for _, data in self._kept(name, key)]

    def keys(self, name: str) -> list[str]:
        """Every key with a record; raises `LogMissing`."""
        return [key for key in self._get(name).by_key if self._kept(name, key)]

    def _kept(self, name: str, key: str) -> list[tuple[float, bytes]]:
        store = self._get(name)
        oldest = self._wall() - store.max_age_s
        return [record for record in store.by_key.get(key, ()) if record[0] > oldest]

    def _get(self, name: str) -> _Store:
        try:
            return self._stores[name]
        except KeyError:
            raise LogMissing(f"{name}: no such records") from None
