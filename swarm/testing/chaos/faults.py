"""Doing what the plan says, to whom it says, and undoing it."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from msgspec import Struct

from swarm.errors import SwarmError
from swarm.sdk.client import Swarm
from swarm.subjects import Subjects
from swarm.testing.chaos.cast import CAST, PREFIX, Company
from swarm.testing.chaos.net import Network
from swarm.testing.chaos.plan import Fault, Role

log = structlog.get_logger()

#: Finding out who leads or owns something.
ASK_S = 1.5
#: After its fault, a server has this long until it says that it is well.
WELL_S = 30.0
LOOK_S = 0.2


class Done(Struct):
    """A fault that was under way from `start` to `end`, wall clock."""

    label: str
    on: list[str]
    start: float
    end: float
    #: From the end of a server's fault until it said that it is well again; -1: it did not.
    well_after_s: float = 0.0


class Mischief:
    """Performs faults on a running company."""

    def __init__(self, company: Company, network: Network, swarm: Swarm) -> None:
        self._company = company
        self._network = network
        self._swarm = swarm
        self._subjects = Subjects(PREFIX)
        self._locks: dict[Role, asyncio.Lock] = {}
        self.done: list[Done] = []

    async def perform(self, plan: list[Fault], say: Callable[[str], None]) -> None:
        """The whole plan, each fault at its time; one that is late makes later ones late."""
        began = asyncio.get_running_loop().time()

        async def one(fault: Fault) -> None:
            await asyncio.sleep(began + fault.at_s - asyncio.get_running_loop().time())
            # What the plan keeps apart must not meet because something took longer.
            async with self._locks.setdefault(fault.role, asyncio.Lock()):
                await self._do(fault, say)

        async with asyncio.TaskGroup() as tasks:
            for fault in plan:
                tasks.create_task(one(fault))

    async def _do(self, fault: Fault, say: Callable[[str], None]) -> None:
        names = await self._targets(fault)
        say(f"{fault.label}: {', '.join(names)} for {fault.for_s:.1f} s")
        done = Done(fault.label, names, time.time(), 0.0)
        begin, undo = self._ways(fault, names)
        await begin()
        await asyncio.sleep(fault.for_s)
        await undo()
        done.end = time.time()
        self.done.append(done)
        if fault.role == "server":
            done.well_after_s = await self._until_well(names)

    def _ways(
        self, fault: Fault, names: list[str]
    ) -> tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]:
        """How to begin and how to undo."""
        members = [self._company.members[name] for name in names]
        network = self._network

        async def kill() -> None:
            await asyncio.gather(*(member.kill() for member in members))

        async def end() -> None:
            await asyncio.gather(*(member.end() for member in members))

        async def start() -> None:
            for member in members:
                await member.start()

        async def each(act: Callable[[Any], None], among: list[Any]) -> None:
            for one in among:
                act(one)

        match fault.kind:
            case "kill":
                return kill, start
            case "restart":
                return end, start
            case "stop":
                return (
                    lambda: each(lambda member: member.pause(), members),
                    lambda: each(lambda member: member.go_on(), members),
                )
            case "cut":
                return lambda: each(network.cut, names), lambda: each(network.heal, names)
            case "split":
                pair = [(names[0], names[1])]
                return (
                    lambda: each(lambda two: network.split(*two), pair),
                    lambda: each(lambda two: network.join(*two), pair),
                )

    # --- on whom ---------------------------------------------------------------------

    async def _targets(self, fault: Fault) -> list[str]:
        if fault.pick != "chief":
            return fault.names
        ask = self._leader if fault.role == "server" else self._owner
        try:
            async with asyncio.timeout(ASK_S):
                found = await ask(fault.shard)
        except (SwarmError, TimeoutError, ValueError) as error:
            log.info("nobody knows the chief", fault=fault.label, error=str(error))
            return fault.names
        return [found] if found in CAST.of(fault.role) else fault.names

    async def _leader(self, shard: int) -> str:
        """The server that leads the stream of this shard."""
        stream = self._subjects.log(shard).replace(".", "_")
        answer = await self._swarm.bus.request(f"$JS.API.STREAM.INFO.{stream}", b"", ASK_S)
        leader = json.loads(answer.data).get("cluster", {}).get("leader", "")
        return str(leader)

    async def _owner(self, shard: int) -> str:
        beats = (await self._swarm.describe(timeout_s=ASK_S)).coordinators
        return next((beat.coordinator for beat in beats if shard in beat.owns), "")

    # --- afterwards --------------------------------------------------------------------

    async def _until_well(self, servers: list[str]) -> float:
        """Seconds until all of them say that they have caught up; -1 if they do not in time."""
        clock = asyncio.get_running_loop().time
        began = clock()
        while clock() < began + WELL_S:
            found = await asyncio.gather(*(asyncio.to_thread(self._is_well, s) for s in servers))
            if all(found):
                return clock() - began
            await asyncio.sleep(LOOK_S)
        return -1.0

    def _is_well(self, server: str) -> bool:
        """What `/healthz` says: up, and current in every stream."""
        # Without the proxies of the environment.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self._company.monitor(server)}/healthz", timeout=ASK_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
