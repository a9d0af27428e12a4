"""Where shards are best placed for the agents that do their work (`swarm shards optimize`).

An item that goes to an agent of its shard's own coordinator takes the short way: no slot
has to be lent, and its outcome is not forwarded.  So a shard belongs where its assignments
go, as far as the coordinators' loads allow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct

from swarm.core.rebalance import PlannedMove

#: A shard with fewer assignments has not shown yet who uses it.
SEEN_MIN = 20
#: A shard is moved if so much more of its assignments would be local.
GAIN_MIN = 0.1
#: Shards that are looked at for an exchange, those with most to gain.
EXCHANGED_MAX = 64

Assigned = Mapping[int, Mapping[str, int]]


class Local(Struct):
    """The part of all assignments that is local: now, and with the moves made."""

    moves: list[PlannedMove]
    before: float
    after: float
    #: The most loaded coordinator's load, 1 = even.
    load_before: float
    load_after: float


class _Places:
    """Who has which shard, and how much that is, while a plan is made."""

    def __init__(
        self,
        owners: Mapping[int, str],
        assigned: Assigned,
        load: Mapping[int, float],
        members: Collection[str],
        slack: float,
    ) -> None:
        self.at = {shard: owner for shard, owner in owners.items() if owner in members}
        self.assigned, self.load = assigned, load
        self.has = dict.fromkeys(sorted(members), 0.0)
        for shard, owner in self.at.items():
            self.has[owner] += load[shard]
        self.even = sum(self.has.values()) / len(self.has)
        self.most_allowed = self.even * (1 + slack) * (1 + 1e-9)

    @property
    def most(self) -> float:
        return max(self.has.values()) / self.even if self.even else 1.0

    def local(self) -> float:
        """The part of assignments that goes to agents of the shard's own coordinator."""
        seen = sum(sum(self.assigned.get(shard, {}).values()) for shard in self.at)
        mine = sum(self.assigned.get(shard, {}).get(owner, 0) for shard, owner in self.at.items())
        assert mine <= seen, "local ones are some of all"
        return mine / seen if seen else 1.0

    def gain(self, shard: int, to: str) -> int:
        """How many more of the shard's assignments are local if it is at `to`."""
        by = self.assigned.get(shard, {})
        return by.get(to, 0) - by.get(self.at[shard], 0)

    def wishes(self, fixed: Collection[int]) -> list[tuple[int, int, str]]:
        """(gain, shard, to) of all shards that others use more, the best first."""
        found = []
        for shard in sorted(self.at):
            by = {name: n for name, n in self.assigned.get(shard, {}).items() if name in self.has}
            seen = sum(by.values())
            if shard in fixed or seen < SEEN_MIN:
                continue
            to = max(sorted(by), key=by.__getitem__)
            gain = self.gain(shard, to)
            if gain >= GAIN_MIN * seen and to != self.at[shard]:
                found.append((gain, shard, to))
        return sorted(found, key=lambda wish: (-wish[0], wish[1]))

    def fits(self, changes: Mapping[str, float]) -> bool:
        """Whether nobody has too much with these changes, or more of too much than before."""
        return all(
            self.has[name] + change <= max(self.most_allowed, self.has[name])
            for name, change in changes.items()
        )

    def move(self, shard: int, to: str) -> PlannedMove:
        source, load = self.at[shard], self.load[shard]
        assert source != to, "a move goes elsewhere"
        self.has[source] -= load
        self.has[to] += load
        self.at[shard] = to
        return PlannedMove(shard, source, to, load)


def optimize(
    owners: Mapping[int, str],
    assigned: Assigned,
    load: Mapping[int, float],
    members: Collection[str],
    slack: float,
    moves_max: int,
) -> Local:
    """Moves that make most assignments local, nobody of `members` being given more than
    `slack` over an even part of the `load`.

    `assigned`: of each shard, its assignments by the coordinator of the agent.  Where a shard
    does not fit, it is exchanged for the one that loses least (or gains) by going back.  Each
    shard is moved once at most.
    """
    assert members, "somebody must be there to own shards"
    assert slack >= 0, "an even part is allowed"
    places = _Places(owners, assigned, load, members, slack)
    before, load_before = places.local(), places.most
    moves: list[PlannedMove] = []
    while len(moves) < moves_max:
        fixed = {move.shard for move in moves}
        wishes = places.wishes(fixed)
        fitting = (
            (shard, to)
            for _, shard, to in wishes
            if places.fits({to: load[shard], places.at[shard]: -load[shard]})
        )
        single = next(fitting, None)
        if single is not None:
            moves.append(places.move(*single))
            continue
        pair = _exchange(places, wishes, fixed) if len(moves) + 2 <= moves_max else None
        if pair is None:
            break
        # One after the other: in between one of the two has both.
        (shard, to), back = pair
        source = places.at[shard]
        moves.append(places.move(back, source))
        moves.append(places.move(shard, to))
    after = places.local()
    assert after >= before - 1e-9, "a plan makes nothing worse"
    return Local(moves, before, after, load_before, places.most)


def _exchange(
    places: _Places, wishes: list[tuple[int, int, str]], fixed: Collection[int]
) -> tuple[tuple[int, str], int] | None:
    """The best exchange: a shard with where it goes, and the one that goes back for it."""
    best: tuple[int, tuple[int, str], int] | None = None
    for gain, shard, to in wishes[:EXCHANGED_MAX]:
        source = places.at[shard]
        for back, owner in places.at.items():
            if owner != to or back in fixed:
                continue
            more = places.load[shard] - places.load[back]
            whole = gain + places.gain(back, source)
            # It pauses both, so it must be worth it for both.
            seen = sum(sum(places.assigned.get(one, {}).values()) for one in (shard, back))
            enough = whole >= GAIN_MIN * seen and (best is None or whole > best[0])
            if enough and places.fits({to: more, source: -more}):
                best = (whole, (shard, to), back)
    return None if best is None else best[1:]
