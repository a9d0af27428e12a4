"""What the parts of a coordinator share: its bus, its settings, and how to reach it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from swarm.actors.sending import Sender
from swarm.actors.server_clock import ServerClock
from swarm.bus.base import Bus
from swarm.config import Settings
from swarm.core.credits import CreditPool
from swarm.core.urgency import Place, Places
from swarm.messages import Conflict
from swarm.runtime import Runtime
from swarm.subjects import Subjects


@dataclass(slots=True)
class Surroundings:
    """What a shard worker or a standby shares with the coordinator that hosts it."""

    bus: Bus
    send: Sender
    settings: Settings
    runtime: Runtime
    subjects: Subjects
    coordinator: str
    pool: CreditPool
    server_clock: ServerClock
    #: Whether messages reach this process (it hears its own beats).
    hearing: Callable[[], bool]
    #: The worker has ended: (shard, why, whether somebody must look at it, who owns it now).
    ended: Callable[[int, str, bool, str], None]
    #: The worker has committed: free slots or ready work may have changed.
    committed: Callable[[], None]
    #: How many shards are served here.
    hosted: Callable[[], int]
    #: The format of entries that every live coordinator can read.
    format: Callable[[], int]
    #: Whether storage is so full that this shard accepts nothing new.
    nearly_full: Callable[[int], bool]
    #: Two have disagreed: the leader is to know, some time.
    disagreed: Callable[[Conflict], None]
    #: Of the shards served here: whose ready work is more urgent.
    places: Places = field(default_factory=Places)

    def place(self, wake: Callable[[], None]) -> Place:
        """For a shard that is to be served here; `wake` makes it decide once more."""
        return Place(self.places, self.settings.ageing_s, wake)
