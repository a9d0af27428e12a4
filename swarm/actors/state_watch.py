"""Looks whether the shared state is still there.

Owners need it for nothing, so without a look nobody would know that it was deleted before
some shard has to be opened, and cannot be.
"""

from __future__ import annotations

import asyncio

import structlog

from swarm.actors import shard_map
from swarm.bus.base import Bus
from swarm.errors import BusError, StateMissing

log = structlog.get_logger()

LOOK_S = 2.0


class StateWatch:
    """`missing`: what is to be told of the shared state; empty: all is well."""

    def __init__(self, bus: Bus, coordinator: str, prefix: str) -> None:
        self._bus = bus
        self._coordinator = coordinator
        self._bucket = f"{prefix}-state"
        self.missing = ""

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once; what cannot be seen stays as it was."""
        try:
            there = await self._bus.state_get(shard_map.KEY) is not None
            why = "" if there else self._why("has lost the shard map: somebody has emptied it")
        except StateMissing:
            why = self._why("is gone: somebody has deleted it")
        except BusError as error:
            log.debug("the shared state cannot be looked at", why=str(error))
            return
        if why and not self.missing:
            log.error("alarm", coordinator=self._coordinator, why=why)
        elif self.missing and not why:
            log.info("the shared state is there again", coordinator=self._coordinator)
        self.missing = why

    def _why(self, what: str) -> str:
        return (
            f"the shared state (NATS bucket {self._bucket}) {what}.  Open shards go on; others "
            "cannot be opened, no node can start (docs/operations.md: state bucket gone)"
        )
