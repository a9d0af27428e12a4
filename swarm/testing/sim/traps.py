"""Traps: whoever takes a certain step first is struck right after it, before it says more.

Mechanisms name their steps and tell when one is taken; mishaps lay the traps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from swarm.bus.memory import MemoryWorld

#: Strikes this process; whether it did.
Strike = Callable[[str], bool]


class Traps:
    """`saw` counts each step after which somebody was struck."""

    def __init__(self, world: MemoryWorld, saw: Callable[[str], None]) -> None:
        self._world = world
        self._saw = saw
        self._steps: list[str] = []
        #: What waits for each step.
        self._laid: dict[str, list[Strike]] = {}

    def name(self, steps: Iterable[str]) -> None:
        """These steps will be told of."""
        self._steps += steps

    def lay(self, which: float, strike: Strike) -> None:
        """Wait for one of the steps: `which`, from 0 to 1, says which."""
        step = self._steps[int(which * len(self._steps))]
        self._laid.setdefault(step, []).append(strike)

    def logged(self, step: str, node: str) -> None:
        """The entry of this process that does the step is stored, and it does not know yet."""
        self._spring(step, node, 1)

    def said(self, step: str, node: str) -> None:
        """This process is sending what does the step: that one goes out, nothing after it."""
        self._spring(step, node, 2)

    def _spring(self, step: str, node: str, sends: int) -> None:
        laid = self._laid.get(step)
        if not laid:
            return
        strike = laid.pop()

        def struck() -> None:
            if strike(node):
                self._saw(struck_after(step))

        self._world.at_send(node, sends, struck)


def struck_after(step: str) -> str:
    """What is counted when somebody was struck after this step."""
    return f"struck after: {step}"
