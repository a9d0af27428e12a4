"""When a coordinator's beats tell its state: ready work, and free slots of agents.

A beat is a sign of life, four times a second.  The state beside it is what coordinators
lend and borrow slots by.  It is told

- at once when others must know: work of a type newly ready, a type newly served or no more;
- with the next beat when a count is off by over an eighth of what was told, when the
  most urgent item of a type is in another shard, or more or less urgent by a quarter of a step of
  priority, or when somebody listens who has not heard any;
- every `COORDINATOR_SYNC_INTERVAL`, whatever has changed.

Other beats name the one that told it last (`Beat.told`), and those who hear them go on with
what they know (`recall`): it is still right, but for an eighth.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set

from swarm.core.urgency import CLOSE_STEPS
from swarm.messages import Beat

#: A count that is off by over one part of this many is news.
CLOSE = 8
#: A beat that comes this much too early does not put it off by another one.
EARLY_S = 0.02
#: `Beat.told` of who never tells its state, or of whom it is not known yet.
UNTOLD = -1


class StateSync:
    """What one coordinator has told of its state.  `clock` times are monotonic, in seconds."""

    def __init__(self, interval_s: float, ageing_s: float, *, enabled: bool = True) -> None:
        """`ageing_s`: what a step of priority is worth, as in the scores of `Beat.urgent`."""
        assert interval_s > 0, "a time"
        self._close_s = CLOSE_STEPS * ageing_s
        self._interval_s = interval_s
        self._enabled = enabled
        #: As told last: ready items and free slots by work type, by which beat, and when.
        self._ready: dict[str, int] = {}
        self._idle: dict[str, int] = {}
        self._urgent: dict[str, tuple[int, float]] = {}
        self._told = UNTOLD
        self._told_at = float("-inf")
        #: Who has heard it: anything else that listens has not.
        self._listeners: set[str] = set()

    def is_news(self, ready: Set[str], served: Set[str]) -> bool:
        """Whether others must know at once: types that are ready, and that are served."""
        if not self._enabled:
            return False
        return not ready <= self._ready.keys() or served != self._idle.keys()

    def shape(self, beat: Beat, listeners: Collection[str], now: float, *, all_: bool) -> None:
        """Leave the state out of `beat` if it need not be told, and say which beat has it.

        `listeners`: names of processes that go by it.  `all_`: somebody listens to whom a beat
        without it would mean that there is none (those of an earlier version).
        """
        if self._enabled and (all_ or self._is_due(beat, listeners, now)):
            self._ready, self._idle, self._urgent = beat.ready, beat.idle, beat.urgent
            self._told, self._told_at = beat.number, now
            self._listeners = set(listeners)
            beat.told = 0
            return
        assert not self._enabled or 0 < self._told < beat.number, "the first one tells it"
        beat.ready, beat.idle, beat.urgent, beat.told = {}, {}, {}, self._told

    def _is_due(self, beat: Beat, listeners: Collection[str], now: float) -> bool:
        return (
            now - self._told_at >= self._interval_s - EARLY_S
            or not self._listeners.issuperset(listeners)
            or not _is_close(self._ready, beat.ready)
            or not _is_close(self._idle, beat.idle)
            or not self._is_as_urgent(beat.urgent)
        )

    def _is_as_urgent(self, now: Mapping[str, tuple[int, float]]) -> bool:
        told = self._urgent
        return all(
            shard == told[name][0] and abs(score - told[name][1]) <= self._close_s
            for name, (shard, score) in now.items()
            if name in told
        )


def _is_close(told: Mapping[str, int], now: Mapping[str, int]) -> bool:
    if told.keys() != now.keys():
        return False
    return all(abs(now[name] - told[name]) * CLOSE <= max(now[name], told[name]) for name in now)


def recall(beat: Beat, known: Beat | None) -> None:
    """Fill the state of `beat` in from the one that was `known` of its process before."""
    if beat.told == 0:
        return
    assert known is None or known.instance == beat.instance, "another process has another state"
    if beat.told == UNTOLD or known is None:
        beat.ready, beat.idle, beat.urgent, beat.told = {}, {}, {}, UNTOLD
        return
    beat.ready, beat.idle, beat.urgent = known.ready, known.idle, known.urgent
    if known.told == UNTOLD:
        beat.told = UNTOLD
