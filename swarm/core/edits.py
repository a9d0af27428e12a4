"""Edits of what holds for the whole swarm that meet: the leader's turns, and who is refused.

An edit names the version that its sender has read (`based_on`; without it, it asks to
overwrite whatever there is).  What is in the cluster log stays: an edit of a version that
is not the latest any more is refused, and kept as a conflict with both sides.  Edits of
the *latest* version that wait together are equals, of which `CONFLICT_RESOLUTION` picks
one; nobody was told of any of them yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from swarm.core.conflicts import SIDE_CHARS_MAX, best_first, short
from swarm.core.ids import command_order
from swarm.errors import Refusal
from swarm.messages import (
    Conflict,
    ConflictKind,
    ConflictNoted,
    Priority,
    Resize,
    SetRules,
    TellConflict,
)

if TYPE_CHECKING:
    from swarm.core.cluster import ClusterBatch

Edit = SetRules | Resize
Command = Edit | TellConflict
#: What is edited, and which version of it.
Edited = tuple[type[SetRules] | type[Resize], int]

#: At most what a conflict adds to an entry: three sides, each character escaped.
CONFLICT_BYTES = 6 * 3 * SIDE_CHARS_MAX + 300


class Asked(Struct):
    """A command as it came to the leader."""

    verb: str
    command: Command
    sender: str
    #: Inbox for the answer; empty when none is wanted.
    reply: str = ""

    @property
    def made_ms(self) -> int:
        """When it was made, by its id."""
        return command_order(self.command.command_id)

    @property
    def priority(self) -> Priority:
        """As it says itself."""
        return "medium" if isinstance(self.command, TellConflict) else self.command.priority


def in_turn(asked: Sequence[Asked], out: ClusterBatch) -> list[Asked]:
    """Commands in the order in which they are to be carried out: as they came, but for equals."""
    cluster = out.cluster
    latest = {SetRules: cluster.rules.version, Resize: cluster.map.version if cluster.map else 0}
    places: dict[Edited, list[int]] = {}
    for place, one in enumerate(asked):
        command = one.command
        if isinstance(command, TellConflict) or command.command_id in cluster.commands:
            continue
        if command.based_on and command.based_on == latest[type(command)]:
            places.setdefault((type(command), command.based_on), []).append(place)
    turns = list(asked)
    for edited, met in places.items():
        if len(met) < 2:
            continue
        out.met.add(edited)
        ranked = best_first(
            [asked[place] for place in met],
            out.policy,
            lambda one: one.made_ms,
            lambda one: one.priority,
            out.rng,
        )
        for place, one in zip(met, ranked, strict=True):
            turns[place] = one
    assert len(turns) == len(asked), "all have their turn"
    return turns


class Sides(Struct, frozen=True):
    """What an edit of an old version is about, and what there is instead."""

    kind: ConflictKind
    #: What it edits, for people.
    name: str
    #: Of which there is this version, and who or what that is.
    version: int
    is_now: str
    kept: str
    dropped: str


def check_edited(command: Edit, sender: str, sides: Sides, out: ClusterBatch) -> None:
    """Refuse an edit of another version than there is, and keep the conflict."""
    if not command.based_on or command.based_on == sides.version:
        return
    edited = (type(command), command.based_on)
    equals = edited in out.met and edited in out.won
    policy = out.policy if equals else "log"
    about = f"{sides.name}, version {command.based_on}"
    dropped = f"{sender}: {sides.dropped}"
    noted = short(Conflict(sides.kind, about, sides.kept, dropped, policy, sender, out.now))
    # The refusal may not have arrived: who asks once more has not disagreed once more.
    known = [(one.kind, one.about, one.dropped) for one in out.cluster.conflicts]
    if (noted.kind, noted.about, noted.dropped) not in known:
        out.add(ConflictNoted(noted))
    chosen = f", which CONFLICT_RESOLUTION = {policy} has chosen" if equals else ""
    raise Refusal(
        "conflict",
        f"the {sides.name} were edited as of version {command.based_on}, but there is version "
        f"{sides.version} {sides.is_now}{chosen}; read it and edit that",
    )
