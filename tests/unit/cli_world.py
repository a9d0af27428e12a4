"""A whole swarm in memory for commands, as if they were typed against a running one."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from swarm.actors import shard_map
from swarm.actors.coordinator import Coordinator
from swarm.actors.router import Router
from swarm.bus.memory import MemoryWorld
from swarm.config import Settings
from swarm.sdk.client import Swarm

DEADLINE_S = 30.0
SETTINGS = Settings(
    shard_count=2,
    parallel_workers=1,
    beat_s=0.01,
    missed_s=0.5,
    heartbeat_s=0.5,
    lease_s=5.0,
    retry_backoff_s=0.02,
    retry_backoff_max_s=0.1,
)

Prepare = Callable[[Swarm], Awaitable[None]]


class InMemory:
    """What a command connects to: a fresh swarm in its own event loop."""

    def __init__(self) -> None:
        #: Run before the command, and after it.
        self.prepare: Prepare | None = None
        self.check: Prepare | None = None
        #: Given the command's arguments, once all is prepared: what could not be known before.
        self.adjust: Callable[[argparse.Namespace], None] | None = None
        #: Whether somebody does the work.
        self.working = False
        self.settings = SETTINGS
        #: Where the command and whatever it meets are connected, while it runs.
        self.world: MemoryWorld

    @asynccontextmanager
    async def connect(
        self, args: argparse.Namespace, name: str | None = None
    ) -> AsyncIterator[Swarm]:
        world = self.world = MemoryWorld.on_wall_clock()
        settings = self.settings
        node = world.connect("node", node="node")
        map_ = await shard_map.agree(node, settings)
        router = Router(world.connect("router", node="node"), settings, map_)
        coordinators = [
            Coordinator(world.connect(name, node="node"), settings, name, map_)
            for name in settings.coordinator_names[: settings.parallel_workers]
        ]
        await router.start()
        for coordinator in coordinators:
            await coordinator.start()
        other, wanted = Swarm(world.connect("other", node="other")), settings.shard_count
        async with asyncio.timeout(DEADLINE_S):
            # Nothing tells us when shards open but the coordinators themselves.
            while sum(len(one.owned) for one in coordinators) < wanted:  # noqa: ASYNC110
                await asyncio.sleep(settings.beat_s)
            if self.prepare is not None:
                await self.prepare(other)
        if self.adjust is not None:
            self.adjust(args)
        worker = asyncio.create_task(work(other)) if self.working else None
        try:
            async with asyncio.timeout(DEADLINE_S):
                yield Swarm(world.connect(name or "client", node="client"))
                if self.check is not None:
                    await self.check(other)
        finally:
            if worker is not None:
                worker.cancel()
                await asyncio.gather(worker, return_exceptions=True)
            for coordinator in coordinators:
                await coordinator.stop()
            await router.stop()


async def work(swarm: Swarm) -> None:
    """An agent that doubles its payload, and fails without one."""
    while True:
        claimed = await swarm.claim(["sum"], wait_s=1.0)
        if claimed is None:
            continue
        if isinstance(claimed.payload, int):
            await swarm.complete(claimed.work_item_id, claimed.token, 2 * claimed.payload)
        else:
            await swarm.fail(claimed.work_item_id, claimed.token, "no number")


def write_lines(folder: Path, lines: list[Any]) -> str:
    """A file with these lines, as they are or as JSON; its path."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path = folder / "items.jsonl"
    path.write_text("".join(text + "\n" for text in texts))
    return str(path)


def json_lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        yield json.loads(line)
