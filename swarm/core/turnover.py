"""How long ready work waits for slots at a coordinator, and whether that is longer than elsewhere.

By Little's law: ready items, over how many a second find a slot.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

#: Over how long it is counted, at least, seconds: in less, a coordinator that others keep from
#: its processor for a moment looks slower than it is.
WINDOW_S = 4.0
#: Work that has been ready for so long, and none of it has found a slot, starves, seconds.
STARVES_S = 1.0
#: So many times as long work waits at a peer before slots go there that our own work could use:
#: without some slack, two with the same load would exchange slots for ever.
LONGER = 2.0

#: The rate of work of which none was counted in the latest window: nobody can tell.
UNKNOWN = -1.0


class Turnover:
    """How many items a second found a slot, by work type, in the latest window."""

    def __init__(self, now: float) -> None:
        self._began = now
        #: Taken since the start, by type, when the window began, and when it was last looked at.
        self._before: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        #: Of work that is ready: since when, if none has found a slot since then.
        self._waits_since: dict[str, float] = {}
        self._rates: dict[str, float] = {}

    def look(self, taken: Mapping[str, int], ready: Collection[str], now: float) -> None:
        """`taken`: slots taken by now, by type; `ready`: types with ready work."""
        self._waits_since = {
            name: self._waits_since.get(name, now)
            for name in ready
            if taken.get(name, 0) == self._seen.get(name, 0)
        }
        self._seen = dict(taken)
        passed_s = now - self._began
        if passed_s < WINDOW_S:
            return
        self._rates = {
            work_type: (count - self._before.get(work_type, 0)) / passed_s
            for work_type, count in taken.items()
            if count > self._before.get(work_type, 0)
        }
        self._began, self._before = now, self._seen

    def rate(self, work_type: str, now: float) -> float:
        """Items a second; 0 where work starves; `UNKNOWN` where none has been counted."""
        if now - self._waits_since.get(work_type, now) >= STARVES_S:
            return 0.0
        return self._rates.get(work_type, UNKNOWN)


def waits_longer(ready: int, rate: float, than_ready: int, than_rate: float) -> bool:
    """Whether `ready` items of which `rate` a second find a slot wait longer than the others.

    Where none found one they wait longer than anywhere: nothing starves because its shard is
    elsewhere.  Of what is not known nothing is said.
    """
    if UNKNOWN in (rate, than_rate) and rate != 0:
        return False
    return rate == 0 or ready * than_rate > LONGER * than_ready * rate
