"""Saving a log: every entry as it is stored, readable or not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from swarm.bus.base import Bus, Entry
from swarm.bus.log_reader import PAGE
from swarm.core.envelope import decode_entry
from swarm.errors import BadInput, BusError, LogMissing, Undecodable
from swarm.recovery.saved import FORMAT, Header, NewFile
from swarm.subjects import Subjects

#: How often a log that is purged under the reader is begun anew.
TRIES = 20
#: How often an entry that must be there is looked for, and the pause between two looks: a
#: replica may be behind.
LOOKS = 50
LOOK_AGAIN_S = 0.1


async def save_log(bus: Bus, prefix: str, shard: int, path: Path, saved_at: float) -> Header:
    """Write the log of this shard, as it is now, to `path`, which must not exist.

    The swarm may run meanwhile.  Raises `BadInput` for a file that cannot be made, and where
    there is no such log; and what the bus raises.
    """
    file = NewFile(path)
    try:
        header = await _Saving(bus, prefix, shard, saved_at).run(file)
        file.keep()
    finally:
        file.drop()
    return header


class _Saving:
    def __init__(self, bus: Bus, prefix: str, shard: int, saved_at: float) -> None:
        self._bus = bus
        self._prefix = prefix
        self._shard = shard
        self._saved_at = saved_at
        self._log = Subjects(prefix).log(shard)

    async def run(self, file: NewFile) -> Header:
        for _ in range(TRIES):
            header = await self._copy(file)
            if header is not None:
                return header
        raise BusError(
            f"{self._log}: {TRIES} times what was to be saved next was purged meanwhile; try again"
        )

    async def _copy(self, file: NewFile) -> Header | None:
        """Write it all; None when the log was purged beyond where we were: begin anew."""
        log = self._log
        try:
            info = await self._bus.log_info(log)
        except LogMissing:
            raise BadInput(
                f"there is no log {log} on this NATS: nothing can be saved; check --prefix and the "
                "shard"
            ) from None
        if info.first_seq > info.last_seq:
            raise BadInput(f"{log} has no entries: there is nothing to save")
        header: Header | None = None
        wanted, looks = info.first_seq, 0
        while wanted <= info.last_seq:
            page = await self._bus.read(log, wanted, min(PAGE, info.last_seq + 1 - wanted))
            found = _without_hole(page, wanted)
            if not found:
                looks += 1
                if (await self._bus.log_info(log)).first_seq > wanted:
                    return None
                if looks > LOOKS:
                    raise BusError(
                        f"{log}: entry {wanted} is there, says NATS, and cannot be read; is a "
                        "server of the cluster down?"
                    )
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            if header is None:
                header = Header(
                    format=FORMAT,
                    prefix=self._prefix,
                    shard=self._shard,
                    log=log,
                    incarnation=_incarnation(log, found),
                    first_seq=info.first_seq,
                    last_seq=info.last_seq,
                    saved_at=self._saved_at,
                )
                file.begin(header)
            for entry in found:
                file.add(entry)
            wanted, looks = found[-1].seq + 1, 0
        return header


def _without_hole(page: list[Entry], wanted: int) -> list[Entry]:
    found: list[Entry] = []
    for entry in page:
        if entry.seq != wanted + len(found):
            break
        found.append(entry)
    return found


def _incarnation(log: str, entries: list[Entry]) -> str:
    """Of the first of these entries that says it."""
    for stored in entries:
        try:
            entry = decode_entry(log, stored.seq, stored.data)
        except Undecodable:
            continue
        if entry is not None:
            return entry.incarnation
    return ""
