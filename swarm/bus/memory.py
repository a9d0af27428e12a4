"""The bus in memory: a world that is deterministic, and as faulty as it is told to be.

A `MemoryWorld` is the server; `world.connect(sender, node=…)` makes a connection of a
process (node).  Everything goes through timers of the running event loop: nothing is
delivered inside a publish.  On a `swarm.testing.loop.SimLoop` a run is decided by its
seeds alone; on an ordinary loop the world behaves like a quick server.

    async def main() -> None:
        world = MemoryWorld(random.Random(7), faults=Faults(loss=0.1))
        bus = world.connect("a1", node="agents")
        ...
    swarm.testing.loop.run(main, seed=7)

Order without faults: messages of one connection reach one subscription in the order they
were published.  Between subscriptions, and between connections, there is none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from random import Random
from typing import Any, Final

from swarm.bus.base import Entry
from swarm.bus.memory_bus import MemoryBus
from swarm.bus.memory_disk import Disk
from swarm.bus.memory_faults import Faults, Range, Trace, Wire
from swarm.bus.memory_link import LookHook, SendHook, Server
from swarm.bus.memory_logs import AppendHook, Logs, PurgeHook
from swarm.bus.memory_messages import DeliverHook, PublishHook, Switch
from swarm.bus.memory_node import Node
from swarm.bus.memory_process import PROCESS
from swarm.bus.memory_records import Records
from swarm.bus.memory_routes import check_subject

__all__ = ["Faults", "MemoryBus", "MemoryWorld", "Trace"]

MAX_PAYLOAD: Final = 1024 * 1024
#: Where the server's clock stands when the loop's is at 0 (2026-01-01).
EPOCH_S: Final = 1_767_225_600.0


class MemoryWorld:
    """The server, and the hand that makes it fail.  Made while its event loop runs.

    `rng` drives every delay and fault.  `epoch_s` is added to the loop's clock for the
    server's time.  `notice_s`: after how long a cut connection is taken for lost;
    `reconnect_s`: how long a new one takes once it is possible; `call_timeout_s`: how
    long reads and other calls without a time-out of their own wait; `buffer_max`: bytes
    that a connection keeps while it is down; `trace_max`: happenings kept, None = all.
    """

    def __init__(
        self,
        rng: Random,
        *,
        faults: Faults | None = None,
        epoch_s: float = EPOCH_S,
        max_payload: int = MAX_PAYLOAD,
        notice_s: float = 2.0,
        reconnect_s: Range = (0.01, 0.2),
        call_timeout_s: float = 5.0,
        buffer_max: int = 2 * 1024 * 1024,
        trace_max: int | None = 2000,
    ) -> None:
        self.trace = Trace(trace_max)
        self.max_payload = max_payload
        self._wire = Wire(rng, faults or Faults.none(), self.trace)
        self._switch = Switch(self._wire)
        self._disk = Disk()
        self._logs = Logs(self._wire, self.time, self._disk)
        self._records = Records(self._wire, self.time, self._disk)
        self._server = Server(
            wire=self._wire,
            wall=self.time,
            switch=self._switch,
            logs=self._logs,
            records=self._records,
            disk=self._disk,
            max_payload=max_payload,
            call_timeout_s=call_timeout_s,
            buffer_max=buffer_max,
        )
        self._epoch_s = epoch_s
        self._notice_s = notice_s
        self._reconnect_s = reconnect_s
        self._nodes: dict[str, Node] = {}

    @classmethod
    def on_wall_clock(cls, seed: int = 0, **settings: Any) -> MemoryWorld:
        """A world for an ordinary event loop, whose server's time is the machine's."""
        epoch_s = time.time() - asyncio.get_running_loop().time()
        return cls(Random(seed), epoch_s=epoch_s, **settings)

    def connect(self, sender: str, node: str = "") -> MemoryBus:
        """A new connection of the process `node` (default: one named like `sender`).

        A node that has crashed is started anew by this.  Raises ValueError if `sender`
        cannot be a token of a subject.
        """
        check_subject(sender)
        if "." in sender:
            raise ValueError(f"the sender {sender!r} must be one token, without dots")
        name = node or sender
        process = self._nodes.get(name)
        if process is None or process.dead:
            process = self._nodes[name] = Node(name, self._wire, self._notice_s)
        process.process = PROCESS.get(None)
        bus = MemoryBus(self._server, sender, process)
        process.connections.append(bus)
        self._wire.note("connect", name, sender)
        return bus

    # --- the hand that makes it fail ---

    @property
    def faults(self) -> Faults:
        """What may go wrong from now on: change its fields, or set it as a whole."""
        return self._wire.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        faults.check()
        self._wire.faults = faults

    @property
    def nodes(self) -> list[str]:
        """All that have connected so far."""
        return list(self._nodes)

    def crash(self, node: str) -> None:
        """Kill a process: its handlers are never called again, its awaits never return.

        What it has sent is on its way and arrives, appends included.  Whatever it calls
        after its death raises `BusUnavailable`.
        """
        self._node(node).crash()

    def partition(self, node: str) -> None:
        """Let nothing in or out until `heal`; what is under way is lost."""
        self._node(node).partition()

    def heal(self, node: str) -> None:
        """End a partition and mend the logs; the node reconnects a little later."""
        self._node(node).mend_log()
        self._node(node).heal(self._wire.between(self._reconnect_s))

    def pause(self, node: str, for_s: float) -> None:
        """Stop a process as SIGSTOP does: nothing of it runs, what reaches it waits, in order.

        To be stopped whole it runs on a `SimLoop`, in a context in which
        `swarm.bus.memory_process.PROCESS` names it.
        """
        self._node(node).pause(for_s)

    def resume(self, node: str) -> None:
        """End a pause early."""
        self._node(node).resume()

    def stall(self, node: str, for_s: float) -> None:
        """Hold back all that goes in and out of a node, which itself goes on, for a while."""
        self._node(node).stall(for_s)

    def slow(self, node: str, service_s: float, pending_max: int) -> None:
        """Let it take its messages one by one, and lose those beyond `pending_max`."""
        self._node(node).slow(service_s, pending_max)

    def quick(self, node: str) -> None:
        """End `slow`."""
        self._node(node).quick()

    def at_send(self, node: str, number: int, strike: Callable[[], object]) -> None:
        """Call `strike` (once) just before the node sends the n-th message or append from now."""
        self._node(node).at_send(number, strike)

    def cut_log(self, node: str) -> None:
        """Let messages flow, but appends, reads and state calls time out until `heal`."""
        self._node(node).cut_log()

    def mend_log(self, node: str) -> None:
        """Undo `cut_log`, and nothing else."""
        self._node(node).mend_log()

    def calm(self) -> None:
        """End every fault: from now on all works (what is lost stays lost)."""
        self.faults = Faults.none()
        self.capacity = 0
        for name in self._nodes:
            self.resume(name)
            self._node(name).flow()
            self.quick(name)
            self.heal(name)

    def inject(self, log: str, data: bytes) -> int:
        """Store a foreign message past the fence, at once; returns its sequence."""
        return self._logs.inject(log, data)

    def delete_log(self, log: str) -> None:
        """Delete a log, as an operator can; raises `LogMissing`."""
        self._logs.delete(log)

    def delete_records(self, name: str) -> None:
        """Delete a store of records, as an operator can; raises `LogMissing`."""
        self._records.delete(name)

    def delete_state(self) -> None:
        """Delete the shared state, as an operator can."""
        self._server.state = None

    def state(self, key: str) -> bytes | None:
        """A value of the shared state, as the server has it."""
        return self._server.known_state().get(key)

    def delete_key(self, key: str) -> None:
        """Delete a value of the shared state, as an operator can; raises KeyError."""
        del self._server.known_state()[key]

    @property
    def capacity(self) -> int:
        """Bytes that the server can keep; what does not fit is refused.  0: no end."""
        return self._disk.capacity

    @capacity.setter
    def capacity(self, size: int) -> None:
        self._disk.capacity = size

    def fill(self, fraction: float) -> None:
        """Set the capacity so that what is kept now is this part of it (1: nothing fits)."""
        if not 0 < fraction <= 1:
            raise ValueError(f"the fraction {fraction} must be over 0 and at most 1")
        self.capacity = max(1, round(self._disk.used / fraction))

    def _node(self, name: str) -> Node:
        try:
            return self._nodes[name]
        except KeyError:
            known = ", ".join(self._nodes) or "none"
            raise ValueError(f"no node {name!r} has connected; there are: {known}") from None

    # --- what checkers see ---

    def on_append(self, hook: AppendHook) -> None:
        """Call `hook(log, entry, node)` whenever an entry is stored ("" if injected)."""
        self._logs.on_append.append(hook)

    def on_purge(self, hook: PurgeHook) -> None:
        """Call `hook(log, first_seq, node)` whenever entries are dropped from a log."""
        self._logs.on_purge.append(hook)

    def on_send(self, hook: SendHook) -> None:
        """Call `hook(log, data, node)` when a process begins to append, whatever becomes of it."""
        self._server.on_send.append(hook)

    def on_publish(self, hook: PublishHook) -> None:
        """Call `hook(node, subject, data, reply, headers)` at every publish and request.

        At the moment the sender does it, whatever becomes of the message then.
        """
        self._switch.on_publish.append(hook)

    def on_arrive(self, hook: DeliverHook) -> None:
        """Call `hook(node, subject, data)` when a message reaches a node, stopped or not."""
        self._switch.on_arrive.append(hook)

    def on_deliver(self, hook: DeliverHook) -> None:
        """Call `hook(node, subject, data)` before a handler or request gets a message."""
        self._switch.on_deliver.append(hook)

    def on_look(self, hook: LookHook) -> None:
        """Call `hook(node)` when the server reads its clock for a node that has asked."""
        self._server.on_look.append(hook)

    def log_entries(self, log: str) -> list[Entry]:
        """What is truly in the log and not purged; raises `LogMissing`."""
        return list(self._logs.get(log).entries)

    def records(self, name: str) -> dict[str, list[bytes]]:
        """What is truly in a store of records, by key; raises `LogMissing`."""
        return {key: self._records.truly(name, key) for key in self._records.keys(name)}

    def time(self) -> float:
        """The server's clock, seconds since the epoch."""
        return self._epoch_s + self._wire.loop.time()
