"""Telling the leader of conflicts: later, together, and as often as it takes.

Whoever meets a conflict notes it here and goes on.  At most one request a second leaves,
whatever happens; it is sent again, with the same command id, until the leader has it.  What
was not told yet when the process dies is not counted.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog
from msgspec import Struct

from swarm.bus.base import Bus
from swarm.core.cluster import TOLD_MAX
from swarm.core.conflicts import Untold, short
from swarm.errors import BusError
from swarm.messages import Conflict, ErrorBody, TellConflict
from swarm.runtime import Runtime
from swarm.subjects import Subjects

log = structlog.get_logger()

#: Between two requests, and between two attempts at one.
TELL_S = 1.0
#: How long the leader may take to answer one.
ANSWER_S = 2.0
#: A request takes at most this part of the largest message.
REQUEST_PART = 16

_encode = msgspec.json.Encoder().encode


class _Answer(Struct):
    error: ErrorBody | None = None


_answer = msgspec.json.Decoder(_Answer)


class Disagreements:
    """Conflicts that one coordinator has met.  `note` them; `run` tells of them, for ever."""

    def __init__(self, bus: Bus, subjects: Subjects, runtime: Runtime) -> None:
        self._bus = bus
        self._subjects = subjects
        self._runtime = runtime
        self._untold = Untold()
        self._noted = asyncio.Event()
        #: How often something was noted here, and told.
        self.noted = 0
        self.told = 0

    def note(self, conflict: Conflict) -> None:
        """Two have disagreed."""
        self.noted += conflict.count
        self._untold.note(conflict)
        self._noted.set()

    async def run(self) -> None:
        """Tell, for ever."""
        while True:
            await self._noted.wait()
            self._noted.clear()
            while self._untold:
                await self._tell(self._take())
                await asyncio.sleep(TELL_S)

    def _take(self) -> TellConflict:
        """As many as go into one request."""
        most, bytes_max = TOLD_MAX, self._bus.max_payload // REQUEST_PART
        while True:
            conflicts = self._untold.take(most)
            command = TellConflict(conflicts, self._runtime.new_id())
            if len(conflicts) == 1 or len(_encode(command)) <= bytes_max:
                return command
            for conflict in conflicts:
                self._untold.note(conflict)
            most = len(conflicts) // 2

    async def _tell(self, command: TellConflict) -> None:
        """Return when the leader has it, or never will."""
        while not await self._is_told(command):
            command.retry += 1
            await asyncio.sleep(TELL_S)

    async def _is_told(self, command: TellConflict) -> bool:
        try:
            error = await _ask(self._bus, self._subjects, command)
        except (BusError, msgspec.MsgspecError) as failure:
            # Nobody leads at the moment, or the answer was lost.
            log.debug("conflicts are not told yet", why=str(failure))
            return False
        if error is None:
            self.told += sum(conflict.count for conflict in command.conflicts)
        elif error.retry:
            return False
        else:
            log.error("conflicts are refused", why=error.message, conflicts=command.conflicts)
        return True


async def tell_once(bus: Bus, prefix: str, conflict: Conflict) -> None:
    """Tell of a conflict, if somebody leads; for who is about to end."""
    try:
        await _ask(bus, Subjects(prefix), TellConflict([short(conflict)]))
    except (BusError, msgspec.MsgspecError) as failure:
        log.info("a conflict could not be told", why=str(failure))


async def _ask(bus: Bus, subjects: Subjects, command: TellConflict) -> ErrorBody | None:
    """Ask the leader once; what is wrong, None if nothing is.  Raises what the bus raises."""
    subject = subjects.control("conflict", bus.sender)
    reply = await bus.request(subject, _encode(command), ANSWER_S)
    return _answer.decode(reply.data).error
