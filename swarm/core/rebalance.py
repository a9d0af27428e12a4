"""Which shards are to move to other coordinators, so that all have about the same to do.

Takeovers are never undone by themselves: after some restarts one coordinator may own most
shards.  A plan moves as little as gets the load even.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct

#: Of a shard's load, the part that it has for being there at all.
BASE = 0.5


class PlannedMove(Struct, frozen=True):
    """One shard to another coordinator."""

    shard: int
    source: str
    to: str
    #: Part of the whole swarm's load.
    load: float


class Plan(Struct):
    """What to do, and what is gained by it: the most loaded coordinator's load, 1 = even."""

    moves: list[PlannedMove]
    before: float
    after: float


def loads(unfinished: Mapping[int, int]) -> dict[int, float]:
    """Each shard's part of the load, all together 1.

    Half of it is the same for each shard, half goes by its unfinished items.
    """
    total, count = sum(unfinished.values()), len(unfinished)
    assert min(unfinished.values(), default=0) >= 0, "less than nothing to do"
    base = BASE if total else 1.0
    return {
        shard: base / count + ((1 - base) * items / total if total else 0.0)
        for shard, items in unfinished.items()
    }


def plan(
    owners: Mapping[int, str],
    load: Mapping[int, float],
    members: Collection[str],
    threshold: float,
    moves_max: int,
    resting: Collection[int] = (),
    standing: Collection[tuple[int, str]] = (),
) -> Plan:
    """Moves among `members` until nobody has over `threshold` more than an even part.

    Each takes the shard that leaves the two of them closest, from who has most to who has
    least.  Nobody gets a shard whom it would make the most loaded.  Shards of others than
    `members` are left where they are, and count for nobody; those that are `resting` stay,
    too.  A shard for which the receiver stands by, as in `standing`, is taken before one that
    is not much better.
    """
    assert members, "somebody must be there to own shards"
    assert threshold >= 0, "an even part is enough"
    at = {shard: owner for shard, owner in owners.items() if owner in members}
    total = sum(load[shard] for shard in at)
    even = total / len(members)
    has = dict.fromkeys(sorted(members), 0.0)
    for shard, owner in at.items():
        has[owner] += load[shard]
    before = max(has.values()) / even if even else 1.0
    moves: list[PlannedMove] = []
    moved: dict[int, None] = {}
    while len(moves) < moves_max:
        most, least = max(has, key=has.__getitem__), min(has, key=has.__getitem__)
        gap = has[most] - has[least]
        free = (shard for shard in at if shard not in moved and shard not in resting)
        mine = [shard for shard in free if at[shard] == most]
        # A move must leave both below what the most loaded one has now.
        useful = [shard for shard in sorted(mine) if 0 < load[shard] < gap * (1 - 1e-9)]
        if has[most] <= even * (1 + threshold) or not useful:
            break
        # How far it leaves the two apart; its own load more if its log must be read first.
        shard = min(
            useful,
            key=lambda one: (
                abs(gap - 2 * load[one])
                + (load[one] if standing and (one, least) not in standing else 0.0)
            ),
        )
        at[shard] = least
        has[most] -= load[shard]
        has[least] += load[shard]
        moved[shard] = None
        moves.append(PlannedMove(shard, most, least, load[shard]))
    after = max(has.values()) / even if even else 1.0
    assert after <= before + 1e-9, "a plan makes nothing worse"
    return Plan(moves, before, after)
