"""The worlds that every bus test runs in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from swarm.bus.embedded import EmbeddedServer
from tests.conformance.worlds import InMemoryWorld, JetStreamWorld, World


@pytest.fixture(params=["memory", "jetstream"])
def open_world(request: pytest.FixtureRequest, nats_prefix: str) -> World:
    """Somewhere to connect buses to; not asynchronous, as it may have to start a server."""
    if request.param == "memory":
        return InMemoryWorld(nats_prefix)
    server: EmbeddedServer = request.getfixturevalue("nats_server")
    return JetStreamWorld(nats_prefix, server.url)


@pytest.fixture
async def world(open_world: World) -> AsyncIterator[World]:
    """Somewhere to connect buses to; they are closed at the end."""
    yield open_world
    await open_world.close()
