"""Which coordinator is to own which shard, and which ones stand by.

Everything here is a function of the shard map and the latest beats, so coordinators
that hear the same come to the same conclusions.  When they do not, two may try to open
one shard: the log lets one of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from swarm.core.conflicts import CONFLICT_RESOLUTIONS
from swarm.core.sharding import stable_hash
from swarm.messages import Beat

#: A standby that may lack more than this much of the log is not one to rely on.
FRESH_S = 5.0


def first_choices(shard_count: int, coordinators: Collection[str]) -> list[str]:
    """Who is to own each shard: as even as can be, and moving little when somebody comes or goes.

    Rendezvous hashing (Thaler and Ravishankar, 1998) with bounded capacity: the best pairs
    of shard and coordinator come first, and nobody takes more than its part.
    """
    assert coordinators, "a swarm has at least one coordinator"
    part, left = divmod(shard_count, len(coordinators))
    taken = dict.fromkeys(coordinators, 0)
    chosen: dict[int, str] = {}
    pairs = ((shard, name) for shard in range(shard_count) for name in coordinators)
    ranked = sorted((stable_hash(f"{name} {shard}"), shard, name) for shard, name in pairs)
    for _, shard, name in ranked:
        if shard in chosen or taken[name] > part or (taken[name] == part and not left):
            continue
        left -= taken[name] == part
        taken[name] += 1
        chosen[shard] = name
    assert len(chosen) == shard_count, "every shard has one"
    return [chosen[shard] for shard in range(shard_count)]


def orders(shard_count: int, coordinators: Collection[str]) -> list[list[str]]:
    """For each shard, coordinators in the order in which they are to own it.

    After the first choice by plain rendezvous hashing, so that the shards of one that dies
    spread over all others.
    """
    found = []
    for shard, first in enumerate(first_choices(shard_count, coordinators)):
        ranked = sorted((stable_hash(f"{shard}/{name}"), name) for name in coordinators)
        found.append([first, *(name for _, name in ranked if name != first)])
    return found


def stands_by(beat: Beat, shard: int) -> bool:
    """Whether this coordinator could open `shard` without reading its whole log."""
    behind_s = beat.standby.get(str(shard), -1.0)
    return 0.0 <= behind_s <= FRESH_S


def leads_next(me: str, live: Mapping[str, Beat], names: Collection[str], settled: bool) -> bool:
    """Whether `me` is to lead when nobody alive does: the first that lives, stays, and can.

    `names`: of all coordinators there may be.  `settled`: everybody alive has been heard of;
    before, only the first of all tries.
    """
    assert me in names or me in live, "it is one of them"
    stay = [name for name in {*live, me} if name == me or not live[name].draining]

    def rank(name: str) -> tuple[bool, str]:
        return (name in live and bool(live[name].cannot_lead), name)

    return min(stay, key=rank) == me and (settled or me == min(names, default=me))


class Placement:
    """The order of preference of every shard, and what follows from it for whom.

    `policy` (`CONFLICT_RESOLUTION`): which of several standbys is to open a shard whose owner
    has gone: by ``timestamp`` the one with the latest state, by ``priority`` the first in that
    order, by ``random`` any, another one whenever somebody comes or goes.
    """

    def __init__(
        self, shard_count: int, coordinators: list[str], policy: str = "timestamp"
    ) -> None:
        assert shard_count > 0, "a swarm has at least one shard"
        assert policy in CONFLICT_RESOLUTIONS, f"{policy!r} is no policy"
        self._orders = orders(shard_count, coordinators)
        self._policy = policy

    def to_open(
        self, me: str, owned: Collection[int], live: Mapping[str, Beat], settled: bool
    ) -> list[int]:
        """Shards that `me` is to open now: nobody alive owns them, and it is first in turn.

        `settled`: whether this coordinator has listened long enough to have heard of
        everybody alive; before, it opens only shards of which it is the first choice, or
        whose state it has.  A live owner is never replaced, whoever it is.
        """
        taken = {shard for name, beat in live.items() if name != me for shard in beat.owns}
        wanted = []
        for shard, order in enumerate(self._orders):
            if shard in taken or shard in owned:
                continue
            candidates = self.candidates(shard, live, me)
            if not candidates or candidates[0] != me:
                continue
            if settled or order[0] == me or (me in live and stands_by(live[me], shard)):
                wanted.append(shard)
        return wanted

    def candidates(self, shard: int, live: Mapping[str, Beat], me: str = "") -> list[str]:
        """Who is to own `shard` if nobody does, best first: `me`, and who lives and stays.

        Standbys go before those that would have to read the whole log, and who has failed
        to open it comes last.
        """
        names = [
            name
            for name in self._orders[shard]
            if name == me or (name in live and not live[name].draining)
        ]

        def rank(name: str) -> tuple[bool, bool, float]:
            beat = live.get(name)
            if beat is None or not stands_by(beat, shard):
                return (beat is not None and str(shard) in beat.closed, True, 0.0)
            return (str(shard) in beat.closed, False, self._of_equals(shard, beat, live))

        return sorted(names, key=rank)

    def _of_equals(self, shard: int, beat: Beat, live: Mapping[str, Beat]) -> float:
        """Which standby goes first: the smallest; the same: by the order."""
        match self._policy:
            case "timestamp":
                return beat.standby[str(shard)]
            case "random":
                there = " ".join(sorted(other.instance for other in live.values()))
                return float(stable_hash(f"{shard} {beat.coordinator} {there}"))
            case _:
                return 0.0

    def to_follow(
        self,
        me: str,
        owned: Collection[int],
        live: Mapping[str, Beat],
        following: Collection[int],
        standbys: int,
    ) -> list[int]:
        """Shards that `me` is to stand by for: `standbys` in number do for each owned one.

        They are the first of its order that live, stay and do not own it.  Who was one of
        them goes on until those who are now have caught up; and while nobody owns it.
        """
        assert standbys >= 0, "less than none cannot stand by"
        owners = {shard: name for name, beat in live.items() for shard in beat.owns}
        wanted = []
        for shard, order in enumerate(self._orders):
            if shard in owned:
                continue
            owner = owners.get(shard, me)
            if owner == me:
                if shard in following:
                    wanted.append(shard)
                continue
            chosen = [
                name
                for name in order
                if name != owner and (name == me or (name in live and not live[name].draining))
            ][:standbys]
            ready = all(name in live and stands_by(live[name], shard) for name in chosen)
            assert owner not in chosen, "nobody stands by for itself"
            if me in chosen or (shard in following and not ready):
                wanted.append(shard)
        return wanted
