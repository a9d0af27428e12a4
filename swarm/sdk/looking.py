"""Looking at a swarm: items, results, counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec

from swarm.errors import NoAnswer, Refusal
from swarm.messages import ENDED, Get, ItemPage, List, ShardStats, Stats, Status, WorkItem
from swarm.sdk.asking import TIMEOUT_S, Asking
from swarm.sdk.results import await_result, watch_item
from swarm.sdk.routes import Routed, collect

#: Items in a page of a listing.
PAGE_ITEMS = 500
#: Shards that are asked for their counts at once.
STATS_AT_ONCE = 32

_work_item = msgspec.json.Decoder(WorkItem)
_page = msgspec.json.Decoder(ItemPage)
_stats = msgspec.json.Decoder(ShardStats)


class Looking(Asking):
    """Everything that changes nothing."""

    async def get(self, work_item_id: str, *, timeout_s: float = TIMEOUT_S) -> WorkItem:
        """The item as it is now; its `payload` and `result` are encoded JSON."""
        return await self._ask_shard(work_item_id, "get", Get(work_item_id), _work_item, timeout_s)

    async def result(self, work_item_id: str, *, timeout: float | None = None) -> Any:
        """See `Handle.result`."""
        return await await_result(self._calls, work_item_id, timeout)

    def watch(self, work_item_id: str, *, timeout: float | None = None) -> AsyncIterator[WorkItem]:
        """The item as it is now, and again whenever something of it has changed, until it has
        ended or `timeout` seconds have passed (None: never).

        Changes that follow each other closely are seen as one.  Goes on through failovers.
        Raises `Refusal` if there is no such item, `NoAnswer` if nothing was heard at all.
        """
        return watch_item(self._calls, work_item_id, timeout)

    async def list(
        self,
        *,
        status: Status | Literal[""] = "",
        work_type: str = "",
        archived: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> AsyncIterator[WorkItem]:
        """All items with this status and work type (empty: any), shard by shard, oldest first.

        Each page is true as of its own moment.  `timeout_s` holds for each page.  `archived`:
        after those that a shard has in memory, also the ended ones that are in its finished
        records only (`BusError` if this connection may not read them).
        """
        shard_count = (await self.describe(timeout_s=timeout_s)).map.shard_count
        for shard in range(shard_count):
            query = List(status, work_type, PAGE_ITEMS)
            listed: dict[str, None] = {}
            in_records = 0
            while True:
                subject = self._subjects.shard(shard, "list", self._calls.sender)
                page = await self._ask(subject, query, _page, timeout_s)
                in_records = page.archived
                for item in page.items:
                    if archived and item.finished_at:
                        listed[item.work_item_id] = None
                    yield item
                query.after = page.after
                if not page.after:
                    break
            if archived and in_records and (not status or status in ENDED):
                async for item in self._archived(shard, status, work_type, listed, timeout_s):
                    yield item

    async def _archived(
        self, shard: int, status: str, work_type: str, listed: dict[str, None], timeout_s: float
    ) -> AsyncIterator[WorkItem]:
        # Imported here: most clients never read records.
        from swarm.sdk.archive import read_archived  # noqa: PLC0415

        subject = self._subjects.shard(shard, "stats", self._calls.sender)
        submitted = (await self._ask(subject, Stats(), _stats, timeout_s)).submitted
        records = self._subjects.records(shard)
        async for recorded in read_archived(self.bus, records, shard, submitted):
            name = recorded.work_item_id
            if name in listed or work_type not in ("", recorded.work_type):
                continue
            # A dead one may have been brought back since: only its shard knows.
            dead = recorded.status == "dead"
            item = await self.get(name, timeout_s=timeout_s) if dead else recorded
            if item.finished_at and status in ("", item.status):
                yield item

    async def routes(self) -> Routed:
        """The routing rules, and what all routers have chosen since they were started.

        Raises `Refusal` if no router answers, `BusUnavailable`.
        """
        return await collect(self._calls)

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
