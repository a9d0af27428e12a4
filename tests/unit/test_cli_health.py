"""`swarm health`: what it asks, prints and returns."""

from __future__ import annotations

import argparse
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from swarm.cli import health
from swarm.cli.main import main
from swarm.config import Settings
from swarm.hosting.logs import configure_logs
from swarm.messages import Beat
from swarm.testing.ports import free_ports
from tests.unit.cli_world import InMemory

ROOT = Path(__file__).parents[2]


class Node:
    """Something with `/health` and `/ready`."""

    def __init__(self, health: int = 200, ready: int = 200, body: str = "{}") -> None:
        self.health, self.ready, self.body = health, ready, body
        self.port = 0

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        return runner

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=self.health)

    async def _ready(self, _: web.Request) -> web.Response:
        return web.Response(status=self.ready, text=self.body)


@pytest.fixture
async def nodes() -> AsyncIterator[list[Node]]:
    """A good one, one that is not ready and says why, one that is broken."""
    found = [
        Node(),
        Node(ready=503, body='{"why":["shard 3 has no owner"]}'),
        Node(health=500),
        Node(ready=503, body="no json"),
    ]
    runners = [await node.start() for node in found]
    yield found
    for runner in runners:
        await runner.cleanup()


def arguments(**more: Any) -> argparse.Namespace:
    given = {"json": True, "timeout": 2.0, "nats_url": None, "prefix": None}
    return argparse.Namespace(**{**given, **more})


def listing(*places: str) -> Settings:
    return Settings(discovery="static", coordinators=list(places))


@pytest.fixture(autouse=True)
def as_in_a_command() -> None:
    """Logs go to stderr."""
    configure_logs(level="warning")


async def run(read: Settings, capsys: pytest.CaptureFixture[str], **more: Any) -> tuple[int, Any]:
    code = await health._health(arguments(**more), read)
    return code, json.loads(capsys.readouterr().out)


async def test_all_good_is_exit_0(nodes: list[Node], capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = await run(listing(f"c1=127.0.0.1:{nodes[0].port}"), capsys)
    (one,) = shown["coordinators"]
    assert (code, shown["ok"], shown["source"], shown["stale"]) == (0, True, "static", False)
    assert (one["name"], one["healthy"], one["ready"], one["why"]) == ("c1", True, True, [])
    assert one["answered_ms"] > 0


async def test_each_that_is_not_good_says_why(
    nodes: list[Node], capsys: pytest.CaptureFixture[str]
) -> None:
    (dead,) = free_ports(1)
    ports = [*(node.port for node in nodes), dead]
    read = listing(*(f"c{number}=127.0.0.1:{port}" for number, port in enumerate(ports)))
    code, shown = await run(read, capsys)
    assert (code, shown["ok"]) == (1, False)
    found = {
        one["name"]: (one["healthy"], one["ready"], one["why"]) for one in shown["coordinators"]
    }
    assert found["c0"] == (True, True, [])
    assert found["c1"] == (True, False, ["shard 3 has no owner"])
    assert found["c2"] == (False, False, ["/health answers 500"])
    assert found["c3"] == (True, False, ["/ready answers 503"])
    assert found["c4"][:2] == (False, False)
    assert found["c4"][2] == [f"cannot connect to 127.0.0.1:{dead}"]


async def test_the_table_is_for_people(
    nodes: list[Node], capsys: pytest.CaptureFixture[str]
) -> None:
    read = listing(f"c0=127.0.0.1:{nodes[0].port}", f"c1=127.0.0.1:{nodes[1].port}")
    assert await health._health(arguments(json=False), read) == 1
    shown = capsys.readouterr()
    assert "COORDINATOR" in shown.out
    assert f"127.0.0.1:{nodes[1].port}" in shown.out
    assert "swarm: c1: shard 3 has no owner" in shown.err


async def test_a_discovery_that_does_not_answer_is_exit_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (dead,) = free_ports(1)
    read = Settings(discovery="consul", discovery_url=f"http://127.0.0.1:{dead}")
    code, shown = await run(read, capsys, timeout=0.5)
    assert (code, shown["stale"], shown["coordinators"]) == (1, True, [])
    assert "Consul" in shown["why"]
    assert await health._health(arguments(json=False, timeout=0.5), read) == 1
    shown = capsys.readouterr().err.splitlines()
    assert shown == [f"swarm: discovery by consul: Consul: cannot connect to 127.0.0.1:{dead}"]


def test_by_nats_beats_tell_of_those_without_http(
    memory: InMemory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SWARM_CONFIG", "COORDINATOR_DISCOVERY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT / "tests")
    assert main(["health", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["coordinators"]
    assert (one["name"], one["address"], one["ready"]) == ("coordinator-1", "", True)


def test_a_beat_tells_what_hinders() -> None:
    beat = Beat("c1", "i", 2, 1, closed={"3": "entry 7 cannot be decoded"}, draining=True)
    beat.alarms = ["the shared state is gone"]
    found = health._by_beat(beat)
    assert (found.healthy, found.ready) == (True, False)
    assert found.why == [
        "shard 3 cannot be opened: entry 7 cannot be decoded",
        "the shared state is gone",
        "it is about to leave",
    ]


def test_a_bad_setting_is_wrong_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COORDINATOR_DISCOVERY", "zookeeper")
    assert main(["health"]) == 2
    assert "nats, static, kubernetes, consul, etcd" in capsys.readouterr().err


def test_the_guides_script_is_the_command() -> None:
    script = ROOT / "scripts" / "check_coordinator_health.sh"
    assert 'exec swarm health "$@"' in script.read_text()
    assert os.stat(script).st_mode & stat.S_IXUSR
