"""The mechanisms of the swarm as the simulation knows them; a new one is added to this list."""

from __future__ import annotations

from swarm.testing.sim.mechanism import Mechanism
from swarm.testing.sim.mechanisms.answering import Answering
from swarm.testing.sim.mechanisms.attaching import Attaching
from swarm.testing.sim.mechanisms.cancelling import Cancelling
from swarm.testing.sim.mechanisms.checkpointing import Checkpointing
from swarm.testing.sim.mechanisms.depending import Depending
from swarm.testing.sim.mechanisms.failing import Failing
from swarm.testing.sim.mechanisms.following import Following
from swarm.testing.sim.mechanisms.handing import Handing
from swarm.testing.sim.mechanisms.holding import Holding
from swarm.testing.sim.mechanisms.keeping import Keeping
from swarm.testing.sim.mechanisms.leading import Leading
from swarm.testing.sim.mechanisms.leasing import Leasing
from swarm.testing.sim.mechanisms.prioritizing import Prioritizing
from swarm.testing.sim.mechanisms.reading import Reading
from swarm.testing.sim.mechanisms.repeating import Repeating
from swarm.testing.sim.mechanisms.resizing import Resizing
from swarm.testing.sim.mechanisms.resting import Resting
from swarm.testing.sim.mechanisms.slots import Slots
from swarm.testing.sim.mechanisms.submitting import Submitting
from swarm.testing.sim.mechanisms.timekeeping import Timekeeping
from swarm.testing.sim.mechanisms.timing import Timing

MECHANISMS: tuple[type[Mechanism], ...] = (
    Submitting,
    Attaching,
    Holding,
    Leasing,
    Depending,
    Failing,
    Timing,
    Reading,
    Following,
    Timekeeping,
    Cancelling,
    Checkpointing,
    Answering,
    Prioritizing,
    Repeating,
    Keeping,
    Handing,
    Slots,
    Resting,
    Leading,
    Resizing,
)
