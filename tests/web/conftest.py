"""Fixtures of the tests over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.web.world import HttpWorld, running


@pytest.fixture
async def http() -> AsyncIterator[HttpWorld]:
    """A swarm with two HTTP fronts."""
    async with running() as world:
        yield world
