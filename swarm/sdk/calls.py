"""Requests of one sender: one inbox for all replies, one loop for all retries.

Core NATS loses messages, owners fall and new ones take over; so a request is sent again,
with the same command id, until it is answered or its deadline has come.  What is known
at a deadline is said: `Refusal` when every try was refused or reached nobody (nothing was
done), `NoAnswer` when one of them got no answer (it may have been carried out).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, Protocol, TypeVar, cast

import msgspec
from msgspec import Struct

from swarm.bus.base import Bus, Message, Subscription
from swarm.errors import BusError, BusUnavailable, NoAnswer, Refusal, RefusalCode, SwarmError
from swarm.messages import ErrorBody
from swarm.runtime import Runtime
from swarm.subjects import Subjects

Reply = TypeVar("Reply")

#: A try without an answer is repeated after this long.
ATTEMPT_S = 1.0
#: Pause after a refusal that may pass: the first, doubled up to the longest.
BACKOFF_FIRST_S = 0.05
BACKOFF_LONGEST_S = 1.0
#: A try with less time left than this would hardly be answered, but make the effect unknown.
LAST_TRY_S = 0.1
#: After a coordinator's death its callers ask again within this time, not all at once.
SPREAD_S = 0.2

#: `done`: everything is known.  `wait`: more replies are to come.  `again`: send once more.
Verdict = Literal["done", "wait", "again"]

_encode = msgspec.json.Encoder().encode


class Exchange(Protocol):
    """What is asked, and what the replies to it mean."""

    def encode(self, attempt: int) -> bytes:
        """The request as sent the n-th time, from 0."""
        ...

    def take(self, data: bytes, attempt: int) -> Verdict:
        """A reply to that try has come.  Raises nothing."""
        ...

    def nobody(self, attempt: int) -> None:
        """That try reached nobody."""
        ...


class _Waiting:
    """An exchange under way: the future of its current try and that try's timer."""

    __slots__ = ("attempt", "exchange", "finished", "headers", "timer", "wake")

    def __init__(
        self,
        exchange: Exchange,
        wake: asyncio.Future[None],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.exchange = exchange
        self.headers = headers
        self.wake = wake
        self.attempt = 0
        self.finished = False
        self.timer: asyncio.TimerHandle | None = None


class Calls:
    """Requests that `sender` makes over `bus`; begins to listen with the first one."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        runtime: Runtime,
        sender: str | None = None,
        inbox: str = "",
    ) -> None:
        """`inbox`: a further token of its reply subjects, where NATS's permissions need one to
        let this connection hear the answers to several senders."""
        self.bus = bus
        self.subjects = subjects
        self.runtime = runtime
        self.sender = bus.sender if sender is None else sender
        # Random, as other processes may speak as the same sender.
        stem = f"{inbox}." if inbox else ""
        self._inbox = f"_INBOX.{self.sender}.{stem}{runtime.new_name('r')}"
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._subscriptions: list[Subscription] = []
        self._opening = asyncio.Lock()
        self._reconnects = bus.reconnects
        self._watch: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def idle(self) -> bool:
        """Whether nothing is asked at the moment."""
        return not self._waiting

    @property
    def item_bytes_max(self) -> int:
        """Most bytes of an item, its result and notes included."""
        return self.bus.max_payload // 4

    async def ask(
        self,
        subject: str,
        command: Struct,
        reply: msgspec.json.Decoder[Reply],
        deadline: float | None,
        *,
        attempt_s: float = ATTEMPT_S,
        final: Callable[[Refusal], bool] | None = None,
    ) -> Reply:
        """Send `command` until there is a reply, or until `deadline` (loop time; None: for ever).

        A `retry` field of the command counts the tries, on from its value.
        `final(refusal)` says whether a refusal ends the asking (default: if its retry flag
        is off).  Raises `Refusal`, `NoAnswer`.
        """
        single = _Single(command, reply, final or _not_retryable)
        if not await self.run(subject, single, deadline, attempt_s=attempt_s):
            raise single.expired(subject)
        return single.outcome()

    async def run(
        self,
        subject: str,
        exchange: Exchange,
        deadline: float | None,
        *,
        attempt_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Drive `exchange` to its end; False when `deadline` came first."""
        await self._open()
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        waiting = self._waiting[number] = _Waiting(exchange, loop.create_future(), headers)
        self._watch_connection()
        try:
            while True:
                now = loop.time()
                until = now + attempt_s if deadline is None else min(now + attempt_s, deadline)
                waiting.timer = loop.call_at(until, _set, waiting.wake)
                await self._send(subject, number, waiting)
                await waiting.wake
                if waiting.finished:
                    return True
                if self._closed:
                    raise BusUnavailable("the connection was closed while a request was under way")
                if deadline is not None and loop.time() > deadline - LAST_TRY_S:
                    return False
                waiting.timer.cancel()
                waiting.attempt += 1
                waiting.wake = loop.create_future()
        finally:
            if waiting.timer is not None:
                waiting.timer.cancel()
            del self._waiting[number]

    async def close(self) -> None:
        """Stop listening; requests under way raise `BusUnavailable`.  The bus stays open."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        for waiting in self._waiting.values():
            _set(waiting.wake)
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            # A lost connection has taken its subscriptions along.
            with contextlib.suppress(BusError):
                await subscription.unsubscribe()

    # --- sending ---------------------------------------------------------------------

    async def _open(self) -> None:
        if self._closed:
            raise BusUnavailable("this connection to the swarm is closed")
        if self._subscriptions:
            return
        async with self._opening:
            if self._subscriptions:
                return
            replies = await self.bus.subscribe(f"{self._inbox}.*", self._on_reply)
            try:
                gone = await self.bus.subscribe(self.subjects.gone("*"), self._on_gone)
            except BusError:
                await replies.unsubscribe()
                raise
            self._subscriptions = [replies, gone]

    async def _send(self, subject: str, number: int, waiting: _Waiting) -> None:
        attempt = waiting.attempt
        data = waiting.exchange.encode(attempt)
        try:
            reply = f"{self._inbox}.{number}-{attempt}"
            await self.bus.publish(subject, data, reply, waiting.headers)
        except BusUnavailable:
            # Nothing was sent; the next try may find the bus connected again.
            waiting.exchange.nobody(attempt)

    # --- receiving ---------------------------------------------------------------------

    def _on_reply(self, message: Message) -> None:
        number, _, attempt = message.subject.rpartition(".")[2].partition("-")
        if not (number.isdigit() and attempt.isdigit()):
            return
        waiting = self._waiting.get(int(number))
        if waiting is None or waiting.finished:
            return
        if message.data:
            verdict = waiting.exchange.take(message.data, int(attempt))
        else:
            # NATS itself says so: an empty message with the status 503.
            waiting.exchange.nobody(int(attempt))
            verdict = "again"
        if verdict == "done":
            waiting.finished = True
            _set(waiting.wake)
        elif verdict == "again" and int(attempt) == waiting.attempt:
            self._wake_later(waiting, self._backoff_s(waiting.attempt))

    def _on_gone(self, _message: Message) -> None:
        # Whom a request went to is not known here; asking once more is harmless.
        for waiting in self._waiting.values():
            self._wake_later(waiting, self.runtime.rng.random() * SPREAD_S)

    def _watch_connection(self) -> None:
        """While something is asked: what a lost connection swallowed is asked again."""
        if self._watch is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(ATTEMPT_S, self._look_at_connection)

    def _look_at_connection(self) -> None:
        self._watch = None
        reconnects = self.bus.reconnects
        if reconnects != self._reconnects:
            self._reconnects = reconnects
            for waiting in self._waiting.values():
                self._wake_later(waiting, self.runtime.rng.random() * SPREAD_S)
        if self._waiting:
            self._watch_connection()

    def _backoff_s(self, attempt: int) -> float:
        longest_s = min(BACKOFF_LONGEST_S, BACKOFF_FIRST_S * 2.0 ** min(attempt, 10))
        return longest_s * (0.5 + 0.5 * self.runtime.rng.random())

    def _wake_later(self, waiting: _Waiting, delay_s: float) -> None:
        """End the current try after `delay_s`, if it does not end earlier anyhow."""
        loop = asyncio.get_running_loop()
        when = loop.time() + delay_s
        if waiting.timer is None or waiting.timer.cancelled() or waiting.timer.when() <= when:
            return
        waiting.timer.cancel()
        waiting.timer = loop.call_at(when, _set, waiting.wake)


class _Error(Struct):
    error: ErrorBody | None = None


_error_decoder = msgspec.json.Decoder(_Error)


def read_refusal(data: bytes) -> Refusal | None:
    """The error that a reply holds, if it holds one."""
    try:
        body = _error_decoder.decode(data).error
    except msgspec.MsgspecError:
        return None
    return None if body is None else refusal_of(body)


def refusal_of(body: ErrorBody) -> Refusal:
    """What an error in a reply raises; a code of a later version stays as it is."""
    return Refusal(cast(RefusalCode, body.code), body.message, body.retry)


class Tries:
    """What is known of each try of a request: refused, or (so far) nothing."""

    __slots__ = ("count", "refused", "unheard")

    def __init__(self) -> None:
        self.count = 0
        #: Last refusal of each try that was refused.
        self.refused: dict[int, Refusal] = {}
        #: Tries that reached nobody.
        self.unheard: dict[int, None] = {}

    def unanswered(self) -> int:
        """Tries of which nothing is known: each may have been carried out."""
        return self.count - len({**dict.fromkeys(self.refused), **self.unheard})

    def error(self, subject: str) -> SwarmError:
        """What to raise when there was no answer in time."""
        if self.unanswered():
            last = f"; the last answer was {self._last()}" if self.refused else ""
            return NoAnswer(
                f"no answer on {subject} ({self.count} tries){last}; whether it was carried "
                "out is not known"
            )
        if self.refused:
            return self._last()
        return Refusal(
            "unavailable",
            f"nobody serves {subject} ({self.count} tries); is the swarm running, and reachable?",
            retry=True,
        )

    def _last(self) -> Refusal:
        return self.refused[max(self.refused)]


class _Single(Generic[Reply]):
    """One command, one reply."""

    def __init__(
        self,
        command: Struct,
        decoder: msgspec.json.Decoder[Reply],
        final: Callable[[Refusal], bool],
    ) -> None:
        self._command = command
        #: Value of the first try's `retry` field; None if the command has no such field.
        self._retry_first: int | None = getattr(command, "retry", None)
        self._decoder = decoder
        self._final = final
        self._reply: Reply | None = None
        self._failure: SwarmError | None = None
        self._tries = Tries()

    def encode(self, attempt: int) -> bytes:
        if self._retry_first is not None:
            cast(Any, self._command).retry = self._retry_first + attempt
        self._tries.count = attempt + 1
        return _encode(self._command)

    def take(self, data: bytes, attempt: int) -> Verdict:
        refusal: Refusal | None
        try:
            reply = self._decoder.decode(data)
            body = getattr(reply, "error", None)
            refusal = refusal_of(body) if isinstance(body, ErrorBody) else None
        except msgspec.MsgspecError as error:
            refusal = read_refusal(data)
            if refusal is None:
                self._failure = SwarmError(f"the swarm's reply cannot be read: {error}")
                return "done"
        else:
            if refusal is None:
                self._reply = reply
                return "done"
        self._tries.refused[attempt] = refusal
        if self._final(refusal):
            self._failure = refusal
            return "done"
        return "again"

    def nobody(self, attempt: int) -> None:
        self._tries.unheard[attempt] = None

    def outcome(self) -> Reply:
        """The reply; raises what it refused."""
        if self._failure is not None:
            raise self._failure
        assert self._reply is not None, "asked only once the exchange is done"
        return self._reply

    def expired(self, subject: str) -> SwarmError:
        """What to raise when the deadline has come."""
        return self._tries.error(subject)


def _not_retryable(refusal: Refusal) -> bool:
    return not refusal.retry


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
