"""HTTP of a real node on a real NATS: the API, who is there, and how NATS is found."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

from swarm.bus.embedded import EmbeddedServer
from swarm.config import Settings
from swarm.errors import BadConfig, DiscoveryFailed
from swarm.hosting.node import Node, NodePlan
from swarm.runtime import Runtime
from swarm.testing.ports import free_ports
from tests.discovery.fakes import FakeConsul, serving
from tests.parts import until

NAME = "coordinator-1"


def plan(url: str, prefix: str, **more: Any) -> NodePlan:
    """A coordinator and router that answers HTTP at any free port."""
    given = {"shard_count": 2, "coordinators": [NAME], "prefix": prefix}
    settings = Settings(**{**given, **more.pop("settings", {})})
    return NodePlan(
        node_id=NAME,
        roles=("coordinator", "router"),
        nats_url=url,
        settings=settings,
        http_host="127.0.0.1",
        connect_s=more.pop("connect_s", 10.0),
        **more,
    )


@asynccontextmanager
async def started(what: NodePlan) -> AsyncIterator[Node]:
    node = Node(what)
    try:
        await node.start()
        yield node
    finally:
        await node.stop()


async def get(url: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        return answer.status, msgspec.json.decode(await answer.read())


async def test_work_over_http_on_a_real_nats(nats_server: EmbeddedServer, nats_prefix: str) -> None:
    async with started(plan(nats_server.url, nats_prefix)) as node:
        await until(lambda: node.ready()[0])
        ids = Runtime()
        async with aiohttp.ClientSession(node.http_url) as http:
            one = {"items": [{"work_type": "text", "payload": 7}]}
            headers = {"Idempotency-Key": "order-1"}
            async with http.post("/v1/submit", json=one, headers=headers) as answer:
                (stored,) = (await answer.json())["results"]
            headers = {"Idempotency-Key": ids.new_id(), "Swarm-Sender": "ada"}
            types = {"work_types": ["text"]}
            claims = []
            for _ in range(2):
                async with http.post("/v1/claim", json=types, headers=headers) as answer:
                    claims.append(await answer.json())
            assert claims[0] == claims[1]
            assert claims[0]["work_item_id"] == stored["work_item_id"]
            # A shard that nobody serves: NATS says so.
            headers = {"Idempotency-Key": ids.new_id()}
            held = {"work_item_id": "99-1", "token": "t"}
            path = "/v1/complete?timeout_s=0.3"
            async with http.post(path, json=held, headers=headers) as answer:
                assert answer.status == 503
                assert (await answer.json())["error"]["code"] == "unavailable"


async def test_members_are_who_beats_with_their_addresses(
    nats_server: EmbeddedServer, nats_prefix: str
) -> None:
    settings = {"missed_s": 0.6}
    async with started(plan(nats_server.url, nats_prefix, settings=settings)) as node:
        assert node._discovery is not None
        await until(lambda: node._discovery is not None and node._discovery.current.members)
        status, shown = await get(f"{node.http_url}/members")
        port = int(node.http_url.rpartition(":")[2])
        assert status == 200
        assert (shown["source"], shown["stale"]) == ("nats", False)
        assert shown["members"] == [{"name": NAME, "host": "127.0.0.1", "port": port}]
        metrics = (await node.metrics())[0].decode()
        assert 'swarmsh_discovered_coordinators{source="nats"} 1.0' in metrics
        assert 'swarmsh_discovery_stale{source="nats"} 0.0' in metrics


async def test_one_that_is_about_to_leave_is_not_ready(
    nats_server: EmbeddedServer, nats_prefix: str
) -> None:
    async with started(plan(nats_server.url, nats_prefix)) as node:
        await until(lambda: node.ready()[0])
        await node.drain()
        status, shown = await get(f"{node.http_url}/ready")
        assert (status, shown["why"]) == (503, ["it is about to leave"])
        # What is asked of it until it stops is answered all the same.
        assert (await get(f"{node.http_url}/v1/items"))[0] == 200


async def test_http_over_ipv6(nats_server: EmbeddedServer, nats_prefix: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"NOT TESTED: there is no IPv6 here: {error}")
    what = dataclasses.replace(plan(nats_server.url, nats_prefix), http_host="::1")
    async with started(what) as node:
        assert node.http_url.startswith("http://[::1]:")
        assert node.http_address == node.http_url.removeprefix("http://")
        assert (await get(f"{node.http_url}/health"))[0] == 200


async def test_an_address_for_others_is_announced(
    nats_server: EmbeddedServer, nats_prefix: str
) -> None:
    what = plan(nats_server.url, nats_prefix, http_address="lb.example.com:80")
    async with started(what) as node:
        await until(lambda: node.live)
        assert node.live[NAME].http == "lb.example.com:80"


async def test_the_api_can_be_left_out(nats_server: EmbeddedServer, nats_prefix: str) -> None:
    what = plan(nats_server.url, nats_prefix, settings={"http_api": False})
    async with started(what) as node:
        assert (await get(f"{node.http_url}/health"))[0] == 200
        for path in ("/v1/items", "/v1/id"):
            status, said = await get(node.http_url + path)
            assert (status, said["error"]["code"]) == (404, "not_found")


async def test_nats_is_found_by_discovery(nats_server: EmbeddedServer, nats_prefix: str) -> None:
    fake = FakeConsul()
    port = int(nats_server.url.rpartition(":")[2])
    async with serving(fake):
        await fake.set(n1=("127.0.0.1", port))
        settings = {"discovery": "consul", "discovery_url": fake.url}
        async with started(plan("discovery:swarm", nats_prefix, settings=settings)) as node:
            await until(lambda: node.ready()[0])
            _, shown = await get(f"{node.http_url}/members")
            assert (shown["source"], shown["members"][0]["name"]) == ("consul", "n1")


async def test_nats_that_is_not_found_is_said(nats_prefix: str) -> None:
    (dead,) = free_ports(1)
    settings = {"discovery": "consul", "discovery_url": f"http://127.0.0.1:{dead}"}
    what = plan("discovery:nats", nats_prefix, settings=settings, connect_s=0.3)
    with pytest.raises(DiscoveryFailed, match="no NATS server was found for discovery:nats"):
        async with started(what):
            pass
    what = plan("discovery:nats", nats_prefix)
    with pytest.raises(BadConfig, match="NATS servers are found by"):
        async with started(what):
            pass
