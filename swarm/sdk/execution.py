"""One call of a handler, and how what it does becomes an outcome."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import structlog

from swarm.core.handling import Done, Failed, Outcome, Stopped
from swarm.errors import Refusal
from swarm.sdk.context import Context
from swarm.sdk.endings import GiveUp, RetryLater, WaitRequested
from swarm.sdk.items import to_json

log = structlog.get_logger()

Kind = TypeVar("Kind", bound=BaseException)

#: What users' code raises; groups may hold what is no `Exception`.
_RAISED = (Exception, SystemExit, WaitRequested, BaseExceptionGroup)


class HandlerExecution:
    """See `swarm.sdk.runners.Execution`."""

    def __init__(
        self, handler: Callable[[Context], Any], context: Context, *, is_async: bool
    ) -> None:
        self._handler = handler
        self._context = context
        self._is_async = is_async
        #: See `Execution`.
        self.stopping = False

    @property
    def is_async(self) -> bool:
        """Whether the handler is an async one."""
        return self._is_async

    async def run_async(self) -> Outcome:
        """Call the async handler."""
        try:
            value = await self._handler(self._context)
        except asyncio.CancelledError:
            why = "CancelledError: something that the handler awaited was cancelled"
            return self._context._waiting or (Stopped() if self.stopping else Failed(why))
        except _RAISED as error:
            return self._raised(error)
        return self._returned(value)

    def run_sync(self) -> Outcome:
        """Call the plain function."""
        try:
            value = self._handler(self._context)
        except _RAISED as error:
            return self._raised(error)
        return self._returned(value)

    def _returned(self, value: Any) -> Outcome:
        context = self._context
        if context._waiting is not None:
            return context._waiting
        # Told to stop and returning all the same, it gave up half way; but where the swarm
        # asked, it has time to finish, and a result says that it did.
        finished = context.grace_s > 0 and value is not None
        if (self.stopping or context._noticed) and not finished:
            return Stopped()
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            return Failed("the handler is a plain function but returned an awaitable: await it")
        try:
            return Done(to_json("the handler's result", value))
        except Refusal as refusal:
            return Failed(refusal.message)

    def _raised(self, error: BaseException) -> Outcome:
        context = self._context
        if context._waiting is not None:
            return context._waiting
        if self.stopping or context._noticed:
            return Stopped()
        later = _find(error, RetryLater)
        if later is not None:
            return Failed(_reason(later, later.reason), retry_after_s=later.after_s)
        given_up = _find(error, GiveUp)
        if given_up is not None:
            return Failed(_reason(given_up, given_up.reason), final=True)
        # Formatted here: a log must not show the handler's local variables, secrets included.
        trace = "".join(traceback.format_exception(error))
        log.warning("a handler failed", item=context.work_item_id, exception=trace)
        return Failed(_text(error))


def _find(error: BaseException, kind: type[Kind]) -> Kind | None:
    """The exception of this kind that was raised, perhaps by a task in a group."""
    if isinstance(error, kind):
        return error
    if isinstance(error, BaseExceptionGroup):
        inner = (_find(one, kind) for one in error.exceptions)
        return next((one for one in inner if one is not None), None)
    return None


def _reason(error: BaseException, reason: str) -> str:
    """What was said, or else what it was raised from."""
    if reason:
        return reason
    return _text(error.__cause__) if error.__cause__ is not None else type(error).__name__


def _text(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, BaseExceptionGroup):
        # What the group says of itself helps nobody.
        text = "; ".join(_text(one) for one in error.exceptions)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
