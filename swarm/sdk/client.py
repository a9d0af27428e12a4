"""The Python client: submit work, wait for results, look around.

async with Swarm.connect() as swarm:
    handle = await swarm.submit("feature", "add a cache", payload={"file": "a.py"})
    print(await handle.result(timeout=60))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from swarm.bus.base import Bus
from swarm.errors import NoAnswer, Refusal, SwarmError
from swarm.messages import (
    Ack,
    Complete,
    Describe,
    Description,
    Fail,
    Get,
    ItemCommand,
    ItemPage,
    List,
    NewItem,
    Priority,
    Progress,
    Release,
    Renew,
    ShardStats,
    Stats,
    Status,
    WorkItem,
)
from swarm.runtime import Runtime
from swarm.sdk.calls import Calls
from swarm.sdk.claiming import Claimer
from swarm.sdk.connecting import connect_bus
from swarm.sdk.items import ClaimedItem, check_name, check_percent, to_json
from swarm.sdk.items import Description as ItemDescription
from swarm.sdk.results import await_result, shard_subject
from swarm.sdk.submitting import submit
from swarm.subjects import Subjects, check_token

Reply = TypeVar("Reply")

#: How long requests wait for an answer unless told otherwise.
TIMEOUT_S = 10.0
#: Items in a page of a listing.
PAGE_ITEMS = 500
#: Shards that are asked for their counts at once.
STATS_AT_ONCE = 32

_ack = msgspec.json.Decoder(Ack)
_description = msgspec.json.Decoder(Description)
_work_item = msgspec.json.Decoder(WorkItem)
_page = msgspec.json.Decoder(ItemPage)
_stats = msgspec.json.Decoder(ShardStats)


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

        Raises `WorkFailed` if the item ended without a result, `TimeoutError` if it has not
        ended in time.  None: waits for ever, through failovers and reconnects.
        """
        return await self._swarm.result(self.work_item_id, timeout=timeout)

    async def get(self) -> WorkItem:
        """The item as it is now."""
        return await self._swarm.get(self.work_item_id)


