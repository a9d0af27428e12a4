"""A node of a memory world: a process whose connections fail together.

Five things can be the matter with a living node, in any combination:

*paused*       SIGSTOP: on a loop that can freeze processes nothing of it runs, no timer and
               no task; what reaches it waits in the kernel's buffers, in order; what was
               on its way out of the callback that the signal hit waits as well,
*stalled*      it runs, but the network holds back what it sends and what is sent to it:
               nothing is lost, all comes late, in order,
*slow*         it takes its messages one by one, each after a time, and drops what is beyond
               a limit, as a client with a full subscription does,
*partitioned*  nothing gets through; what is sent before it notices is lost, what is sent
               after that waits in its buffers for the reconnect,
*log cut*      messages flow, but what needs logs or the shared state gets nowhere.

A node learns of its process (`swarm.bus.memory_process`) when it connects.  Without one (in
tests that speak for many nodes) a pause only holds back what goes in and out, the time-outs
of its calls included.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from swarm.bus.memory_faults import TICK_S, Wire
from swarm.errors import BusUnavailable

#: After a pause, messages are let in up to this many rounds of the loop after the timers that
#: came due meanwhile: a real loop reads its sockets before or after, as it happens.
ROUNDS_LATER_MAX = 3

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


class Node:
    """See the module.  All methods but `enter`, `leave` and `due` are for tests to call."""

    def __init__(self, name: str, wire: Wire, notice_s: float) -> None:
        self.name = name
        #: The process that runs here, as far as the loop can stop it.
        self.process: str | None = None
        self.connections: list[Connection] = []
        self.dead = False
        self.partitioned = False
        #: What the node believes of the server, and the server of it.
        self.connected = True
        self.log_cut = False
        #: On the loop's clock; None while it runs.
        self.paused_until_s: float | None = None
        #: On the loop's clock; None while its network flows.
        self.stalled_until_s: float | None = None
        #: Grows whenever what is under way to or from the node gets lost.
        self.link = 0
        self.reconnects = 0
        self._wire = wire
        self._notice_s = notice_s
        #: What has reached it and waits, and what waits to leave it.
        self._inward: deque[Waiting] = deque()
        self._outward: deque[Waiting] = deque()
        self._letting_in = False
        #: Time that it takes for each message while it is slow, and what it lets pile up.
        self._service_s = 0.0
        self._pending_max = 0
        self._pending = 0
        self._busy_until_s = 0.0
        #: Sendings left until something is to happen, and what.
        self._sends_left = 0
        self._at_send: Callable[[], object] | None = None

    @property
    def held(self) -> bool:
        """Whether what goes in and out has to wait."""
        return self.paused_until_s is not None or self.stalled_until_s is not None

    def reaches(self, link: int, log: bool) -> bool:
        """Whether what set out on `link` arrives now (`log`: it is to or from a log)."""
        if self.link != link or self.partitioned or not self.connected:
            return False
        return not (log and self.log_cut)

    def enter(self, callback: Callable[..., object], *args: Any) -> None:
        """Something reaches the node: never if it is dead, later if it is stopped or slow."""
        if self.dead:
            return
        now_s = self._wire.loop.time()
        if self._service_s or self._busy_until_s > now_s:
            # Also what comes when it is quick again waits behind what came before.
            self._busy_until_s = max(now_s, self._busy_until_s) + max(self._service_s, TICK_S)
            self._pending += 1
            self._wire.at(self._busy_until_s, self._serve, callback, args)
        else:
            self._take(callback, args)

    def _serve(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._pending -= 1
        self._take(callback, args)

    def _take(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        if self.dead:
            return
        if self.held or self._letting_in:
            self._inward.append((callback, args))
        else:
            callback(*args)

    def due(self, callback: Callable[[], object]) -> None:
        """A timer of the process has come: never if it is dead, later if it is paused."""
        if self.dead:
            return
        if self.paused_until_s is not None:
            # Of a process that the loop cannot stop.
            self._inward.append((callback, ()))
        else:
            callback()

    def leave(
        self, connection: Connection, size: int, callback: Callable[..., object], *args: Any
    ) -> None:
        """Something of `size` bytes sets out: `callback` is called when it is under way.

        Raises `BusUnavailable` when it would have to wait in a buffer that is full.
        """
        self._count_send()
        self._depart(connection, size, callback, args)

    def _depart(
        self,
        connection: Connection,
        size: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None:
        if self.dead:
            # Killed on its way here: the rest of the callback on the stack says nothing.
            return
        if self.held:
            self._outward.append((self._depart_late, (connection, size, callback, args)))
        elif not self.connected:
            connection.buffer(size, (callback, args))
        elif self.partitioned:
            self._wire.note("lost", self.name, "", "sent into a partition")
        else:
            callback(*args)

    def _depart_late(
        self,
        connection: Connection,
        size: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None:
        try:
            self._depart(connection, size, callback, args)
        except BusUnavailable as error:
            # Its sender was told long ago that it is buffered.
            self._wire.note("lost", self.name, "", error)

    def at_send(self, number: int, strike: Callable[[], object]) -> None:
        """Call `strike` just before the node sends the n-th thing from now on.

        What is being sent then, and what the same callback sends after it, meets whatever
        `strike` has done to the node.
        """
        self._sends_left, self._at_send = number, strike

    def _count_send(self) -> None:
        if self._at_send is None:
            return
        self._sends_left -= 1
        if self._sends_left <= 0:
            strike, self._at_send = self._at_send, None
            strike()

    # --- pause, stall ---

    def pause(self, for_s: float) -> None:
        """Stop for a while; a node that is stopped already resumes at the later time."""
        if self.dead:
            return
        self._wire.note("pause", self.name, "", f"for {for_s:.3f} s")
        until_s = self._wire.loop.time() + for_s
        if self.paused_until_s is None or until_s > self.paused_until_s:
            self.paused_until_s = until_s
            self._freeze()
            self._wire.at(until_s, self._resume_when_due, until_s)

    def _freeze(self) -> None:
        if self.process is not None and self._wire.freezer is not None:
            self._wire.freezer.freeze(self.process)

    def _thaw(self) -> int:
        if self.process is None or self._wire.freezer is None:
            return 0
        return self._wire.freezer.thaw(self.process)

    def _resume_when_due(self, until_s: float) -> None:
        if self.paused_until_s == until_s:
            self.resume()

    def resume(self) -> None:
        """Go on, and let through what has waited, in the order it came."""
        if self.dead or self.paused_until_s is None:
            return
        self.paused_until_s = None
        self._wire.note("resume", self.name, "", f"{len(self._inward)} held")
        self._let_out()
        self._letting_in = True
        self._let_in(self._wire.rng.randrange(ROUNDS_LATER_MAX + 1) if self._thaw() else 0)

    def stall(self, for_s: float) -> None:
        """Hold back what goes in and out for a while; the node itself goes on."""
        if self.dead:
            return
        self._wire.note("stall", self.name, "", f"for {for_s:.3f} s")
        until_s = self._wire.loop.time() + for_s
        if self.stalled_until_s is None or until_s > self.stalled_until_s:
            self.stalled_until_s = until_s
            self._wire.at(until_s, self._flow_when_due, until_s)

    def _flow_when_due(self, until_s: float) -> None:
        if self.stalled_until_s == until_s:
            self.flow()

    def flow(self) -> None:
        """End a stall."""
        if self.dead or self.stalled_until_s is None:
            return
        self.stalled_until_s = None
        self._wire.note("flow", self.name, "", f"{len(self._inward)} held")
        self._let_out()
        self._let_in(0)

    def _let_out(self) -> None:
        sent, self._outward = self._outward, deque()
        for callback, args in sent:
            # Whatever holds it now holds it back once more, in order.
            callback(*args)

    def _let_in(self, rounds_later: int) -> None:
        if rounds_later:
            self._wire.soon(self._let_in, rounds_later - 1)
            return
        self._letting_in = False
        came, self._inward = self._inward, deque()
        while came:
            callback, args = came.popleft()
            # What is let through may stop the node again, or kill it: then this holds
            # the rest back once more, in order, or drops it.
            self._take(self._wire.guard, (callback, *args))

    # --- slow ---

    def slow(self, service_s: float, pending_max: int) -> None:
        """Take each message `service_s` after the one before; drop beyond `pending_max`."""
        if self.dead:
            return
        self._wire.note("slow", self.name, "", f"{service_s:.3f} s each, {pending_max} pending")
        self._service_s, self._pending_max = service_s, pending_max

    def quick(self) -> None:
        """End `slow`: what has piled up is taken at once."""
        if self._service_s:
            self._wire.note("quick", self.name, "", f"{self._pending} pending")
        self._service_s = 0.0

    @property
    def full(self) -> bool:
        """Whether a message that arrives now is dropped."""
        return self._service_s > 0 and self._pending >= self._pending_max

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

    # --- crash, log cut ---

    def crash(self) -> None:
        """End for good.  What it sent before is on its way and may still arrive."""
        if self.dead:
            return
        self._wire.note("crash", self.name, "")
        self.dead = True
        self._inward.clear()
        self._outward.clear()
        self._freeze()
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
