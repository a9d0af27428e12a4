"""What a shard's owner decides: commands in, events and an answer out.

Each function checks its command against the state, adds the events it decides to the
`Batch`, which applies them at once (so that the next command of the same batch sees
them), and returns the answer, or raises `Refusal` with nothing changed.  Nothing of it
may leave the owner before the batch is durable; that is the shard worker's part.
"""

from __future__ import annotations

from swarm.core.decide.batch import Batch
from swarm.core.decide.claiming import assignment, claim, claim_session, take
from swarm.core.decide.control import item_control
from swarm.core.decide.edges import edge
from swarm.core.decide.holding import VERB, item_command, renew
from swarm.core.decide.submitting import known, submit
from swarm.core.decide.timely import TakenBack, due, give_up, may_archive
from swarm.core.ids import CLOCK_AHEAD_MAX_S

__all__ = [
    "CLOCK_AHEAD_MAX_S",
    "VERB",
    "Batch",
    "TakenBack",
    "assignment",
    "claim",
    "claim_session",
    "due",
    "edge",
    "give_up",
    "item_command",
    "item_control",
    "known",
    "may_archive",
    "renew",
    "submit",
    "take",
]
