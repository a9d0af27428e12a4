"""Records on a real NATS: a stream with one subject for each key."""

from __future__ import annotations

import asyncio
from typing import Final

from swarm.bus.base import check_record_age, check_record_key
from swarm.bus.jetstream_api import (
    NO_STREAM,
    OTHER_STREAM,
    age_config,
    is_full,
    no_room,
    records_config,
    stream_of,
)
from swarm.bus.jetstream_calls import TRY_AGAIN_S, JetStreamLink
from swarm.bus.jetstream_read import Page, read_page
from swarm.bus.nats_link import CALL_TIMEOUT_S
from swarm.errors import BusTimeout, LogMissing, OutcomeUnknown

#: Records asked for at once.
PAGE: Final = 256


class Records:
    """The records' stores of a swarm, over one connection."""

    def __init__(self, link: JetStreamLink, replicas: int) -> None:
        self._link = link
        self._replicas = replicas
        self._clock = asyncio.get_running_loop().time

    async def create(self, name: str, max_age_s: float) -> None:
        """See `Bus.create_records`."""
        check_record_age(max_age_s)
        what = f"creating {name}"
        found = await self._link.create_stream(
            what, records_config(name, max_age_s, self._replicas)
        )
        age = age_config(max_age_s)
        if found.get("max_age", 0) != age["max_age"]:
            # Nothing else: what an operator has changed stays.
            await self._link.api(what, f"STREAM.UPDATE.{stream_of(name)}", found | age)

    async def put(self, name: str, key: str, data: bytes, timeout_s: float) -> int:
        """See `Bus.put_record`."""
        check_record_key(key)
        stream = stream_of(name)
        subject = f"{name}.{key}"
        expected = {"Nats-Expected-Stream": stream}
        what = f"putting a record to {subject}"
        stored = await self._link.store(what, name, stream, subject, data, timeout_s, expected)
        error = stored.error
        if error is None:
            return stored.seq
        if error.err_code in {OTHER_STREAM, NO_STREAM}:
            raise LogMissing(f"{name}: no such records: {error}")
        if is_full(error):
            raise no_room(what, error)
        raise OutcomeUnknown(f"{what}: {error}")

    async def get(self, name: str, key: str, as_of: int) -> list[bytes]:
        """See `Bus.get_records`.

        How many there are is known to the stream's leader (or one that was it: `as_of`); the
        records are read from whichever replica answers, until they are all there.
        """
        check_record_key(key)
        subject = f"{name}.{key}"
        deadline = self._clock() + CALL_TIMEOUT_S
        while True:
            wanted, last_seq = await self._count(name, subject)
            found = await self._read(name, subject, wanted, deadline) if last_seq >= as_of else []
            if last_seq >= as_of and len(found) >= wanted:
                return found
            # A replica that is behind has answered, or records have gone meanwhile.
            if self._clock() + TRY_AGAIN_S >= deadline:
                raise BusTimeout(
                    f"reading {subject}: {len(found)} of {wanted} records found, by a server that "
                    f"knows {last_seq} of at least {as_of} in all"
                )
            await asyncio.sleep(TRY_AGAIN_S)

    async def _read(self, name: str, subject: str, wanted: int, deadline: float) -> list[bytes]:
        """So many records of the subject, or fewer, if whoever answers has no more."""
        found: list[bytes] = []
        next_seq = 1
        while len(found) < wanted:
            request = Page.request(next_seq, PAGE, subject)
            entries = await read_page(self._link, name, stream_of(name), request, deadline)
            if not entries:
                break
            found += [entry.data for entry in entries]
            next_seq = entries[-1].seq + 1
        return found

    async def _count(self, name: str, subject: str) -> tuple[int, int]:
        """How many records the subject has, and the number of the store's last one."""
        request = f"STREAM.INFO.{stream_of(name)}"
        reply = await self._link.api(f"reading {subject}", request, {"subjects_filter": subject})
        if reply.state is None:
            return 0, 0
        counts = reply.state.subjects or {}
        return counts.get(subject, 0), reply.state.last_seq
