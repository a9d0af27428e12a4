"""The coordinators' own beats on NATS: the default, which needs nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

import structlog

from swarm.discovery.base import Member, in_order, member_of
from swarm.errors import DiscoveryFailed
from swarm.messages import Beat

log = structlog.get_logger()


class Beats:
    """Whoever beats is there, by what a node has heard."""

    source = "nats"

    def __init__(
        self, live: Callable[[], Mapping[str, Beat]], connected: Callable[[], bool], missed_s: float
    ) -> None:
        self._live = live
        self._connected = connected
        self._missed_s = missed_s

    async def watch(self) -> AsyncGenerator[list[Member], None]:
        """See `Backend`."""
        # So long a live one may be silent: what is said before would leave some out.
        pause_s = self._missed_s
        while True:
            if not self._connected():
                raise DiscoveryFailed("not connected to NATS")
            await asyncio.sleep(pause_s)
            if self._connected():
                yield of_beats(self._live().values())
            pause_s = self._missed_s / 2


def of_beats(beats: Iterable[Beat]) -> list[Member]:
    """The coordinators that beat, with where they answer HTTP, if they say so."""
    return in_order([_of_beat(beat) for beat in beats])


def _of_beat(beat: Beat) -> Member:
    try:
        return member_of(beat.coordinator, beat.http)
    except ValueError as error:
        log.warning("a beat's address cannot be used", coordinator=beat.coordinator, why=str(error))
        return Member(beat.coordinator)
