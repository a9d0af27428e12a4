"""When storage counts as nearly full."""

from __future__ import annotations

#: So much less than at the alarm, and all is well again: no alarm comes and goes by itself.
HYSTERESIS = 0.05


class Watermark:
    """Whether something is nearly full.  `soft`: the part from which on it is."""

    def __init__(self, soft: float) -> None:
        assert 0 < soft < 1, "a part of the whole"
        self._soft = soft
        self.nearly_full = False
        #: The part that is used; 0 when that is not known.
        self.part = 0.0

    def seen(self, used: int, limit: int) -> bool:
        """So much is used; whether that changes `nearly_full`.  `limit`: 0 = not known."""
        assert used >= 0, "bytes are counted from nothing"
        self.part = used / limit if limit > 0 else 0.0
        before = self.nearly_full
        self.nearly_full = self.part >= self._soft - (HYSTERESIS if before else 0.0)
        return self.nearly_full != before
