"""Who is alive, and which coordinator is to own which shard (static placement)."""

from __future__ import annotations

from msgspec import Struct

from swarm.core.sharding import stable_hash
from swarm.messages import Beat


class _Heard(Struct):
    beat: Beat
    at: float


class Members:
    """The latest beat of every coordinator and when it was heard (monotonic time)."""

    def __init__(self, missed_s: float) -> None:
        assert missed_s > 0, "everybody would be dead at once"
        self._missed_s = missed_s
        self._heard: dict[str, _Heard] = {}

    def heard(self, beat: Beat, now: float) -> None:
        """A beat arrived; one that was overtaken by a later one changes nothing."""
        known = self._heard.get(beat.coordinator)
        if known is not None:
            same = known.beat.instance == beat.instance
            if same and beat.number <= known.beat.number:
                return
        self._heard[beat.coordinator] = _Heard(beat, now)

    def left(self, coordinator: str) -> None:
        """The coordinator said that it leaves."""
        self._heard.pop(coordinator, None)

    def live(self, now: float) -> dict[str, Beat]:
        """Latest beat of everybody heard of within the time to be missed, by name."""
        return {
            name: heard.beat
            for name, heard in sorted(self._heard.items())
            if now - heard.at <= self._missed_s
        }

    def newly_dead(self, now: float) -> list[str]:
        """Coordinators whose beats have stopped; each is named once."""
        dead = [name for name, heard in self._heard.items() if now - heard.at > self._missed_s]
        for name in dead:
            del self._heard[name]
        return sorted(dead)


def preference(shard: int, coordinators: list[str]) -> list[str]:
    """Coordinators in the order in which they are to own `shard`.

    First choices are dealt out in turn, so they are even to one shard; the further ones
    are by rendezvous hashing (Thaler and Ravishankar, 1998), so the shards of one that
    dies spread over all others.
    """
    assert coordinators, "a swarm has at least one coordinator"
    members = sorted(coordinators)
    first = members[shard % len(members)]
    others = [name for name in members if name != first]
    others.sort(key=lambda name: stable_hash(f"{shard}/{name}"))
    return [first, *others]


def shards_to_open(
    me: str,
    owned: set[int],
    shard_count: int,
    coordinators: list[str],
    live: dict[str, Beat],
    settled: bool,
) -> list[int]:
    """Shards that `me` is to open now: nobody alive owns them, and it is first in turn.

    `settled`: whether this coordinator has listened long enough to have heard of
    everybody alive; before, it opens only shards of which it is the first choice.
    A live owner is never replaced, whoever it is.
    """
    assert shard_count > 0, "a swarm has at least one shard"
    taken = {shard for name, beat in live.items() if name != me for shard in beat.owns}
    wanted = []
    for shard in range(shard_count):
        if shard in taken or shard in owned:
            continue
        order = preference(shard, coordinators)
        candidates = [
            name for name in order if name == me or (name in live and not live[name].draining)
        ]
        first_choice = order[0] == me
        if candidates and candidates[0] == me and (first_choice or settled):
            wanted.append(shard)
    return wanted
