"""Fixtures of the unit tests."""

from __future__ import annotations

import pytest

from swarm.cli import common
from tests.unit.cli_world import InMemory


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> InMemory:
    """What commands connect to, instead of a swarm that runs somewhere."""
    memory = InMemory()
    monkeypatch.setattr(common, "connect", memory.connect)
    return memory
