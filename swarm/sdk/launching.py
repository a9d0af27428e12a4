"""Starting the handlers of assignments, and the line between them and their agent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec
from msgspec import Raw

from swarm.actors.agent import AgentActor, Launched
from swarm.core.handling import Cancel, Failed, Kept
from swarm.errors import LeaseLost
from swarm.messages import Assignment
from swarm.sdk.calls import Calls
from swarm.sdk.context import Context, is_async
from swarm.sdk.execution import HandlerExecution
from swarm.sdk.items import ClaimedItem
from swarm.sdk.results import await_result
from swarm.sdk.runners import HandlerRunner

Handler = Callable[[Context], Any]


class Launcher:
    """Starts the handler of an assignment; made in the agent's loop and thread."""

    def __init__(self, handlers: dict[str, Handler], runner: HandlerRunner, calls: Calls) -> None:
        #: Each handler, and whether it is async.
        self._handlers = {name: (handler, is_async(handler)) for name, handler in handlers.items()}
        self._runner = runner
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.item_bytes_max = calls.item_bytes_max
        self.actor: AgentActor

    def __call__(self, assignment: Assignment) -> Launched:
        """See `swarm.actors.agent.Launch`."""
        work_item_id, token = assignment.work_item_id, assignment.token
        try:
            item = ClaimedItem.of(assignment)
            handler, handler_is_async = self._handlers[item.item.work_type]
        except (msgspec.MsgspecError, KeyError) as error:
            why = f"this agent cannot work on the item: {type(error).__name__}: {error}"
            self.actor.ended(work_item_id, token, Failed(why))
            return _NotStarted()
        context = Context(item, self)
        execution = HandlerExecution(handler, context, is_async=handler_is_async)

        def ended(outcome: Any) -> None:
            self.actor.ended(work_item_id, token, outcome)

        return _Started(context, self._runner.run(execution, ended))

    # --- the line, see `swarm.sdk.context.Line` ----------------------------------------------

    def progress(self, work_item_id: str, token: str, percent: float, note: str) -> None:
        """A report, from whatever thread the handler runs in."""
        self._say(work_item_id, self.actor.progress, work_item_id, token, percent, note)

    def checkpoint(self, work_item_id: str, token: str, number: int, checkpoint: Raw) -> None:
        """A checkpoint, from whatever thread the handler runs in."""
        self._say(work_item_id, self.actor.checkpoint, work_item_id, token, number, checkpoint)

    def result(self, work_item_id: str) -> Future[Any]:
        """The result of another item."""
        waiting = await_result(self._calls, work_item_id, None)
        try:
            return asyncio.run_coroutine_threadsafe(waiting, self._loop)
        except RuntimeError as error:
            waiting.close()
            raise LeaseLost(f"{work_item_id} cannot be read: the agent has ended") from error

    def may_block(self) -> bool:
        """Whether the calling thread is not the agent's."""
        return threading.get_ident() != self._thread

    def _say(self, work_item_id: str, method: Callable[..., None], *arguments: object) -> None:
        if threading.get_ident() == self._thread:
            method(*arguments)
            return
        try:
            self._loop.call_soon_threadsafe(method, *arguments)
        except RuntimeError as error:
            raise LeaseLost(f"stop working on {work_item_id}: its agent has ended") from error


class _Started:
    """A handler under way."""

    def __init__(self, context: Context, stop: Callable[[], None]) -> None:
        self._context = context
        self._stop = stop

    def cancel(self, cancel: Cancel) -> None:
        self._context.told(cancel)
        self._stop()

    def kept(self, kept: Kept) -> None:
        self._context.kept(kept)


class _NotStarted:
    """What could not begin has nothing to stop."""

    def cancel(self, cancel: Cancel) -> None:
        """Its outcome is on its way."""

    def kept(self, kept: Kept) -> None:
        """It has left nothing."""
