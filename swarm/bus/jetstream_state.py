"""The small shared state on a real NATS: a key-value bucket."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Final

import msgspec

from swarm.bus.jetstream_api import (
    NO_MESSAGE,
    NO_STREAM,
    WRONG_LAST_SEQUENCE,
    WRONG_LAST_SEQUENCE_UNDER_WAY,
    ApiError,
    Reply,
    Stored,
    StoredMessage,
    api_error,
    bucket_config,
    bucket_of,
)
from swarm.bus.jetstream_calls import TRY_AGAIN_S, JetStreamLink
from swarm.bus.nats_link import CALL_TIMEOUT_S
from swarm.errors import BusTimeout, NoResponders

#: What NATS's key-value stores take as a key.
KEY: Final = re.compile(r"[A-Za-z0-9_=/-]+(\.[A-Za-z0-9_=/-]+)*")

_decode_stored = msgspec.json.Decoder(Stored).decode


class SharedState:
    """The bucket of one swarm, over one connection."""

    def __init__(self, link: JetStreamLink, prefix: str, replicas: int) -> None:
        self._link = link
        self._replicas = replicas
        self._bucket = bucket_of(prefix)
        self._stream = f"KV_{self._bucket}"
        self._clock = asyncio.get_running_loop().time

    async def server_time(self) -> float:
        """See `Bus.server_time`: of the server that leads the shared state's stream.

        Raises `BusTimeout`, `BusUnavailable`.
        """
        what = "the server's time"
        reply = await self._with_bucket(
            partial(self._link.api_reply, what, f"STREAM.INFO.{self._stream}", None)
        )
        if reply.error is not None:
            raise api_error(what, reply.error)
        return datetime.fromisoformat(reply.ts).timestamp()

    async def get(self, key: str) -> bytes | None:
        """See `Bus.state_get`; raises `BusTimeout`, `BusUnavailable`."""
        found = await self._last(key)
        return None if found is None or _is_deleted(found) else found.data

    async def _last(self, key: str) -> StoredMessage | None:
        """The last message under `key`, from the leader: a replica might not have it yet."""
        what = f"reading the state {key}"
        body = {"last_by_subj": self._key_subject(key)}
        request = f"STREAM.MSG.GET.{self._stream}"
        reply = await self._link.api_reply(what, request, body)
        if reply.error is None:
            return reply.message
        if reply.error.err_code in {NO_MESSAGE, NO_STREAM}:
            return None
        raise api_error(what, reply.error)

    async def create(self, key: str, value: bytes) -> bool:
        """See `Bus.state_create`; raises `BusTimeout`: then it may have been stored."""
        subject = self._key_subject(key)
        deadline = self._clock() + CALL_TIMEOUT_S
        expected_seq = 0
        while True:
            reply = await self._with_bucket(
                partial(self._store_state, subject, value, expected_seq)
            )
            if reply.error is None:
                return True
            if reply.error.err_code not in {WRONG_LAST_SEQUENCE, WRONG_LAST_SEQUENCE_UNDER_WAY}:
                raise api_error(f"creating the state {key}", reply.error)
            last = await self._last(key)
            if last is not None and not _is_deleted(last):
                return False
            seen_seq = 0 if last is None else last.seq
            if seen_seq == expected_seq:
                # Somebody else's value is on its way; it may get there or not.
                if self._clock() + TRY_AGAIN_S >= deadline:
                    raise BusTimeout(f"creating the state {key}: others write it, none succeeds")
                await asyncio.sleep(TRY_AGAIN_S)
            # An operator has deleted the key; that leaves a mark, which counts as a message.
            expected_seq = seen_seq

    async def _store_state(self, subject: str, value: bytes, expected_seq: int) -> Reply:
        fence = {"Nats-Expected-Last-Subject-Sequence": str(expected_seq)}
        try:
            message = await self._link.request(subject, value, CALL_TIMEOUT_S, fence)
        except NoResponders:
            # As the API would say it.
            return Reply(error=ApiError(404, NO_STREAM, "stream not found"))
        return Reply(error=_decode_stored(message.data).error)

    async def _with_bucket(self, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """`ask`, and again after making the bucket if it turns out to be missing."""
        deadline = self._clock() + CALL_TIMEOUT_S
        reply = await ask()
        if reply.error is None or reply.error.err_code != NO_STREAM:
            return reply
        what = f"creating the state bucket {self._bucket}"
        await self._link.create_stream(what, bucket_config(self._bucket, self._replicas))
        while True:
            reply = await ask()
            if reply.error is None or reply.error.err_code != NO_STREAM:
                return reply
            # In a cluster it takes a moment until every server knows of it.
            if self._clock() + TRY_AGAIN_S >= deadline:
                raise BusTimeout(f"{what}: made, but not there yet")
            await asyncio.sleep(TRY_AGAIN_S)

    def _key_subject(self, key: str) -> str:
        if not KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key: letters, digits, '_', '-', '=', '/', and dots")
        return f"$KV.{self._bucket}.{key}"


def _is_deleted(message: StoredMessage) -> bool:
    """Whether this is the mark that deleting a key leaves."""
    return any(mark in message.hdrs for mark in (b"KV-Operation:", b"Nats-Marker-Reason:"))
