"""Leases of the items held in one shard, on the owner's monotonic clock.

Leases are not in the log: an owner that opens a shard starts all of them in full, and
restarts them in full whenever it could not commit or hear its agents for a while, so
that trouble of NATS or of an owner is never charged to an agent.

A heartbeat lists what its agent holds.  Exactly the listed items are renewed; an item
that its agent should hold but does not list never reached it: it is sent once more,
then given up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from msgspec import Struct

#: An item missing from this many heartbeats is sent to its agent once more …
UNLISTED_RESEND = 2
#: … and from this many, is given up.
UNLISTED_RELEASE = 4


class _Lease(Struct, gc=False):
    lease_s: float
    deadline: float
    #: Heartbeats of the holder, since it was assigned, that did not list the item.
    unlisted: int = 0


class Missing(Struct, frozen=True):
    """What a heartbeat did not list, by what is to be done about it."""

    resend: list[int]
    release: list[int]


class Leases:
    """Lease of every held item, by number."""

    def __init__(self) -> None:
        self._leases: dict[int, _Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def start(self, number: int, lease_s: float, now: float) -> None:
        """The item was claimed."""
        assert lease_s > 0, "a lease of no length lapses before it is heard of"
        self._leases[number] = _Lease(lease_s, now + lease_s)

    def end(self, number: int) -> None:
        """The item is not held any more."""
        self._leases.pop(number, None)

    def renew(self, number: int, now: float) -> None:
        """Its holder spoke of the item."""
        lease = self._leases.get(number)
        if lease is not None:
            lease.deadline = now + lease.lease_s
            lease.unlisted = 0

    def heartbeat(self, held: Iterable[int], listed: Collection[int], now: float) -> Missing:
        """A session that holds `held` by the log sent a heartbeat listing `listed`."""
        missing = Missing([], [])
        for number in held:
            lease = self._leases.get(number)
            if lease is None:
                continue
            if number in listed:
                self.renew(number, now)
                continue
            lease.unlisted += 1
            if lease.unlisted == UNLISTED_RESEND:
                missing.resend.append(number)
            elif lease.unlisted >= UNLISTED_RELEASE:
                missing.release.append(number)
        return missing

    def restart(self, now: float) -> None:
        """Start every lease anew, in full."""
        for lease in self._leases.values():
            lease.deadline = now + lease.lease_s

    def lapsed(self, now: float) -> list[int]:
        """Items whose lease has run out, in order of number."""
        return sorted(number for number, lease in self._leases.items() if lease.deadline < now)
