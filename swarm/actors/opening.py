"""Opening a log: fold it, then own it by appending an `Opened` entry.

A log is made once in a swarm's life.  After that the shared state knows it, by its
incarnation under the key ``log.<shard>`` (``log.cluster``), and a log that is gone or
another one stays closed: to begin again from nothing would lose all it held without a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Generic

import msgspec
from msgspec import Struct

from swarm.actors.shard_worker import ShardWorker
from swarm.actors.surroundings import Surroundings
from swarm.bus.log import FencedLog
from swarm.bus.log_reader import LogReader, StateT
from swarm.config import Settings
from swarm.core.envelope import SHARD_LOG, Kind
from swarm.core.shard import Shard, ShardRules
from swarm.errors import BadConfig, Deposed, LogMissing, LogReplaced
from swarm.messages import Opened

#: Others may open, or still write, while we read; then we read on and try again.
TRIES = 5
#: Before looking again at a log that seems to be empty: a replica may be behind.
LOOK_AGAIN_S = 0.1
#: Stands for the incarnation of a log that `swarm log restore` is bringing back.
RESTORING = "restoring"

#: Folds a shard's log.
ShardReader = LogReader[Shard]


class KnownLog(Struct):
    """What the shared state holds of a log."""

    incarnation: str


_decode_known = msgspec.json.Decoder(KnownLog).decode


def shard_reader(around: Surroundings, number: int) -> ShardReader:
    """A reader of this shard's log."""
    rules = shard_rules_of(around.settings, around.bus.max_payload)
    log = around.subjects.log(number)
    return LogReader(around.bus, log, partial(Shard, number, rules))


async def open_shard(
    around: Surroundings,
    number: int,
    map_version: int,
    reader: ShardReader | None = None,
    taken: Callable[[ShardReader], str] = lambda _: "",
) -> ShardWorker:
    """Own shard `number`: a worker that has not been started yet.

    `reader`: of a standby, whose state is used; after an error it can follow on.
    `taken`: who, by what the log says up to now, owns the shard and must keep it; or "".
    Raises as `Opening.run`.
    """
    reader = reader or shard_reader(around, number)
    log = around.subjects.log(number)
    opening = Opening(around, log, key_of(number), map_version, reader, taken)
    fenced = await opening.run()
    return ShardWorker(around, reader.state, fenced)


