"""Fixtures shared by all tests."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator

import pytest
import structlog

from swarm.bus.embedded import EmbeddedServer, find_binary
from swarm.errors import BadInput

_prefixes = itertools.count(1)


@pytest.fixture(scope="session")
def nats_binary() -> str:
    """The nats-server program.  Without one: fails if SWARM_REQUIRE_NATS=1, else skips."""
    try:
        return find_binary()
    except BadInput as error:
        if os.environ.get("SWARM_REQUIRE_NATS") == "1":
            pytest.fail(f"SWARM_REQUIRE_NATS=1: {error}")
        pytest.skip(f"NOT TESTED against a real NATS: {error}")


@pytest.fixture(scope="session")
def nats_server(
    nats_binary: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServer]:
    """A running nats-server for tests that leave it alone; share it by `nats_prefix`."""
    server = EmbeddedServer()
    asyncio.run(server.start(tmp_path_factory.mktemp("nats")))
    yield server
    asyncio.run(server.stop())


@pytest.fixture
def nats_prefix() -> str:
    """A prefix that no other test uses."""
    return f"t{next(_prefixes)}"


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Commands say where logs go, for the whole process: not for the next test."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
