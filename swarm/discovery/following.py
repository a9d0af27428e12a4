"""Following a backend: the members that it says, and how old that is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog
from msgspec import structs

from swarm.discovery.base import Backend, MemberSet
from swarm.errors import DiscoveryFailed
from swarm.runtime import Runtime

log = structlog.get_logger()

#: Pause after a failure: the first, doubled up to the longest.
PAUSE_FIRST_S = 0.5
PAUSE_LONGEST_S = 15.0


class Discovery:
    """Who is there, by the words of `backend`; the last ones while it does not answer."""

    def __init__(
        self,
        backend: Backend,
        runtime: Runtime | None = None,
        pause_first_s: float = PAUSE_FIRST_S,
        quiet: bool = False,
    ) -> None:
        """`quiet`: changes are not logged, as for a command that prints what is known."""
        self._backend = backend
        self._runtime = runtime or Runtime()
        self._pause_first_s = pause_first_s
        self._quiet = quiet
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        #: Who is there; never taken back, only marked as stale.
        self.current = MemberSet(
            backend.source, [], stale=True, why=f"{backend.source} was not heard of yet"
        )

    async def start(self) -> None:
        """Begin to follow; safe to call twice."""
        if self._task is None:
            self._task = asyncio.create_task(
                self._follow(), name=f"discovery {self.current.source}"
            )

    async def stop(self) -> None:
        """Follow no more; safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def after(self, seen: MemberSet) -> MemberSet:
        """What is known once that is different from `seen` (apart from `as_of`)."""
        while _said(self.current) == _said(seen):
            self._changed.clear()
            await self._changed.wait()
        return self.current

    async def changes(self) -> AsyncIterator[MemberSet]:
        """What is known now, and again whenever it is different."""
        while True:
            current = self.current
            yield current
            await self.after(current)

    async def first(self, timeout_s: float) -> MemberSet:
        """What the backend says first; what hinders it if it says nothing in time."""
        with contextlib.suppress(TimeoutError):  # the set itself tells that it is stale
            async with asyncio.timeout(timeout_s):
                while not self.current.as_of:
                    await self.after(self.current)
        return self.current

    async def _follow(self) -> None:
        pause_s = self._pause_first_s
        while True:
            try:
                async with contextlib.aclosing(self._backend.watch()) as said:
                    async for members in said:
                        pause_s = self._pause_first_s
                        self._set(
                            MemberSet(self.current.source, members, as_of=self._runtime.wall())
                        )
                continue
            except DiscoveryFailed as failure:
                why = str(failure)
            except Exception as defect:
                # Ours, but the last known ones must not look fresh for ever.
                log.exception("discovery failed", source=self.current.source)
                why = f"{self.current.source}: {type(defect).__name__}: {defect}"
            self._set(structs.replace(self.current, stale=True, why=why))
            await asyncio.sleep(pause_s * (0.5 + 0.5 * self._runtime.rng.random()))
            pause_s = min(2 * pause_s, PAUSE_LONGEST_S)

    def _set(self, known: MemberSet) -> None:
        before, self.current = self.current, known
        if _said(before) == _said(known):
            return
        self._changed.set()
        if self._quiet:
            return
        names = [member.name for member in known.members]
        if known.stale:
            log.warning("discovery does not answer", source=known.source, why=known.why, last=names)
        else:
            log.info("discovered", source=known.source, members=names)


def _said(known: MemberSet) -> tuple[object, ...]:
    return known.members, known.stale, known.why, not known.as_of
