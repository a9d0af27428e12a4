"""Live progress: bars on a terminal, a line now and then everywhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

#: Between two lines where there is no terminal.
LINE_S = 2.0

#: The bar over all work types.
ALL = "completed"


class Screen:
    """Shows how far the work is; a context manager, silent outside of it."""

    def __init__(self, console: Console, totals: Mapping[str, int]) -> None:
        """`totals`: items by work type."""
        self._console = console
        self._totals = dict(totals)
        self._next_line_at = 0.0
        self._last = ""
        self._progress: Progress | None = None
        self._bars = {}
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description:>12}"),
                BarColumn(bar_width=40),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console,
            )
            for name, total in {**self._totals, ALL: sum(self._totals.values())}.items():
                self._bars[name] = self._progress.add_task(name, total=total)

    def __enter__(self) -> Screen:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def say(self, line: str) -> None:
        """A line of its own, above the bars."""
        self._console.print(line, highlight=False, soft_wrap=True)

    def show(self, taken: Mapping[str, int], ended: int) -> None:
        """`taken`: items by work type that agents have begun; `ended`: items that have ended."""
        if self._progress is not None:
            for name, count in taken.items():
                self._progress.update(self._bars[name], completed=count)
            self._progress.update(self._bars[ALL], completed=ended)
            return
        now = asyncio.get_running_loop().time()
        total = sum(self._totals.values())
        if now < self._next_line_at and ended < total:
            return
        self._next_line_at = now + LINE_S
        begun = ", ".join(f"{name} {taken[name]}/{self._totals[name]}" for name in self._totals)
        line = f"{ended}/{total} completed; begun: {begun}"
        if line != self._last:
            self._last = line
            self.say(line)
