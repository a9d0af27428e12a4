"""What every discovery backend says, and how."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from msgspec import Struct

#: ``discovery:<service>`` as an address of NATS: the members of that service.
SEEDS = "discovery:"


class Member(Struct, frozen=True, order=True):
    """One that was found."""

    name: str
    #: Where it can be reached; empty: nowhere that is known.
    host: str = ""
    port: int = 0

    @property
    def address(self) -> str:
        """``host:port``, with brackets where the host is an IPv6 address; "" without a host."""
        return f"{in_url(self.host)}:{self.port}" if self.host else ""


class MemberSet(Struct, frozen=True):
    """Who is there, as far as is known."""

    #: Which backend says so.
    source: str
    members: list[Member]
    #: The backend does not answer: these were the last that it said.
    stale: bool = False
    #: Why.
    why: str = ""
    #: When the backend last said so, seconds since the epoch; 0: it never has.
    as_of: float = 0.0


class Backend(Protocol):
    """Somebody who knows where the coordinators are."""

    @property
    def source(self) -> str:
        """Its name, for people."""
        ...

    def watch(self) -> AsyncGenerator[list[Member], None]:
        """Who is there now, then again with every change, and from time to time without one.

        Sorted, each member once.  May end: then it is asked anew.  Raises `DiscoveryFailed`
        when it does not answer, or with nonsense; never an empty list for that.
        """
        ...


def in_url(host: str) -> str:
    """`host` as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def in_order(members: list[Member]) -> list[Member]:
    """Sorted by name, each once."""
    return sorted(dict.fromkeys(members))


def member_of(name: str, address: str, port: int = 0) -> Member:
    """A member at ``host:port``, or at ``host`` and `port`; at "" for one that is nowhere.

    ValueError if it is no address.
    """
    host, colon, digits = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, digits = address, str(port)
    good = digits.isascii() and digits.isdigit() and int(digits) <= 65_535
    if not good or (address and not int(digits)):
        raise ValueError(f"{address!r} is no host:port")
    return Member(name, host.strip("[]"), int(digits))
