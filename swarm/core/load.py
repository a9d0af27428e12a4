"""How much a coordinator has to do: operations of each shard and processor time, per second.

Rates are smoothed, so that they tell of some seconds and not of one batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

#: Between two samples.
SAMPLE_S = 1.0
#: What lies so far back counts a third of what is now.
SMOOTH_S = 5.0


class LoadMeter:
    """Rates from counts that only grow while a shard stays here."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._counts: dict[int, int] = {}
        self._cpu_s = 0.0
        #: Operations per second of each shard that is here, and processor seconds per second.
        self.rates: dict[int, float] = {}
        self.cpu = 0.0
        self._measured = False

    def is_due(self, now: float) -> bool:
        """Whether it is time for a sample."""
        return self._at is None or now - self._at >= SAMPLE_S

    def sample(self, now: float, counts: Mapping[int, int], cpu_s: float) -> None:
        """Operations so far by shard, and processor seconds of the process so far."""
        before, self._at = self._at, now
        rates: dict[int, float] = {}
        if before is not None and now > before:
            took_s = now - before
            part = 1 - math.exp(-took_s / SMOOTH_S)
            for shard, count in counts.items():
                had = self._counts.get(shard)
                if had is None or count < had:
                    continue  # it has come, or come back, since
                rate = (count - had) / took_s
                known = self.rates.get(shard)
                rates[shard] = rate if known is None else known + part * (rate - known)
            used = max(0.0, cpu_s - self._cpu_s) / took_s
            self.cpu = self.cpu + part * (used - self.cpu) if self._measured else used
            self._measured = True
        assert all(rate >= 0 for rate in rates.values()), "counts only grow"
        assert self.cpu >= 0, "time is used, not given back"
        self.rates, self._counts, self._cpu_s = rates, dict(counts), cpu_s
