"""Bringing a log back from a file.

The order of the steps is what keeps an interrupted restore harmless: the shared state says
first that the log is being restored (so nobody opens it from nothing) and the stream is
closed to appends before it is touched (so no standby or paused owner goes on in it);
whatever is there now is on the disk before it is deleted; the shared state names the log
again, and the stream is opened, only when all has been read back.  Until then every step may
be repeated by running it again.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from swarm.actors.opening import RESTORING, KnownLog, key_of
from swarm.bus.jetstream import JetStreamBus
from swarm.bus.jetstream_rebuild import LogRebuild
from swarm.bus.log import SURE_S
from swarm.errors import BusError, SwarmError
from swarm.recovery.plan import Plan, Wanted, all_entries
from swarm.recovery.saving import save_log

#: Between deleting a log and making it anew: so that any owner that was stopped before, and
#: goes on behind, finds its proof too old and looks at what it continues.
PAUSE_S = 1.5 * SURE_S
_encode = msgspec.json.Encoder().encode


async def restore_log(bus: JetStreamBus, wanted: Wanted, plan: Plan, now: float) -> Path | None:
    """Do what `plan` says; returns where what was there before is saved (None: nowhere).

    Raises `SwarmError` when somebody has written to the log since the plan was made (nothing
    is changed then), and what the bus raises: then run it again.
    """
    return await _Restore(bus, wanted, plan, now).run()


class _Restore:
    def __init__(self, bus: JetStreamBus, wanted: Wanted, plan: Plan, now: float) -> None:
        self._bus = bus
        self._wanted = wanted
        self._plan = plan
        self._now = now
        self._key = key_of(wanted.shard)
        self._stream = LogRebuild(bus, wanted.log, wanted.subjects.restoring(wanted.shard))

    async def run(self) -> Path | None:
        known = await self._bus.state_get(self._key)
        replicas = await self._bus.state_replicas()
        await self._bus.state_put(self._key, _encode(KnownLog(RESTORING)))
        config = await self._stream.config()
        replaced: Path | None = None
        if config is not None:
            await self._check_as_planned(await self._stream.close(), known)
            replaced = await self._keep_what_is_there()
            await self._stream.delete()
        await asyncio.sleep(PAUSE_S)
        await self._stream.create(config, replicas, self._plan.first_seq)
        for entry in self._wanted.saved.entries(self._plan.last_seq):
            await self._stream.append(entry)
        await self._read_back()
        await self._bus.state_put(self._key, _encode(KnownLog(self._plan.incarnation)))
        await self._stream.open()
        return replaced

    async def _check_as_planned(self, last_seq: int, known: bytes | None) -> None:
        """Nobody can write any more; whoever did meanwhile must not lose it unasked."""
        if last_seq == self._plan.now_last_seq:
            return
        await self._stream.open()
        if known is not None:
            await self._bus.state_put(self._key, known)
        raise SwarmError(
            f"{self._wanted.log} ends with entry {last_seq} now, not with "
            f"{self._plan.now_last_seq}: somebody has written to it meanwhile.  Nothing was "
            "changed; look again whether it must be restored"
        )

    async def _keep_what_is_there(self) -> Path | None:
        """Save the log there is, unless all of it is in the file."""
        if not self._plan.gone.entries:
            return None
        wanted = self._wanted
        number, file = 1, wanted.saved.path
        while (path := file.with_name(f"{file.name}.replaced-{number}")).exists():
            number += 1
        await save_log(self._bus, wanted.settings.prefix, wanted.shard, path, self._now)
        return path

    async def _read_back(self) -> None:
        """Raise `BusError` unless the log is what it is to be."""
        wanted, plan = self._wanted, self._plan
        saved = wanted.saved.entries(plan.last_seq)
        found = all_entries(self._bus, wanted.log, plan.first_seq, plan.last_seq)
        async for stored in found:
            entry = next(saved)
            if (stored.seq, stored.data) != (entry.seq, entry.data):
                raise BusError(
                    f"{wanted.log}: entry {stored.seq} reads back otherwise than it was written; "
                    "the shard stays closed.  Does somebody else restore it, too?  Run it again"
                )
        info = await self._bus.log_info(wanted.log)
        if (info.first_seq, info.last_seq) != (plan.first_seq, plan.last_seq):
            raise BusError(
                f"{wanted.log} has entries {info.first_seq} to {info.last_seq} now, and not "
                f"{plan.first_seq} to {plan.last_seq}; the shard stays closed: run it again"
            )
