"""What a process gets from its surroundings: wall clock, randomness, ids.

Passed to every actor, so that the simulation can hand in its own and replay a run.
Monotonic time is the event loop's (`asyncio.get_running_loop().time()`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from swarm.core.ids import uuid7


def no_cpu() -> float:
    """Where several processes are simulated in one, each uses no processor time."""
    return 0.0


@dataclass(slots=True)
class Runtime:
    """Wall clock (seconds since the epoch), a random generator, processor seconds used so far."""

    wall: Callable[[], float] = time.time
    rng: random.Random = field(default_factory=random.SystemRandom)
    cpu: Callable[[], float] = time.process_time

    def new_id(self) -> str:
        """A fresh command id (UUIDv7)."""
        return uuid7(int(self.wall() * 1000), self.rng.getrandbits(74))

    def new_name(self, stem: str) -> str:
        """`stem` and 40 random bits: a session, a nonce, an agent id."""
        return f"{stem}{self.rng.getrandbits(40):010x}"
