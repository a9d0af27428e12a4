"""Real nginx over three real coordinators, one of them killed under load."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from swarm.bus.embedded import EmbeddedServer
from swarm.errors import Refusal
from swarm.messages import ShardStats
from swarm.runtime import Runtime
from swarm.sdk.client import Swarm
from swarm.testing.ports import free_ports
from tests import parts
from tests.acceptance.processes import POLL_S, ROOT, Place, kill

CONFIGS = ROOT / "configs" / "nginx"
NAMES = ("coordinator-1", "coordinator-2", "coordinator-3")
#: Items, and how many are submitted when the coordinator is killed.
ITEMS, KILL_AT = 150, 50
SUBMITTERS, WORKERS = 6, 6
READY_S = 30.0
RUN_S = 60.0


def nginx_config(folder: Path, port: int, ports: list[int]) -> Path:
    """The shipped file with these ports, in a main file that keeps to `folder`.

    One process, without a master: it ends with its test, however that ends.
    """
    shipped = (CONFIGS / "swarm.conf").read_text("utf-8")
    assert "listen 4000;" in shipped
    shipped = shipped.replace("listen 4000;", f"listen 127.0.0.1:{port};")
    for name, own in zip(NAMES, ports, strict=True):
        assert f"server {name}:4000 " in shipped
        shipped = shipped.replace(f"server {name}:4000 ", f"server 127.0.0.1:{own} ")
    (folder / "swarm.conf").write_text(shipped)
    temps = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    lines = [f"{temp}_temp_path {folder}/{temp};" for temp in temps]
    main = f"""
        daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
        events {{ worker_connections 512; }}
        http {{
          {" ".join(lines)}
          log_format tried '$request_method $uri|$upstream_addr|$status';
          access_log {folder}/access.log tried;
          include {folder}/swarm.conf;
        }}
    """
    path = folder / "nginx.conf"
    path.write_text(main)
    return path


class World:
    """NATS, three coordinators, nginx in front."""

    def __init__(self, place: Place, nats_url: str, prefix: str) -> None:
        self.place = place
        self.nats_url = nats_url
        self.prefix = prefix
        self.port, *self.ports = free_ports(4)
        self.url = f"http://127.0.0.1:{self.port}"
        self.pids: dict[str, int] = {}
        self.addresses = " ".join(
            f"{name}=127.0.0.1:{port}" for name, port in zip(NAMES, self.ports, strict=True)
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        settings = {"SWARM_PREFIX": self.prefix, "COORDINATORS": self.addresses}
        for name, port in zip(NAMES, self.ports, strict=True):
            roles = ("--role", "coordinator,router", "--id", name)
            where = ("--http-host", "127.0.0.1", "--http-port", str(port))
            process = self.place.start(
                "node", *roles, *where, "--nats-url", self.nats_url, **settings
            )
            self.pids[name] = process.pid
        async with aiohttp.ClientSession() as http, asyncio.timeout(READY_S):
            while not all([await good(http, port) for port in self.ports]):  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
        folder = self.place.path / "nginx"
        folder.mkdir()
        config = nginx_config(folder, self.port, self.ports)
        command = (parts.program("nginx"), "-c", str(config), "-e", str(folder / "error.log"))
        async with parts.running(*command, ready=lambda: parts.listens(self.port)):
            yield

    def access_log(self) -> list[tuple[str, list[str], int]]:
        """(request, who was asked in turn, status) of each request."""
        text = (self.place.path / "nginx" / "access.log").read_text()
        rows = [line.split("|") for line in text.splitlines()]
        return [(asked, tried.split(", "), int(status)) for asked, tried, status in rows]

    def health(self, **settings: str) -> tuple[int, Any]:
        """(exit code, what it printed) of `swarm health --json`."""
        done = self.place.run("health", "--json", "--timeout", "2s", **settings)
        return done.returncode, json.loads(done.stdout)


async def good(http: aiohttp.ClientSession, port: int) -> bool:
    try:
        async with http.get(f"http://127.0.0.1:{port}/ready") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


@pytest.fixture
def world(tmp_path: Path, nats_server: EmbeddedServer, nats_prefix: str) -> Iterator[World]:
    parts.program("nginx")
    place = Place(tmp_path, SHARD_COUNT="8", LEASE_S="5", HEARTBEAT_S="1")
    yield World(place, nats_server.url, nats_prefix)
    place.clean()


class Load:
    """Clients and agents that never ask twice: that is left to nginx."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http = http
        self.url = url
        self.runtime = Runtime()
        self.numbers = iter(range(ITEMS))
        self.submitted: dict[int, str] = {}
        #: How often each item was handed out.
        self.done: Counter[int] = Counter()
        self.failures: list[str] = []
        self.killed = asyncio.Event()

    async def post(self, path: str, body: Any, key: str, sender: str = "shop") -> Any:
        """The answer; None if there is nothing to claim."""
        headers = {"Idempotency-Key": key, "Swarm-Sender": sender}
        async with self.http.post(self.url + path, json=body, headers=headers) as answer:
            said = await answer.json(content_type=None)
            if answer.status == 404 and said["error"]["code"] == "no_work":
                return None
            if answer.status != 200:
                self.failures.append(f"{path}: {answer.status} {said}")
                raise Refusal("unavailable", str(said))
            return said

    async def submit(self, pid: int) -> None:
        for number in self.numbers:
            # Half of the keys as an order's number, half as the SDK makes them.
            key = f"order-{number}" if number % 2 else self.runtime.new_id()
            body = {"items": [{"work_type": "invoice", "payload": number}]}
            said = await self.post("/v1/submit", body, key)
            self.submitted[number] = said["results"][0]["work_item_id"]
            if len(self.submitted) == KILL_AT:
                kill(pid)
                self.killed.set()

    async def work(self, name: str) -> None:
        body = {"work_types": ["invoice"]}
        while sum(self.done.values()) < ITEMS:
            claimed = await self.post("/v1/claim?wait_s=1", body, self.runtime.new_id(), name)
            if claimed is None:
                continue
            self.done[claimed["item"]["payload"]] += 1
            held = {"work_item_id": claimed["work_item_id"], "token": claimed["token"]}
            result = {**held, "result": claimed["item"]["payload"] * 2}
            await self.post("/v1/complete", result, self.runtime.new_id(), name)


