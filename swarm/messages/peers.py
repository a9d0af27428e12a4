"""Coordinators among themselves, and what a router tells of them."""

from __future__ import annotations

from msgspec import Raw, Struct

from swarm.messages.basics import NULL, Status
from swarm.messages.cluster import ShardMap


class Beat(Struct, omit_defaults=True):
    """``<p>.beat.<coordinator>``: about four times a second."""

    coordinator: str
    #: Of this process: a restarted coordinator has another one.
    instance: str
    #: Highest version of log and messages that this process reads.
    protocol: int
    #: Counts beats of this instance.
    number: int
    #: Attached agent sessions, and how many there are to be at most; 0: any number.
    sessions: int = 0
    agents_wanted: int = 0
    #: Shards that it owns, opened and serving.
    owns: list[int] = []
    #: Free agent slots by work type; 0 where agents for the type are attached, all busy.
    idle: dict[str, int] = {}
    #: Ready items by work type.
    ready: dict[str, int] = {}
    #: By work type: the shard with the most urgent of them, and its score: when it was submitted,
    #: and `AGEING_S` later for each step of priority below the highest.
    urgent: dict[str, tuple[int, float]] = {}
    #: Shards that it cannot open, and why.
    closed: dict[str, str] = {}
    #: Takes no new sessions or shards: it is about to leave.
    draining: bool = False
    #: Shards of others whose log it follows, and by how many seconds it may be behind the
    #: log's end; -1 until it has got there.
    standby: dict[str, float] = {}
    #: Says good-bye: what it owns and whose sessions it has are free from now on.
    leaving: bool = False
    #: The part of the storage that is used, 0 to 1; 0: not known.
    storage: float = 0.0
    #: What else somebody must look at, in sentences.
    alarms: list[str] = []
    #: The epoch of the cluster log under which it leads the swarm; 0: it does not.
    leads: int = 0
    #: Why it cannot lead.
    cannot_lead: str = ""
    #: The newest shard map and routing rules that it knows; of the leader: that there are.
    map_version: int = 0
    rules_version: int = 0
    #: Routers that this coordinator has heard of lately, and the number of the latest `Attach`
    #: from each.
    routed: dict[str, int] = {}
    #: Where it answers HTTP, as ``host:port``; empty: nowhere.
    http: str = ""
    #: Number of the beat of this process that told `idle`, `ready` and `urgent`, left out here and
    #: still about the same; 0: this one does; -1: none does, or it has not been heard.
    told: int = 0
    #: Operations of its shards and processor time of its process, per second, over the last
    #: few seconds.
    operations: float = 0.0
    cpu: float = 0.0
    #: By shard that it owns and that has any: ready items, and operations per second.
    load: dict[str, tuple[int, float]] = {}
    #: Of the leader: rounds of rebalancing so far, and shards that they moved.
    rounds: int = 0
    moved: int = 0


class Credit(Struct, omit_defaults=True, frozen=True):
    """Free slots of one agent session, moved from one coordinator to another."""

    agent: str
    session: str
    slots: int
    work_types: list[str]


class Borrow(Struct, omit_defaults=True):
    """``<p>.coordinator.<id>.borrow.<coordinator>``: the sender has ready work and no agents.

    The receiver moves some of its credits for these types by a `Lend`.
    """

    #: Ready items by work type.
    ready: dict[str, int]
    #: How many of those types a second found a slot lately; -1: it is not known yet.
    rates: dict[str, float] = {}


class Lend(Struct, omit_defaults=True):
    """``<p>.coordinator.<id>.lend.<coordinator>``: credits moved to the receiver.

    After `expires_s` seconds the receiver drops what it did not use; the agent's next
    heartbeat renews the credit where the session lives.  With 0, they are unused ones
    that go back to the coordinator that lent them.
    """

    credits: list[Credit]
    expires_s: float


class Watch(Struct, omit_defaults=True, tag_field="about", tag="watch"):
    """``<p>.shard.<n>.edge.<coordinator>``: `dependent` is to be told how `on` ends.

    Sent by the owner of `dependent`'s shard to that of `on`'s, until it is answered by
    `Watching` or `Outcome`.
    """

    on: str
    dependent: str


class Watching(Struct, omit_defaults=True, tag_field="about", tag="watching"):
    """Answer to `Watch`: it is in the log, an `Outcome` will come."""

    on: str
    dependent: str


class Outcome(Struct, omit_defaults=True, tag_field="about", tag="outcome"):
    """`on` has ended; sent to `dependent`'s shard until `Heard` answers."""

    on: str
    dependent: str
    status: Status
    result: Raw = NULL
    #: There is no such item as `on`.
    missing: bool = False


class Heard(Struct, omit_defaults=True, tag_field="about", tag="heard"):
    """Answer to `Outcome`: it is in the log of the dependent's shard."""

    on: str
    dependent: str
    status: Status


#: Between shards, about a dependency.  Answers are messages of their own, to the subject of
#: the other item's shard, so that any owner of it can take them.
Edge = Watch | Watching | Outcome | Heard


class Handoff(Struct, omit_defaults=True):
    """``<p>.coordinator.<id>.handoff.<coordinator>``: the sender wants the receiver to own a shard.

    Said twice.  First the receiver is to follow the log closely, and answers how far it
    is.  Then, with `now`, the sender decides nothing more, and the receiver opens the
    shard at once, provided that nothing comes after `sequence` in the log.
    """

    shard: int
    #: Of the sender, which owns the shard.
    epoch: int
    #: Of the last entry in the log.
    sequence: int
    now: bool = False


class HandoffReply(Struct, omit_defaults=True):
    """Answer to `Handoff`."""

    shard: int
    #: Of the last entry that the receiver knows.
    sequence: int
    #: Under which the receiver owns the shard now; 0: it does not.
    epoch: int = 0


class Move(Struct, omit_defaults=True):
    """``<p>.coordinator.<id>.move.<sender>``: hand a shard over to another coordinator."""

    shard: int
    #: The new owner; empty: the best one.
    to: str = ""


class Moved(Struct, omit_defaults=True):
    """Answer to `Move`: who owns the shard now."""

    shard: int
    coordinator: str


class Attention(Struct, omit_defaults=True):
    """``<p>.attached.<agent>``: a session was accepted; others of this agent id end."""

    session: str
    coordinator: str
    #: Asked to replace a live one.
    takeover: bool = False
    #: The session that was in charge where this one was accepted.  Of two that were
    #: accepted not knowing of each other, one that takes over stays, else the smaller.
    replaced: str = ""


class Gone(Struct, omit_defaults=True):
    """``<p>.gone.<coordinator>``: this coordinator's beats have stopped; its agents re-attach."""

    coordinator: str
    reporter: str


class Describe(Struct, omit_defaults=True):
    """``<p>.describe.<sender>``: what a client must know; answered by a router."""


class Description(Struct, omit_defaults=True):
    """Answer to `Describe`."""

    prefix: str
    protocol: int
    map: ShardMap
    #: The latest beat of each live coordinator.
    coordinators: list[Beat]
