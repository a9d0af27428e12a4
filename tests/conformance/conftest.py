"""The worlds that every bus test runs in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from swarm.bus.embedded import EmbeddedServer
from tests.conformance.worlds import InMemoryWorld, JetStreamWorld, World


@pytest.fixture(params=["memory", "jetstream"])
async def world(request: pytest.FixtureRequest, nats_prefix: str) -> AsyncIterator[World]:
    """Somewhere to connect buses to; they are closed at the end."""
    world: World
    if request.param == "memory":
        world = InMemoryWorld(nats_prefix)
    else:
        server: EmbeddedServer = request.getfixturevalue("nats_server")
        world = JetStreamWorld(nats_prefix, server.url)
    yield world
    await world.close()
