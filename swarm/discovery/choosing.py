"""The backend that the settings name; and NATS servers found by it."""

from __future__ import annotations

import os

from swarm.config import Settings
from swarm.discovery.base import SEEDS, Backend, Member
from swarm.discovery.following import Discovery
from swarm.errors import BadConfig, DiscoveryFailed

#: Of a coordinator that nothing says a port of.
HTTP_PORT = 4000
NATS_PORT = 4222


def choose(settings: Settings) -> Backend:
    """What COORDINATOR_DISCOVERY names, if that is not NATS.

    Modules are imported as they are needed: most processes need none of them.
    """
    assert settings.discovery != "nats", "whoever is on NATS hears the beats"
    if settings.discovery == "static":
        from swarm.discovery.static import Static  # noqa: PLC0415

        default = settings.http_port or HTTP_PORT
        return Static(
            [
                Member(one.name, one.host.strip("[]"), one.port or default)
                for one in settings.coordinator_addresses
            ]
        )
    port = settings.http_port or HTTP_PORT
    return _of_service(settings, settings.discovery_service, "http", port)


def _of_service(settings: Settings, service: str, port_name: str, port: int) -> Backend:
    """The members of a service, by a backend that knows services."""
    url = settings.discovery_url
    if settings.discovery == "consul":
        from swarm.discovery.consul import Consul  # noqa: PLC0415

        return Consul(url, service, os.environ.get("CONSUL_HTTP_TOKEN", ""))
    if settings.discovery == "etcd":
        from swarm.discovery.etcd import Etcd  # noqa: PLC0415

        return Etcd(url, service)
    assert settings.discovery == "kubernetes", "there is no other that knows services"
    if url.startswith("dns://"):
        from swarm.discovery.dns import Dns  # noqa: PLC0415

        server = url.removeprefix("dns://").strip("/")
        return Dns(server, service, port_name, port, settings.discovery_interval_s)
    from swarm.discovery.kubernetes import Kubernetes  # noqa: PLC0415

    return Kubernetes(url, service, port_name)


async def nats_servers(url: str, settings: Settings, timeout_s: float) -> str:
    """`url`; of ``discovery:<service>`` the addresses of that service's members.

    Raises `BadConfig`, or `DiscoveryFailed` when there is none within `timeout_s`.
    """
    if not url.startswith(SEEDS):
        return url
    service = url.removeprefix(SEEDS)
    if settings.discovery in ("nats", "static"):
        raise BadConfig(
            f"NATS_URL = {url} does not go with COORDINATOR_DISCOVERY = {settings.discovery}: "
            "NATS servers are found by kubernetes, consul or etcd; else name them, like "
            "nats://host:4222"
        )
    discovery = Discovery(_of_service(settings, service, "nats", NATS_PORT))
    await discovery.start()
    try:
        known = await discovery.first(timeout_s)
    finally:
        await discovery.stop()
    if not known.members:
        why = known.why or f"{known.source} knows no member of the service {service!r}"
        raise DiscoveryFailed(f"no NATS server was found for {url}: {why}")
    return ",".join(f"nats://{member.address}" for member in known.members)
