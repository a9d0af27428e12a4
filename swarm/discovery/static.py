"""A list, as in the setting COORDINATORS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from swarm.discovery.base import Member, in_order


class Static:
    """Says what it was given; that never changes."""

    source = "static"

    def __init__(self, members: list[Member]) -> None:
        self._members = in_order(members)

    async def watch(self) -> AsyncGenerator[list[Member], None]:
        """See `Backend`."""
        yield list(self._members)
        await asyncio.Event().wait()
