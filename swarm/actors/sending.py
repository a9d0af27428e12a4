"""Sending for actors: what cannot be sent is logged, not raised.

An answer that is lost is asked for again, with the same command id; there is nothing
else that an actor could do about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import structlog

from swarm.bus.base import Bus, Subscription
from swarm.errors import BusError

log = structlog.get_logger()


class Sender:
    """Publishes on `bus`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._soon: dict[asyncio.Task[None], None] = {}
        #: Messages that could not be sent.
        self.failed = 0

    async def __call__(
        self,
        subject: str,
        data: bytes,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send; a failure is counted and logged."""
        try:
            await self._bus.publish(subject, data, reply, headers)
        except (BusError, ValueError) as error:
            self._not_sent(subject, error)

    async def all(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Send (subject, data) of each."""
        left = list(messages)
        while left:
            del left[: self._bus.publish_usual(left)]
            if not left:
                return
            subject, data = left.pop(0)
            await self(subject, data)

    def _not_sent(self, subject: str, error: Exception) -> None:
        # ValueError: no subject at all, made of what some message said.
        self.failed += 1
        log.warning("a message was not sent", subject=subject, error=str(error))

    def soon(self, subject: str, data: bytes) -> None:
        """Send from where nothing can be awaited."""
        task = asyncio.create_task(self(subject, data))
        self._soon[task] = None
        task.add_done_callback(lambda done: self._soon.pop(done, None))


class Outgoing:
    """What an actor has to say, said when it has decided all that was in its mailbox.

    Handlers stay plain functions that way, and nothing is decided while one is sending.
    """

    def __init__(self, send: Sender) -> None:
        self._send = send
        self._messages: list[tuple[str, bytes, str, Mapping[str, str] | None]] = []

    def __call__(
        self,
        subject: str,
        data: bytes,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Say it with the next `flush`."""
        self._messages.append((subject, data, reply, headers))

    async def flush(self) -> None:
        """Send all, in order."""
        while self._messages:
            messages, self._messages = self._messages, []
            for message in messages:
                await self._send(*message)


async def unsubscribe(subscriptions: Iterable[Subscription]) -> None:
    """End all; on a connection that is gone they have ended already."""
    for subscription in subscriptions:
        try:
            await subscription.unsubscribe()
        except BusError as error:
            log.warning("unsubscribing failed", error=str(error))


async def let_out(*, begun: bool = False) -> None:
    """Let what was said leave before more is computed, so that others can begin with it.

    A connection writes all that it was given first thing in the next turn of the loop.
    `begun`: it is not said yet, but a task has been made that says it when it begins.
    """
    if begun:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