class Swarm:
    """A connection to a swarm.  `Swarm.connect` makes one; or give it any `Bus`."""

    def __init__(self, bus: Bus, runtime: Runtime | None = None, *, prefix: str = "swarm") -> None:
        self.bus = bus
        self._runtime = runtime or Runtime()
        self._subjects = Subjects(check_token("prefix", prefix))
        self._calls = Calls(bus, self._subjects, self._runtime)

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
        timeout_s: float = 30.0,
    ) -> Handle:
        """Submit a work item; returns once it is durable.

        `payload`: any JSON.  `lease_s`: how long a claim of it holds without a heartbeat
        (0 = the swarm's default).  The same `idempotency_key` with the same content yields
        the same item.  Raises `Refusal` (what was wrong, nothing was stored) or `NoAnswer`
        after `timeout_s` (it may have been stored).
        """
        item = NewItem(
            work_type=work_type,
            description=description,
            priority=priority,
            team=team,
            labels=dict(labels or {}),
            story_points=story_points,
            payload=to_json("the payload", payload),
            idempotency_key=idempotency_key,
            lease_s=lease_s,
        )
        (outcome,) = await submit(self._calls, [item], timeout_s)
        if isinstance(outcome, SwarmError):
            raise outcome
        return Handle(self, outcome)

    async def submit_many(
        self, items: Iterable[ItemDescription], *, timeout_s: float = 30.0
    ) -> Sequence[Handle | Refusal | NoAnswer]:
        """Submit many work items in batches, each answered on its own, in order.

        `items`: `NewItem`s, or mappings with the same names whose payload is any JSON value.
        For an item that was not stored, or of which that is not known, the error stands in
        its place.  `timeout_s` holds for each batch.
        """
        outcomes = await submit(self._calls, items, timeout_s)
        return [
            Handle(self, outcome) if isinstance(outcome, str) else outcome for outcome in outcomes
        ]

    # --- looking ---------------------------------------------------------------------

    async def get(self, work_item_id: str, *, timeout_s: float = TIMEOUT_S) -> WorkItem:
        """The item as it is now; its `payload` and `result` are encoded JSON."""
        return await self._ask_shard(work_item_id, "get", Get(work_item_id), _work_item, timeout_s)

    async def result(self, work_item_id: str, *, timeout: float | None = None) -> Any:
        """See `Handle.result`."""
        return await await_result(self._calls, work_item_id, timeout)

    async def list(
        self,
        *,
        status: Status | Literal[""] = "",
        work_type: str = "",
        timeout_s: float = TIMEOUT_S,
    ) -> AsyncIterator[WorkItem]:
        """All items with this status and work type (empty: any), shard by shard, oldest first.

        Each page is true as of its own moment.  `timeout_s` holds for each page.
        """
        shard_count = (await self.describe(timeout_s=timeout_s)).map.shard_count
        for shard in range(shard_count):
            after = 0
            while True:
                query = List(status, work_type, PAGE_ITEMS, after)
                subject = self._subjects.shard(shard, "list", self._calls.sender)
                page = await self._ask(subject, query, _page, timeout_s)
                for item in page.items:
                    yield item
                after = page.after
                if not after:
                    break

    async def describe(self, *, timeout_s: float = TIMEOUT_S) -> Description:
        """The shard map, and the latest beat of each live coordinator."""
        subject = self._subjects.describe(self._calls.sender)
        return await self._ask(subject, Describe(), _description, timeout_s)

    async def stats(
        self, *, timeout_s: float = TIMEOUT_S
    ) -> dict[int, ShardStats | Refusal | NoAnswer]:
        """Counts of every shard; for one that does not answer in time, the error."""
        shard_count = (await self.describe(timeout_s=timeout_s)).map.shard_count
        free = asyncio.Semaphore(STATS_AT_ONCE)

        async def of(shard: int) -> ShardStats | Refusal | NoAnswer:
            subject = self._subjects.shard(shard, "stats", self._calls.sender)
            async with free:
                try:
                    return await self._ask(subject, Stats(), _stats, timeout_s)
                except (Refusal, NoAnswer) as error:
                    return error

        found = await asyncio.gather(*map(of, range(shard_count)))
        return dict(enumerate(found))

    # --- working without a session ---------------------------------------------------------

    async def claim(
        self,
        work_types: Sequence[str],
        *,
        lease_s: float = 0.0,
        wait_s: float = 0.0,
        timeout_s: float = TIMEOUT_S,
    ) -> ClaimedItem | None:
        """Take an item of one of these types, as the agent named like this connection.

        None if there is none within `wait_s`.  The claim holds for `lease_s` (0 = the item's
        or the swarm's default), renewed by `renew` and `progress`; end it with `complete`,
        `fail` or `release`, showing its token.
        """
        if isinstance(work_types, str) or not work_types:
            raise Refusal("bad_request", "work_types is a list of one or more work types")
        for work_type in work_types:
            check_name("work type", work_type)

        async def describe() -> Description:
            return await self.describe(timeout_s=timeout_s)

        return await Claimer(self._calls, work_types, lease_s).claim(describe, wait_s)

    async def complete(
        self, work_item_id: str, token: str, result: Any = None, *, timeout_s: float = TIMEOUT_S
    ) -> Ack:
        """The work is done; `result` is any JSON."""
        command = Complete(self._new_id(), work_item_id, token, to_json("the result", result))
        return await self._say("complete", command, timeout_s)

    async def fail(
        self, work_item_id: str, token: str, error: str, *, timeout_s: float = TIMEOUT_S
    ) -> Ack:
        """The work failed; `error` says how."""
        return await self._say("fail", Fail(self._new_id(), work_item_id, token, error), timeout_s)

    async def release(
        self, work_item_id: str, token: str, reason: str = "", *, timeout_s: float = TIMEOUT_S
    ) -> Ack:
        """Hand the item back unworked: it is queued again, no attempt is charged."""
        command = Release(self._new_id(), work_item_id, token, reason)
        return await self._say("release", command, timeout_s)

    async def progress(
        self,
        work_item_id: str,
        token: str,
        percent: float,
        note: str = "",
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> Ack:
        """The work advances: 0 to 100 percent and a note for people; renews the lease."""
        command = Progress(self._new_id(), work_item_id, token, check_percent(percent), note)
        return await self._say("progress", command, timeout_s)

    async def renew(self, work_item_id: str, token: str, *, timeout_s: float = TIMEOUT_S) -> Ack:
        """A heartbeat: the claim's lease starts anew."""
        command = Renew(work_item_id, token)
        return await self._ask_shard(work_item_id, "renew", command, _ack, timeout_s)

    # -----------------------------------------------------------------------------------------

    def _new_id(self) -> str:
        return self._runtime.new_id()

    async def _say(self, verb: str, command: ItemCommand, timeout_s: float) -> Ack:
        size = len(msgspec.json.encode(command))
        limit = self._calls.item_bytes_max
        if size > limit + 1024:
            raise Refusal(
                "too_large",
                f"this {verb} has {size} bytes; an item with result and notes has at most "
                f"{limit}: store the data elsewhere and pass a reference",
            )
        return await self._ask_shard(command.work_item_id, verb, command, _ack, timeout_s)

    async def _ask_shard(
        self,
        work_item_id: str,
        verb: str,
        command: Struct,
        reply: msgspec.json.Decoder[Reply],
        timeout_s: float,
    ) -> Reply:
        return await self._ask(
            shard_subject(self._calls, work_item_id, verb), command, reply, timeout_s
        )

    async def _ask(
        self,
        subject: str,
        command: Struct,
        reply: msgspec.json.Decoder[Reply],
        timeout_s: float,
    ) -> Reply:
        deadline = asyncio.get_running_loop().time() + timeout_s
        return await self._calls.ask(subject, command, reply, deadline)
