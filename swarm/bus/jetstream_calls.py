"""What everything in JetStream needs of a connection: API calls, streams, acknowledged sends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec

from swarm.bus.base import Message
from swarm.bus.jetstream_api import (
    API,
    NAME_IN_USE,
    NO_STREAM,
    Reply,
    Stored,
    api_error,
    jetstream_missing,
)
from swarm.bus.nats_answers import check_responders, settle
from swarm.bus.nats_link import CALL_TIMEOUT_S, NatsLink
from swarm.errors import BusTimeout, BusUnavailable, LogMissing, NoResponders, OutcomeUnknown

#: Between two tries of something that the server cannot do yet.
TRY_AGAIN_S: Final = 0.1
#: How long a sender that met nobody waits to be told whether there is a stream at all.
EXISTS_S: Final = 0.5

_decode_stored = msgspec.json.Decoder(Stored).decode
_decode_reply = msgspec.json.Decoder(Reply).decode


class JetStreamLink(NatsLink):
    """A link whose server has JetStream."""

    async def api(self, what: str, request: str, body: object = None) -> Reply:
        """Have JetStream do something; raises what `api_error` says when it refuses."""
        reply = await self.api_reply(what, request, body)
        if reply.error is not None:
            raise api_error(what, reply.error)
        return reply

    async def api_reply(
        self, what: str, request: str, body: object = None, timeout_s: float = CALL_TIMEOUT_S
    ) -> Reply:
        """As `api`, with a refusal in the reply; raises `BusTimeout`, `BusUnavailable`."""
        data = b"" if body is None else msgspec.json.encode(body)
        message = await self.call(what, request, data, timeout_s)
        try:
            return _decode_reply(message.data)
        except msgspec.DecodeError as error:
            raise BusUnavailable(f"{what}: cannot make sense of JetStream's answer") from error

    async def call(
        self, what: str, request: str, data: bytes, timeout_s: float = CALL_TIMEOUT_S
    ) -> Message:
        """JetStream's answer as it comes; raises `BusTimeout`, `BusUnavailable`."""
        try:
            return await self.request(f"{API}.{request}", data, timeout_s)
        except NoResponders:
            raise jetstream_missing(what) from None

    async def create_stream(self, what: str, config: dict[str, Any]) -> dict[str, Any]:
        """Create a stream, unless there is one by this name for the same subjects.

        Returns its configuration, which may be another one: made by another version of ours
        or changed by an operator, and then that is theirs.
        """
        stream = config["name"]
        reply = await self.api_reply(what, f"STREAM.CREATE.{stream}", config)
        if reply.error is None:
            return reply.config or config
        if reply.error.err_code == NAME_IN_USE:
            found = (await self.api_reply(what, f"STREAM.INFO.{stream}")).config
            if found is not None and found["subjects"] == config["subjects"]:
                return found
        raise api_error(what, reply.error)

    async def exists(self, log: str, stream: str, timeout_s: float) -> bool:
        """Whether the stream of a log exists; True when that cannot be found out."""
        try:
            reply = await self.api_reply(log, f"STREAM.INFO.{stream}", None, timeout_s)
        except (BusTimeout, BusUnavailable):
            return True
        return reply.error is None or reply.error.err_code != NO_STREAM

    async def store(
        self,
        what: str,
        log: str,
        stream: str,
        subject: str,
        data: bytes,
        timeout_s: float,
        headers: Mapping[str, str],
    ) -> Stored:
        """Send a message for a stream; returns the server's acknowledgement or refusal.

        Raises `OutcomeUnknown`, `LogMissing`, `PayloadTooLarge`, `BusUnavailable`.
        """
        answer: asyncio.Future[Message] = self._loop.create_future()
        receive = partial(settle, answer)
        try:
            message = await self.ask(
                subject, data, timeout_s, headers, receive, answer, fragile=True
            )
        except BusTimeout as error:
            raise OutcomeUnknown(f"{what}: {error}") from error
        try:
            return _decode_stored(message.data)
        except msgspec.DecodeError:
            pass  # no acknowledgement at all: see below
        try:
            check_responders(message, subject)
        except NoResponders:
            # No such stream, or one without a leader at the moment: its subject has no ears.
            # In the latter case nobody answers this question either.
            if not await self.exists(log, stream, min(timeout_s, EXISTS_S)):
                raise LogMissing(f"{log}: no such log") from None
            raise OutcomeUnknown(f"{what}: the log has no leader at the moment") from None
        raise OutcomeUnknown(f"{what}: cannot make sense of the answer {message.data[:80]!r}")
