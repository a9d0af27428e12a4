"""Wall clocks of the simulated machines: each is a little off, and may jump."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from swarm.errors import Refusal

#: No machine's clock is further off than this unless it has jumped.
OFF_MAX_S = 1.5
#: A client whose own clock is further ahead than this may be told so.
AHEAD_S = 250.0


class _Clock:
    def __init__(self, off_s: float) -> None:
        self.usual_off_s = off_s
        self.off_s = off_s
        self.most_ahead_s = off_s


class Clocks:
    """`server` is the server's clock, which is the truth: seconds since the epoch."""

    def __init__(self, server: Callable[[], float], rng: Random) -> None:
        self._server = server
        self._rng = rng
        self._clocks: dict[str, _Clock] = {}

    def add(self, node: str) -> None:
        """A machine; its clock stays with it through restarts of its process."""
        self._clocks[node] = _Clock(self._rng.uniform(-OFF_MAX_S, OFF_MAX_S))

    def wall(self, node: str) -> Callable[[], float]:
        """The machine's clock."""
        clock, server = self._clocks[node], self._server
        return lambda: server() + clock.off_s

    def off_s(self, node: str) -> float:
        """How far ahead of the server's it is, negative when it is behind."""
        return self._clocks[node].off_s

    def may_be_refused(self, node: str, refusal: Refusal) -> bool:
        """Whether it was refused for its clock, which is, or was a moment ago, far ahead."""
        return "in the future" in str(refusal) and self.most_ahead_s(node) > AHEAD_S

    def most_ahead_s(self, node: str) -> float:
        """How far ahead of the server's it has been at most."""
        return self._clocks[node].most_ahead_s

    def jump(self, node: str, by_s: float) -> None:
        """Set it forward or (negative) back."""
        self._set(self._clocks[node], self._clocks[node].off_s + by_s)

    def mend(self, node: str) -> None:
        """Set it as it was at the start: this is a jump, too."""
        self._set(self._clocks[node], self._clocks[node].usual_off_s)

    def mend_all(self) -> None:
        """Set all clocks as they were at the start."""
        for node in self._clocks:
            self.mend(node)

    def _set(self, clock: _Clock, off_s: float) -> None:
        clock.off_s = off_s
        clock.most_ahead_s = max(clock.most_ahead_s, off_s)
