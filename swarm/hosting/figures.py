"""What a node shows at ``/metrics``: gathered from its coordinator, or from the whole swarm."""

from __future__ import annotations

import asyncio

import msgspec

from swarm.actors.coordinator import Coordinator
from swarm.bus.base import Bus
from swarm.errors import BusError
from swarm.messages import Beat, ClusterView, ShardStats
from swarm.subjects import Subjects
from swarm.web.metrics import Figures, Fullness

#: A shard that does not answer a scrape in this time is left out of it.
ASK_S = 2.0
#: Shards asked at a time.
ASKED_AT_ONCE = 16

_stats = msgspec.json.Decoder(ShardStats)
_view = msgspec.json.Decoder(ClusterView)


def of_swarm(live: dict[str, Beat], shard_count: int) -> Figures:
    """What the coordinators' beats say."""
    figures = Figures(shard_count=shard_count, coordinators=list(live.values()))
    for beat in live.values():
        figures.owned.update(beat.owns)
        for shard in beat.closed:
            figures.closed.setdefault(int(shard), []).append(beat.coordinator)
    return figures


def add_own(figures: Figures, coordinator: Coordinator) -> None:
    """What the coordinator here knows of its shards and of the storage."""
    figures.shards = coordinator.shown
    watch = coordinator.storage
    full = watch.nearly_full(-1)
    figures.storage = Fullness(watch.storage.used, watch.storage.limit, full)
    figures.conflicts = coordinator.leader.conflict_counts


async def ask_all(figures: Figures, bus: Bus, prefix: str, soft_limit: float) -> None:
    """Ask every shard that has an owner, who leads, and NATS; who does not answer is left out."""
    subjects, free = Subjects(prefix), asyncio.Semaphore(ASKED_AT_ONCE)

    async def ask(shard: int) -> ShardStats | None:
        async with free:
            try:
                subject = subjects.shard(shard, "stats", bus.sender)
                return _stats.decode((await bus.request(subject, b"{}", ASK_S)).data)
            except (BusError, msgspec.MsgspecError):
                return None  # it is on its way to another owner: `swarmsh_shard_owned` tells

    found = await asyncio.gather(*map(ask, sorted(figures.owned)))
    figures.shards = [stats for stats in found if stats is not None]
    figures.conflicts = await _conflicts(bus, subjects)
    try:
        storage = await bus.storage()
    except BusError:
        return
    nearly_full = any(beat.storage >= soft_limit for beat in figures.coordinators)
    figures.storage = Fullness(storage.used, storage.limit, nearly_full)


async def _conflicts(bus: Bus, subjects: Subjects) -> dict[str, dict[str, int]] | None:
    try:
        reply = await bus.request(subjects.control("look", bus.sender), b"{}", ASK_S)
        return _view.decode(reply.data).conflict_counts
    except (BusError, msgspec.MsgspecError):
        return None  # nobody leads at the moment: no figure is better than a wrong one
