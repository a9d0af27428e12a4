"""The state of the cluster log: what holds for the whole swarm, folded; and what its owner,
the leader, decides.

`Cluster.apply` is the only code that changes it.  The leader applies an event the moment
it decides it, and says nothing of it before it is durable; if the append fails, the state
is dropped whole.

The log is small, and is kept small by stating everything again from time to time
(`restate`): what comes before a `Stated` event is not needed, and is purged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Raw, structs

from swarm.core.conflicts import CONFLICT_RESOLUTIONS, short
from swarm.core.decide.batch import check_id
from swarm.core.edits import Command, Edited, Sides, check_edited
from swarm.core.ids import command_order, uuid7_ms
from swarm.core.rules import ROUTING_KEYS, parse_rules
from swarm.core.sharding import accepting
from swarm.errors import BadConfig, Refusal
from swarm.messages import (
    ClusterEvent,
    ClusterView,
    Conflict,
    ConflictNoted,
    Controlled,
    ControlReply,
    EarlierMap,
    MapChanged,
    Opened,
    Rebalanced,
    Resize,
    Round,
    RoutingRules,
    RulesSet,
    SetRules,
    ShardMap,
    Stated,
    TellConflict,
)

#: Answers to commands that are remembered, and for how long (seconds).
COMMANDS_MAX = 500
COMMANDS_S = 86_400.0
#: Conflicts that are kept with both sides; all are counted.
CONFLICTS_MAX = 50
#: Most shards, and most maps that may have to be looked at when something is sent again.
SHARDS_MAX = 1024
EARLIER_MAX = 8
#: Entries after which everything is stated again.
RESTATE_AFTER = 256
#: Conflicts told by one command.
TOLD_MAX = 20

_KEYS = ", ".join(ROUTING_KEYS)
_POLICIES = ("log", *CONFLICT_RESOLUTIONS)
_encode = msgspec.json.Encoder().encode
_decode_reply = msgspec.json.Decoder(ControlReply).decode


class Cluster:
    """See the module's docstring.  Read freely; change only by `apply`."""

    def __init__(self, first_seq: int = 1) -> None:
        self.complete = first_seq <= 1
        #: Sequence of the entry whose events are applied, or one before it; its clock.
        self.seq = first_seq - 1
        self.now = 0.0
        #: Where all of this was last stated.
        self.stated_at = first_seq
        #: The leader.
        self.coordinator = ""
        #: None before the first leader has taken over the stored one.
        self.map: ShardMap | None = None
        self.rules = RoutingRules(0)
        self.conflicts: deque[Conflict] = deque(maxlen=CONFLICTS_MAX)
        #: All that there ever were, by kind and policy.
        self.conflict_counts: dict[str, dict[str, int]] = {}
        #: When each command was accepted, and what it was answered; oldest first.
        self.commands: dict[str, tuple[float, Controlled]] = {}
        #: The newest command that was ever forgotten, by the time in its id.
        self.horizon = -1
        #: The latest round of rebalancing.
        self.round = Round()

    def apply(self, event: ClusterEvent, now: float, nonce: str) -> None:
        """Fold one event of entry `seq`, with the entry's `now` and owner nonce."""
        assert now >= self.now, "the log's time never goes backwards"
        self.now = now
        if self.complete or isinstance(event, Opened | Stated):
            _APPLY[type(event)](self, event)

    def _opened(self, event: Opened) -> None:
        self.coordinator = event.coordinator

    def _map_changed(self, event: MapChanged) -> None:
        before = self.map
        assert before is None or event.map.version == before.version + 1, "one after the other"
        self.map = event.map

    def _rules_set(self, event: RulesSet) -> None:
        assert event.rules.version == self.rules.version + 1, "one after the other"
        self.rules = event.rules

    def _conflict_noted(self, event: ConflictNoted) -> None:
        told = event.conflict
        self.conflicts.append(told)
        counts = self.conflict_counts.setdefault(told.kind, {})
        counts[told.policy] = counts.get(told.policy, 0) + told.count

    def _rebalanced(self, event: Rebalanced) -> None:
        assert event.round.number == self.round.number + 1, "one after the other"
        self.round = event.round

    def _controlled(self, event: Controlled) -> None:
        assert event.command_id not in self.commands, "carried out twice"
        self.commands[event.command_id] = (self.now, event)
        oldest = next(iter(self.commands))
        while len(self.commands) > COMMANDS_MAX or self.commands[oldest][0] < self.now - COMMANDS_S:
            del self.commands[oldest]
            self.horizon = max(self.horizon, command_order(oldest))
            oldest = next(iter(self.commands))

    def _stated(self, event: Stated) -> None:
        if not self.complete:
            self.complete = True
            self.map, self.rules = event.map, event.rules
            self.conflicts = deque(event.conflicts, CONFLICTS_MAX)
            counts = event.conflict_counts
            self.conflict_counts = {kind: dict(counts[kind]) for kind in counts}
            self.commands = {said.command_id: (at, said) for at, said in event.commands}
            self.horizon, self.round = event.horizon, event.round
        assert self.map == event.map, "the map is as it was stated"
        assert list(self.commands) == [said.command_id for _, said in event.commands], "commands"
        self.stated_at = self.seq

    def view(self, epoch: int, as_of: int) -> ClusterView:
        """What there is to see."""
        assert self.map is not None, "the leader has taken over the map"
        return ClusterView(
            self.coordinator,
            epoch,
            as_of,
            self.map,
            self.rules,
            list(self.conflicts),
            self.counted(),
            self.round,
        )

    def counted(self) -> dict[str, dict[str, int]]:
        """A copy of the counts of conflicts, by kind and policy."""
        return {kind: dict(by_policy) for kind, by_policy in self.conflict_counts.items()}


