"""An agent and a client that speak raw NATS text, against a real system.

They use a socket and the standard library, as docs/protocol.md shows it: so any language
can.  The sessions that the document shows are acted out word for word.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from swarm import messages
from swarm.actors.coordinator import Coordinator
from swarm.actors.requests import SHARD_VERBS
from swarm.actors.router import Router
from swarm.bus.embedded import EmbeddedServer
from swarm.bus.jetstream import connect
from swarm.config import Settings
from swarm.errors import REFUSAL_CODES
from swarm.messages import ShardMap
from swarm.runtime import Runtime
from swarm.schemas import ROUTES, classes
from tests.acceptance.raw_nats import RawNats, play, read_sessions, wrong_sizes

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")
COORDINATOR = "coordinator-1"
#: Command ids made by hand: any 74 random bits after a time, see docs/protocol.md.
COMMAND = "0193d5c8-7a00-7b3e-9c41-{:012x}"
DEADLINE_S = 20.0


class System:
    """A coordinator and a router on a real NATS."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self.prefix = prefix
        self._settings = Settings(prefix=prefix, coordinators=[COORDINATOR])
        self.coordinator: Coordinator
        self.router: Router

    @asynccontextmanager
    async def running(self) -> AsyncIterator[System]:
        """From ready to stopped."""
        settings = self._settings
        map_ = ShardMap(1, settings.shard_count, "hash", "consistent_hash", [COORDINATOR])
        bus = await connect(self.url, COORDINATOR, prefix=self.prefix)
        try:
            self.router = Router(bus, settings, map_, Runtime())
            self.coordinator = Coordinator(bus, settings, COORDINATOR, map_)
            await self.router.start()
            await self.coordinator.start()
            await until(lambda: len(self.coordinator.owned) == settings.shard_count)
            await until(lambda: bool(self.router.live()))
            yield self
        finally:
            await self.router.stop()
            await self.coordinator.stop()
            await bus.close()


async def until(condition: Any) -> None:
    """Wait for `condition()`, with a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - there is no signal for it
            await asyncio.sleep(POLL_S)


POLL_S = 0.02
