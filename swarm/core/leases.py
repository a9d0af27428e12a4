"""Leases of the items held in one shard, on the owner's monotonic clock.

Leases are not in the log: an owner that opens a shard starts all of them in full, and
restarts them in full whenever it could not commit or hear its agents for a while, so
that trouble of NATS or of an owner is never charged to an agent.

Two clocks: a heartbeat says that the agent lives, and renews the lease; only a report of
progress says that the work advances, which some items demand.

A heartbeat lists what its agent holds.  Exactly the listed items are renewed; an item
that its agent should hold but does not list never reached it: it is sent once more,
then given up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

#: An item missing from this many heartbeats is sent to its agent once more …
UNLISTED_RESEND = 2
#: … and from this many, is given up.
UNLISTED_RELEASE = 4


#: Fewer silent sessions than this can always be a coincidence.
MASS_SESSIONS = 3

NEVER = float("inf")


class Lease(Struct, gc=False):
    """The lease of one claim: how long it is, and what is known of its holder."""

    lease_s: float
    #: A claim without progress for this long ends; 0: it may take its time.
    progress_s: float = 0.0
    #: When it ends; it has not begun before `Leases.begin`.
    deadline: float = NEVER
    progress_by: float = NEVER
    #: Heartbeats of the holder, since it was assigned, that did not list the item.
    unlisted: int = 0
    #: Nothing was heard of the holder since everybody was out of reach.
    unheard: bool = False


class Missing(Struct, frozen=True):
    """What a heartbeat did not list, by what is to be done about it."""

    resend: list[int]
    release: list[int]


class Leases:
    """Lease of every held item, by number."""

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, number: int) -> bool:
        return number in self._leases

    def begin(self, leases: Mapping[int, Lease], now: float) -> None:
        """These items were claimed; with `progress_s`, work must be seen to advance, too."""
        for lease in leases.values():
            assert lease.lease_s > 0, "a lease of no length lapses before it is heard of"
            lease.deadline = now + lease.lease_s
            _await_progress(lease, now)
        self._leases.update(leases)

    def end(self, numbers: Iterable[int]) -> None:
        """These items are not held any more."""
        for number in numbers:
            self._leases.pop(number, None)

    def renew(self, number: int, now: float) -> None:
        """Its holder spoke of the item."""
        lease = self._leases.get(number)
        if lease is not None:
            lease.deadline = now + lease.lease_s
            lease.unlisted = 0
            lease.unheard = False

    def progressed(self, number: int, now: float) -> None:
        """Its holder said that the work advances."""
        self.renew(number, now)
        lease = self._leases.get(number)
        if lease is not None:
            _await_progress(lease, now)

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
        """Start every lease anew, in full: nobody could be heard for a while."""
        for lease in self._leases.values():
            lease.deadline = now + lease.lease_s
            lease.unheard = True
            _await_progress(lease, now)

    def lapsed(self, now: float) -> list[int]:
        """Items whose lease has run out, in order of number."""
        return sorted(number for number, lease in self._leases.items() if lease.deadline < now)

    def is_unheard(self, number: int) -> bool:
        """Whether the holder may not have found its way back since that trouble."""
        return self._leases[number].unheard

    def is_mass(self, held: Iterable[Iterable[int]], now: float) -> bool:
        """Whether so many sessions have fallen silent together that it is no agent's fault.

        `held`: the items of each session.  Silent: nothing was heard of the session for
        half of its lease time.  Two out of three agents that die alone are no mass.
        """
        sessions = silent = 0
        for numbers in held:
            leases = [self._leases[number] for number in numbers if number in self._leases]
            if leases:
                sessions += 1
                silent += all(one.deadline - now < one.lease_s / 2 for one in leases)
        return silent >= MASS_SESSIONS and 2 * silent > sessions

    def stalled(self, now: float) -> list[int]:
        """Items whose agents live and make no progress, in order of number."""
        return sorted(
            number
            for number, lease in self._leases.items()
            if lease.progress_by < now <= lease.deadline
        )


def _await_progress(lease: Lease, now: float) -> None:
    if lease.progress_s:
        lease.progress_by = now + lease.progress_s
