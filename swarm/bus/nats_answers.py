"""Who waits for an answer: one inbox subscription for all, told apart by the last token."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import Any, TypeVar

from swarm.bus.base import Handler, Message
from swarm.errors import BusError, BusTimeout, BusUnavailable, NoResponders

T = TypeVar("T")


@dataclass(slots=True)
class _Waiting:
    receive: Handler
    done: asyncio.Future[Any]
    #: Whether to fail at once when the connection is lost, rather than hope for the answer.
    fragile: bool


class Answers:
    """Everybody who waits for an answer on one link."""

    def __init__(self, stem: str) -> None:
        """`stem`: of the inboxes, with the dot at its end."""
        self._stem = stem
        self._numbers = itertools.count(1)
        self._waiting: dict[str, _Waiting] = {}

    @property
    def pattern(self) -> str:
        """What has to be subscribed to."""
        return self._stem + "*"

    def expect(self, receive: Handler, done: asyncio.Future[Any], fragile: bool) -> str:
        """Hand answers to `receive` until `forget`; returns the inbox to name in a message."""
        inbox = f"{self._stem}{next(self._numbers):x}"
        self._waiting[inbox] = _Waiting(receive, done, fragile)
        return inbox

    def forget(self, inbox: str) -> None:
        """Undo `expect`: nobody waits any more."""
        waiting = self._waiting.pop(inbox, None)
        if waiting is None or waiting.done.cancel() or waiting.done.cancelled():
            return
        # Take notice of an error that nobody has awaited, as sending failed before that.
        waiting.done.exception()

    def receive(self, message: Message) -> None:
        """Hand on an answer; one that nobody waits for any more is dropped."""
        waiting = self._waiting.get(message.subject)
        if waiting is not None:
            waiting.receive(message)

    def fail_fragile(self) -> None:
        """The connection is lost, and with it what was on its way."""
        for waiting in list(self._waiting.values()):
            if waiting.fragile:
                fail(waiting.done, BusTimeout("the connection was lost before the answer came"))

    def fail_all(self, text: str) -> None:
        """There will be no more answers."""
        for waiting in list(self._waiting.values()):
            fail(waiting.done, BusUnavailable(text))


def settle(answer: asyncio.Future[T], value: T) -> None:
    """Give `answer` its value, unless it is done already."""
    if not answer.done():
        answer.set_result(value)


def fail(answer: asyncio.Future[T], error: BusError) -> None:
    """Make `answer` raise `error`, unless it is done already."""
    if not answer.done():
        answer.set_exception(error)


def check_responders(message: Message, subject: str) -> None:
    """Raise `NoResponders` if `message` says that nobody listens on `subject`."""
    if not message.data and message.headers and message.headers.get("Status") == "503":
        raise NoResponders(f"nobody listens on {subject}")
