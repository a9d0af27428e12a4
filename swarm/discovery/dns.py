"""DNS: the records of a headless service (Kubernetes makes them; dnsmasq or any server can).

SRV records ``_<port name>._tcp.<service>`` name hosts and ports; without any, the A and AAAA
records of ``<service>`` give the hosts, all at one port.  DNS tells nobody of changes, so it is
asked again when its answer has aged, at the latest after `interval_s`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver

from swarm.discovery.base import Member, in_order
from swarm.errors import DiscoveryFailed

#: Answers may say that they are out of date at once: not more often than this.
AGE_MIN_S = 0.2
#: How long a question may take, with all tries.
ANSWER_S = 5.0


class Dns:
    """Whoever the records of `service` name."""

    source = "dns"

    def __init__(
        self,
        server: str,
        service: str,
        port_name: str,
        port: int,
        interval_s: float,
        answer_s: float = ANSWER_S,
    ) -> None:
        """`server`: ``host:port`` of a DNS server (an IP address); empty: the system's."""
        self._server = server
        self._service = service
        self._port_name = port_name
        self._port = port
        self._interval_s = interval_s
        self._answer_s = answer_s

    async def watch(self) -> AsyncGenerator[list[Member], None]:
        """See `Backend`."""
        resolver = self._resolver()
        while True:
            try:
                members, age_s = await self._ask(resolver)
            except dns.exception.DNSException as error:
                raise DiscoveryFailed(f"DNS: {self._service}: {error}") from error
            yield members
            await asyncio.sleep(min(self._interval_s, max(AGE_MIN_S, age_s)))

    async def _ask(self, resolver: dns.asyncresolver.Resolver) -> tuple[list[Member], float]:
        """Who is named, and for how many seconds that holds."""
        try:
            name = f"_{self._port_name}._tcp.{self._service}"
            answer = await resolver.resolve(name, "SRV", lifetime=self._answer_s)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return await self._ask_addresses(resolver)
        found = []
        for record in answer:
            host = record.target.to_text(omit_final_dot=True)
            found.append(Member(host.partition(".")[0], host, record.port))
        return in_order(found), _ttl(answer)

    async def _ask_addresses(
        self, resolver: dns.asyncresolver.Resolver
    ) -> tuple[list[Member], float]:
        answers = []
        for kind in ("A", "AAAA"):
            try:
                answers.append(await resolver.resolve(self._service, kind, lifetime=self._answer_s))
            except dns.resolver.NoAnswer:
                continue  # the name has records of the other kind, or none
        if not answers:
            # Nobody there, or a name that is gone: the last known ones are worth more.
            raise DiscoveryFailed(f"DNS: {self._service} has no SRV, A or AAAA records")
        hosts = [record.address for answer in answers for record in answer]
        found = [Member(host, host, self._port) for host in hosts]
        return in_order(found), min(map(_ttl, answers))

    def _resolver(self) -> dns.asyncresolver.Resolver:
        try:
            if not self._server:
                return dns.asyncresolver.Resolver()
            host, _, port = self._server.rpartition(":")
            resolver = dns.asyncresolver.Resolver(configure=False)
            resolver.nameservers = [(host or port).strip("[]")]
            resolver.port = int(port) if host else 53
        except (dns.exception.DNSException, ValueError) as error:
            raise DiscoveryFailed(f"DNS: {self._server or 'the system'}: {error}") from error
        return resolver


def _ttl(answer: dns.resolver.Answer) -> float:
    return float(answer.rrset.ttl) if answer.rrset is not None else 0.0
