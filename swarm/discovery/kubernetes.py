"""Kubernetes: the EndpointSlices of a service, listed and then watched.

List, remember the list's `resourceVersion`, watch from there; when the API server says that this
version is too old (410), list again.  Each watch ends after some time by the server's own
clock, and the next goes on where it ended.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import aiohttp
import msgspec
from msgspec import Raw, Struct

from swarm.discovery.base import Member, in_order
from swarm.discovery.fetching import (
    ANSWER_S,
    as_long_as_it_speaks,
    expect_ok,
    failing,
    read,
    session,
)
from swarm.errors import BadConfig

#: What a pod finds of its own account.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: How long a watch lasts.
WATCH_S = 30


class _Conditions(Struct):
    terminating: bool | None = None


class _Target(Struct):
    name: str = ""


class _Endpoint(Struct, rename="camel"):
    addresses: list[str] = []
    conditions: _Conditions = msgspec.field(default_factory=_Conditions)
    hostname: str | None = None
    target_ref: _Target | None = None


class _Port(Struct):
    name: str | None = None
    port: int | None = None


class _Metadata(Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _Slice(Struct):
    metadata: _Metadata
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


class _List(Struct):
    metadata: _Metadata
    items: list[_Slice] | None = None


class _Event(Struct):
    type: str
    object: Raw


class _Status(Struct):
    code: int = 0
    message: str = ""


_list = msgspec.json.Decoder(_List)
_event = msgspec.json.Decoder(_Event)
_slice = msgspec.json.Decoder(_Slice)
_status = msgspec.json.Decoder(_Status)


class Kubernetes:
    """The endpoints of ``<service>[.<namespace>[.…]]`` that are not about to end."""

    source = "kubernetes"

    def __init__(
        self,
        url: str,
        service: str,
        port_name: str,
        watch_s: int = WATCH_S,
        account: Path = ACCOUNT,
    ) -> None:
        self._account = account
        name, _, rest = service.partition(".")
        namespace = rest.partition(".")[0] or self._from_account("namespace") or "default"
        self._url = f"{url.rstrip('/') or _in_cluster()}/apis/discovery.k8s.io/v1/namespaces/"
        self._url += f"{namespace}/endpointslices"
        self._selector = {"labelSelector": f"kubernetes.io/service-name={name}"}
        self._port_name = port_name
        self._watch_s = watch_s

    async def watch(self) -> AsyncGenerator[list[Member], None]:
        """See `Backend`."""
        # Read anew each time: an account's token changes under way.
        token = await asyncio.to_thread(self._from_account, "token")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with failing("the Kubernetes API"):
            tls = await asyncio.to_thread(self._tls)
            async with session(headers) as http:
                slices, version = await self._list(http, tls)
                yield self._members(slices)
                while True:
                    async with aclosing(self._events(http, tls, version)) as events:
                        async for event in events:
                            version = _apply(event, slices)
                            if not version:
                                return  # too old: list again
                            yield self._members(slices)
                    yield self._members(slices)  # it has ended in order: this is still so

    async def _list(
        self, http: aiohttp.ClientSession, tls: ssl.SSLContext | bool
    ) -> tuple[dict[str, _Slice], str]:
        async with http.get(self._url, params=self._selector, ssl=tls) as response:
            answer = await read(response, _list)
        return {one.metadata.name: one for one in answer.items or ()}, (
            answer.metadata.resource_version or "0"
        )

    async def _events(
        self, http: aiohttp.ClientSession, tls: ssl.SSLContext | bool, version: str
    ) -> AsyncGenerator[_Event, None]:
        query = {
            **self._selector,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._watch_s),
        }
        limit = as_long_as_it_speaks(self._watch_s + ANSWER_S)
        async with http.get(self._url, params=query, ssl=tls, timeout=limit) as response:
            if response.status == 410:
                yield _Event("ERROR", Raw(b'{"code":410}'))
                return
            await expect_ok(response)
            while line := await response.content.readline():
                yield _event.decode(line)

    def _members(self, slices: dict[str, _Slice]) -> list[Member]:
        found = []
        for one in slices.values():
            port = _port(one.ports or [], self._port_name)
            for endpoint in one.endpoints or ():
                if endpoint.conditions.terminating or not endpoint.addresses:
                    continue
                # All addresses of an endpoint are alike.
                host = endpoint.addresses[0]
                named = endpoint.target_ref.name if endpoint.target_ref else ""
                found.append(Member(endpoint.hostname or named or host, host, port))
        return in_order(found)

    def _from_account(self, name: str) -> str:
        try:
            return (self._account / name).read_text("utf-8").strip()
        except FileNotFoundError:
            return ""  # not in a pod: whoever proxies the API knows who we are

    def _tls(self) -> ssl.SSLContext | bool:
        authority = self._account / "ca.crt"
        return ssl.create_default_context(cafile=authority) if authority.is_file() else True


def _apply(event: _Event, slices: dict[str, _Slice]) -> str:
    """Put an event into `slices`; the version to go on from, "" to begin anew."""
    if event.type == "ERROR":
        status = _status.decode(event.object)
        if status.code == 410:
            return ""
        raise ValueError(f"{status.code} {status.message}")
    one = _slice.decode(event.object)
    if event.type == "DELETED":
        slices.pop(one.metadata.name, None)
    elif event.type != "BOOKMARK":
        slices[one.metadata.name] = one
    return one.metadata.resource_version or "0"


def _port(ports: list[_Port], name: str) -> int:
    named = [one.port for one in ports if one.name == name]
    return next((port for port in [*named, *(one.port for one in ports)] if port), 0)


def _in_cluster() -> str:
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    if not host:
        raise BadConfig(
            "COORDINATOR_DISCOVERY = kubernetes: this is no pod (KUBERNETES_SERVICE_HOST is not "
            "set); name the API server, or dns:// for the DNS of a headless service, in "
            "DISCOVERY_URL"
        )
    host = f"[{host}]" if ":" in host else host
    return f"https://{host}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}"
