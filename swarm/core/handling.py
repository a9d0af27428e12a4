"""What an agent is made for, how its handlers end, and what it is to do next.

Closed sets, shared by the core (`swarm.core.agent`), the actor and the handlers' runners.
"""

from __future__ import annotations

from msgspec import Raw, Struct

from swarm.messages import Assignment, ErrorBody, ItemCommand


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
    """It raised; `error` tells people how."""

    error: str


class Stopped(Struct, frozen=True):
    """It was cancelled, as asked."""


Outcome = Done | Failed | Stopped


# --- what the actor is to do ---------------------------------------------------------


class Start(Struct, frozen=True):
    """Run the handler for this assignment."""

    assignment: Assignment


class Cancel(Struct, frozen=True):
    """Stop the handler of this item; it still ends with an outcome."""

    work_item_id: str
    token: str
    reason: str


class Reattach(Struct, frozen=True):
    """Attach again, with the same session."""

    reason: str


class Refused(Struct, frozen=True):
    """The swarm refused a command; whatever follows from it is under way already."""

    command: ItemCommand
    error: ErrorBody


Effect = Start | Cancel | Reattach | Refused
