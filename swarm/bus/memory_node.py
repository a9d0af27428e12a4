"""A node of a memory world: a process whose connections fail together.

Three things can be the matter with a living node, in any combination:

*paused*       it does nothing (as on SIGSTOP): what reaches it or leaves it waits, in order,
*partitioned*  nothing gets through; what is sent before it notices is lost, what is sent
               after that waits in its buffers for the reconnect,
*log cut*      messages flow, but what needs logs or the shared state gets nowhere.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from swarm.bus.memory_faults import Wire
from swarm.errors import BusUnavailable

#: A callback and its arguments, for later.
Waiting = tuple[Callable[..., object], tuple[Any, ...]]


def settle(future: asyncio.Future[Any], outcome: object) -> None:
    """Give a future that is still waited for its result or exception."""
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


class Connection(Protocol):
    """What a node does with its connections."""

    def buffer(self, size: int, waiting: Waiting) -> None:
        """Keep what is sent while disconnected; `BusUnavailable` when there is no room."""
        ...

    def listen(self) -> None:
        """There is a new connection: subscribe again, send the buffer."""
        ...

    def deafen(self) -> None:
        """The server has dropped the connection and its subscriptions."""
        ...

    def catch_up(self) -> None:
        """The logs are within reach again: go on following them."""
        ...


class Node:
    """See the module.  All methods but `enter` and `leave` are for tests to call."""

    __slots__ = (
        "_held",
        "_notice_s",
        "_wire",
        "connected",
        "connections",
        "dead",
        "link",
        "log_cut",
        "name",
        "partitioned",
        "paused_until_s",
        "reconnects",
    )

    def __init__(self, name: str, wire: Wire, notice_s: float) -> None:
        self.name = name
        self.connections: list[Connection] = []
        self.dead = False
        self.partitioned = False
        #: What the node believes of the server, and the server of it.
        self.connected = True
        self.log_cut = False
        #: On the loop's clock; None while it runs.
        self.paused_until_s: float | None = None
        #: Grows whenever what is under way to or from the node gets lost.
        self.link = 0
        self.reconnects = 0
        self._wire = wire
        self._notice_s = notice_s
        self._held: deque[Waiting] = deque()

    def reaches(self, link: int, log: bool) -> bool:
        """Whether what set out on `link` arrives now (`log`: it is to or from a log)."""
        if self.link != link or self.partitioned or not self.connected:
            return False
        return not (log and self.log_cut)

    def enter(self, callback: Callable[..., object], *args: Any) -> None:
        """Something reaches the node: never if it is dead, later if it is paused."""
        if self.dead:
            return
        if self.paused_until_s is not None:
            self._held.append((callback, args))
            return
        callback(*args)

    def leave(
        self, connection: Connection, size: int, callback: Callable[..., object], *args: Any
    ) -> None:
        """Something of `size` bytes sets out: `callback` is called when it is under way.

        Raises `BusUnavailable` when it would have to wait in a buffer that is full.
        """
        if self.paused_until_s is not None:
            self._held.append((self._leave_late, (connection, size, callback, *args)))
        elif not self.connected:
            connection.buffer(size, (callback, args))
        elif self.partitioned:
            self._wire.note("lost", self.name, "", "sent into a partition")
        else:
            callback(*args)

    def _leave_late(
        self, connection: Connection, size: int, callback: Callable[..., object], *args: Any
    ) -> None:
        try:
            self.leave(connection, size, callback, *args)
        except BusUnavailable as error:
            # Its sender was told long ago that it is buffered.
            self._wire.note("lost", self.name, "", error)

    # --- pause ---

    def pause(self, for_s: float) -> None:
        """Stop for a while; a node that is stopped already resumes at the later time."""
        if self.dead:
            return
        self._wire.note("pause", self.name, "", f"for {for_s:.3f} s")
        until_s = self._wire.loop.time() + for_s
        if self.paused_until_s is None or until_s > self.paused_until_s:
            self.paused_until_s = until_s
            self._wire.at(until_s, self._resume_when_due, until_s)

    def _resume_when_due(self, until_s: float) -> None:
        if self.paused_until_s == until_s:
            self.resume()

    def resume(self) -> None:
        """Go on, and let through what has waited, in the order it came."""
        if self.dead or self.paused_until_s is None:
            return
        self.paused_until_s = None
        self._wire.note("resume", self.name, "", f"{len(self._held)} held")
        held, self._held = self._held, deque()
        while held:
            callback, args = held.popleft()
            # What is let through may stop the node again, or kill it: then this holds
            # the rest back once more, in order, or drops it.
            self.enter(self._wire.guard, callback, *args)

    # --- partition ---

    def partition(self) -> None:
        """Cut the node off; both sides notice after `notice_s`."""
        if self.dead or self.partitioned:
            return
        self._wire.note("partition", self.name, "")
        self.partitioned = True
        self.link += 1
        self._wire.later(self._notice_s, self._notice, self.link)

    def _notice(self, link: int) -> None:
        if self.link == link:
            self._drop()

    def _drop(self) -> None:
        if self.dead or not self.connected:
            return
        self._wire.note("disconnect", self.name, "")
        self.connected = False
        for connection in self.connections:
            connection.deafen()

    def heal(self, after_s: float) -> None:
        """End the partition: the old connection is dead, a new one is made `after_s` later."""
        if self.dead or not self.partitioned:
            return
        self._wire.note("heal", self.name, "")
        self.partitioned = False
        self._drop()
        self.link += 1
        # A process that is stopped makes no connection.
        self._wire.later(after_s, self.enter, self._reconnect, self.link)

    def _reconnect(self, link: int) -> None:
        if self.link != link:
            return
        self.connected = True
        self.link += 1
        self.reconnects += 1
        self._wire.note("reconnect", self.name, "", f"number {self.reconnects}")
        for connection in self.connections:
            connection.listen()
            connection.catch_up()

    # --- crash, log cut ---

    def crash(self) -> None:
        """End for good.  What it sent before is on its way and may still arrive."""
        if self.dead:
            return
        self._wire.note("crash", self.name, "")
        self.dead = True
        self._held.clear()
        for connection in self.connections:
            connection.deafen()

    def cut_log(self) -> None:
        """Cut the node off from logs and shared state only."""
        self._wire.note("cut log", self.name, "")
        self.log_cut = True

    def mend_log(self) -> None:
        """Undo `cut_log`."""
        if not self.log_cut:
            return
        self._wire.note("mend log", self.name, "")
        self.log_cut = False
        for connection in self.connections:
            connection.catch_up()
