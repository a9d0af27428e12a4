"""Opening a shard: fold its log, then own it by appending an `Opened` entry."""

from __future__ import annotations

from swarm.actors.shard_worker import ShardWorker, Surroundings
from swarm.bus.log import FencedLog, LogReader
from swarm.config import Settings
from swarm.core.shard import ShardRules
from swarm.errors import BadConfig, Deposed
from swarm.messages import Opened

#: An owner whose clock is further off the server's refuses to open.
CLOCK_OFF_MAX_S = 2.0
#: Others may open, or still write, while we read; then we read on and try again.
TRIES = 5


async def open_shard(around: Surroundings, number: int, map_version: int) -> ShardWorker:
    """Own shard `number`: a worker that has not been started yet.

    Raises `Deposed` when others keep writing, `Undecodable`, `LogMissing`, `BadConfig`
    (this machine's clock), and what the bus raises.
    """
    settings, bus = around.settings, around.bus
    await _check_clock(around)
    log = around.subjects.log(number)
    await bus.create_log(log)
    reader = LogReader(bus, log, number, shard_rules_of(settings, bus.max_payload))
    for _ in range(TRIES):
        await reader.catch_up()
        position = reader.position
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
        reader.shard.seq = position.at + 1
        try:
            await fenced.append([opened], now, around.format())
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
        max_attempts=settings.max_attempts,
        backoff_s=settings.retry_backoff_s,
        backoff_max_s=settings.retry_backoff_max_s,
        quarantine_deaths=settings.quarantine_deaths,
        wait_s=settings.wait_expires_s,
        grace_s=settings.deadline_grace_s,
    )


async def _check_clock(around: Surroundings) -> None:
    before = around.runtime.wall()
    server = await around.bus.server_time()
    after = around.runtime.wall()
    # The server read its clock somewhere in between.
    off_s = max(before - server, server - after, 0.0)
    if off_s > CLOCK_OFF_MAX_S:
        raise BadConfig(
            f"this machine's clock is {off_s:.1f} s off the NATS server's; at most "
            f"{CLOCK_OFF_MAX_S:.0f} s are allowed: synchronise both clocks (NTP)"
        )
