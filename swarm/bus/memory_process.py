"""Processes of a memory world: which callbacks are whose, so that one can be stopped whole.

Whatever runs in a context in which `PROCESS` is set belongs to that process, and so does
every task and timer that it starts, as asyncio hands the context on.
"""

from __future__ import annotations

import contextvars
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

from swarm.bus.base import Handler, Message

#: Name of the process, another one after each restart; unset outside of any.
PROCESS: ContextVar[str] = ContextVar("process")


@runtime_checkable
class Freezer(Protocol):
    """A loop that can stop a process: `swarm.testing.loop.SimLoop`."""

    def freeze(self, process: str) -> None:
        """Run nothing of it until `thaw`."""
        ...

    def thaw(self, process: str) -> int:
        """Let it go on; how many callbacks have come due meanwhile."""
        ...


def in_this_process(handler: Handler) -> Handler:
    """`handler`, which from wherever it is called runs as part of the present process."""
    context = contextvars.copy_context()

    def handle(message: Message) -> None:
        context.run(handler, message)

    handle.__qualname__ = getattr(handler, "__qualname__", repr(handler))
    return handle
