"""`swarm demo --chaos`: one coordinator is killed in the middle of the work."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence

from msgspec import Struct

from swarm.hosting.children import Child
from swarm.messages import Beat
from swarm.testing.history import History

#: Coordinators, where the user did not say.
COORDINATORS = 3
#: Killed once so much of the backlog has ended.
AFTER = 1 / 3


class Strike(Struct):
    """Who was killed, and what it had then."""

    victim: str
    #: Wall clock.
    at: float
    shards: list[int]
    sessions: int


def strike(children: Sequence[Child], beats: Sequence[Beat]) -> Strike | None:
    """kill -9 of the coordinator that has most to lose; None while no such process is known.

    Nobody is told, and nothing is waited for: whoever runs the swarm starts it again.
    """
    shown = {beat.coordinator: beat for beat in beats}
    running = [child for child in children if child.pid is not None and child.name in shown]
    if not running:
        return None
    victim = max(running, key=lambda child: _worth(shown[child.name]))
    pid = victim.pid
    assert pid is not None, "only running ones were chosen"
    beat = shown[victim.name]
    struck = Strike(victim.name, time.time(), list(beat.owns), beat.sessions)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None  # it has just died by itself
    return struck


def _worth(beat: Beat) -> tuple[int, int, str]:
    return (len(beat.owns), beat.sessions, beat.coordinator)


def longest_pause_s(struck: Strike, history: History) -> float:
    """The longest time from the kill until another owner wrote to one of the victim's logs."""
    pauses = [_next(history.stamps.get(shard, {}), struck.at) for shard in struck.shards]
    return max((after - struck.at for after in pauses if after), default=0.0)


def _next(stamps: Mapping[int, tuple[float, float]], at: float) -> float:
    return min((earliest for earliest, _ in stamps.values() if earliest > at), default=0.0)
