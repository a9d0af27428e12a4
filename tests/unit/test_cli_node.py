"""What `swarm node` and `swarm up` are made of: the shard map, HTTP, child processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from swarm.actors import shard_map
from swarm.bus.memory import MemoryWorld
from swarm.config import Settings
from swarm.errors import BadConfig, BadInput, BusTimeout
from swarm.hosting.children import Child, describe_code, last_words
from swarm.hosting.node import Node, NodePlan
from swarm.hosting.process import cancelled, unless
from swarm.hosting.supervisor import Supervisor, UpPlan, is_free, usual_port
from swarm.messages import ShardMap
from swarm.testing.ports import free_ports
from swarm.web.http import HttpServer
from tests.acceptance.processes import TakenPort

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0
POLL_S = 0.01

# --- the shard map -----------------------------------------------------------------------


async def test_the_first_makes_the_map_and_the_others_take_it() -> None:
    world = MemoryWorld.on_wall_clock()
    settings = Settings(shard_count=3, shard_key="work_type")
    maps = await asyncio.gather(
        *(shard_map.agree(world.connect(f"c{n}"), settings) for n in range(5))
    )
    assert maps == 5 * [
        ShardMap(1, 3, "work_type", "consistent_hash", ["coordinator-1", "coordinator-2"])
    ]


async def test_the_list_of_coordinators_may_change() -> None:
    world = MemoryWorld.on_wall_clock()
    await shard_map.agree(world.connect("a"), Settings(coordinators=["x"]))
    map_ = await shard_map.agree(world.connect("b"), Settings(coordinators=["x", "y"]))
    assert map_.coordinators == ["x", "y"]


@pytest.mark.parametrize(
    ("settings", "fragments"),
    [
        (Settings(shard_count=8), ["SHARD_COUNT is 8 here, but 16", "start with SHARD_COUNT=16"]),
        (Settings(shard_key="priority"), ["SHARD_KEY is priority here, but hash"]),
        (
            Settings(shard_count=8, shard_key="priority"),
            ["start with SHARD_COUNT=16 SHARD_KEY=hash"],
        ),
    ],
)
async def test_a_map_that_places_items_otherwise_is_refused(
    settings: Settings, fragments: list[str]
) -> None:
    world = MemoryWorld.on_wall_clock()
    await shard_map.agree(world.connect("a"), Settings())
    with pytest.raises(BadConfig) as caught:
        await shard_map.agree(world.connect("b"), settings)
    for fragment in fragments:
        assert fragment in str(caught.value)


async def test_a_map_that_cannot_be_read_is_named() -> None:
    bus = MemoryWorld.on_wall_clock().connect("a")
    assert await bus.state_create(shard_map.KEY, b'{"version": "?"}')
    with pytest.raises(BadConfig, match=r"cannot be read .* use another SWARM_PREFIX"):
        await shard_map.agree(bus, Settings())


async def test_a_swarm_that_was_resized_takes_nodes_with_the_settings_that_it_had() -> None:
    world = MemoryWorld.on_wall_clock()
    bus = world.connect("a")
    grown = ShardMap(3, 24, "hash", "consistent_hash", ["x"], accepts=20, began_with=16)
    assert await bus.state_create(shard_map.KEY, msgspec.json.encode(grown))
    for count in (16, 20, 24):
        map_ = await shard_map.agree(bus, Settings(shard_count=count, coordinators=["x"]))
        assert map_ == grown
    with pytest.raises(BadConfig, match="swarm shards resize 32"):
        await shard_map.agree(bus, Settings(shard_count=32))


async def test_without_sharding_there_is_one_shard() -> None:
    world = MemoryWorld.on_wall_clock()
    settings = Settings(sharding_enabled=False)
    assert (await shard_map.agree(world.connect("a"), settings)).shard_count == 1
    with pytest.raises(BadConfig, match="SHARD_COUNT is 16 here, but 1 in"):
        await shard_map.agree(world.connect("b"), Settings())


async def test_a_combination_that_makes_hot_shards_is_warned_of() -> None:
    with structlog.testing.capture_logs() as logged:
        for key, distribution in (("priority", "range"), ("hash", "range")):
            world = MemoryWorld.on_wall_clock()
            settings = Settings(shard_key=key, shard_distribution=distribution)
            await shard_map.agree(world.connect("a"), settings)
    (line,) = [line for line in logged if line["event"] == "hot shards"]
    assert line["log_level"] == "warning"
    assert "SHARD_KEY=priority with SHARD_DISTRIBUTION=range" in line["why"]


class LaggingBus:
    """The map exists, but this replica does not know it yet."""

    def __init__(self, reads_without: int) -> None:
        self.reads_left = reads_without

    async def state_create(self, key: str, value: bytes) -> bool:
        return False

    async def state_get(self, key: str) -> bytes | None:
        self.reads_left -= 1
        if self.reads_left >= 0:
            return None
        names = Settings().coordinator_names
        return msgspec.json.encode(ShardMap(1, 16, "hash", "consistent_hash", names))


async def test_a_replica_that_lags_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_map, "READ_PAUSE_S", 0.0)
    bus: Any = LaggingBus(shard_map.READ_TRIES - 1)
    assert (await shard_map.agree(bus, Settings())).shard_count == 16
    bus = LaggingBus(shard_map.READ_TRIES)
    with pytest.raises(BusTimeout, match="exists, but cannot be read"):
        await shard_map.agree(bus, Settings())


# --- HTTP --------------------------------------------------------------------------------


@pytest.fixture
async def http() -> AsyncIterator[HttpServer]:
    good = (True, {"status": "alive"})
    bad = (False, {"ready": False, "why": ["a reason"]})
    server = HttpServer({"/health": lambda: good, "/ready": lambda: bad})
    await server.start("127.0.0.1", 0)
    yield server
    await server.stop()
    await server.stop()


async def get(url: str) -> tuple[int, str, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, answer.content_type, await answer.read()


async def test_a_good_probe_is_200_and_a_bad_one_503(http: HttpServer) -> None:
    assert await get(http.url + "/health") == (200, "application/json", b'{"status":"alive"}')
    status, kind, body = await get(http.url + "/ready")
    assert (status, kind) == (503, "application/json")
    assert msgspec.json.decode(body) == {"ready": False, "why": ["a reason"]}
    assert (await get(http.url + "/other"))[0] == 404


async def test_a_port_in_use_is_named(http: HttpServer) -> None:
    port = int(http.url.rpartition(":")[2])
    with pytest.raises(BadInput, match=f"HTTP port {port} on 127.0.0.1 is in use; choose another"):
        await HttpServer({}).start("127.0.0.1", port)


async def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(BadInput, match=r"HTTP port 0 on 192\.0\.2\.1 cannot be listened on"):
        await HttpServer({}).start("192.0.2.1", 0)


# --- a node that has not started ---------------------------------------------------------


def plan(*roles: str, node_id: str = "coordinator-1") -> NodePlan:
    return NodePlan(
        node_id=node_id, roles=roles, nats_url="nats://127.0.0.1:1", settings=Settings()
    )


async def test_before_its_start_a_node_is_alive_but_not_ready() -> None:
    node = Node(plan("coordinator", "router"))
    assert node.health()[0]
    ready, body = node.ready()
    assert not ready
    assert body["why"] == [
        "not connected to NATS",
        "the coordinator has not started yet",
        "the router does not run",
    ]


@pytest.mark.parametrize(
    ("roles", "node_id", "error", "message"),
    [
        ((), "a", BadInput, "no role was given; allowed: coordinator, router"),
        (("cook",), "a", BadInput, "role 'cook' is none"),
        (("router",), "a.b", BadInput, "node id 'a.b' cannot be used"),
        (("coordinator",), "c", BadConfig, r"not among the swarm's .*\(coordinator-1, "),
    ],
)
def test_a_node_that_makes_no_sense(
    roles: tuple[str, ...], node_id: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Node(plan(*roles, node_id=node_id))


# --- children ----------------------------------------------------------------------------


class Watched:
    """A child whose program is given by Python code."""

    def __init__(self, tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wrong_use: list[str] = []
        self.log = tmp_path / "child.log"
        self.child = Child("child", [], self.log, dict(os.environ), self.wrong_use.append)
        monkeypatch.setattr(self.child, "_command", [sys.executable, "-c", code])
        monkeypatch.setattr("swarm.hosting.children.RESTART_FIRST_S", 0.001)

    async def until_said(self, text: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            # Another process writes it; nothing tells us.
            while not self.log.exists() or text not in self.log.read_text():  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)


async def test_a_child_that_ends_is_started_again_and_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"""
import os, sys
path = {str(tmp_path / "count")!r}
number = len(open(path).read()) if os.path.exists(path) else 0
open(path, "a").write("x")
if number < 3:
    sys.exit(f"swarm: death number {{number}}")
