"""Consul: the healthy instances of a service, by blocking queries.

A blocking query (`/v1/health/service/<name>?index=…&wait=…`) is answered when the service has
changed since `index`, or after `wait`.  The rules for the index are those of Consul's
documentation: start anew from 0 when it goes backwards, and never ask with less than 1 again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import aiohttp
import msgspec
from msgspec import Struct, field

from swarm.discovery.base import Member, in_order
from swarm.discovery.fetching import ANSWER_S, failing, read, session, within

URL = "http://127.0.0.1:8500"
#: How long a question may wait for a change.
WAIT_S = 30.0
#: Between two questions that were answered at once: Consul may have nothing new and not wait.
PAUSE_S = 0.2


class _Node(Struct, rename="pascal"):
    address: str = ""


class _Service(Struct, rename="pascal"):
    id: str = field(default="", name="ID")
    address: str = ""
    port: int = 0


class _Instance(Struct, rename="pascal"):
    service: _Service
    node: _Node = field(default_factory=_Node)


_instances = msgspec.json.Decoder(list[_Instance])


class Consul:
    """The instances of `service` whose checks pass."""

    source = "consul"

    def __init__(self, url: str, service: str, token: str = "", wait_s: float = WAIT_S) -> None:
        self._url = f"{(url or URL).rstrip('/')}/v1/health/service/{service}"
        self._token = token
        self._wait_s = wait_s

    async def watch(self) -> AsyncGenerator[list[Member], None]:
        """See `Backend`."""
        headers = {"X-Consul-Token": self._token} if self._token else {}
        index = 0
        with failing("Consul"):
            async with session(headers) as http:
                while True:
                    members, now = await self._ask(http, index)
                    yield members
                    if now == index:
                        await asyncio.sleep(PAUSE_S)
                    index = now if now >= index else 0

    async def _ask(self, http: aiohttp.ClientSession, index: int) -> tuple[list[Member], int]:
        query = {"passing": "true"}
        limit_s = ANSWER_S
        if index:
            query |= {"index": str(index), "wait": f"{self._wait_s:g}s"}
            # Consul adds up to a sixteenth, so that not all ask again at once.
            limit_s += self._wait_s * 17 / 16
        async with http.get(self._url, params=query, timeout=within(limit_s)) as response:
            instances = await read(response, _instances)
            now = max(1, int(response.headers.get("X-Consul-Index", "0")))
        return in_order([_member(one) for one in instances]), now


def _member(one: _Instance) -> Member:
    host = one.service.address or one.node.address
    return Member(one.service.id or f"{host}:{one.service.port}", host, one.service.port)
