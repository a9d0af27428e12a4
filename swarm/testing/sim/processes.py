"""The processes of a simulated swarm: started, killed, told to leave, started again.

Each runs in a context of its own, by which the loop can stop it whole.  A process that is
killed runs nothing any more, no cleanup either; a new one takes its name.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from swarm.bus.memory_process import PROCESS

if TYPE_CHECKING:
    from swarm.testing.sim.scene import Scene

#: A process: its name, and what is set when it is to leave (SIGTERM).  One that returns on
#: its own has done its work.
Role = Callable[[str, asyncio.Event], Coroutine[Any, Any, None]]


class _Process:
    def __init__(self, role: Role) -> None:
        self.role = role
        self.starts = 0
        self.task: asyncio.Task[None] | None = None
        self.leave = asyncio.Event()
        #: How long after it has left it is started again; None: it was not told to leave.
        self.back_after_s: float | None = None


class Processes:
    """Made outside of any process.  `started` and `died` hear the name of one that does so."""

    def __init__(
        self, scene: Scene, started: Callable[[str], None], died: Callable[[str], None]
    ) -> None:
        self._scene = scene
        self._started = started
        self._died = died
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._all: dict[str, _Process] = {}

    def add(self, name: str, role: Role) -> None:
        """A process to be, on a machine of the same name."""
        self._all[name] = _Process(role)
        self._scene.clocks.add(name)

    def start_all(self) -> None:
        """Start all that do not run and have not done their work."""
        for name, process in self._all.items():
            if process.task is None:
                self._start(name)

    def working(self, names: tuple[str, ...]) -> list[str]:
        """Those of `names` that have not done their work yet."""
        return [name for name in names if not self._done(name)]

    def kill(self, name: str, for_s: float) -> None:
        """End it at once; start it again after `for_s`."""
        process = self._all[name]
        if process.task is None or process.task.done():
            return
        self._scene.world.crash(name)
        process.task = None
        self._died(name)
        self._later(for_s, name)

    def terminate(self, name: str, for_s: float) -> None:
        """Tell it to leave; start it again `for_s` after it has."""
        process = self._all[name]
        if process.task is None or process.task.done() or process.back_after_s is not None:
            return
        process.back_after_s = for_s
        process.leave.set()

    def end(self, name: str) -> None:
        """Tell it to leave, for good."""
        self.terminate(name, float("inf"))

    def _start(self, name: str) -> None:
        process = self._all[name]
        process.starts += 1
        process.leave = asyncio.Event()
        process.back_after_s = None
        context = self._context.copy()
        context.run(PROCESS.set, f"{name}#{process.starts}")
        work = process.role(name, process.leave)
        self._started(name)
        task = process.task = self._loop.create_task(work, name=name, context=context)
        task.add_done_callback(lambda done: self._ended(name, done), context=self._context)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        process = self._all[name]
        if process.task is not task or task.cancelled():
            return  # killed before, or the simulation is over
        task.result()  # a failure ends the simulation
        if process.back_after_s not in (None, float("inf")):
            process.task = None
            self._later(0.0 if self._scene.calm else process.back_after_s, name)

    def _later(self, after_s: float, name: str) -> None:
        # Not in the context of the process that was just killed.
        self._loop.call_later(after_s, self._start_again, name, context=self._context)

    def _start_again(self, name: str) -> None:
        if self._all[name].task is None:
            self._start(name)

    def _done(self, name: str) -> bool:
        task = self._all[name].task
        return task is not None and task.done()
