"""What all requests of a client have in common."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from msgspec import Struct

from swarm.bus.base import Bus
from swarm.messages import Ack, Describe, Description
from swarm.runtime import Runtime
from swarm.sdk.calls import Calls
from swarm.sdk.results import shard_subject
from swarm.subjects import Subjects, check_token

Reply = TypeVar("Reply")

#: How long requests wait for an answer unless told otherwise.
TIMEOUT_S = 10.0

_ack = msgspec.json.Decoder(Ack)
_description = msgspec.json.Decoder(Description)


class Asking:
    """A sender on a bus, and the requests that any of them makes."""

    def __init__(self, bus: Bus, runtime: Runtime | None = None, *, prefix: str = "swarm") -> None:
        self.bus = bus
        self._runtime = runtime or Runtime()
        self._subjects = Subjects(check_token("prefix", prefix))
        self._calls = Calls(bus, self._subjects, self._runtime)

    async def describe(self, *, timeout_s: float = TIMEOUT_S) -> Description:
        """The shard map, and the latest beat of each live coordinator."""
        subject = self._subjects.describe(self._calls.sender)
        return await self._ask(subject, Describe(), _description, timeout_s)

    def _new_id(self) -> str:
        return self._runtime.new_id()

    async def _say(self, verb: str, work_item_id: str, command: Struct, timeout_s: float) -> Ack:
        """A command about an item."""
        return await self._ask_shard(work_item_id, verb, command, _ack, timeout_s)

    async def _ask_shard(
        self,
        work_item_id: str,
        verb: str,
        command: Struct,
        reply: msgspec.json.Decoder[Reply],
        timeout_s: float,
    ) -> Reply:
        subject = shard_subject(self._calls, work_item_id, verb)
        return await self._ask(subject, command, reply, timeout_s)

    async def _ask(
        self,
        subject: str,
        command: Struct,
        reply: msgspec.json.Decoder[Reply],
        timeout_s: float,
    ) -> Reply:
        deadline = asyncio.get_running_loop().time() + timeout_s
        return await self._calls.ask(subject, command, reply, deadline)
