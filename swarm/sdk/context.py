"""What a handler gets: its item, what was left for it, and ways to say something meanwhile."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, NoReturn, Protocol

from msgspec import Raw

from swarm.core.handling import Cancel, Kept, Waiting
from swarm.errors import LeaseLost, Refusal
from swarm.messages import NULL, NewItem
from swarm.sdk.calls import refusal_of
from swarm.sdk.endings import WaitRequested, waiting
from swarm.sdk.items import ClaimedItem, DependencyEnd, check_percent, from_json, to_json


class Line(Protocol):
    """How a context speaks to its agent, from whatever thread its handler runs in."""

    #: Most bytes of an item.
    item_bytes_max: int

    def progress(self, work_item_id: str, token: str, percent: float, note: str) -> None:
        """Pass a report on; `LeaseLost` if the agent has ended."""
        ...

    def checkpoint(self, work_item_id: str, token: str, number: int, checkpoint: Raw) -> None:
        """Pass a checkpoint on; `LeaseLost` if the agent has ended."""
        ...

    def result(self, work_item_id: str) -> Future[Any]:
        """The result of another item."""
        ...

    def may_block(self) -> bool:
        """Whether the calling thread may wait for the agent: it is not the agent's own."""
        ...


class Context:
    """The work item that a handler is called for."""

    def __init__(self, claimed: ClaimedItem, line: Line) -> None:
        self._claimed = claimed
        self._line = line
        self._cancel: Cancel | None = None
        #: Whether the handler has looked and knows that it is to stop.
        self._noticed = False
        #: What the handler asked to wait for: that ends it, however it goes on.
        self._waiting: Waiting | None = None
        self._lock = threading.Lock()
        self._checkpoints = 0
        #: Checkpoints that are not durable yet, by number.
        self._unkept: dict[int, Future[None]] = {}

    # --- the item ----------------------------------------------------------------------------

    @property
    def claimed(self) -> ClaimedItem:
        """All that came with the claim, encoded as it came."""
        return self._claimed

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

    # --- what was left for this handler ------------------------------------------------------

    @property
    def last_checkpoint(self) -> Any:
        """What the item's last holder left, decoded; None if it left nothing."""
        return from_json(self._claimed.checkpoint)

    @property
    def waits(self) -> int:
        """How often the item has waited: 0 if no handler of it ever called `wait_for`."""
        return self._claimed.waits

    @property
    def answer(self) -> Any:
        """The answer to the latest `wait_for`, decoded; None without one."""
        return from_json(self._claimed.answer)

    @property
    def answered_by(self) -> str:
        """Who gave that answer; empty if nobody did: it has not waited, or the wait expired."""
        return self._claimed.answered_by

    @property
    def depends(self) -> dict[str, DependencyEnd]:
        """How the items ended that this one depends on, by id."""
        return self._claimed.dependencies

    async def result_of(self, work_item_id: str) -> Any:
        """The result of an item that this one depends on; read from the swarm if it was too
        large to be handed on.

        Raises `WorkFailed` if it did not complete, `Refusal` for any other item.
        """
        known = self._dependency(work_item_id)
        if known is not None:
            return known.result
        return await asyncio.wrap_future(self._line.result(work_item_id))

    def result_of_sync(self, work_item_id: str) -> Any:
        """`result_of` for plain functions and threads."""
        known = self._dependency(work_item_id)
        if known is not None:
            return known.result
        self._check_may_block("result_of_sync")
        return self._line.result(work_item_id).result()

    def _dependency(self, work_item_id: str) -> DependencyEnd | None:
        """How it ended, if its result is here."""
        known = self.depends.get(work_item_id)
        if known is None:
            raise Refusal(
                "bad_request",
                f"work item {self.work_item_id} does not depend on {work_item_id!r}; it depends "
                f"on: {', '.join(self.depends) or 'nothing'}",
            )
        return known if known.status == "completed" and not known.omitted else None

    # --- being told to stop ------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether to stop: somebody cancelled the item, its agent is leaving, or it is not held
        any more.  An async handler is also cancelled (`asyncio.CancelledError`).

        What a handler that has seen it returns or raises does not count, with one exception:
        where `grace_s` is not 0, a result (not None) that is returned within that time does.
        """
        if self._cancel is None:
            return False
        self._noticed = True
        return True

    @property
    def cancel_reason(self) -> str:
        """Why to stop, for people; empty if it need not."""
        return "" if self._cancel is None else self._cancel.reason

    @property
    def grace_s(self) -> float:
        """Seconds, from when it was cancelled, in which the work may still be finished or tidied
        up; 0 if it need not stop, or if nothing that it did would count any more."""
        return 0.0 if self._cancel is None else self._cancel.grace_s

    # --- saying something meanwhile ----------------------------------------------------------

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
            raise self._lost()
        self._line.progress(self.work_item_id, self.token, percent, str(note))

    async def checkpoint(self, value: Any) -> None:
        """Leave `value` (any JSON but None) for whoever works on the item after this handler,
        should it not complete: `last_checkpoint` there.  Replaces the one before.

        Returns once it is durable.  While the handler is to stop it returns at once: the
        newest checkpoint goes along with the handing back.  Raises `LeaseLost` if the item
        is not held any more, `Refusal` if `value` is no JSON or too large.
        """
        kept = self._leave(value)
        if kept is not None:
            await asyncio.wrap_future(kept)

    def checkpoint_sync(self, value: Any) -> None:
        """`checkpoint` for plain functions and threads."""
        self._check_may_block("checkpoint_sync")
        kept = self._leave(value)
        if kept is not None:
            kept.result()

    def checkpoint_soon(self, value: Any) -> None:
        """`checkpoint` without waiting; what becomes of it is not told."""
        self._leave(value)

    def _leave(self, value: Any) -> Future[None] | None:
        if value is None:
            raise Refusal("bad_request", "a checkpoint cannot be None; pass an empty dict, say")
        checkpoint = to_json("the checkpoint", value)
        self._check_size("the checkpoint", checkpoint)
        with self._lock:
            cancel = self._cancel
            if cancel is not None and cancel.kind == "lost":
                raise self._lost()
            self._checkpoints += 1
            number = self._checkpoints
            kept: Future[None] | None = None
            if cancel is None:
                kept = self._unkept[number] = Future()
                # Whoever stops waiting must not hinder the agent from saying what became of it.
                kept.set_running_or_notify_cancel()
            # Under the lock: checkpoints must reach the agent in their order.
            self._line.checkpoint(self.work_item_id, self.token, number, checkpoint)
        return kept

    # --- ending ------------------------------------------------------------------------------

    def wait_for(
        self,
        what: Any,
        *,
        expires_s: float = 0.0,
        on_expiry: Literal["dead", "resume"] = "dead",
        checkpoint: Any = None,
    ) -> NoReturn:
        """End this handler: the item waits for something outside, an answer or an approval.

        This never returns: it raises `WaitRequested`, which must be let pass (a handler that
        catches it has ended all the same: what it returns or raises then does not count).
        Slot and lease are free from then on, and no attempt is charged.  With the answer
        (`Handle.answer`, `swarm work answer`) the item is queued again, and a handler of any
        agent is called from its beginning, with `answer`, `waits` and `last_checkpoint`.

        `what`: any JSON, for whoever is to answer.  `expires_s`: after this many seconds it is
        not waited for any more (0: the swarm's default), and the item is dead, or resumed
        without an answer (`on_expiry`).  `checkpoint`: as in `checkpoint`; None keeps the
        newest one.  ``await`` before it is allowed, not needed.  Raises `LeaseLost` if the
        item is not held any more, `Refusal` for wrong arguments or what is too large.
        """
        asked = waiting(what, expires_s, on_expiry, checkpoint)
        self._check_size("what it waits for and its checkpoint", asked.waits_for, asked.checkpoint)
        if self._cancel is not None and self._cancel.kind == "lost":
            raise self._lost()
        self._waiting = asked
        raise WaitRequested(f"work item {self.work_item_id} waits; let this exception pass")

    # --- for the agent -----------------------------------------------------------------------

    def told(self, cancel: Cancel) -> None:
        """The handler is to stop."""
        with self._lock:
            self._cancel = cancel
            unkept, self._unkept = self._unkept, {}
        for kept in unkept.values():
            if cancel.kind == "lost":
                kept.set_exception(self._lost())
            else:
                kept.set_result(None)

    def kept(self, kept: Kept) -> None:
        """This checkpoint and those before it are durable, or refused."""
        with self._lock:
            settled = [number for number in self._unkept if number <= kept.number]
            futures = [self._unkept.pop(number) for number in settled]
        for future in futures:
            if kept.error is None:
                future.set_result(None)
            else:
                future.set_exception(refusal_of(kept.error))

    def _lost(self) -> LeaseLost:
        return LeaseLost(f"stop working on {self.work_item_id}: {self.cancel_reason}")

    def _check_size(self, what: str, *parts: Raw) -> None:
        size = sum(len(memoryview(part)) for part in parts if part != NULL)
        room = self._line.item_bytes_max - self._claimed.item_bytes
        if size > room:
            raise Refusal(
                "too_large",
                f"{what} has {size} bytes; beside its own {self._claimed.item_bytes} bytes the "
                f"item has room for {room}: store the data elsewhere and pass a reference",
            )

    def _check_may_block(self, method: str) -> None:
        if not self._line.may_block():
            name = method.removesuffix("_sync")
            raise Refusal(
                "bad_request",
                f"{method} would wait for the loop that it blocks: write the handler as an async "
                f"function and `await context.{name}(…)`",
            )


def is_async(handler: Callable[[Context], Any]) -> bool:
    """Whether `handler` is an async function, or an object with an async call."""
    call = getattr(handler, "__call__", None)  # noqa: B004 - its kind is wanted
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)
