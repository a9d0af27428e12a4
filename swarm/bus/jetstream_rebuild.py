"""Rebuilding a log on a real NATS: for `swarm log restore` alone, never for an owner.

While it is under way the stream does not listen to the log's subject, so no coordinator can
append, whatever it believes to know of the log: one that has followed the log as far as the
rebuilt part reaches would be let in by the fence.  What is written here comes in by a subject
of its own (`gate`) and is stored under the log's.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from swarm.bus.base import Entry
from swarm.bus.jetstream_api import (
    NO_STREAM,
    WRONG_LAST_SEQUENCE,
    Reply,
    api_error,
    is_full,
    log_config,
    no_room,
    stream_of,
)
from swarm.bus.jetstream_calls import TRY_AGAIN_S, JetStreamLink
from swarm.errors import BusError, BusTimeout, BusUnavailable, OutcomeUnknown

#: How long an entry is tried to be stored; a cluster that elects a leader takes some seconds.
PATIENCE_S: Final = 30.0
APPEND_TIMEOUT_S: Final = 5.0
#: The last sequence of no log.
NEVER: Final = 2**53


class LogRebuild:
    """The stream of one log.  All calls raise `BusTimeout`, `BusUnavailable`, `StorageFull`."""

    def __init__(self, link: JetStreamLink, log: str, gate: str) -> None:
        self._link = link
        self._log = log
        self._gate = gate
        self._stream = stream_of(log)
        self._clock = asyncio.get_running_loop().time

    async def config(self) -> dict[str, Any] | None:
        """The stream's configuration; None: there is none."""
        info = await self._info()
        return None if info is None else info.config

    async def _info(self) -> Reply | None:
        what = f"looking at {self._log}"
        reply = await self._link.api_reply(what, f"STREAM.INFO.{self._stream}")
        if reply.error is None:
            return reply
        if reply.error.err_code == NO_STREAM:
            return None
        raise api_error(what, reply.error)

    async def close(self) -> int:
        """Keep everybody from appending; returns the last sequence that somebody was told."""
        what = f"closing {self._log}"
        await self._listen(what, self._gate)
        # The stream's leader answers what comes by the gate once it does not listen to the
        # log's subject any more, and after all that had come by it.  This is never stored.
        fence = {"Nats-Expected-Last-Sequence": str(NEVER), "Nats-Expected-Stream": self._stream}
        give_up_at = self._clock() + PATIENCE_S
        while True:
            try:
                stored = await self._link.store(
                    what, self._log, self._stream, self._gate, b"", APPEND_TIMEOUT_S, fence
                )
            except (OutcomeUnknown, BusUnavailable, BusTimeout):
                if self._clock() > give_up_at:
                    raise
            else:
                error = stored.error
                assert error is not None, "no log is so long"
                last_seq = error.description.rpartition(":")[2].strip()
                if error.err_code == WRONG_LAST_SEQUENCE and last_seq.isdecimal():
                    return int(last_seq)
                if self._clock() > give_up_at:
                    raise BusUnavailable(f"{what}: {error}")
            await asyncio.sleep(TRY_AGAIN_S)

    async def open(self) -> None:
        """Let owners append again."""
        await self._listen(f"opening {self._log}", self._log)

    async def _listen(self, what: str, subject: str) -> None:
        config = await self.config()
        if config is None:
            raise BusError(f"{what}: somebody has deleted it meanwhile")
        config.pop("subject_transform", None)
        changed = config | {"subjects": [subject]}
        await self._link.api(what, f"STREAM.UPDATE.{self._stream}", changed)

    async def delete(self) -> None:
        """Delete it with all its entries."""
        await self._link.api(f"deleting {self._log}", f"STREAM.DELETE.{self._stream}")

    async def create(self, like: dict[str, Any] | None, replicas: int, first_seq: int) -> None:
        """Make it, empty and closed, to begin with this sequence.

        `like`: the configuration that it had before, so that what an operator has changed
        stays; None: that of a new log with so many replicas.
        """
        config = (like or log_config(self._log, replicas, 0)) | {
            "subjects": [self._gate],
            "subject_transform": {"src": self._gate, "dest": self._log},
            "first_seq": first_seq,
        }
        await self._link.api(f"creating {self._log}", f"STREAM.CREATE.{self._stream}", config)

    async def append(self, entry: Entry) -> None:
        """Store an entry behind the one before it; it is for the caller to read it back."""
        what = f"restoring entry {entry.seq} of {self._log}"
        fence = {
            "Nats-Expected-Last-Sequence": str(entry.seq - 1),
            "Nats-Expected-Stream": self._stream,
        }
        give_up_at = self._clock() + PATIENCE_S
        while True:
            try:
                stored = await self._link.store(
                    what, self._log, self._stream, self._gate, entry.data, APPEND_TIMEOUT_S, fence
                )
            except (OutcomeUnknown, BusUnavailable, BusTimeout):
                if self._clock() > give_up_at:
                    raise
                await asyncio.sleep(TRY_AGAIN_S)
                continue
            error = stored.error
            if error is None:
                return
            if error.err_code == WRONG_LAST_SEQUENCE and error.description.endswith(
                f": {entry.seq}"
            ):
                return  # an attempt whose answer was lost
            if is_full(error):
                raise no_room(what, error)
            raise BusError(f"{what}: {error}; does somebody else restore it, too?")
