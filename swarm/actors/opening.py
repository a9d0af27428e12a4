"""Opening a shard: fold its log, then own it by appending an `Opened` entry."""

from __future__ import annotations

from collections.abc import Callable

from swarm.actors.shard_worker import ShardWorker
from swarm.actors.surroundings import Surroundings
from swarm.bus.log import FencedLog, LogReader
from swarm.config import Settings
from swarm.core.shard import ShardRules
from swarm.errors import Deposed
from swarm.messages import Opened

#: Others may open, or still write, while we read; then we read on and try again.
TRIES = 5


async def open_shard(
    around: Surroundings,
    number: int,
    map_version: int,
    reader: LogReader | None = None,
    taken: Callable[[LogReader], str] = lambda _: "",
) -> ShardWorker:
    """Own shard `number`: a worker that has not been started yet.

    `reader`: of a standby, whose state is used; after an error it can follow on.
    `taken`: who, by what the log says up to now, owns the shard and must keep it; or "".
    Raises `Deposed` when others own it, or keep writing; `Undecodable`, `LogMissing`,
    `BadConfig` (this machine's clock), and what the bus raises.
    """
    settings, bus = around.settings, around.bus
    await around.server_clock.check()
    log = around.subjects.log(number)
    if reader is None:
        await bus.create_log(log)
        reader = LogReader(bus, log, number, shard_rules_of(settings, bus.max_payload))
    epoch = reader.position.epoch
    for _ in range(TRIES):
        await reader.catch_up()
        position = reader.position
        # An owner that lives must not be deposed: who comes second gives way.
        opener = reader.shard.coordinator if epoch and position.epoch != epoch else taken(reader)
        if opener:
            raise Deposed(f"{log}: it is in the hands of {opener}")
        epoch = position.epoch
        fenced = FencedLog(
            bus,
            position,
            incarnation=position.incarnation or around.runtime.new_name("i"),
            epoch=position.epoch + 1,
            owner=around.runtime.new_name(""),
            map_version=map_version,
            append_timeout_s=settings.append_timeout_s,
            silence_s=settings.lease_s,
        )
        opened = Opened(around.coordinator)
        now = max(around.runtime.wall(), position.now)
        try:
            await fenced.append([opened], now)
        except Deposed:
            continue
        reader.shard.apply(opened, now, fenced.owner)
        return ShardWorker(around, reader.shard, fenced)
    raise Deposed(f"{log}: others wrote to it during {TRIES} attempts to open it")


def shard_rules_of(settings: Settings, max_payload: int) -> ShardRules:
    """What a shard decides by, from the settings and the server's limits."""
    return ShardRules(
        ageing_s=settings.ageing_s,
        lease_s=settings.lease_s,
        dedupe_window_s=settings.dedupe_window_s,
        dedupe_count=settings.dedupe_count,
        item_bytes_max=max_payload // 4,
    )
