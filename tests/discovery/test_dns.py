"""DNS, against a real dnsmasq."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import dns.asyncresolver
import dns.exception

from swarm.discovery.dns import Dns
from swarm.discovery.following import Discovery
from swarm.testing.ports import free_ports
from tests.parts import program, running, until

SERVICE = "swarm.agents.svc.cluster.local"


class Server:
    """A dnsmasq whose records are in files."""

    def __init__(self, folder: Path, *records: str) -> None:
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self.hosts = folder / "hosts"
        self.hosts.touch()
        self._file = folder / "dnsmasq.conf"
        lines = (
            f"port={self.port}",
            "listen-address=127.0.0.1",
            "bind-interfaces",
            "no-resolv",
            "no-hosts",
            "keep-in-foreground",
            "user=root" if os.geteuid() == 0 else "",
            f"addn-hosts={self.hosts}",
            "local=/local/",
            "local-ttl=0",
            *records,
        )
        self._file.write_text("\n".join(lines) + "\n")

    @asynccontextmanager
    async def up(self) -> AsyncIterator[int]:
        """Its process id."""
        command = (program("dnsmasq"), "-C", str(self._file))
        async with running(*command, ready=self._answers) as process:
            yield process.pid

    async def _answers(self) -> bool:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], self.port
        try:
            await resolver.resolve("x.local", "A", lifetime=0.2)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return True  # it knows that it does not know
        except dns.exception.DNSException:
            return False
        return True

    def following(self) -> Discovery:
        backend = Dns(self.address, SERVICE, "http", 4000, interval_s=0.2, answer_s=0.5)
        return Discovery(backend, pause_first_s=0.02)


def places(discovery: Discovery) -> dict[str, str]:
    return {one.name: one.address for one in discovery.current.members}


async def test_srv_records_give_names_hosts_and_ports(tmp_path: Path) -> None:
    server = Server(
        tmp_path,
        f"srv-host=_http._tcp.{SERVICE},c1.{SERVICE},4001",
        f"srv-host=_http._tcp.{SERVICE},c2.{SERVICE},4002",
        f"srv-host=_nats._tcp.{SERVICE},n1.{SERVICE},4222",
    )
    async with server.up():
        discovery = server.following()
        await discovery.start()
        await discovery.first(5.0)
        assert places(discovery) == {"c1": f"c1.{SERVICE}:4001", "c2": f"c2.{SERVICE}:4002"}
        await discovery.stop()


async def test_without_srv_records_addresses_are_followed(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.hosts.write_text(f"10.0.0.1 {SERVICE}\n10.0.0.2 {SERVICE}\n")
    async with server.up() as pid:
        discovery = server.following()
        await discovery.start()
        known = await discovery.first(5.0)
        assert sorted(places(discovery).values()) == ["10.0.0.1:4000", "10.0.0.2:4000"]
        server.hosts.write_text(f"10.0.0.2 {SERVICE}\n10.0.0.3 {SERVICE}\nfd00::1 {SERVICE}\n")
        os.kill(pid, signal.SIGHUP)
        known = await discovery.after(known)
        await until(lambda: len(places(discovery)) == 3)
        assert "[fd00::1]:4000" in places(discovery).values()
        # The name is gone: the last known ones are worth more than nobody.
        server.hosts.write_text("")
        os.kill(pid, signal.SIGHUP)
        await until(lambda: discovery.current.stale)
        assert len(places(discovery)) == 3
        assert SERVICE in discovery.current.why
        await discovery.stop()


async def test_a_server_that_is_gone_leaves_the_last_known(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.hosts.write_text(f"10.0.0.1 {SERVICE}\n")
    discovery = server.following()
    async with server.up():
        await discovery.start()
        await discovery.first(5.0)
    await until(lambda: discovery.current.stale)
    assert places(discovery) == {"10.0.0.1": "10.0.0.1:4000"}
    async with server.up():
        await until(lambda: not discovery.current.stale)
    await discovery.stop()


async def test_a_server_that_is_none_is_named() -> None:
    discovery = Discovery(Dns("not an address:x", SERVICE, "http", 4000, 1.0))
    await discovery.start()
    await until(lambda: "not an address" in discovery.current.why)
    await discovery.stop()
