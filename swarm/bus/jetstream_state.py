"""The small shared state on a real NATS: a key-value bucket."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from typing import Final

import msgspec

from swarm.bus.base import StateValue
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
from swarm.errors import BusTimeout, NoResponders, StateMissing

#: What NATS's key-value stores take as a key.
KEY: Final = re.compile(r"[A-Za-z0-9_=/-]+(\.[A-Za-z0-9_=/-]+)*")

_decode_stored = msgspec.json.Decoder(Stored).decode


class SharedState:
    """The bucket of one swarm, over one connection."""

    def __init__(self, link: JetStreamLink, prefix: str, replicas: int) -> None:
        self._link = link
        self._prefix = prefix
        self._replicas = replicas
        self._bucket = bucket_of(prefix)
        self._stream = f"KV_{self._bucket}"
        self._clock = asyncio.get_running_loop().time

    async def open(self) -> None:
        """See `Bus.open_state`; raises `StateMissing`, `BusTimeout`, `BusUnavailable`."""
        what = f"creating the state bucket {self._bucket}"
        deadline = self._clock() + CALL_TIMEOUT_S
        if await self._is_there():
            return
        names = await self._link.api(what, "STREAM.NAMES", {"subject": f"{self._prefix}log.>"})
        # Once more, as another node may have made both meanwhile.
        if names.total and not await self._is_there():
            raise StateMissing(
                f"the shared state of swarm {self._prefix!r} (NATS bucket {self._bucket}) is gone, "
                f"but the swarm has {names.total} logs: somebody has deleted it.  Restore the "
                "bucket from a backup; or, if the logs are whole, make an empty one "
                f"(`nats kv add {self._bucket}`) and start with the settings that the swarm had; "
                "or delete the logs, too, to begin anew without their items"
            )
        await self._link.create_stream(what, bucket_config(self._bucket, self._replicas))
        # In a cluster it takes a moment until every server knows of it.
        while not await self._is_there():
            if self._clock() + TRY_AGAIN_S >= deadline:
                raise BusTimeout(f"{what}: made, but not there yet")
            await asyncio.sleep(TRY_AGAIN_S)

    async def _is_there(self) -> bool:
        return await self._info() is not None

    async def _info(self) -> Reply | None:
        """What JetStream says of the bucket; None when there is none."""
        what = f"looking at the state bucket {self._bucket}"
        reply = await self._link.api_reply(what, f"STREAM.INFO.{self._stream}")
        if reply.error is None:
            return reply
        if reply.error.err_code == NO_STREAM:
            return None
        raise api_error(what, reply.error)

    async def server_time(self) -> float:
        """See `Bus.server_time`: of the server that leads the shared state's stream."""
        info = await self._info()
        if info is None:
            raise self._missing("the server's time")
        return datetime.fromisoformat(info.ts).timestamp()

    async def get(self, key: str) -> bytes | None:
        """See `Bus.state_get`; raises `StateMissing`, `BusTimeout`, `BusUnavailable`."""
        found = await self.read(key)
        return None if found is None else found.value

    async def read(self, key: str) -> StateValue | None:
        """See `Bus.state_read`; raises `StateMissing`, `BusTimeout`, `BusUnavailable`."""
        found = await self._last(key)
        if found is None or _is_deleted(found):
            return None
        return StateValue(found.data, found.seq)

    async def _last(self, key: str) -> StoredMessage | None:
        """The last message under `key`, from the leader: a replica might not have it yet."""
        what = f"reading the state {key}"
        body = {"last_by_subj": self._key_subject(key)}
        reply = await self._link.api_reply(what, f"STREAM.MSG.GET.{self._stream}", body)
        if reply.error is None:
            return reply.message
        if reply.error.err_code == NO_MESSAGE:
            return None
        if reply.error.err_code == NO_STREAM:
            raise self._missing(what)
        raise api_error(what, reply.error)

    async def create(self, key: str, value: bytes) -> bool:
        """See `Bus.state_create`; raises `BusTimeout`: then it may have been stored."""
        subject = self._key_subject(key)
        what = f"creating the state {key}"
        deadline = self._clock() + CALL_TIMEOUT_S
        expected_seq = 0
        while True:
            stored = await self._store(what, subject, value, expected_seq)
            if stored is not None and stored.error is None:
                return True
            if stored is not None and stored.error is not None:
                _check_refusal(what, stored.error)
            last = await self._last(key)
            if last is not None and not _is_deleted(last):
                return False
            seen_seq = 0 if last is None else last.seq
            if seen_seq == expected_seq:
                # Somebody else's value is on its way; it may get there or not.  Or the
                # bucket has no leader at the moment.
                if self._clock() + TRY_AGAIN_S >= deadline:
                    raise BusTimeout(f"{what}: others write it, or the bucket has no leader")
                await asyncio.sleep(TRY_AGAIN_S)
            # An operator has deleted the key; that leaves a mark, which counts as a message.
            expected_seq = seen_seq

    async def update(self, key: str, value: bytes, revision: int) -> bool:
        """See `Bus.state_update`; raises `BusTimeout`: then it may have been stored."""
        what = f"updating the state {key}"
        stored = await self._store(what, self._key_subject(key), value, revision)
        if stored is None:
            raise BusTimeout(f"{what}: the bucket has no leader at the moment")
        if stored.error is None:
            return True
        _check_refusal(what, stored.error)
        return False

    async def put(self, key: str, value: bytes) -> None:
        """Store `value` under `key`, whatever is there; raises as `create` does."""
        subject = self._key_subject(key)
        what = f"setting the state {key}"
        deadline = self._clock() + CALL_TIMEOUT_S
        while True:
            stored = await self._store(what, subject, value, None)
            if stored is not None and stored.error is None:
                return
            if stored is not None and stored.error is not None:
                raise api_error(what, stored.error)
            if self._clock() + TRY_AGAIN_S >= deadline:
                raise BusTimeout(f"{what}: the bucket has no leader")
            await asyncio.sleep(TRY_AGAIN_S)

    async def replicas(self) -> int:
        """How many servers keep it; raises `StateMissing`, `BusTimeout`, `BusUnavailable`."""
        info = await self._info()
        if info is None:
            raise self._missing("the number of replicas")
        return int((info.config or {}).get("num_replicas", 1))

    async def _store(
        self, what: str, subject: str, value: bytes, expected_seq: int | None
    ) -> Stored | None:
        """What the bucket says; None when nobody listens at the moment."""
        fence = {}
        if expected_seq is not None:
            fence["Nats-Expected-Last-Subject-Sequence"] = str(expected_seq)
        try:
            message = await self._link.request(subject, value, CALL_TIMEOUT_S, fence)
        except NoResponders:
            if not await self._is_there():
                raise self._missing(what) from None
            return None
        return _decode_stored(message.data)

    def _missing(self, what: str) -> StateMissing:
        return StateMissing(
            f"{what}: the shared state of swarm {self._prefix!r} (NATS bucket {self._bucket}) does "
            "not exist: no node was ever started with this prefix here, or somebody has deleted "
            "it; the start of a node makes it, or says what to do"
        )

    def _key_subject(self, key: str) -> str:
        if not KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key: letters, digits, '_', '-', '=', '/', and dots")
        return f"$KV.{self._bucket}.{key}"


def _is_deleted(message: StoredMessage) -> bool:
    """Whether this is the mark that deleting a key leaves."""
    return any(mark in message.hdrs for mark in (b"KV-Operation:", b"Nats-Marker-Reason:"))


def _check_refusal(what: str, error: ApiError) -> None:
    """Raise what a refusal means, unless somebody else has written, or is about to."""
    if error.err_code not in {WRONG_LAST_SEQUENCE, WRONG_LAST_SEQUENCE_UNDER_WAY}:
        raise api_error(what, error)
