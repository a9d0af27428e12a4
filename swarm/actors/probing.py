"""A router asks coordinators whether they are ready, and how fast they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from msgspec import Struct

from swarm.bus.base import Bus
from swarm.core.health import Health
from swarm.errors import BusError, BusTimeout, NoResponders
from swarm.messages import Beat, ErrorBody, Probe, Pulse
from swarm.subjects import Subjects

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode
_pulse = msgspec.json.Decoder(Pulse)

#: Between two looks at who is to be asked, at least.
LOOK_S = 0.01


#: Clocks of event loops may be behind by as much.
COARSE_S = 0.01


class _Refused(Struct):
    error: ErrorBody


_refused = msgspec.json.Decoder(_Refused)


class Stopwatch:
    """How long something takes, to less than the milliseconds that event loops count in.

    The wall clock tells, unless it was set meanwhile.
    """

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock, self._wall = clock, wall
        self._began, self._began_wall = clock(), wall()

    def took_s(self) -> float:
        """Since it was made."""
        roughly, finely = self._clock() - self._began, self._wall() - self._began_wall
        return finely if finely > 0 and abs(finely - roughly) < COARSE_S else roughly


class Prober:
    """Asks each live coordinator at its time; `health` keeps what comes of it.

    `look` begins whatever is due; it is called at every beat, so that newcomers are asked
    at once, and by its own timer.
    """

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        health: Health,
        router: str,
        live: Callable[[], dict[str, Beat]],
        wall: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._subjects = subjects
        self._health = health
        self._probe = _encode(Probe(router))
        self._live = live
        self._wall = wall
        self._clock = asyncio.get_running_loop().time
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._stopped = False

    def look(self) -> None:
        """Ask whoever is to be asked now."""
        if self._stopped:
            return
        now, live = self._clock(), self._live()
        for name in self._health.due(live, now):
            asking = self._ask(name, live[name].instance)
            task = asyncio.create_task(asking, name=f"probe of {name}")
            self._tasks[task] = None
            task.add_done_callback(lambda done: self._tasks.pop(done, None))
        if self._timer is not None:
            self._timer.cancel()
        wait_s = max(LOOK_S, self._health.next_due_at(now) - now)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self.look)

    async def stop(self) -> None:
        """Ask nobody more; safe to call twice."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, name: str, instance: str) -> None:
        subject = self._subjects.coordinator(name, "health", self._bus.sender)
        health, stopwatch = self._health, Stopwatch(self._clock, self._wall)
        was = health.healthy(name)
        try:
            reply = await self._bus.request(subject, self._probe, health.timeout_s)
        except BusTimeout:
            health.failed(name, instance, f"no answer within {health.timeout_s:g} s")
        except NoResponders:
            health.failed(name, instance, "nobody listens there")
        except BusError:
            health.not_asked(name)  # it is our connection that is lost, not the coordinator
        else:
            ready, why = _read(reply.data)
            health.answered(name, instance, stopwatch.took_s(), ready=ready, why=why)
        if health.healthy(name) != was:
            say = log.warning if was else log.info
            now = "unhealthy" if was else "healthy again"
            say(f"a coordinator is {now}", coordinator=name, why=health.why(name))


def _read(data: bytes) -> tuple[bool, str]:
    """Whether the coordinator is ready, and what it lacks."""
    try:
        pulse = _pulse.decode(data)
    except msgspec.MsgspecError:
        pass  # it may be a refusal
    else:
        return pulse.ready, pulse.why
    try:
        error = _refused.decode(data).error
    except msgspec.MsgspecError as wrong:
        return False, f"its answer cannot be read: {wrong}"
    # One of an earlier version does not know the question, but has taken it.
    return error.code == "bad_request", error.message
