"""What may happen to the processes of a simulation: one entry of `KINDS` for each kind."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Collection
from random import Random
from typing import TYPE_CHECKING

from msgspec import Struct

from swarm.bus.memory_faults import TICK_S
from swarm.errors import BusError

if TYPE_CHECKING:
    from swarm.testing.sim.mechanism import Hooks
    from swarm.testing.sim.processes import Processes
    from swarm.testing.sim.scene import Scene


class Mishap(Struct):
    """Something that happens to the process `node`."""

    at_s: float
    kind: str
    node: str
    for_s: float
    #: 0: just then; n: as the process sends the n-th message or append from then on, so that
    #: it is hit between two steps, and the rest of what it had to say waits or is lost.
    sends: int = 0
    #: What it means depends on the kind.
    amount: float = 0.0


Strike = Callable[["Stagehand", Mishap], None]


class Kind(Struct, frozen=True):
    """A kind of mishap."""

    name: str
    #: How often it is drawn, relative to the others.
    weight: int
    #: Whom it may strike, the first letters of their names: (c)oordinators, (a)gents,
    #: (r)outers, (u)sers, the (f)ollower.  A letter twice: twice as often.  (An outage
    #: strikes all, whoever is drawn.)
    whom: str
    strike: Strike
    #: Draws how long it lasts.
    for_s: Callable[[Random], float] = lambda rng: 0.1 + rng.random() * 5.0
    amount: Callable[[Random], float] = lambda _rng: 0.0
    #: Whether it may strike at a sending.
    at_sends: bool = True


class Stagehand:
    """Carries out mishaps, until the scene is calm."""

    def __init__(self, scene: Scene, hooks: Hooks, processes: Processes) -> None:
        self.scene = scene
        self.processes = processes
        self._hooks = hooks
        self.rng = scene.new_rng()
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        #: Logs into which a foreign entry is to slip just before the next append to them.
        self._raced: dict[str, None] = {}
        scene.world.on_send(self._race)

    def later(self, after_s: float, callback: Callable[[], None]) -> None:
        """Do something later, unless the scene is calm by then.

        The callback belongs to no process: whoever is struck must not take it along.
        """

        def call() -> None:
            if not self.scene.calm:
                callback()

        self._loop.call_later(after_s, call, context=self._context)

    def mend_later(self, mishap: Mishap, mend: Callable[[], None]) -> None:
        """End the mishap when its time has come."""

        def end() -> None:
            mend()
            self._hooks.mended(mishap)

        self.later(mishap.for_s, end)

    def strike(self, mishap: Mishap) -> None:
        """It is time."""
        kind = _BY_NAME[mishap.kind]

        def happen() -> None:
            if not self.scene.calm:
                self.scene.verdict.saw(mishap.kind)
                self._hooks.mishap(mishap)
                kind.strike(self, mishap)

        if mishap.sends:
            self.scene.world.at_send(mishap.node, mishap.sends, happen)
        else:
            happen()

    def race(self, log: str) -> None:
        """Let a foreign entry slip in before the next append to this log."""
        self._raced[log] = None

    def _race(self, log: str, data: bytes, node: str) -> None:
        if log in self._raced:
            del self._raced[log]
            with contextlib.suppress(BusError):  # the log may not have been made yet
                self.scene.world.inject(log, b'{"not": "ours"}')


# --- the kinds -----------------------------------------------------------------------------


def _crash(hand: Stagehand, mishap: Mishap) -> None:
    hand.processes.kill(mishap.node, mishap.for_s)


def _step(hand: Stagehand, mishap: Mishap) -> None:
    """Whoever takes a step first, which one `amount` says, is killed right after it."""

    def kill(node: str) -> bool:
        if hand.scene.calm:
            return False
        hand.processes.kill(node, mishap.for_s)
        return True

    hand.scene.traps.lay(mishap.amount, kill)


def _leave(hand: Stagehand, mishap: Mishap) -> None:
    hand.processes.terminate(mishap.node, mishap.for_s)


def _pause(hand: Stagehand, mishap: Mishap) -> None:
    hand.scene.world.pause(mishap.node, mishap.for_s)


def _stutter(hand: Stagehand, mishap: Mishap) -> None:
    """A machine that is overloaded: it stops and goes on, for short times, again and again."""
    until_s = hand.scene.clock() + mishap.for_s

    def stop() -> None:
        stopped_s = hand.rng.random() * mishap.amount
        hand.scene.world.pause(mishap.node, stopped_s)
        if hand.scene.clock() < until_s:
            hand.later(stopped_s + hand.rng.random() * 0.1, stop)

    stop()


def _stall(hand: Stagehand, mishap: Mishap) -> None:
    hand.scene.world.stall(mishap.node, mishap.for_s)


def _slow(hand: Stagehand, mishap: Mishap) -> None:
    world = hand.scene.world
    world.slow(mishap.node, mishap.amount, hand.rng.choice((5, 20, 100)))
    hand.mend_later(mishap, lambda: world.quick(mishap.node))


def _deafen(hand: Stagehand, mishap: Mishap) -> None:
    """Its subscriptions are lost: messages go out, appends work, and nothing comes in."""
    world = hand.scene.world
    world.slow(mishap.node, TICK_S, 0)
    hand.mend_later(mishap, lambda: world.quick(mishap.node))


def _partition(hand: Stagehand, mishap: Mishap) -> None:
    hand.scene.world.partition(mishap.node)
    hand.mend_later(mishap, lambda: hand.scene.world.heal(mishap.node))


def _outage(hand: Stagehand, mishap: Mishap) -> None:
    """The NATS server is away for everybody."""
    world = hand.scene.world
    for node in world.nodes:
        world.partition(node)

    def restart() -> None:
        for node in world.nodes:
            world.heal(node)

    hand.mend_later(mishap, restart)


def _cut_log(hand: Stagehand, mishap: Mishap) -> None:
    hand.scene.world.cut_log(mishap.node)
    hand.mend_later(mishap, lambda: hand.scene.world.mend_log(mishap.node))


def _full(hand: Stagehand, mishap: Mishap) -> None:
    """The server's disk is full: nothing fits any more."""
    world = hand.scene.world
    if not world.capacity:
        world.fill(1.0)

    def free() -> None:
        world.capacity = 0

    hand.mend_later(mishap, free)