class Opening(Generic[StateT]):
    """Owns `log`, which the shared state knows under `key`; `reader` folds it."""

    def __init__(
        self,
        around: Surroundings,
        log: str,
        key: str,
        map_version: int,
        reader: LogReader[StateT],
        taken: Callable[[LogReader[StateT]], str] = lambda _: "",
        kind: Kind[Any] = SHARD_LOG,
    ) -> None:
        self._around = around
        self._log = log
        self._key = key
        self._map_version = map_version
        self._reader = reader
        self._taken = taken
        self._kind = kind

    async def run(self) -> FencedLog:
        """Open it: the log as its owner writes it, `reader.state` is what it says.

        Raises `Deposed` when others own it, or keep writing; `Undecodable`, `BadConfig`
        (this machine's clock), `LogMissing` and `LogReplaced` (the log is gone, or not the
        one that it was; they say what to do), `StateMissing`, and what the bus raises.
        """
        bus, reader = self._around.bus, self._reader
        if reader.position.incarnation:
            # A takeover asks nobody: the log is the one that the reader has followed.
            known: str | None = reader.position.incarnation
        else:
            known = await self._known_log()
        if known == RESTORING:
            raise LogReplaced(
                f"{self._log}: `swarm log restore` is bringing it back; if it was interrupted, run "
                "it again: until then the shard stays closed"
            )
        if known is None:
            await bus.create_log(self._log)
        try:
            return await self._open(known)
        except LogReplaced:
            # What was read is the state of a log that is no more.
            reader.start_over()
            raise
        except LogMissing as error:
            if known is None:
                raise
            raise LogMissing(
                f"{self._log}: its stream is gone, although this swarm has it ({self._key} in "
                f"the shared state): somebody has deleted it.  {self._ways_out()}"
            ) from error

    async def _open(self, known: str | None) -> FencedLog:
        around, reader = self._around, self._reader
        epoch = reader.position.epoch
        for _ in range(TRIES):
            # Each time: a clock may have been set in between.
            await around.server_clock.check()
            await reader.catch_up()
            position = reader.position
            # An owner that lives must not be deposed: who comes second gives way.
            came_first = epoch and position.epoch != epoch
            opener = reader.state.coordinator if came_first else self._taken(reader)
            if opener:
                # Who has seen in time that there is an owner does not disagree.
                by = f"{opener}, epoch {position.epoch}" if came_first else ""
                raise Deposed(f"{self._log}: it is in the hands of {opener}", by)
            epoch = position.epoch
            if known is not None and not position.incarnation:
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            self._check_same(known, position.incarnation)
            fenced = self._fenced()
            opened = Opened(around.coordinator)
            now = max(around.server_clock.now(), position.now)
            reader.state.seq = position.at + 1
            try:
                await fenced.append([opened], now, around.format())
            except Deposed:
                continue
            if known is None:
                self._check_same(await self._make_known(fenced), fenced.incarnation)
            reader.state.apply(opened, now, fenced.owner)
            return fenced
        self._check_same(known, reader.position.incarnation)
        raise Deposed(f"{self._log}: others wrote to it during {TRIES} attempts to open it")

    def _fenced(self) -> FencedLog:
        around, position = self._around, self._reader.position
        return FencedLog(
            around.bus,
            position,
            incarnation=position.incarnation or around.runtime.new_name("i"),
            epoch=position.epoch + 1,
            owner=around.runtime.new_name(""),
            # What was adopted once is never given up for an older map.
            map_version=max(self._map_version, position.map_version),
            append_timeout_s=around.settings.append_timeout_s,
            silence_s=around.settings.lease_s,
            kind=self._kind,
            last=self._reader.last,
            sure_at=self._reader.sure_at,
        )

    # --- the log that it must be ----------------------------------------------------------

    async def _known_log(self) -> str | None:
        """The log's incarnation; None before it was opened for the first time."""
        stored = await self._around.bus.state_get(self._key)
        if stored is None:
            return None
        try:
            return _decode_known(stored).incarnation
        except msgspec.MsgspecError as error:
            raise BadConfig(
                f"{self._key} in the shared state cannot be read ({error}): another version wrote "
                "it, or something else uses this prefix; run that version, or use another "
                "SWARM_PREFIX"
            ) from error

    async def _make_known(self, fenced: FencedLog) -> str | None:
        """Let the shared state know the log that `fenced` has opened; what it knows then."""
        known = msgspec.json.encode(KnownLog(fenced.incarnation))
        if await self._around.bus.state_create(self._key, known):
            return fenced.incarnation
        # An opener before us, of the same log, unless somebody interferes.
        return await self._known_log()

    def _check_same(self, known: str | None, found: str) -> None:
        """Raise `LogReplaced` unless the log is the one that is known."""
        if known is None or found == known:
            return
        is_now = f"is another one ({found} instead of {known})" if found else "has lost its entries"
        raise LogReplaced(
            f"{self._log}: its stream {is_now}: somebody has deleted or replaced it.  "
            f"{self._ways_out()}"
        )

    def _ways_out(self) -> str:
        prefix, key = self._around.settings.prefix, self._key
        if key == CLUSTER_KEY:
            return (
                "Nobody leads the swarm, work goes on.  Restore the stream from a backup (`nats "
                f"stream restore`); or begin it anew with the shard map as the shared state has "
                f"it: delete {key} from the bucket (`nats kv del {prefix}-state {key}`)"
            )
        return (
            "The shard stays closed, nothing was changed.  Restore the log from a backup (`swarm "
            f"log restore {key.rpartition('.')[2]} FILE`, docs/operations.md); or give up what it "
            f"held: delete {key} from the bucket (`nats kv del {prefix}-state {key}`), and the "
            "shard opens with the log as it is, or a new one"
        )


#: Under which the shared state knows the cluster log.
CLUSTER_KEY = "log.cluster"


def key_of(number: int) -> str:
    """Under which the shared state knows the log of shard `number`."""
    return f"log.{number}"


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