_APPLY: dict[type[ClusterEvent], Callable[[Cluster, Any], None]] = {
    Opened: Cluster._opened,
    MapChanged: Cluster._map_changed,
    RulesSet: Cluster._rules_set,
    ConflictNoted: Cluster._conflict_noted,
    Controlled: Cluster._controlled,
    Stated: Cluster._stated,
    Rebalanced: Cluster._rebalanced,
}


# --- deciding ---------------------------------------------------------------------------------


class ClusterBatch:
    """The events decided so far for one entry, applied as they are decided.

    `coordinators`: those among which the leader's settings place shards.  `old_members`:
    those alive that know nothing of changing maps.  `routing_key`: what the settings say
    that submissions are routed by.  `policy`: what picks between equals (`CONFLICT_RESOLUTION`).
    `rng`: 0 to 1.
    """

    def __init__(
        self,
        cluster: Cluster,
        nonce: str,
        now: float,
        coordinators: Sequence[str] = (),
        old_members: Sequence[str] = (),
        dedupe_window_s: float = COMMANDS_S,
        routing_key: str = "work_type",
        policy: str = "timestamp",
        rng: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self.cluster = cluster
        self.nonce = nonce
        self.now = now
        self.coordinators = coordinators
        self.old_members = old_members
        self.dedupe_window_s = dedupe_window_s
        self.routing_key = routing_key
        self.policy = policy
        self.rng = rng
        #: Versions that several commands of this entry edit, and those of which one has won.
        self.met: set[Edited] = set()
        self.won: set[Edited] = set()
        self.events: list[ClusterEvent] = []

    def add(self, event: ClusterEvent) -> None:
        """Decide `event`."""
        self.events.append(event)
        self.cluster.apply(event, self.now, self.nonce)


def take_over(stored: ShardMap, out: ClusterBatch) -> None:
    """The first leader takes over the map that the swarm has."""
    assert out.cluster.map is None, "there is a map in the log"
    out.add(MapChanged(stored))


def change_map(out: ClusterBatch, **changes: Any) -> ShardMap:
    """The map with these fields changed, under the next version; the same if nothing changes."""
    before = out.cluster.map
    assert before is not None, "the leader has taken over the map"
    assert not {"version", "earlier"} & changes.keys(), "these follow from what was before"
    if structs.replace(before, **changes) == before:
        return before
    needed = [one for one in before.earlier if one.until > out.now - out.dedupe_window_s]
    if len(needed) >= EARLIER_MAX:
        free_s = needed[0].until + out.dedupe_window_s - out.now
        raise Refusal(
            "unavailable",
            f"the shard map has changed {EARLIER_MAX} times within the dedupe window "
            f"({out.dedupe_window_s:g} s); the next change is possible in {free_s:.0f} s",
            retry=True,
        )
    needed.append(
        EarlierMap(out.now, before.version, before.shard_count, before.accepts, before.pins)
    )
    version = before.version + 1
    after = structs.replace(before, version=version, earlier=needed, **changes)
    out.add(MapChanged(after))
    return after


def resize(shards: int, out: ClusterBatch) -> ShardMap:
    """New items go to this many shards; refuses what cannot be."""
    before = out.cluster.map
    assert before is not None, "the leader has taken over the map"
    if not 1 <= shards <= SHARDS_MAX:
        raise Refusal("bad_request", f"{shards} shards: allowed are 1 to {SHARDS_MAX}")
    if out.old_members:
        raise Refusal(
            "unsupported",
            "the number of shards cannot change while coordinators of an earlier version are "
            f"alive ({', '.join(out.old_members)}); it can once they are upgraded",
            retry=True,
        )
    if shards == accepting(before):
        return before
    count = max(shards, before.shard_count)
    return change_map(
        out,
        shard_count=count,
        accepts=0 if shards == count else shards,
        began_with=before.began_with or before.shard_count,
    )


def restate(out: ClusterBatch) -> None:
    """State everything again, in an entry of its own."""
    cluster = out.cluster
    assert not out.events, "nothing is decided in the same entry"
    out.add(
        Stated(
            cluster.map,
            cluster.rules,
            list(cluster.conflicts),
            cluster.counted(),
            list(cluster.commands.values()),
            cluster.horizon,
            cluster.round,
        )
    )


def note_round(done: Round, out: ClusterBatch) -> None:
    """The leader has moved shards: keep what, and why."""
    assert done.moves or done.failed, "something was tried"
    before = out.cluster.round
    moved = before.moved + len(done.moves)
    out.add(Rebalanced(structs.replace(done, number=before.number + 1, at=out.now, moved=moved)))


def is_long(cluster: Cluster) -> bool:
    """Whether it is time to state everything again."""
    return cluster.seq - cluster.stated_at > RESTATE_AFTER


def control(verb: str, command: Command, sender: str, out: ClusterBatch) -> ControlReply:
    """Carry out a command, once; a repeated one gets the first answer."""
    cluster = out.cluster
    done = cluster.commands.get(command.command_id)
    if done is not None:
        said = done[1]
        if (said.verb, said.by) != (verb, sender):
            raise Refusal("bad_request", "this command id was used for something else")
        return _decode_reply(said.reply)
    check_id(command.command_id, out.now)
    if command.retry > 0 and uuid7_ms(command.command_id) <= cluster.horizon:
        raise Refusal(
            "too_old",
            "this retry is so old that whether its first try was carried out is not known any "
            "more; look first, then send it as a new command",
        )
    events = len(out.events)
    match command:
        case SetRules():
            _set_rules(command, sender, out)
        case Resize():
            _resize(command, sender, out)
        case TellConflict():
            _tell_conflict(command, sender, out)
    assert cluster.map is not None, "the leader has taken over the map"
    assert events <= len(out.events), "events are only added"
    reply = ControlReply(command.command_id, cluster.map.version, cluster.rules.version)
    out.add(Controlled(command.command_id, verb, sender, Raw(_encode(reply))))
    return reply


def _resize(command: Resize, sender: str, out: ClusterBatch) -> None:
    before = out.cluster.map
    assert before is not None, "the leader has taken over the map"
    now, wanted = accepting(before), command.shard_count
    if now != wanted:
        # Those that want the same agree.
        kept, dropped = f"{now} shards", f"{wanted} shards"
        sides = Sides("settings", "shards", before.version, f"with {now}", kept, dropped)
        check_edited(command, sender, sides, out)
    resize(wanted, out)
    out.won.add((Resize, command.based_on))


def _set_rules(command: SetRules, sender: str, out: ClusterBatch) -> None:
    cluster, text = out.cluster, command.text.strip()
    rules = cluster.rules
    by = rules.by or "nobody"
    sides = Sides("rules", "rules", rules.version, f"by {by}", f"{by}: {rules.text}", text)
    check_edited(command, sender, sides, out)
    key = command.key or out.routing_key
    if key not in ROUTING_KEYS:
        raise Refusal("bad_request", f"submissions cannot be routed by {key!r}; allowed: {_KEYS}")
    try:
        parse_rules(text, key, out.coordinators)
    except BadConfig as error:
        raise Refusal("bad_request", f"{error}; the old rules stay") from error
    assert out.coordinators, "a swarm has some"
    out.add(RulesSet(RoutingRules(rules.version + 1, text, sender, out.now, key)))
    out.won.add((SetRules, command.based_on))


def _tell_conflict(command: TellConflict, sender: str, out: ClusterBatch) -> None:
    told = command.conflicts
    if not 1 <= len(told) <= TOLD_MAX:
        raise Refusal("bad_request", f"{len(told)} conflicts at once: allowed are 1 to {TOLD_MAX}")
    for conflict in told:
        if conflict.policy not in _POLICIES or conflict.count < 1:
            raise Refusal(
                "bad_request",
                f"a conflict has a policy ({', '.join(_POLICIES)}) and a count of at least 1, not "
                f"{conflict.policy!r} and {conflict.count}",
            )
    for conflict in told:
        out.add(ConflictNoted(structs.replace(short(conflict), by=sender, at=out.now)))
