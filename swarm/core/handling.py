"""What an agent is made for, how its handlers end, and what it is to do next.

Closed sets, shared by the core (`swarm.core.agent`), the actor and the handlers' runners.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Raw, Struct

from swarm.messages import NULL, Assignment, ErrorBody, ItemCommand


class AgentRules(Struct, frozen=True, kw_only=True):
    """What an agent is made for, and the limits of its messages in bytes."""

    work_types: tuple[str, ...]
    concurrency: int
    item_bytes_max: int
    message_bytes_max: int

    @property
    def held_max(self) -> int:
        """Held items at which no more are taken: the swarm is slow to acknowledge, or away."""
        return 2 * self.concurrency + 16


# --- how a handler ends -----------------------------------------------------------


class Done(Struct, frozen=True):
    """It returned; `result` is JSON."""

    result: Raw


class Failed(Struct, frozen=True):
    """It raised; `error` tells people how.

    Tried again after `retry_after_s` (None: after the item's backoff), or never if `final`.
    """

    error: str
    retry_after_s: float | None = None
    final: bool = False


class Waiting(Struct, frozen=True):
    """It asked to wait for something outside: JSON, for people.

    The item is given up, or resumed without an answer, after `expires_s` (0: the swarm's
    default).  `checkpoint`: for whoever goes on; null keeps the one that there is.
    """

    waits_for: Raw
    expires_s: float = 0.0
    on_expiry: Literal["dead", "resume"] = "dead"
    checkpoint: Raw = NULL


class Stopped(Struct, frozen=True):
    """It was cancelled, as asked."""


Outcome = Done | Failed | Waiting | Stopped


# --- what the actor is to do ---------------------------------------------------------

#: Why a handler is to stop.  ``lost``: the claim has ended, nothing counts any more.
#: ``leaving``: its agent stops, the item is handed back.  ``asked``: the swarm does not want
#: the work any more; what is finished within the grace time counts all the same.
StopKind = Literal["lost", "leaving", "asked"]


class Start(Struct, frozen=True):
    """Run the handler for this assignment."""

    assignment: Assignment


class Cancel(Struct, frozen=True):
    """Stop the handler of this item; it still ends with an outcome."""

    work_item_id: str
    token: str
    reason: str
    kind: StopKind = "lost"
    #: Of an ``asked`` one: after so many seconds the claim ends.
    grace_s: float = 0.0


class Kept(Struct, frozen=True):
    """The handler's checkpoint with this number, and all before it, are durable; or refused."""

    work_item_id: str
    token: str
    number: int
    error: ErrorBody | None = None


class Reattach(Struct, frozen=True):
    """Attach again, with the same session."""

    reason: str


class Refused(Struct, frozen=True):
    """The swarm refused a command; whatever follows from it is under way already."""

    command: ItemCommand
    error: ErrorBody


Effect = Start | Cancel | Kept | Reattach | Refused
