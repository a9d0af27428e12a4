"""How long ready work waits for slots at a coordinator, and whether that is longer than elsewhere.

By Little's law: ready items, over how many a second find a slot.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Over how long it is counted, at least, seconds.
WINDOW_S = 1.0
#: So many times as long work waits at a peer before slots go there that our own work could use:
#: without some slack, two with the same load would exchange slots for ever.
LONGER = 2.0


class Turnover:
    """How many items a second found a slot, by work type, in the latest window."""

    def __init__(self, now: float) -> None:
        self._began = now
        #: Taken since the start, by type, when the window began.
        self._before: dict[str, int] = {}
        self.rates: dict[str, float] = {}

    def look(self, taken: Mapping[str, int], now: float) -> None:
        """`taken`: slots taken by now, by type; called now and then."""
        passed_s = now - self._began
        if passed_s < WINDOW_S:
            return
        self.rates = {
            work_type: (count - self._before.get(work_type, 0)) / passed_s
            for work_type, count in taken.items()
            if count > self._before.get(work_type, 0)
        }
        self._began, self._before = now, dict(taken)


def waits_longer(ready: int, rate: float, than_ready: int, than_rate: float) -> bool:
    """Whether `ready` items of which `rate` a second find a slot wait longer than the others.

    Where none found one they wait longer than anywhere: nothing starves because its shard is
    elsewhere.
    """
    return rate <= 0 or ready * than_rate > LONGER * than_ready * rate
