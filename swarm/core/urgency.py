"""Which of a coordinator's shards takes a free slot: the one whose ready item is most urgent.

The shards of a coordinator share the free slots of its agents, and each decides for itself.  Were
the first to decide to take them, slots would stay where they are: the agent that completes an
item is free in the round of that item's shard, and whatever waits in another shard would wait
until there is nothing left in this one.  So each shows how urgent its ready items are, by the
score of their lanes (`swarm.core.lanes`; less is more urgent, in all shards alike), and leaves a
slot to a shard that has something more urgent for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

#: A slot stays in its shard while nothing elsewhere is more urgent by more than this, seconds of
#: waiting: the end of an item and the claim of the next share an entry then.  (With 1 s, shards
#: that work off what came in within seconds took each other's slots all the time, and an item
#: cost 4 to 6 % more.)
SLACK_S = 5.0
#: Nor by more than this part of a step of priority.
SLACK_STEPS = 0.1
#: So long slots are left to a shard that decides nothing: its log may be out of reach.
PATIENCE_S = 0.25

#: Scores that differ by no more than this part of a step of priority are about the same to those
#: who claim from any shard.
CLOSE_STEPS = 0.25

#: The score of what is not there.
NEVER = float("inf")


def slack_s(ageing_s: float) -> float:
    """By how much what waits elsewhere must be more urgent, seconds of waiting."""
    return min(SLACK_S, SLACK_STEPS * ageing_s)


def most_urgent(
    heads: Mapping[int, Mapping[str, float]],
    before: Mapping[str, tuple[int, float]],
    ageing_s: float,
) -> dict[str, tuple[int, float]]:
    """By work type: the shard with the most urgent item, and its score.

    `heads`: scores by work type, of each shard.  The shard that it was `before` remains while it
    has something about as urgent, so that not every change is news.
    """
    best: dict[str, tuple[int, float]] = {}
    for shard, by_type in heads.items():
        for work_type, score in by_type.items():
            if work_type not in best or score < best[work_type][1]:
                best[work_type] = shard, score
    for work_type, (shard, _) in before.items():
        score = heads.get(shard, {}).get(work_type, NEVER)
        if work_type in best and score <= best[work_type][1] + CLOSE_STEPS * ageing_s:
            best[work_type] = shard, score
    return best


class Places:
    """Those of all shards that a coordinator serves."""

    def __init__(self) -> None:
        self.all: list[Place] = []
        #: The best score of any ready item that one of them shows.
        self.best = NEVER

    def look(self) -> None:
        """Something may be less urgent than it was, or gone."""
        self.best = min((place.best for place in self.all), default=NEVER)


class Place:
    """One shard among those that are served by the same coordinator."""

    def __init__(self, places: Places, ageing_s: float, wake: Callable[[], None]) -> None:
        """`wake`: makes this shard decide once more, soon."""
        self._places = places
        self._slack_s = slack_s(ageing_s)
        self._wake = wake
        #: The best score of a ready item, by work type, and of all.
        self.heads: Mapping[str, float] = {}
        self.best = NEVER
        #: Since when slots have been left to this shard that it has neither taken nor declined.
        self._awaited_since: float | None = None
        #: Slots left to others, by what they are for: up to which score of theirs.
        self._left: dict[tuple[str, ...], float] = {}

    def join(self) -> None:
        """The shard is served from here on."""
        self._places.all.append(self)
        self._places.look()

    def leave(self) -> None:
        """It is not any more; safe to call twice."""
        if self in self._places.all:
            self._places.all.remove(self)
        was, self.heads, self.best = self.heads, {}, NEVER
        self._places.look()
        self._tell_others(was)

    def show(self, heads: Mapping[str, float], *, gave_way: bool = False) -> None:
        """The shard has decided: the scores of its most urgent ready items are these, by type.

        `gave_way`: a slot was left to others, so that those that wait for this shard go on
        waiting: were they asked again, two that wait for a third would wake each other for ever.
        """
        if not gave_way:
            self._awaited_since = None
        if heads != self.heads:
            was, was_best = self.heads, self.best
            self.heads, self.best = heads, min(heads.values(), default=NEVER)
            if min(was_best, self.best) <= self._places.best:
                self._places.look()
            self._tell_others(was)

    def decline(self) -> None:
        """There is no slot that this shard could take: nobody needs to wait for it."""
        self._awaited_since = None

    @property
    def alone(self) -> bool:
        """Whether there is no other shard."""
        return len(self._places.all) < 2

    @property
    def limit(self) -> float:
        """Up to this score the shard may take any slot; beyond it, see `gives_way`."""
        return self._places.best + self._slack_s

    def gives_way(self, work_types: tuple[str, ...], score: float, now: float) -> bool:
        """Whether a slot for these types is left to who has something better than `score` for it.

        Those are to decide now, and this one again when one of them has nothing better any more.
        """
        others = self._others(now)
        limit = min((other.head(work_types) for other in others), default=NEVER) + self._slack_s
        if score <= limit:
            return False
        self._left[work_types] = score - self._slack_s
        for other in others:
            if other._awaited_since is None and other.head(work_types) < score:
                other._awaited_since = now
                other._wake()
        return True

    def head(self, work_types: Sequence[str]) -> float:
        """The best score of a ready item of these types."""
        return _head(self.heads, work_types)

    def _others(self, now: float) -> list[Place]:
        """Those that decide, as far as is known."""
        return [
            other
            for other in self._places.all
            if other is not self
            and (other._awaited_since is None or now - other._awaited_since <= PATIENCE_S)
        ]

    def _tell_others(self, was: Mapping[str, float]) -> None:
        """Whoever has left slots to this shard, for what it has no more, is to decide again."""
        for other in self._places.all:
            if other is not self and any(
                _head(was, work_types) < limit <= self.head(work_types)
                for work_types, limit in other._left.items()
            ):
                other._left.clear()
                other._wake()


def _head(heads: Mapping[str, float], work_types: Sequence[str]) -> float:
    return min((heads.get(name, NEVER) for name in work_types), default=NEVER)