@pytest.mark.slow
async def test_a_coordinator_killed_under_load_costs_no_request(world: World) -> None:
    static = {"COORDINATOR_DISCOVERY": "static", "COORDINATORS": world.addresses}
    async with world.running(), aiohttp.ClientSession() as http:
        code, shown = await asyncio.to_thread(world.health, **static)
        assert (code, shown["ok"], len(shown["coordinators"])) == (0, True, 3), shown
        load = Load(http, world.url)
        async with asyncio.timeout(RUN_S), asyncio.TaskGroup() as tasks:
            for _ in range(SUBMITTERS):
                tasks.create_task(load.submit(world.pids[NAMES[0]]))
            for number in range(WORKERS):
                tasks.create_task(load.work(f"worker-{number}"))
        assert load.failures == []
        assert load.killed.is_set()
        assert load.done == Counter(range(ITEMS)), "each item once"
        async with Swarm.connect(world.nats_url, prefix=world.prefix) as swarm:
            await check_the_swarm(swarm, load)
        check_the_log(world)
        code, shown = await asyncio.to_thread(world.health, **static)
        state = {one["name"]: one["healthy"] for one in shown["coordinators"]}
        assert (code, shown["ok"]) == (1, False)
        assert state == {NAMES[0]: False, NAMES[1]: True, NAMES[2]: True}
        # NATS knows nothing of the dead one: those that live are fine.
        by_nats = {"NATS_URL": world.nats_url, "SWARM_PREFIX": world.prefix}
        code, shown = await asyncio.to_thread(world.health, **by_nats)
        assert (code, shown["source"]) == (0, "nats"), shown
        addresses = {one["address"] for one in shown["coordinators"]}
        assert addresses == {f"127.0.0.1:{port}" for port in world.ports[1:]}


async def check_the_swarm(swarm: Swarm, load: Load) -> None:
    stats = [one for one in (await swarm.stats()).values() if isinstance(one, ShardStats)]
    assert sum(one.submitted for one in stats) == ITEMS, "none stored twice"
    assert sum(one.conservation for one in stats) == 0
    seen = {item.work_item_id: item async for item in swarm.list(work_type="invoice")}
    assert sorted(seen) == sorted(load.submitted.values())
    ends = Counter((item.status, item.attempt) for item in seen.values())
    # One attempt each: no claim was granted whose answer got lost.
    assert ends == {("completed", 1): ITEMS}


def check_the_log(world: World) -> None:
    """nginx has spread the requests, and passed on those of the killed one."""
    log = world.access_log()
    served = Counter(tried[-1] for _, tried, _ in log)
    assert set(served) == {f"127.0.0.1:{port}" for port in world.ports}
    passed_on = [(asked, tried) for asked, tried, _ in log if len(tried) > 1]
    assert passed_on
    assert {tried[0] for _, tried in passed_on} == {f"127.0.0.1:{world.ports[0]}"}
    assert any(asked.startswith("POST") for asked, _ in passed_on)
    # Left alone after three failures, not tried for every request.
    assert len(passed_on) < len(log) / 4


def test_the_variant_for_tengine_is_the_same_but_for_its_checks() -> None:
    def directives(name: str) -> list[str]:
        lines = (CONFIGS / name).read_text("utf-8").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]

    plain, tengine = directives("swarm.conf"), directives("tengine.conf")
    checks = [line for line in tengine if line.startswith("check")]
    assert [line for line in tengine if line not in checks] == plain
    # As the scaling guide has them.
    assert checks == [
        "check interval=10000 rise=2 fall=5 timeout=5000 type=http;",
        r'check_http_send "GET /health HTTP/1.0\r\n\r\n";',
        "check_http_expect_alive http_2xx;",
    ]
