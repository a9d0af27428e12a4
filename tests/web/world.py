"""A swarm in memory with HTTP in front, spoken to by real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import msgspec

from swarm.actors.coordinator import Coordinator
from swarm.actors.router import Router
from swarm.bus.memory import MemoryBus, MemoryWorld
from swarm.config import Settings
from swarm.discovery.base import Member, MemberSet
from swarm.messages import ShardMap
from swarm.runtime import Runtime
from swarm.sdk.client import Swarm
from swarm.web.api import Api
from swarm.web.http import HttpServer

SETTINGS = Settings(
    shard_count=8,
    coordinators=["c1", "c2"],
    beat_s=0.02,
    missed_s=0.3,
    heartbeat_s=0.5,
    lease_s=5.0,
    append_timeout_s=0.5,
)
MEMBERS = MemberSet("static", [Member("c1", "10.0.0.1", 4000)], as_of=1.5)
DEADLINE_S = 20.0
POLL_S = 0.01


class Answer(NamedTuple):
    """What HTTP answered."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])


class HttpWorld:
    """Coordinators, a router, and some HTTP fronts, each with a connection of its own."""

    def __init__(
        self,
        max_payload: int = 1024 * 1024,
        shard_key: str = "hash",
        distribution: str = "consistent_hash",
    ) -> None:
        self.world = MemoryWorld.on_wall_clock(max_payload=max_payload)
        self.map = ShardMap(1, SETTINGS.shard_count, shard_key, distribution, ["c1", "c2"])
        self.coordinators: dict[str, Coordinator] = {}
        self.router = Router(self.world.connect("r1"), SETTINGS, self.map)
        self.swarm = Swarm(self.world.connect("me"))
        self.fronts: list[HttpServer] = []
        self.apis: list[Api] = []
        self.buses: list[MemoryBus] = []
        self._ids = self._fresh_ids()
        self._http: aiohttp.ClientSession

    async def start(self, fronts: int = 2) -> None:
        await self.router.start()
        for name in ("c1", "c2"):
            coordinator = Coordinator(self.world.connect(name), SETTINGS, name, self.map)
            self.coordinators[name] = coordinator
            await coordinator.start()
        for number in range(fronts):
            api = Api("swarm", lambda: MEMBERS)
            bus = self.world.connect(f"front-{number}")
            api.connected(bus)
            server = HttpServer({}, api=api)
            await server.start("127.0.0.1", 0)
            self.fronts.append(server)
            self.apis.append(api)
            self.buses.append(bus)
        self._http = aiohttp.ClientSession()
        await until(lambda: self.owned() == SETTINGS.shard_count)
        # A router must have heard who owns what.
        await until(lambda: sum(len(beat.owns) for beat in self.router.live()) == self.owned())

    async def stop(self) -> None:
        await self._http.close()
        for front in self.fronts:
            await front.stop()
        for coordinator in self.coordinators.values():
            await coordinator.stop()
        await self.router.stop()

    def owned(self) -> int:
        return sum(len(one.owned) for one in self.coordinators.values())

    def id(self) -> str:
        """A fresh command id."""
        return next(self._ids)

    def _fresh_ids(self) -> Iterator[str]:
        runtime = Runtime()
        while True:
            yield runtime.new_id()

    async def post(
        self,
        path: str,
        body: Any,
        *,
        key: str | None = None,
        sender: str = "",
        front: int = 0,
        **more: Any,
    ) -> Answer:
        """POST; `body` bytes as they are, anything else as JSON."""
        headers = {"Swarm-Sender": sender} if sender else {}
        if key is not None:
            headers["Idempotency-Key"] = key
        data = body if not isinstance(body, dict) else msgspec.json.encode(body)
        return await self.ask("POST", path, front=front, data=data, headers=headers, **more)

    async def get(self, path: str, front: int = 0) -> Answer:
        return await self.ask("GET", path, front=front)

    async def ask(self, method: str, path: str, front: int = 0, **more: Any) -> Answer:
        url = self.fronts[front].url + path
        async with self._http.request(method, url, **more) as response:
            body = msgspec.json.decode(await response.read())
            return Answer(response.status, body, dict(response.headers))

    async def submitted(self, count: int = 1, work_type: str = "text") -> list[str]:
        """Ids of fresh items."""
        items = [{"work_type": work_type, "payload": number} for number in range(count)]
        answer = await self.post("/v1/submit", {"items": items}, key=self.id())
        assert answer.status == 200, answer
        return [result["work_item_id"] for result in answer.body["results"]]

    async def claimed(self, agent: str = "ada") -> dict[str, Any]:
        """A fresh item, held by `agent`."""
        await self.submitted()
        answer = await self.post("/v1/claim", {"work_types": ["text"]}, key=self.id(), sender=agent)
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.body
        return found


@asynccontextmanager
async def running(**more: Any) -> AsyncIterator[HttpWorld]:
    """From ready to stopped."""
    world = HttpWorld(**more)
    await world.start()
    try:
        yield world
    finally:
        await world.stop()


async def until(condition: Callable[[], object]) -> None:
    """Wait for it, with a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(POLL_S)
