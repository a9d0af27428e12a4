"""What a mechanism of the swarm brings to the simulation: what is done with it, what must hold.

A mechanism is one file in `mechanisms/` with one class, registered in its `__init__`.  It
overrides what it needs of the hooks below; the others cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec import Struct

from swarm.messages import ClusterEvent
from swarm.sdk.context import Context
from swarm.testing.sim.mishaps import Mishap
from swarm.testing.sim.processes import Processes, Role
from swarm.testing.sim.truth import Claim, Folded

if TYPE_CHECKING:
    from swarm.testing.sim.client import Client
    from swarm.testing.sim.scene import Scene


class Said:
    """A message as it leaves a process."""

    def __init__(
        self, node: str, subject: str, data: bytes, reply: str, headers: Mapping[str, str] | None
    ) -> None:
        self.node = node
        self.subject = subject
        self.tokens = subject.split(".")
        self.data = data
        self.reply = reply
        self.headers = headers

    @cached_property
    def body(self) -> dict[str, Any]:
        """The message, decoded; {} for an empty one."""
        body: dict[str, Any] = msgspec.json.decode(self.data) if self.data else {}
        return body


class Execution(Struct):
    """A handler run."""

    claim: Claim
    process: str
    started_at_s: float
    ended_at_s: float | None = None


class Mechanism:
    """See the module's docstring.  All times are virtual seconds unless they say otherwise."""

    #: What some hundred schedules must have seen of it (keys of `Verdict.seen`).
    expects: ClassVar[Sequence[str]] = ()
    #: How often a client's turn is one with this mechanism, relative to the others.
    weight: ClassVar[int] = 0

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    # --- what is done ----------------------------------------------------------------

    def roles(self) -> dict[str, Role]:
        """Processes of its own, by name."""
        return {}

    async def act(self, client: Client) -> None:
        """A client's turn; called only when `weight` is above 0."""

    def describe(self, item: dict[str, Any], client: Client) -> None:
        """Add to an item that a client is about to submit."""

    def arrange(self, items: Sequence[dict[str, Any]], client: Client) -> None:
        """Add to items that a client is about to submit together."""

    async def work(self, context: Context, rng: Random) -> None:
        """Something that a handler does before it returns or fails."""

    # --- what happened ---------------------------------------------------------------

    def on_event(self, folded: Folded) -> None:
        """An event is durable."""

    def on_append(self, log: str, node: str) -> None:
        """A process begins to append to a log, perhaps in vain."""

    def on_cluster(self, event: ClusterEvent, node: str) -> None:
        """An event of the cluster log, written by `node`, is durable."""

    def on_coordinator(self, said: Said) -> None:
        """A coordinator says something."""

    def on_other(self, said: Said) -> None:
        """Anybody else says something: a client, an agent, a router."""

    def on_arrive(self, node: str, subject: str, data: bytes) -> None:
        """A message has reached a machine, though perhaps not yet its process."""

    def on_deliver(self, node: str, subject: str, data: bytes) -> None:
        """A process gets a message."""

    def on_start(self, execution: Execution) -> None:
        """A handler starts."""

    def on_finish(self, execution: Execution) -> None:
        """A handler has ended, or its process has died."""

    def on_boot(self, node: str) -> None:
        """A process starts, or starts anew."""

    def on_look(self, node: str) -> None:
        """The server reads its clock for somebody."""

    def on_mishap(self, mishap: Mishap) -> None:
        """Something begins to go wrong."""

    def on_mended(self, mishap: Mishap) -> None:
        """It is over (if the scene has not become calm before)."""

    # --- the end ---------------------------------------------------------------------

    def unfinished(self) -> Iterable[str]:
        """What has still to happen, in words; a healthy swarm must come to an end of it."""
        return ()

    async def probe(self, processes: Processes) -> None:
        """All has finished, nothing fails any more: a last try of something."""

    def at_end(self) -> None:
        """All has finished: is all as it must be?"""


class Hooks:
    """The hooks of all mechanisms, each called only where it is overridden."""

    def __init__(self, mechanisms: Sequence[Mechanism], coordinators: Iterable[str]) -> None:
        self._coordinators = dict.fromkeys(coordinators)
        self.mechanisms = mechanisms
        self.acting = [mechanism for mechanism in mechanisms if mechanism.weight]
        self.describe = self._all(Mechanism.describe)
        self.arrange = self._all(Mechanism.arrange)
        self.event = self._all(Mechanism.on_event)
        self.append = self._all(Mechanism.on_append)
        self.cluster = self._all(Mechanism.on_cluster)
        self.arrive = self._all(Mechanism.on_arrive)
        self.deliver = self._all(Mechanism.on_deliver)
        self.start = self._all(Mechanism.on_start)
        self.finish = self._all(Mechanism.on_finish)
        self.boot = self._all(Mechanism.on_boot)
        self.look = self._all(Mechanism.on_look)
        self.mishap = self._all(Mechanism.on_mishap)
        self.mended = self._all(Mechanism.on_mended)
        self._coordinator = self._all(Mechanism.on_coordinator)
        self._other = self._all(Mechanism.on_other)
        self._works: list[Callable[[Context, Random], Coroutine[Any, Any, None]]] = [
            mechanism.work for mechanism in mechanisms if type(mechanism).work is not Mechanism.work
        ]

    def _all(self, hook: Callable[..., None]) -> Callable[..., None]:
        name = hook.__name__
        bound = [
            getattr(mechanism, name)
            for mechanism in self.mechanisms
            if getattr(type(mechanism), name) is not hook
        ]
        if len(bound) == 1:
            only: Callable[..., None] = bound[0]
            return only

        def call(*args: object) -> None:
            for one in bound:
                one(*args)

        return call

    def publish(
        self, node: str, subject: str, data: bytes, reply: str, headers: Mapping[str, str] | None
    ) -> None:
        """A message leaves a process."""
        said = Said(node, subject, data, reply, headers)
        (self._coordinator if node in self._coordinators else self._other)(said)

    async def work(self, context: Context, rng: Random) -> None:
        """What handlers do for the mechanisms."""
        for work in self._works:
            await work(context, rng)

    def unfinished(self) -> list[str]:
        """All that has still to happen."""
        return [left for mechanism in self.mechanisms for left in mechanism.unfinished()]