def _foreign(hand: Stagehand, _mishap: Mishap) -> None:
    hand.race(hand.scene.subjects.log(hand.rng.randrange(hand.scene.settings.shard_count)))


def _clock(hand: Stagehand, mishap: Mishap) -> None:
    clocks = hand.scene.clocks
    clocks.jump(mishap.node, mishap.amount)
    hand.mend_later(mishap, lambda: clocks.mend(mishap.node))


#: Longer than a takeover takes (the beats are missed, another opens) more often than not.
def _pause_s(rng: Random) -> float:
    return rng.choice((0.1, 1.3, 1.6, 2.0, 3.0)) + rng.random() * rng.choice((0.5, 3.0))


def _jump_s(rng: Random) -> float:
    size_s = rng.choice((0.5, 3.0, 30.0, 400.0, 3600.0, 7200.0))
    return rng.choice((1, -1)) * size_s * (0.5 + rng.random())


KINDS = (
    Kind("crash", 5, "ccaar", _crash),
    Kind("step", 5, "c", _step, amount=lambda rng: rng.random(), at_sends=False),
    Kind("leave", 2, "ccar", _leave, at_sends=False),
    Kind("pause", 6, "ccccaarruf", _pause, _pause_s),
    Kind("stutter", 1, "ccaar", _stutter, amount=lambda rng: rng.choice((0.1, 0.4, 1.0))),
    Kind("stall", 2, "cccaruf", _stall, _pause_s),
    Kind("slow", 2, "ccaarf", _slow, amount=lambda rng: rng.choice((0.001, 0.01, 0.05))),
    Kind("deaf", 2, "ccca", _deafen),
    Kind("partition", 3, "cccaaruf", _partition),
    Kind("outage", 1, "c", _outage, _pause_s, at_sends=False),
    Kind("cut_log", 2, "cccf", _cut_log),
    Kind("full", 1, "c", _full, at_sends=False),
    Kind("foreign", 3, "c", _foreign, at_sends=False),
    Kind("clock", 4, "ccccau", _clock, amount=_jump_s),
)
#: How much more often a kind is drawn that a run is to focus on.
FOCUS_FACTOR = 20
_BY_NAME = {kind.name: kind for kind in KINDS}


def draw_mishap(
    rng: Random, names: list[str], faults_s: float, focus: Collection[str] = ()
) -> Mishap:
    """A mishap of one of these processes within the first `faults_s`.

    Of kinds in `focus` it is much more often than of others.
    """
    weights = [kind.weight * (FOCUS_FACTOR if kind.name in focus else 1) for kind in KINDS]
    (kind,) = rng.choices(KINDS, weights)
    letter = rng.choice([letter for letter in kind.whom if any(n[0] == letter for n in names)])
    node = rng.choice([name for name in names if name[0] == letter])
    sends = rng.choice((0, 0, 1, 2, 3, 5, 8)) if kind.at_sends else 0
    at_s = rng.random() * faults_s
    return Mishap(at_s, kind.name, node, kind.for_s(rng), sends, kind.amount(rng))
