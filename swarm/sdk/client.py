"""The Python client: submit work, wait for results, look around.

async with Swarm.connect() as swarm:
    handle = await swarm.submit("feature", "add a cache", payload={"file": "a.py"})
    print(await handle.result(timeout=60))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import Any

from swarm.errors import NoAnswer, Refusal, SwarmError
from swarm.messages import (
    Ack,
    Answer,
    Cancel,
    OnFailure,
    Prioritize,
    Priority,
    Retry,
    WorkItem,
)
from swarm.runtime import Runtime
from swarm.sdk.asking import TIMEOUT_S
from swarm.sdk.connecting import connect_bus
from swarm.sdk.describing import Description as ItemDescription
from swarm.sdk.describing import Ref
from swarm.sdk.holding import Holding
from swarm.sdk.items import to_json
from swarm.sdk.looking import Looking
from swarm.sdk.operating import Operating
from swarm.sdk.submitting import submit

#: How long the holder of a cancelled item has to finish or tidy up, unless told otherwise.
GRACE_S = 10.0


class Handle:
    """A submitted work item."""

    __slots__ = ("_swarm", "work_item_id")

    def __init__(self, swarm: Swarm, work_item_id: str) -> None:
        self._swarm = swarm
        self.work_item_id = work_item_id

    def __repr__(self) -> str:
        return f"Handle({self.work_item_id!r})"

    async def result(self, timeout: float | None = None) -> Any:
        """What the agent returned, decoded; waits for it, at most `timeout` seconds.

        Raises `WorkFailed` if the item ended without a result (`WorkCancelled` if it was
        cancelled): the message tells all failed attempts, its `item` has the details.
        `TimeoutError` if it has not ended in time.  None: waits for ever, through failovers
        and reconnects.
        """
        return await self._swarm.result(self.work_item_id, timeout=timeout)

    async def get(self) -> WorkItem:
        """The item as it is now."""
        return await self._swarm.get(self.work_item_id)

    def watch(self, timeout: float | None = None) -> AsyncIterator[WorkItem]:
        """See `Swarm.watch`."""
        return self._swarm.watch(self.work_item_id, timeout=timeout)

    async def cancel(self, reason: str = "", *, grace_s: float = GRACE_S) -> Ack:
        """See `Swarm.cancel`."""
        return await self._swarm.cancel(self.work_item_id, reason, grace_s=grace_s)

    async def prioritize(self, priority: Priority) -> Ack:
        """See `Swarm.prioritize`."""
        return await self._swarm.prioritize(self.work_item_id, priority)

    async def retry(self) -> Ack:
        """See `Swarm.retry`."""
        return await self._swarm.retry(self.work_item_id)

    async def answer(self, answer: Any, *, wait: int = 0) -> Ack:
        """See `Swarm.answer`."""
        return await self._swarm.answer(self.work_item_id, answer, wait=wait)


class Swarm(Looking, Holding, Operating):
    """A connection to a swarm.  `Swarm.connect` makes one; or give it any `Bus`."""

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str | None = None, *, name: str | None = None, prefix: str = "swarm"
    ) -> AsyncIterator[Swarm]:
        """Connect to `url`, else to NATS_URL, else to the `swarm up` that runs here.

        `name`: who this connection speaks as (default: a random name).  Raises
        `BusUnavailable` if nothing answers there, `BadInput` for a bad name.
        """
        runtime = Runtime()
        bus = await connect_bus(url, name or runtime.new_name("client-"), prefix)
        swarm = cls(bus, runtime, prefix=prefix)
        try:
            async with swarm:
                yield swarm
        finally:
            await bus.close()

    async def __aenter__(self) -> Swarm:
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening for answers; safe to call twice.  A bus given by the caller stays open."""
        await self._calls.close()

    # --- submitting ------------------------------------------------------------------

    async def submit(
        self,
        work_type: str,
        description: str = "",
        *,
        payload: Any = None,
        priority: Priority = "medium",
        team: str = "",
        labels: Mapping[str, str] | None = None,
        story_points: int | None = None,
        idempotency_key: str = "",
        lease_s: float = 0.0,
        max_attempts: int = 0,
        backoff_s: float = 0.0,
        not_before: float | datetime = 0.0,
        delay_s: float = 0.0,
        deadline: float | datetime = 0.0,
        progress_s: float = 0.0,
        depends_on: Iterable[Ref] = (),
        on_dependency_failure: OnFailure = "block",
        timeout_s: float = 30.0,
    ) -> Handle:
        """Submit a work item; returns once it is durable.

        `payload`: any JSON.  The same `idempotency_key` with the same content yields the same
        item (times are content, too: with `delay_s` they differ).  For all that follows 0 means
        the swarm's default, or none.

        `lease_s`: how long a claim holds without a heartbeat.  `progress_s`: a claim without a
        report of progress for this long ends, too.  `max_attempts`: failed attempts after which
        the item is dead.  `backoff_s`: pause after the first, doubled with each.  `not_before`
        (seconds since 1970, or a datetime with a time zone) or `delay_s`: not claimed earlier.
        `deadline`: dead if it has not completed by then.  `depends_on`: ids or handles of items
        that must complete first; their results are handed to the agent.  If one is dead or
        cancelled, `on_dependency_failure` says what becomes of this one: ``block`` (wait until
        that one is brought back), ``cancel`` or ``run``.

        Raises `Refusal` (what was wrong, nothing was stored) or `NoAnswer` after `timeout_s`
        (it may have been stored).
        """
        item = {
            "work_type": work_type,
            "description": description,
            "payload": None if payload is None else to_json("the payload", payload),
            "priority": priority,
            "team": team,
            "labels": dict(labels or {}),
            "idempotency_key": idempotency_key,
            "lease_s": lease_s,
            "max_attempts": max_attempts,
            "backoff_s": backoff_s,
            "not_before": not_before,
            "delay_s": delay_s,
            "deadline": deadline,
            "progress_s": progress_s,
            "depends_on": depends_on,
            "on_dependency_failure": on_dependency_failure,
        }
        # What was not given is left out: so it travels, and so it is compared.
        given = {name: value for name, value in item.items() if value or name == "work_type"}
        if story_points is not None:
            given["story_points"] = story_points
        (outcome,) = await submit(self._calls, [given], timeout_s)
        if isinstance(outcome, SwarmError):
            raise outcome
        return Handle(self, outcome)

    async def submit_many(
        self, items: Iterable[ItemDescription], *, timeout_s: float = 30.0
    ) -> Sequence[Handle | Refusal | NoAnswer]:
        """Submit many work items in batches, each answered on its own, in order.

        `items`: `NewItem`s, or mappings with the names of `submit`'s arguments, whose payload
        is any JSON value.  In a mapping, `depends_on` may also hold positions (from 0) of
        earlier items of this call: those are submitted first, and an item one of whose
        dependencies was not stored is refused.  For an item that was not stored, or of which
        that is not known, the error stands in its place.  `timeout_s` holds for each batch.
        """
        outcomes = await submit(self._calls, items, timeout_s)
        return [
            Handle(self, outcome) if isinstance(outcome, str) else outcome for outcome in outcomes
        ]

    # --- what anybody may say of an item ------------------------------------------------------

    async def cancel(
        self,
        work_item_id: str,
        reason: str = "",
        *,
        grace_s: float = GRACE_S,
        timeout_s: float = TIMEOUT_S,
    ) -> Ack:
        """This item is not wanted any more.

        One that nobody holds is cancelled at once.  The agent that holds another is told, and
        may finish it (then it is completed) or tidy up for `grace_s` seconds; after that the
        item is cancelled whatever its agent does.  The answer's `status` is ``cancelled`` or
        ``claimed``.  Raises `Refusal` (``already_finished``), `NoAnswer`.
        """
        command = Cancel(self._new_id(), work_item_id, reason, grace_s)
        return await self._say("cancel", work_item_id, command, timeout_s)

    async def prioritize(
        self, work_item_id: str, priority: Priority, *, timeout_s: float = TIMEOUT_S
    ) -> Ack:
        """This item is more, or less, urgent from here on.

        Raises `Refusal` (``already_finished``), `NoAnswer`.
        """
        command = Prioritize(self._new_id(), work_item_id, priority)
        return await self._say("prioritize", work_item_id, command, timeout_s)

    async def retry(self, work_item_id: str, *, timeout_s: float = TIMEOUT_S) -> Ack:
        """Queue a dead item again, with all its attempts and its history; or a scheduled or
        blocked one now.  From then on it waits for nothing that it depends on.

        One that is queued or claimed stays as it is.  Raises `Refusal` (``already_finished``
        for a completed or cancelled one, ``bad_request`` for a waiting one), `NoAnswer`.
        """
        command = Retry(self._new_id(), work_item_id)
        return await self._say("retry", work_item_id, command, timeout_s)

    async def answer(
        self, work_item_id: str, answer: Any, *, wait: int = 0, timeout_s: float = TIMEOUT_S
    ) -> Ack:
        """Give a waiting item what it waits for (any JSON): it is queued again.

        `wait`: which time of waiting is meant (`WorkItem.waits`; 0: whichever it is).  The
        first answer counts.  Raises `Refusal` (``already_answered``, ``not_waiting``,
        ``already_finished``), `NoAnswer`.
        """
        command = Answer(self._new_id(), work_item_id, to_json("the answer", answer), wait)
        return await self._say("answer", work_item_id, command, timeout_s)