print("alive at last", flush=True)
sys.stdin.read()
"""
    watched = Watched(tmp_path, code, monkeypatch)
    with capture_logs() as logs:
        await watched.child.start()
        await watched.until_said("alive at last")
    assert [(entry["how"], entry["said"]) for entry in logs] == [
        ("exit code 1", f"death number {number}") for number in range(3)
    ]
    assert [entry["pause_s"] for entry in logs] == [0.001, 0.002, 0.004]
    async with asyncio.timeout(DEADLINE_S):
        while watched.child.restarts < 3:  # noqa: ASYNC110 - counted a moment after it has said so
            await asyncio.sleep(0)
    assert watched.child.restarts == 3
    pid = watched.child.pid
    assert pid is not None
    await watched.child.stop(DEADLINE_S)
    await watched.child.stop(DEADLINE_S)
    assert watched.child.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_child_that_was_started_wrongly_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; print('swarm: SHARD_COUNT is odd', file=sys.stderr); sys.exit(2)"
    watched = Watched(tmp_path, code, monkeypatch)
    await watched.child.start()
    async with asyncio.timeout(DEADLINE_S):
        while not watched.wrong_use:  # noqa: ASYNC110 - said once, by another task
            await asyncio.sleep(POLL_S)
    assert watched.wrong_use == ["child: SHARD_COUNT is odd"]
    assert watched.child.restarts == 0
    await watched.child.stop(DEADLINE_S)


async def test_a_child_that_does_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('deaf', flush=True); sys.stdin.read()"
    )
    watched = Watched(tmp_path, code, monkeypatch)
    await watched.child.start()
    await watched.until_said("deaf")
    with capture_logs() as logs:
        await watched.child.stop(0.05)
    assert [entry["event"] for entry in logs] == ["killed: it did not stop in time"]
    assert watched.child.pid is None


async def test_a_big_log_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.hosting.children.LOG_BYTES_MAX", 3)
    watched = Watched(tmp_path, "import sys; print('new'); sys.stdin.read()", monkeypatch)
    watched.log.write_text("older")
    await watched.child.start()
    await watched.child.stop(DEADLINE_S)
    assert (tmp_path / "child.log.1").read_text() == "older"
    assert "older" not in watched.log.read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "nothing"),
        ("a\nb\n", "b"),
        ("swarm: what is wrong\nand more\n", "what is wrong"),
        ("\n\n", "nothing"),
    ],
)
def test_last_words(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "log"
    path.write_text("swarm: of an earlier life\n" + text)
    assert last_words(path, len("swarm: of an earlier life\n")) == words


def test_last_words_without_a_log(tmp_path: Path) -> None:
    assert "cannot be read" in last_words(tmp_path / "none")


@pytest.mark.parametrize(
    ("code", "text"), [(1, "exit code 1"), (-9, "killed by SIGKILL"), (-63, "killed by signal 63")]
)
def test_how_a_process_ended(code: int, text: str) -> None:
    assert describe_code(code) == text


# --- starting and stopping -----------------------------------------------------------------


async def test_work_is_dropped_when_it_is_to_stop() -> None:
    stop = asyncio.Event()
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(unless(stop, work()))
    await begun.wait()
    stop.set()
    assert await running is False


async def test_work_that_ends_first_counts() -> None:
    assert await unless(asyncio.Event(), asyncio.sleep(0)) is True
    with pytest.raises(ZeroDivisionError):
        await unless(asyncio.Event(), _failing())


async def _failing() -> None:
    raise ZeroDivisionError


async def test_a_task_that_loses_its_cancellation_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swarm.hosting.process.CANCEL_AGAIN_S", 0.01)
    lost: list[int] = []

    async def forgetful() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost.append(1)
                if len(lost) == 3:
                    raise

    task = asyncio.create_task(forgetful())
    await asyncio.sleep(0)
    await cancelled(task)
    assert task.cancelled()
    assert len(lost) == 3


def test_a_hanging_loop_does_not_outlive_its_parent() -> None:
    """The thread that watches stdin ends the process when the loop does not."""
    code = (
        "import asyncio, time\n"
        "from swarm.hosting.process import stop_with_stdin\n"
        "async def main():\n"
        "    stop_with_stdin(lambda: None, 0.05)\n"
        "    print('hanging', flush=True)\n"
        "    time.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"hanging\n"
    process.stdin.close()
    assert process.wait(DEADLINE_S) == 1
    process.stdout.close()


# --- the supervisor ------------------------------------------------------------------------


def test_more_processes_than_names_make_no_sense(tmp_path: Path) -> None:
    settings = Settings(coordinators=["a"], parallel_workers=2)
    with pytest.raises(BadConfig, match="PARALLEL_WORKERS = 2 does not go with COORDINATORS"):
        Supervisor(UpPlan(data_dir=tmp_path, settings=settings))


async def test_the_port_of_the_last_time_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    assert await usual_port(port) == port
    monkeypatch.setattr("swarm.hosting.supervisor.LAST_PORT_S", 0.05)
    with TakenPort() as taken:
        assert not is_free(taken)
        assert await usual_port(taken) in (4222, 0)
        monkeypatch.setattr("swarm.hosting.supervisor.NATS_PORT", taken)
        assert await usual_port(0) == 0
