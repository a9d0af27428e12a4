"""The bus on a real NATS: messages over a `NatsLink`, logs and state in JetStream."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec

from swarm.bus.base import Entry, EntryHandler, Message, Subscription
from swarm.bus.jetstream_api import (
    API,
    NAME_IN_USE,
    NO_MESSAGE,
    NO_STREAM,
    OTHER_STREAM,
    WRONG_LAST_SEQUENCE,
    WRONG_LAST_SEQUENCE_UNDER_WAY,
    ApiError,
    Reply,
    Stored,
    StoredMessage,
    api_error,
    bucket_config,
    bucket_of,
    jetstream_missing,
    log_config,
    stream_of,
)
from swarm.bus.jetstream_follow import Follower
from swarm.bus.jetstream_read import Page
from swarm.bus.nats_answers import check_responders, settle
from swarm.bus.nats_client import NatsClient, Target
from swarm.bus.nats_link import CALL_TIMEOUT_S, NatsLink
from swarm.errors import (
    AppendRefused,
    BadInput,
    BusError,
    BusTimeout,
    BusUnavailable,
    LogMissing,
    NoResponders,
    OutcomeUnknown,
)

#: A sender is one token of a subject.
SENDER: Final = re.compile(r"[A-Za-z0-9_-]+")
#: What NATS's key-value stores take as a key.
KEY: Final = re.compile(r"[A-Za-z0-9_=/-]+(\.[A-Za-z0-9_=/-]+)*")
#: Between two tries of something that the server cannot do yet.
TRY_AGAIN_S: Final = 0.1

_decode_stored = msgspec.json.Decoder(Stored).decode
_decode_reply = msgspec.json.Decoder(Reply).decode


async def connect(
    url: str,
    sender: str,
    *,
    prefix: str = "swarm",
    name: str = "",
    connect_timeout_s: float = 5.0,
    replicas: int = 1,
) -> JetStreamBus:
    """Connect to the NATS server at `url` as `sender`.

    `url`: ``nats://[user:password@]host[:port]``, or several, separated by commas.
    `prefix`: of the swarm, for its shared state.  `name`: shown in NATS's monitoring.
    `replicas`: of every log that is created.  Keeps trying for `connect_timeout_s` (a
    server may just be starting).  Raises `BadInput` for a bad argument, `BusUnavailable`.
    """
    if not SENDER.fullmatch(sender):
        raise BadInput(f"the sender {sender!r} cannot be used: letters, digits, '_' and '-' only")
    urls = [part for part in map(str.strip, url.split(",")) if part]
    if not urls:
        raise BadInput("the NATS URL is empty; one looks like nats://127.0.0.1:4222")
    target = Target(urls=urls, sender=sender, name=name)
    client = await _first_client(target, connect_timeout_s)
    try:
        bus = JetStreamBus(target, client.max_payload, prefix, replicas)
        await bus.open(client)
    except BaseException:
        await client.abandon()
        raise
    return bus


async def _first_client(target: Target, timeout_s: float) -> NatsClient:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    first: BusUnavailable | None = None
    while True:
        try:
            return await target.dial(max(deadline - loop.time(), TRY_AGAIN_S))
        except BusUnavailable as error:
            # That there was no time left for the last try says nothing about the reason.
            shown = first if first and isinstance(error.__cause__, TimeoutError) else error
            # Whom it does not let in it will not let in a moment later.
            refused = "authorization" in str(error).lower()
            if refused or loop.time() + TRY_AGAIN_S >= deadline:
                raise shown from shown.__cause__
            first = shown
        await asyncio.sleep(TRY_AGAIN_S)


class JetStreamBus(NatsLink):
    """A `swarm.bus.base.Bus` on NATS; made by `connect`."""

    def __init__(self, target: Target, max_payload: int, prefix: str, replicas: int) -> None:
        super().__init__(target, max_payload)
        self._replicas = replicas
        self._bucket = bucket_of(prefix)
        self._bucket_stream = f"KV_{self._bucket}"
        self._streams: dict[str, str] = {}
        self._followers: dict[Follower, None] = {}

    # --- logs ---

    async def create_log(self, log: str) -> None:
        """See `Bus.create_log`; raises `BusTimeout`, `BusUnavailable`, `BadInput`."""
        await self._create(f"creating {log}", log_config(log, self._replicas))

    async def _create(self, what: str, config: dict[str, Any]) -> None:
        """Create a stream, unless there is one by this name for the same subjects."""
        stream = config["name"]
        reply = await self._api(what, f"STREAM.CREATE.{stream}", config)
        if reply.error is None:
            return
        if reply.error.err_code == NAME_IN_USE and await self._is_ours(what, config):
            # Made by another version of ours or changed by an operator: that is theirs.
            return
        raise api_error(what, reply.error)

    async def _is_ours(self, what: str, config: dict[str, Any]) -> bool:
        message = await self._call(what, f"STREAM.INFO.{config['name']}", b"")
        found = msgspec.json.decode(message.data)
        return bool(found.get("config", {}).get("subjects") == config["subjects"])

    async def append(self, log: str, data: bytes, expected_seq: int, timeout_s: float) -> int:
        """See `Bus.append`; also raises `BusUnavailable` when closed: nothing was sent."""
        stream = self._streams.get(log)
        if stream is None:
            stream = self._streams[log] = stream_of(log)
        fence = {
            "Nats-Expected-Last-Sequence": str(expected_seq),
            "Nats-Expected-Stream": stream,
        }
        answer: asyncio.Future[Message] = self._loop.create_future()
        receive = partial(settle, answer)
        try:
            message = await self.ask(log, data, timeout_s, fence, receive, answer, fragile=True)
        except BusTimeout as error:
            raise OutcomeUnknown(f"an append to {log} after {expected_seq}: {error}") from error
        try:
            stored = _decode_stored(message.data)
        except msgspec.DecodeError as error:
            raise await self._not_stored(log, expected_seq, message, timeout_s) from error
        if stored.error is not None:
            raise _append_error(log, expected_seq, stored.error)
        return stored.seq

    async def _not_stored(
        self, log: str, expected_seq: int, message: Message, timeout_s: float
    ) -> BusError:
        """What to raise for an answer that is no acknowledgement."""
        what = f"an append to {log} after {expected_seq}"
        try:
            check_responders(message, log)
        except NoResponders:
            # No such log, or one without a leader at the moment: its subject has no ears.
            if not await self._exists(log, timeout_s):
                return LogMissing(f"{log}: no such log")
            return OutcomeUnknown(f"{what}: the log has no leader at the moment")
        return OutcomeUnknown(f"{what}: cannot make sense of the answer {message.data[:80]!r}")

    async def _exists(self, log: str, timeout_s: float) -> bool:
        """Whether the log exists; True when that cannot be found out."""
        request = f"STREAM.INFO.{stream_of(log)}"
        try:
            reply = await self._api(log, request, None, timeout_s)
        except (BusTimeout, BusUnavailable):
            return True
        return reply.error is None or reply.error.err_code != NO_STREAM

    async def read(self, log: str, from_seq: int, limit: int) -> list[Entry]:
        """See `Bus.read`.  May return fewer than there are, but never with a hole between."""
        if limit < 1:
            return []
        deadline = self._loop.time() + CALL_TIMEOUT_S
        subject = f"{API}.DIRECT.GET.{stream_of(log)}"
        request = Page.request(from_seq, limit)
        while True:
            page = Page(self._loop.create_future())
            left_s = deadline - self._loop.time()
            try:
                await self.ask(
                    subject, request, left_s, None, page.receive, page.done, fragile=True
                )
            except BusTimeout:
                if not page.entries:
                    raise
                return page.entries
            except NoResponders:
                if not await self._exists(log, left_s):
                    raise LogMissing(f"{log}: no such log") from None
                if self._loop.time() + TRY_AGAIN_S >= deadline:
                    raise jetstream_missing(f"reading {log}") from None
                await asyncio.sleep(TRY_AGAIN_S)
                continue
            return page.entries

    async def follow(self, log: str, from_seq: int, handler: EntryHandler) -> Subscription:
        """See `Bus.follow`; raises `LogMissing`, `BusTimeout`, `BusUnavailable`."""
        follower = Follower(self, log, stream_of(log), from_seq, handler, self._followers)
        await follower.start()
        return follower

    async def api(
        self, what: str, request: str, body: object = None, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        """Have JetStream do something; raises what `api_error` says when it refuses."""
        reply = await self._api(what, request, body, timeout_s)
        if reply.error is not None:
            raise api_error(what, reply.error)

    async def _api(
        self, what: str, request: str, body: object, timeout_s: float = CALL_TIMEOUT_S
    ) -> Reply:
        data = b"" if body is None else msgspec.json.encode(body)
        message = await self._call(what, request, data, timeout_s)
        try:
            return _decode_reply(message.data)
        except msgspec.DecodeError as error:
            raise BusUnavailable(f"{what}: cannot make sense of JetStream's answer") from error

    async def _call(
        self, what: str, request: str, data: bytes, timeout_s: float = CALL_TIMEOUT_S
    ) -> Message:
        try:
            return await self.request(f"{API}.{request}", data, timeout_s)
        except NoResponders:
            raise jetstream_missing(what) from None

    async def server_time(self) -> float:
        """See `Bus.server_time`: of the server that leads the shared state's stream.

        Raises `BusTimeout`, `BusUnavailable`.
        """
        what = "the server's time"
        reply = await self._with_bucket(
            partial(self._api, what, f"STREAM.INFO.{self._bucket_stream}", None)
        )
        if reply.error is not None:
            raise api_error(what, reply.error)
        return datetime.fromisoformat(reply.ts).timestamp()

    # --- shared state ---

    async def state_get(self, key: str) -> bytes | None:
        """See `Bus.state_get`; raises `BusTimeout`, `BusUnavailable`."""
        found = await self._last(key)
        return None if found is None or _is_deleted(found) else found.data

    async def _last(self, key: str) -> StoredMessage | None:
        """The last message under `key`, from the leader: a replica might not have it yet."""
        what = f"reading the state {key}"
        body = {"last_by_subj": self._key_subject(key)}
        request = f"STREAM.MSG.GET.{self._bucket_stream}"
        reply = await self._api(what, request, body)
        if reply.error is None:
            return reply.message
        if reply.error.err_code in {NO_MESSAGE, NO_STREAM}:
            return None
        raise api_error(what, reply.error)

    async def state_create(self, key: str, value: bytes) -> bool:
        """See `Bus.state_create`; raises `BusTimeout`: then it may have been stored."""
        subject = self._key_subject(key)
        deadline = self._loop.time() + CALL_TIMEOUT_S
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
                if self._loop.time() + TRY_AGAIN_S >= deadline:
                    raise BusTimeout(f"creating the state {key}: others write it, none succeeds")
                await asyncio.sleep(TRY_AGAIN_S)
            # An operator has deleted the key; that leaves a mark, which counts as a message.
            expected_seq = seen_seq

    async def _store_state(self, subject: str, value: bytes, expected_seq: int) -> Reply:
        fence = {"Nats-Expected-Last-Subject-Sequence": str(expected_seq)}
        try:
            message = await self.request(subject, value, CALL_TIMEOUT_S, fence)
        except NoResponders:
            # As the API would say it.
            return Reply(error=ApiError(404, NO_STREAM, "stream not found"))
        return Reply(error=_decode_stored(message.data).error)

    async def _with_bucket(self, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """`ask`, and again after making the bucket if it turns out to be missing."""
        deadline = self._loop.time() + CALL_TIMEOUT_S
        reply = await ask()
        if reply.error is None or reply.error.err_code != NO_STREAM:
            return reply
        what = f"creating the state bucket {self._bucket}"
        await self._create(what, bucket_config(self._bucket, self._replicas))
        while True:
            reply = await ask()
            if reply.error is None or reply.error.err_code != NO_STREAM:
                return reply
            # In a cluster it takes a moment until every server knows of it.
            if self._loop.time() + TRY_AGAIN_S >= deadline:
                raise BusTimeout(f"{what}: made, but not there yet")
            await asyncio.sleep(TRY_AGAIN_S)

    def _key_subject(self, key: str) -> str:
        if not KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key: letters, digits, '_', '-', '=', '/', and dots")
        return f"$KV.{self._bucket}.{key}"

    def _reconnected(self) -> None:
        # The consumers of a server that was restarted are gone, and others have gaps.
        for follower in self._followers:
            follower.renew()

    async def close(self) -> None:
        """See `Bus.close`."""
        await asyncio.gather(*(follower.unsubscribe() for follower in list(self._followers)))
        await super().close()


def _is_deleted(message: StoredMessage) -> bool:
    """Whether this is the mark that deleting a key leaves."""
    return any(mark in message.hdrs for mark in (b"KV-Operation:", b"Nats-Marker-Reason:"))


def _append_error(log: str, expected_seq: int, error: ApiError) -> BusError:
    what = f"an append to {log} after {expected_seq}"
    if error.err_code == WRONG_LAST_SEQUENCE:
        actual = error.description.rpartition(":")[2].strip()
        return AppendRefused(log, expected_seq, int(actual) if actual.isdecimal() else None)
    if error.err_code == WRONG_LAST_SEQUENCE_UNDER_WAY:
        return AppendRefused(log, expected_seq, None)
    if error.err_code == OTHER_STREAM:
        return LogMissing(f"{log}: another stream takes this log's subject: {error}")
    if error.err_code == NO_STREAM:
        return LogMissing(f"{log}: no such log")
    # Most of these mean that it was not stored, but unknown is always safe.
    return OutcomeUnknown(f"{what}: {error}")
