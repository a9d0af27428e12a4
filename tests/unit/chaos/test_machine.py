"""How busy the machine was is measured, or said to be unknown."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from swarm.hosting.process import cancelled
from swarm.testing.chaos import machine
from swarm.testing.chaos.machine import Busyness


async def watched(during_s: float) -> Busyness:
    """What is seen while this process keeps itself from running for so long."""
    busyness = Busyness()
    watch = asyncio.create_task(busyness.watch())
    await asyncio.sleep(0)
    begun = time.monotonic()
    while time.monotonic() < begun + during_s:
        pass
    # The watch sees it as soon as the loop turns again.
    for _ in range(10):
        await asyncio.sleep(0)
    await cancelled(watch)
    return busyness


async def test_a_lag_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LOOK_S", 0.01)
    assert (await watched(0.2)).lag_s >= 0.15


async def test_the_time_that_something_waited_is_a_part_of_the_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    account = tmp_path / "cpu"
    account.write_text("some avg10=1.0 avg60=1.0 avg300=1.0 total=5000000\nfull total=0\n")
    monkeypatch.setattr(machine, "PRESSURE", account)
    assert machine.read_waited_s() == 5.0
    assert (await watched(0.02)).pressure == 0.0


async def test_where_nobody_keeps_account_it_is_not_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "PRESSURE", tmp_path / "none")
    assert (await watched(0.02)).pressure == -1.0


def test_the_machine_is_described() -> None:
    described = machine.describe()
    assert int(described["cores"]) >= 1
    assert described["nats-server"].startswith("2.")
