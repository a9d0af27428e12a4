"""When the leader moves shards by itself, and which (`AUTO_REBALANCE_ENABLED`).

Load is measured: what the beats say of ready items, operations and processor time.
Shards are moved in rounds of a few, and never to and fro:

- nothing moves while coordinators come or go, or a shard has no owner or two;
- rounds begin when for a while somebody has more than the threshold over an even part, and
  go on until nobody has more than half of it;
- every move makes the most loaded of the two less loaded than it was, by what is measured;
- a shard that was moved stays where it is for `REST_S`;
- between rounds there is time to measure what they have brought; each that has brought
  less than half of what was planned doubles that time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from swarm.core.placement import stands_by
from swarm.core.rebalance import Plan, plan
from swarm.messages import Beat

#: Members must have been the same for this long.
STEADY_S = 10.0
#: Somebody must have had too much for this long.
HOLD_S = 5.0
#: Between two rounds, and after one that was of no use, doubled up to the longest.
PAUSE_S = 30.0
PAUSE_LONGEST_S = 600.0
#: A shard that was moved stays for this long.
REST_S = 300.0
#: Shards moved in a round, at most.
MOVES_MAX = 4
#: A round that is to lessen the most loaded one's load by less than this is not worth it.
GAIN_MIN = 0.02

#: Sums of parts are as exact as that.
EXACT = 1e-9

#: Of the load, the part that goes by each of: ready items, operations, processor time.  The
#: rest goes by the number of shards, and so does a part of which there is too little in the
#: whole swarm to be told from noise.
PART = 0.25
READY_MIN = 100
OPERATIONS_MIN = 10.0
CPU_MIN = 0.1


def measured(live: Mapping[str, Beat], owners: Mapping[int, str]) -> dict[int, float]:
    """Each shard's part of the load, all together 1.

    A coordinator's processor time is shared out among its shards by their operations.
    """
    assert owners, "a swarm has shards"
    assert all(name in live for name in owners.values()), "owners are those that say so"
    said = {shard: live[name].load.get(str(shard), (0, 0.0)) for shard, name in owners.items()}
    ready = {shard: float(count) for shard, (count, _) in said.items()}
    operations = {shard: rate for shard, (_, rate) in said.items()}
    # Of one that does nothing all shards have a part; one operation a second counts as little.
    weights = {shard: rate + 1.0 for shard, rate in operations.items()}
    of_owner: dict[str, float] = {}
    for shard, name in owners.items():
        of_owner[name] = of_owner.get(name, 0.0) + weights[shard]
    cpu = {
        shard: live[name].cpu * weights[shard] / of_owner[name] for shard, name in owners.items()
    }
    load = dict.fromkeys(owners, 0.0)
    rest = 1.0
    for figures, least in ((ready, READY_MIN), (operations, OPERATIONS_MIN), (cpu, CPU_MIN)):
        total = sum(figures.values())
        if total < least:
            continue
        rest -= PART
        for shard, value in figures.items():
            load[shard] += PART * value / total
    for shard in load:
        load[shard] += rest / len(load)
    assert abs(sum(load.values()) - 1.0) < 1e-6, "these are parts of a whole"
    return load


class Rebalancer:
    """See the module's docstring.  Times are monotonic."""

    def __init__(self, threshold: float, moves_max: int = MOVES_MAX) -> None:
        assert threshold > 0, "no load is ever quite even"
        assert moves_max > 0, "a round moves something"
        self._threshold = threshold
        self._moves_max = moves_max
        self._members: list[tuple[str, str, bool]] = []
        self._same_since = float("-inf")
        self._over_since: float | None = None
        #: Whether rounds have begun and have not made it even yet.
        self.active = False
        self._not_before = float("-inf")
        self._pause_s = PAUSE_S
        self._moved_at: dict[int, float] = {}
        #: What the latest round should have brought, until that is seen.
        self._expected: Plan | None = None

    def observe(self, live: Mapping[str, Beat], now: float) -> None:
        """Who lives now; to be called whenever that may have changed."""
        members = [(name, beat.instance, beat.draining) for name, beat in sorted(live.items())]
        if members != self._members:
            self._members, self._same_since = members, now
            self._end()

    def is_steady(self, now: float) -> bool:
        """Whether nobody has come or gone lately, or is about to."""
        leaving = any(draining for _, _, draining in self._members)
        return not leaving and now - self._same_since >= STEADY_S

    def look(self, live: Mapping[str, Beat], shard_count: int, now: float) -> Plan | None:
        """A round that is to begin now; None: nothing is to be done."""
        self.observe(live, now)
        if not self.is_steady(now) or now < self._not_before or len(live) < 2:
            return None
        if not all(beat.map_version for beat in live.values()):
            return None  # one of an earlier version does not say what it has to do
        owners = {shard: name for name, beat in live.items() for shard in beat.owns}
        if len(owners) < shard_count or len(owners) < sum(len(b.owns) for b in live.values()):
            self._over_since = None  # shards are on their way
            return None
        load = measured(live, owners)
        over = _most(load, owners, live) - 1.0
        if not self._is_to_begin(over, now):
            return None
        standing = [
            (shard, name)
            for name, beat in live.items()
            for shard in map(int, beat.standby)
            if stands_by(beat, shard)
        ]
        goal, resting = self._threshold / 2 + EXACT, self._resting(now)
        found = plan(owners, load, live, goal, self._moves_max, resting, set(standing))
        if not found.moves or found.before - found.after < GAIN_MIN:
            # It cannot be made more even, as shards are what they are.
            self._end()
            self._not_before = now + PAUSE_S
            return None
        return found

    def done(self, found: Plan, moved: Collection[int], now: float) -> None:
        """The round has ended; these of its shards were moved."""
        assert {move.shard for move in found.moves} >= set(moved), "only what was planned"
        for shard in moved:
            self._moved_at[shard] = now
        self._expected = found if len(moved) == len(found.moves) else None
        if not moved:
            self._pause_s = min(2 * self._pause_s, PAUSE_LONGEST_S)
        self._not_before = now + self._pause_s

    def _is_to_begin(self, over: float, now: float) -> bool:
        """Whether it is uneven enough, for long enough, with `over` the most above even."""
        expected, self._expected = self._expected, None
        if expected is not None:
            brought = expected.before - 1.0 - over
            if brought >= (expected.before - expected.after) / 2:
                self._pause_s = PAUSE_S
            else:
                # Half of the longer pause is over.
                self._pause_s = min(2 * self._pause_s, PAUSE_LONGEST_S)
                self._not_before = now + self._pause_s / 2
                return False
        if self.active:
            if over <= self._threshold / 2 + EXACT:
                self._end()
            return self.active
        if over <= self._threshold + EXACT:
            self._over_since = None
            return False
        if self._over_since is None:
            self._over_since = now
        self.active = now - self._over_since >= HOLD_S
        return self.active

    def _end(self) -> None:
        self.active, self._over_since = False, None

    def _resting(self, now: float) -> list[int]:
        self._moved_at = {shard: at for shard, at in self._moved_at.items() if now - at < REST_S}
        return list(self._moved_at)


def _most(load: Mapping[int, float], owners: Mapping[int, str], names: Collection[str]) -> float:
    """The load of the most loaded one, 1 = an even part."""
    has = dict.fromkeys(names, 0.0)
    for shard, name in owners.items():
        has[name] += load[shard]
    return max(has.values()) * len(has)
