"""Opening a shard: fold its log, then own it by appending an `Opened` entry.

A log is made once in a swarm's life.  After that the shared state knows it, by its
incarnation under the key ``log.<shard>``, and a log that is gone or another one closes the
shard: to begin again from nothing would lose every item without a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from msgspec import Struct

from swarm.actors.shard_worker import ShardWorker
from swarm.actors.surroundings import Surroundings
from swarm.bus.base import Bus
from swarm.bus.log import FencedLog, LogReader
from swarm.config import Settings
from swarm.core.shard import ShardRules
from swarm.errors import BadConfig, Deposed, LogMissing, LogReplaced
from swarm.messages import Opened

#: Others may open, or still write, while we read; then we read on and try again.
TRIES = 5
#: Before looking again at a log that seems to be empty: a replica may be behind.
LOOK_AGAIN_S = 0.1


class KnownLog(Struct):
    """What the shared state holds of a log."""

    incarnation: str


_decode_known = msgspec.json.Decoder(KnownLog).decode


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
    Raises `Deposed` when others own it, or keep writing; `Undecodable`, `BadConfig` (this
    machine's clock), `LogMissing` and `LogReplaced` (the log is gone, or not the one that
    it was; they say what to do), `StateMissing`, and what the bus raises.
    """
    log = around.subjects.log(number)
    if reader is not None and reader.position.incarnation:
        # A takeover asks nobody: the log is the one that the standby has followed.
        known: str | None = reader.position.incarnation
    else:
        known = await _known_log(around.bus, number)
    if known is None:
        await around.bus.create_log(log)
    rules = shard_rules_of(around.settings, around.bus.max_payload)
    reader = reader or LogReader(around.bus, log, number, rules)
    try:
        return await _open(around, number, map_version, known, reader, taken)
    except LogReplaced:
        # A standby's state is that of a log that is no more.
        reader.start_over()
        raise
    except LogMissing as error:
        if known is None:
            raise
        raise LogMissing(
            f"{log}: its stream is gone, although this swarm has it ({key_of(number)} in the "
            f"shared state): somebody has deleted it.  {_ways_out(around, number)}"
        ) from error


async def _open(
    around: Surroundings,
    number: int,
    map_version: int,
    known: str | None,
    reader: LogReader,
    taken: Callable[[LogReader], str],
) -> ShardWorker:
    settings, bus = around.settings, around.bus
    log = around.subjects.log(number)
    epoch = reader.position.epoch
    for _ in range(TRIES):
        # Each time: a clock may have been set in between.
        await around.server_clock.check()
        await reader.catch_up()
        position = reader.position
        # An owner that lives must not be deposed: who comes second gives way.
        opener = reader.shard.coordinator if epoch and position.epoch != epoch else taken(reader)
        if opener:
            raise Deposed(f"{log}: it is in the hands of {opener}")
        epoch = position.epoch
        if known is not None and not position.incarnation:
            await asyncio.sleep(LOOK_AGAIN_S)
            continue
        _check_same(around, number, known, position.incarnation)
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
        now = max(around.server_clock.now(), position.now)
        reader.shard.seq = position.at + 1
        try:
            await fenced.append([opened], now, around.format())
        except Deposed:
            continue
        if known is None:
            _check_same(around, number, await _make_known(bus, number, fenced), fenced.incarnation)
        reader.shard.apply(opened, now, fenced.owner)
        return ShardWorker(around, reader.shard, fenced)
    _check_same(around, number, known, reader.position.incarnation)
    raise Deposed(f"{log}: others wrote to it during {TRIES} attempts to open it")


def key_of(number: int) -> str:
    """Under which the shared state knows the log of shard `number`."""
    return f"log.{number}"


async def _known_log(bus: Bus, number: int) -> str | None:
    """The incarnation of the shard's log; None before it was opened for the first time."""
    key = key_of(number)
    stored = await bus.state_get(key)
    if stored is None:
        return None
    try:
        return _decode_known(stored).incarnation
    except msgspec.MsgspecError as error:
        raise BadConfig(
            f"{key} in the shared state cannot be read ({error}): another version wrote it, or "
            "something else uses this prefix; run that version, or use another SWARM_PREFIX"
        ) from error


async def _make_known(bus: Bus, number: int, fenced: FencedLog) -> str | None:
    """Let the shared state know the log that `fenced` has opened; what it knows then."""
    known = msgspec.json.encode(KnownLog(fenced.incarnation))
    if await bus.state_create(key_of(number), known):
        return fenced.incarnation
    # An opener before us, of the same log, unless somebody interferes.
    return await _known_log(bus, number)


def _check_same(around: Surroundings, number: int, known: str | None, found: str) -> None:
    """Raise `LogReplaced` unless the log is the one that is known."""
    if known is None or found == known:
        return
    is_now = f"is another one ({found} instead of {known})" if found else "has lost its entries"
    raise LogReplaced(
        f"{around.subjects.log(number)}: its stream {is_now}: somebody has deleted or replaced "
        f"it.  {_ways_out(around, number)}"
    )


def _ways_out(around: Surroundings, number: int) -> str:
    prefix, key = around.settings.prefix, key_of(number)
    return (
        "The shard stays closed, nothing was changed.  Restore the stream from a backup "
        f"(`nats stream restore`); or give up the items it held: delete {key} from the bucket "
        f"(`nats kv del {prefix}-state {key}`), and the shard opens with the log as it is, or a "
        "new one"
    )


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
