"""What holds for the whole swarm: the cluster log, and what operators ask of its leader."""

from __future__ import annotations

from typing import Literal

from msgspec import Raw, Struct

from swarm.messages.basics import NULL, Priority
from swarm.messages.log import Envelope, Opened


class ShardMap(Struct, omit_defaults=True, frozen=True):
    """How items find their shard; a copy is under the key ``map`` of the shared state."""

    version: int
    shard_count: int
    shard_key: str
    shard_distribution: str
    #: Coordinators among which shards are placed.
    coordinators: list[str]
    #: Shards each for items that a rule sends to a coordinator, by coordinator.
    pins: dict[str, list[int]] = {}
    #: New items go to the shards below it, the others only end what they have; 0: to all.
    accepts: int = 0
    #: How many shards the swarm began with; 0: as many as it has.
    began_with: int = 0
    #: Maps that held before, the latest last, as long as what was placed by them may be sent
    #: again.
    earlier: list[EarlierMap] = []


class EarlierMap(Struct, omit_defaults=True, frozen=True):
    """What differs in a shard map that held until `until`."""

    until: float
    version: int
    shard_count: int
    accepts: int = 0
    pins: dict[str, list[int]] = {}


class RoutingRules(Struct, omit_defaults=True, frozen=True):
    """Which coordinators take what; a copy is under the key ``rules`` of the shared state.

    Version 0: nobody has set any, and each router acts by its settings.
    """

    version: int
    #: Lines ``feature -> coordinator[:port]``.
    text: str = ""
    #: Who set them, and when.
    by: str = ""
    at: float = 0.0
    #: What submissions are routed by: ``work_type``, ``priority``, ``team`` or ``label``.
    key: str = "work_type"


#: Where two may disagree.
ConflictKind = Literal["rules", "opening", "idempotency", "settings", "regions"]


class Conflict(Struct, omit_defaults=True, frozen=True):
    """Two that disagreed: what was kept, and what was not."""

    kind: ConflictKind
    #: What they disagreed about.
    about: str
    #: Both sides, as they were.
    kept: str
    dropped: str
    #: What picked between them: ``log`` (the log had decided), or a `CONFLICT_RESOLUTION`.
    policy: str = "log"
    #: Who told of it, and when.
    by: str = ""
    at: float = 0.0
    #: How often it happened since it was told before: these are the sides of the first time.
    count: int = 1


class ShardMove(Struct, omit_defaults=True, frozen=True):
    """A shard that was handed over."""

    shard: int
    source: str
    to: str


class Round(Struct, omit_defaults=True, frozen=True):
    """A round of rebalancing: what the leader moved by itself, and why."""

    #: Counts the rounds of the swarm; 0: there was none.
    number: int = 0
    at: float = 0.0
    why: str = ""
    moves: list[ShardMove] = []
    #: Why it moved no more than that, if it was to.
    failed: str = ""
    #: The most loaded coordinator's load, 1 = an even part: before, and as planned.
    before: float = 0.0
    after: float = 0.0
    #: Shards that were moved in this and all earlier rounds.
    moved: int = 0


# --- the cluster log ------------------------------------------------------------------------


class MapChanged(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="map"):
    """From here on this shard map holds."""

    map: ShardMap


class RulesSet(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="rules"):
    """From here on these routing rules hold."""

    rules: RoutingRules


class ConflictNoted(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="conflict"):
    """Two have disagreed."""

    conflict: Conflict


class Rebalanced(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="rebalanced"):
    """The leader has moved shards."""

    round: Round


class Controlled(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="controlled"):
    """A control command was accepted, with the events beside it; it was answered `reply`."""

    command_id: str
    verb: str
    by: str
    #: A `ControlReply`.
    reply: Raw = NULL


class Stated(Struct, omit_defaults=True, frozen=True, tag_field="t", tag="stated"):
    """All that the cluster log says up to here: what came before is not needed."""

    map: ShardMap | None = None
    rules: RoutingRules = RoutingRules(0)
    #: The latest ones, and how many there ever were by kind and policy.
    conflicts: list[Conflict] = []
    conflict_counts: dict[str, dict[str, int]] = {}
    #: Commands whose answer is remembered, oldest first: when each was accepted.
    commands: list[tuple[float, Controlled]] = []
    #: The newest command that was forgotten, milliseconds since the epoch by its id.
    horizon: int = -1
    #: The latest round of rebalancing.
    round: Round = Round()


ClusterEvent = Opened | MapChanged | RulesSet | ConflictNoted | Controlled | Stated | Rebalanced


class ClusterEntry(Envelope, frozen=True):
    """One batch of the cluster log."""

    events: list[ClusterEvent]


# --- what operators ask -----------------------------------------------------------------------


class SetRules(Struct, omit_defaults=True):
    """``<p>.control.rules.<sender>``: set the routing rules, all of them."""

    #: Lines ``feature -> coordinator[:port]``; empty: none.
    text: str
    command_id: str = ""
    #: The version that the sender has read and edited; refused if there is a newer one.
    #: 0: whatever there is.
    based_on: int = 0
    #: How often this command was sent before.
    retry: int = 0
    #: What submissions are routed by; empty: what the leader's `ROUTING_KEY` says.
    key: str = ""
    #: Of edits of one version that meet, the most urgent one wins (`CONFLICT_RESOLUTION`).
    priority: Priority = "medium"


class TellConflict(Struct, omit_defaults=True):
    """``<p>.control.conflict.<sender>``: keep these with the swarm's conflicts."""

    conflicts: list[Conflict]
    command_id: str = ""
    retry: int = 0


class Resize(Struct, omit_defaults=True):
    """``<p>.control.resize.<sender>``: spread new items over so many shards from here on.

    More than there are: new ones are opened.  Fewer: the last ones take nothing new, and
    stay until nobody wants to know of their items any more.
    """

    shard_count: int
    command_id: str = ""
    retry: int = 0
    #: As in `SetRules`; the version is that of the shard map.
    based_on: int = 0
    priority: Priority = "medium"


class ControlReply(Struct, omit_defaults=True):
    """Answer to a control command: it is in the cluster log, and carried out from here on."""

    command_id: str
    #: Of the shard map and of the routing rules that hold with it.
    map_version: int = 0
    rules_version: int = 0


class Look(Struct, omit_defaults=True):
    """``<p>.control.look.<sender>``: what the cluster log says."""


class ClusterView(Struct, omit_defaults=True):
    """Answer to `Look`, true as of entry `as_of`."""

    leader: str
    epoch: int
    as_of: int
    map: ShardMap
    rules: RoutingRules
    conflicts: list[Conflict] = []
    conflict_counts: dict[str, dict[str, int]] = {}
    #: The latest round of rebalancing.
    round: Round = Round()
