"""The shard map: made by whoever starts a swarm first, changed by its leader alone.

How items find their shard must never differ between two processes, or a retry would
not land where the first try did.  So the first process to start stores it, and any
other compares its settings with what is stored.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from swarm.actors.cluster_copy import MAP_KEY
from swarm.actors.disagreements import tell_once
from swarm.bus.base import Bus
from swarm.config import Settings
from swarm.core.sharding import accepting, hot_shards
from swarm.errors import BadConfig, BusTimeout
from swarm.messages import Conflict, ShardMap

log = structlog.get_logger()

#: Its key in the shared state.
KEY = MAP_KEY
#: A value that exists may still be unknown to the replica that answers.
READ_TRIES = 20
READ_PAUSE_S = 0.1

_decoder = msgspec.json.Decoder(ShardMap)
#: Fields that hold for the life of a swarm, and the settings that they come from.
_FIXED = {
    "shard_key": "SHARD_KEY",
    "shard_distribution": "SHARD_DISTRIBUTION",
}


async def agree(bus: Bus, settings: Settings) -> ShardMap:
    """The swarm's shard map, stored by these settings if there was none.

    Its coordinators are those of `settings`, whatever was stored: who owns a shard is
    settled in the shard's log, the list only says who is to try first.  Raises
    `BadConfig` when the settings would place items otherwise than the stored map, which the
    leader is told of, and what the bus raises.
    """
    wanted = ShardMap(
        version=1,
        shard_count=settings.shards,
        shard_key=settings.shard_key,
        shard_distribution=settings.shard_distribution,
        coordinators=settings.coordinator_names,
    )
    warning = hot_shards(wanted.shard_key, wanted.shard_distribution, wanted.shard_count)
    if warning:
        log.warning("hot shards", why=warning)
    if await bus.state_create(KEY, msgspec.json.encode(wanted)):
        return wanted
    stored = await _stored(bus, settings.prefix)
    try:
        compare(stored, wanted, settings.prefix)
    except BadConfig:
        kept, dropped = _placing(stored), f"{bus.sender}: {_placing(wanted)}"
        conflict = Conflict("settings", "how items find their shard", kept, dropped)
        await tell_once(bus, settings.prefix, conflict)
        raise
    if stored.shard_count != wanted.shard_count:
        log.info("the swarm was resized", shards=accepting(stored), setting=wanted.shard_count)
    return msgspec.structs.replace(stored, coordinators=wanted.coordinators)


async def _stored(bus: Bus, prefix: str) -> ShardMap:
    for _ in range(READ_TRIES):
        data = await bus.state_get(KEY)
        if data is not None:
            break
        await asyncio.sleep(READ_PAUSE_S)
    else:
        raise BusTimeout(f"the shard map of swarm {prefix!r} exists, but cannot be read; try again")
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise BadConfig(
            f"the shard map stored for swarm {prefix!r} cannot be read ({error}): another version "
            "wrote it, or something else uses this prefix; use another SWARM_PREFIX"
        ) from error


def _placing(map_: ShardMap) -> str:
    fixed = [f"{setting}={getattr(map_, field)}" for field, setting in _FIXED.items()]
    return " ".join([f"SHARD_COUNT={map_.shard_count}", *fixed])


def compare(stored: ShardMap, wanted: ShardMap, prefix: str) -> None:
    """Raise `BadConfig` naming what differs in where items are placed."""
    differences = []
    remedy = []
    had = (stored.shard_count, stored.accepts, stored.began_with)
    if wanted.shard_count not in had:
        off = " (SHARDING_ENABLED=0)" if wanted.shard_count == 1 else ""
        differences.append(
            f"SHARD_COUNT is {wanted.shard_count} here{off}, but {stored.shard_count} in the "
            f"running swarm's map (`swarm shards resize {wanted.shard_count}` changes that, while "
            "it runs)"
        )
        remedy.append(f"SHARD_COUNT={stored.shard_count}")
    for field, setting in _FIXED.items():
        old, new = getattr(stored, field), getattr(wanted, field)
        if old != new:
            differences.append(f"{setting} is {new} here, but {old} in the running swarm's map")
            remedy.append(f"{setting}={old}")
    if differences:
        raise BadConfig(
            f"swarm {prefix!r}: {'; '.join(differences)}.  Settings do not change it: "
            f"start with {' '.join(remedy)}, or make a new swarm with another SWARM_PREFIX "
            "or data directory"
        )
