"""This machine's clock against the NATS server's: an owner whose clock is off must not open.

Asked once in a while, not with every opening: a takeover must not wait for a server that
may just be electing its leader.  In between, the wall clock is compared with the
monotonic one, so that a jump is noticed at once.
"""

from __future__ import annotations

import asyncio

from swarm.bus.base import Bus
from swarm.errors import BadConfig
from swarm.runtime import Runtime

#: An owner whose clock is further off the server's refuses to open.
OFF_MAX_S = 2.0
#: How long an answer of the server holds.
HOLDS_S = 600.0
#: What two clocks of one machine may differ by meanwhile.
DRIFT_MAX_S = 0.5


class ServerClock:
    """See the module's docstring."""

    def __init__(self, bus: Bus, runtime: Runtime) -> None:
        self._bus = bus
        self._wall = runtime.wall
        self._clock = asyncio.get_running_loop().time
        #: (wall, monotonic) when the clock was last found good; kept when it is not any more,
        #: as what is being opened still goes by it.
        self._good_at: tuple[float, float] | None = None

    async def check(self) -> None:
        """Raise `BadConfig` when this machine's clock is off; and what the bus raises."""
        if self._holds():
            return
        asked_s = self._clock()
        server = await self._bus.server_time()
        after = self._wall()
        # Not what the wall clock showed then: it may have been set while the server answered.
        before = after - (self._clock() - asked_s)
        # The server read its clock somewhere in between.
        off_s = max(before - server, server - after, 0.0)
        if off_s > OFF_MAX_S:
            raise BadConfig(
                f"this machine's clock is {off_s:.1f} s off the NATS server's; at most "
                f"{OFF_MAX_S:.0f} s are allowed: synchronise both clocks (NTP)"
            )
        self._good_at = (after, self._clock())

    def now(self) -> float:
        """Seconds since the epoch, by this machine's clock as it was when it was found right.

        A clock that is set between the look and its use would give its log a time that is
        hours ahead, and never goes back.  Before any look it is the wall clock's.
        """
        if self._good_at is None:
            return self._wall()
        wall_s, monotonic_s = self._good_at
        return wall_s + self._clock() - monotonic_s

    def _holds(self) -> bool:
        if self._good_at is None:
            return False
        wall_s, monotonic_s = self._wall() - self._good_at[0], self._clock() - self._good_at[1]
        return monotonic_s < HOLDS_S and abs(wall_s - monotonic_s) < DRIFT_MAX_S
