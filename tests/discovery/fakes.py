"""Servers that keep to the documented wire protocols of Consul and of Kubernetes' API.

No such server can be installed where these tests run.  What is written down here is what their
documentation says: Consul's "Blocking queries" and "Health HTTP endpoint", Kubernetes' "API
concepts: efficient detection of changes" and the EndpointSlice v1 reference.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web


class Fake:
    """An HTTP server that can be taken down and brought back at the same port."""

    def __init__(self) -> None:
        self._runner: web.AppRunner | None = None
        self.port = 0
        #: With one, it speaks TLS.
        self.tls: ssl.SSLContext | None = None
        self.asked: list[web.Request] = []
        #: Answers with this status instead; 0: as it should.
        self.fail_with = 0
        self.changed = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def routes(self, app: web.Application) -> None:
        raise NotImplementedError

    async def up(self) -> None:
        app = web.Application()
        self.routes(app)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, "127.0.0.1", self.port, reuse_address=True, ssl_context=self.tls
        )
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


@asynccontextmanager
async def serving(fake: Fake) -> AsyncIterator[None]:
    await fake.up()
    try:
        yield
    finally:
        await fake.down()


class FakeConsul(Fake):
    """`/v1/health/service/<name>` with blocking queries."""

    def __init__(self) -> None:
        super().__init__()
        #: X-Consul-Index: grows with every change, and starts anew with the server.
        self.index = 7
        self.instances: dict[str, dict[str, Any]] = {}

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/v1/health/service/{name}", self._health)

    async def set(self, **instances: tuple[str, int]) -> None:
        """The passing instances, by id: (service address, port)."""
        self.instances = {
            name: {
                "Node": {"Node": "host-1", "Address": "10.9.9.9", "Datacenter": "dc1"},
                "Service": {
                    "ID": name,
                    "Service": "swarm",
                    "Address": address,
                    "Port": port,
                    "Meta": None,
                },
                "Checks": [{"CheckID": "serfHealth", "Status": "passing"}],
            }
            for name, (address, port) in instances.items()
        }
        async with self.changed:
            self.index += 1
            self.changed.notify_all()

    async def _health(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        if self.fail_with:
            return web.Response(status=self.fail_with, text="No cluster leader")
        assert request.match_info["name"] == "swarm"
        assert request.query["passing"] == "true"
        index = int(request.query.get("index", "0"))
        if index:
            # "If the index has not changed, wait": a smaller or larger one is answered at once.
            wait_s = float(request.query["wait"].removesuffix("s"))
            try:
                async with asyncio.timeout(wait_s), self.changed:
                    await self.changed.wait_for(lambda: self.index != index)
            except TimeoutError:
                pass  # "after the wait the same index is returned"
        body = msgspec.json.encode(list(self.instances.values()))
        headers = {"X-Consul-Index": str(self.index), "X-Consul-Knownleader": "true"}
        return web.Response(body=body, content_type="application/json", headers=headers)


class FakeKubernetes(Fake):
    """List and watch of EndpointSlices in one namespace."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 100
        #: Events before this version are not known any more.
        self.oldest = 0
        self.slices: dict[str, dict[str, Any]] = {}
        self.events: list[tuple[int, str, dict[str, Any]]] = []
        self.expired_in_stream = False

    def routes(self, app: web.Application) -> None:
        path = "/apis/discovery.k8s.io/v1/namespaces/agents/endpointslices"
        app.router.add_get(path, self._slices)

    async def put(self, name: str, *endpoints: dict[str, Any], port: int = 4000) -> None:
        kind = "MODIFIED" if name in self.slices else "ADDED"
        made = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "swarm"}},
            "addressType": "IPv4",
            "endpoints": list(endpoints) or None,
            "ports": [{"name": "metrics", "port": 9}, {"name": "http", "port": port}],
        }
        self.slices[name] = made
        await self._happened(kind, made)

    async def delete(self, name: str) -> None:
        await self._happened("DELETED", self.slices.pop(name))

    async def _happened(self, kind: str, made: dict[str, Any]) -> None:
        async with self.changed:
            self.version += 1
            made["metadata"] = {**made["metadata"], "resourceVersion": str(self.version)}
            self.events.append((self.version, kind, made))
            self.changed.notify_all()

    async def _slices(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        if self.fail_with:
            return web.Response(status=self.fail_with, text="etcdserver: leader changed")
        assert request.query["labelSelector"] == "kubernetes.io/service-name=swarm"
        if request.query.get("watch") == "true":
            return await self._watch(request)
        body = {
            "kind": "EndpointSliceList",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"resourceVersion": str(self.version)},
            "items": list(self.slices.values()),
        }
        return web.json_response(body)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        seen = int(request.query["resourceVersion"])
        limit_s = float(request.query["timeoutSeconds"])
        expired = {"kind": "Status", "code": 410, "message": "too old resource version"}
        if seen < self.oldest and not self.expired_in_stream:
            return web.json_response(expired, status=410)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if seen < self.oldest:
            await response.write(_line("ERROR", expired))
            return response
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    for version, kind, made in list(self.events):
                        if version > seen:
                            await response.write(_line(kind, made))
                            seen = version
                    async with self.changed:
                        await self.changed.wait_for(lambda: self.version != seen)  # noqa: B023
        except TimeoutError:
            pass  # a watch ends in order when its time is over
        mark = {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(self.version)}}
        await response.write(_line("BOOKMARK", mark))
        return response


def _line(kind: str, made: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"type": kind, "object": made}) + b"\n"


def endpoint(address: str, **more: Any) -> dict[str, Any]:
    """An endpoint of a slice."""
    return {"addresses": [address], "conditions": {"ready": True}, **more}
