"""What became of one simulation: the first broken guarantee, and what was seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn


class Violation(AssertionError):
    """A guarantee was broken; the number in brackets is its own in docs/architecture.md."""


class Verdict:
    """`end(violation)` is called at the first one, to end the simulation at once."""

    def __init__(self, end: Callable[[Violation], None]) -> None:
        self._end = end
        #: The first violation: whoever it was raised to may have taken it for its own error.
        self.violation: Violation | None = None
        #: How often each thing happened that a simulation should have seen.
        self.seen: dict[str, int] = {}

    def broken(self, what: str) -> NoReturn:
        """A guarantee is broken."""
        violation = Violation(what)
        if self.violation is None:
            self.violation = violation
            self._end(violation)
        raise violation

    def saw(self, what: str) -> None:
        """Count something."""
        self.seen[what] = self.seen.get(what, 0) + 1

    def raise_violation(self) -> None:
        """Raise the first violation, if there was one."""
        if self.violation is not None:
            raise self.violation
