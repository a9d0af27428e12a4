"""What a handler gets, and how what it does becomes an outcome."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Callable
from typing import Any

import structlog

from swarm.core.handling import Done, Failed, Outcome, Stopped
from swarm.errors import LeaseLost, Refusal
from swarm.messages import NewItem
from swarm.sdk.items import ClaimedItem, check_percent, to_json

log = structlog.get_logger()

#: Passes a report on to the agent, from any thread: (item id, token, percent, note).
Say = Callable[[str, str, float, str], None]


class Context:
    """The work item that a handler is called for."""

    def __init__(self, claimed: ClaimedItem, say: Say) -> None:
        self._claimed = claimed
        self._say = say
        self._cancel_reason: str | None = None
        #: Whether the handler has looked and knows that it is to stop.
        self._noticed = False

    @property
    def item(self) -> NewItem:
        """The item as submitted; its `payload` is encoded, see `payload` here."""
        return self._claimed.item

    @property
    def payload(self) -> Any:
        """The submitted payload, decoded; None without one."""
        return self._claimed.payload

    @property
    def work_item_id(self) -> str:
        """Shard and number, like 3-17."""
        return self._claimed.work_item_id

    @property
    def token(self) -> str:
        """Of this claim: another claim of the item has another one."""
        return self._claimed.token

    @property
    def attempt(self) -> int:
        """Counts claims that were charged, from 1."""
        return self._claimed.attempt

    @property
    def cancelled(self) -> bool:
        """Whether to stop: the item is not held any more, or its agent is leaving.

        A handler that has seen it true does not count as finished, whatever it returns or
        raises: the item is handed back.  An async handler is also cancelled.
        """
        if self._cancel_reason is None:
            return False
        self._noticed = True
        return True

    async def progress(self, percent: float, note: str = "") -> None:
        """Report 0 to 100 percent and a note (cut at 8 KiB); this also renews the lease.

        Returns at once; of reports in quick succession the newest is sent.  Raises
        `LeaseLost` if the handler is to stop, `Refusal` for an impossible percentage.
        """
        self.progress_sync(percent, note)
        # A handler that does nothing but compute and report can be cancelled here.
        await asyncio.sleep(0)

    def progress_sync(self, percent: float, note: str = "") -> None:
        """`progress` for plain functions and threads."""
        percent = check_percent(percent)
        if self.cancelled:
            raise LeaseLost(f"stop working on {self.work_item_id}: {self._cancel_reason}")
        self._say(self.work_item_id, self.token, percent, str(note))

    def cancel(self, reason: str) -> None:
        """For the agent: the handler is to stop."""
        self._cancel_reason = reason


def is_async(handler: Callable[[Context], Any]) -> bool:
    """Whether `handler` is an async function, or an object with an async call."""
    call = getattr(handler, "__call__", None)  # noqa: B004 - its kind is wanted
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


class HandlerExecution:
    """One call of a handler; see `swarm.sdk.runners.Execution`."""

    def __init__(
        self, handler: Callable[[Context], Any], context: Context, *, is_async: bool
    ) -> None:
        self._handler = handler
        self._context = context
        self._is_async = is_async

    @property
    def is_async(self) -> bool:
        """Whether the handler is an async one."""
        return self._is_async

    async def run_async(self) -> Outcome:
        """Call the async handler."""
        task = asyncio.current_task()
        assert task is not None, "coroutines run in tasks"
        try:
            value = await self._handler(self._context)
        except asyncio.CancelledError:
            if task.cancelling():
                return Stopped()
            return Failed("CancelledError: something that the handler awaited was cancelled")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - users' code raises anything
            return self._raised(error, stopping=bool(task.cancelling()))
        # Cancelled and returning all the same, it gave up half way.
        return Stopped() if task.cancelling() else self._returned(value)

    def run_sync(self) -> Outcome:
        """Call the plain function."""
        try:
            value = self._handler(self._context)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - users' code raises anything
            return self._raised(error, stopping=False)
        return self._returned(value)

    def _returned(self, value: Any) -> Outcome:
        if self._context._noticed:
            return Stopped()
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            return Failed("the handler is a plain function but returned an awaitable: await it")
        try:
            return Done(to_json("the handler's result", value))
        except Refusal as refusal:
            return Failed(refusal.message)

    def _raised(self, error: BaseException, *, stopping: bool) -> Outcome:
        context = self._context
        if stopping or context._noticed:
            return Stopped()
        # Formatted here: a log must not show the handler's local variables, secrets included.
        trace = "".join(traceback.format_exception(error))
        log.warning("a handler failed", item=context.work_item_id, exception=trace)
        text = str(error)
        return Failed(f"{type(error).__name__}: {text}" if text else type(error).__name__)
