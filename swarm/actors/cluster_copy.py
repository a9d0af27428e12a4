"""What holds for the whole swarm, as one process knows it: the shard map, the routing rules.

The truth is in the cluster log; the leader keeps copies in the shared state.  Beats name
the newest versions, so whoever has missed a change reads the copy again a moment later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec
import structlog

from swarm.bus.base import Bus
from swarm.errors import BusError, BusTimeout
from swarm.messages import Beat, RoutingRules, ShardMap

log = structlog.get_logger()

#: Their keys in the shared state.
MAP_KEY = "map"
RULES_KEY = "rules"
#: Between two attempts to read what beats say there is.
READ_AGAIN_S = 0.2

_decode_map = msgspec.json.Decoder(ShardMap).decode
_decode_rules = msgspec.json.Decoder(RoutingRules).decode
Copied = TypeVar("Copied", ShardMap, RoutingRules)


class ClusterCopy:
    """See the module's docstring.  `changed` is called after every change.

    Which coordinators there are is what `shard_map` says, whatever is stored: who owns a
    shard is settled in the shard's log, the list only says who is to try first.
    """

    def __init__(
        self, bus: Bus, shard_map: ShardMap, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._bus = bus
        self._changed = changed
        self._coordinators = shard_map.coordinators
        self.map = shard_map
        #: Version 0: nobody has set any; settings hold.
        self.rules = RoutingRules(0)
        #: The newest versions that anybody has shown.
        self._newest = (shard_map.version, 0)
        self._reading: asyncio.Task[None] | None = None

    def heard(self, beat: Beat) -> None:
        """A beat has come: perhaps it names a newer version."""
        self.there_is(beat.map_version, beat.rules_version)

    def there_is(self, map_version: int, rules_version: int) -> None:
        """There are these versions."""
        newest = self._newest
        self._newest = (max(newest[0], map_version), max(newest[1], rules_version))
        if self._is_old() and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._read_on(), name="cluster copy")

    def take(self, shard_map: ShardMap, rules: RoutingRules) -> None:
        """Know these, unless there are newer ones."""
        before = (self.map, self.rules)
        if shard_map.version > self.map.version:
            self.map = msgspec.structs.replace(shard_map, coordinators=self._coordinators)
        if rules.version > self.rules.version:
            self.rules = rules
        if (self.map, self.rules) != before:
            self._changed()

    async def stop(self) -> None:
        """Read nothing any more."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _is_old(self) -> bool:
        return self.map.version < self._newest[0] or self.rules.version < self._newest[1]

    async def _read_on(self) -> None:
        while self._is_old():
            try:
                shard_map = await self._read(MAP_KEY, _decode_map, self.map)
                rules = await self._read(RULES_KEY, _decode_rules, self.rules)
                self.take(shard_map, rules)
            except (BusError, msgspec.MsgspecError) as error:
                log.warning("the cluster's state cannot be read yet", why=str(error))
            if self._is_old():
                await asyncio.sleep(READ_AGAIN_S)

    async def _read(self, key: str, decode: Callable[[bytes], Copied], known: Copied) -> Copied:
        data = await self._bus.state_get(key)
        return known if data is None else decode(data)


async def store_copy(bus: Bus, key: str, wanted: ShardMap | RoutingRules) -> None:
    """Have the shared state hold `wanted` under `key`, unless it has a newer version.

    Raises what the bus raises; `BusTimeout` when others write it all the time.
    """
    data = msgspec.json.encode(wanted)
    decode = _decode_map if isinstance(wanted, ShardMap) else _decode_rules
    for _ in range(STORE_TRIES):
        stored = await bus.state_read(key)
        if stored is None:
            if await bus.state_create(key, data):
                return
            continue
        if stored.value == data or decode(stored.value).version > wanted.version:
            return
        if await bus.state_update(key, data, stored.revision):
            return
    raise BusTimeout(f"storing {key}: others write it")


#: A deposed leader may still be writing: it has nothing newer to say.
STORE_TRIES = 5
