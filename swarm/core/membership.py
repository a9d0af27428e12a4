"""Who is alive: the latest beat of every coordinator."""

from __future__ import annotations

from msgspec import Struct

from swarm.core.syncing import recall
from swarm.messages import Beat

#: A look at whether somebody is dead comes this long after the moment.
JUST_AFTER_S = 0.005


class _Heard(Struct):
    beat: Beat
    at: float


class Members:
    """The latest beat of every coordinator and when it was heard (monotonic time)."""

    def __init__(self, missed_s: float) -> None:
        assert missed_s > 0, "everybody would be dead at once"
        self._missed_s = missed_s
        self._heard: dict[str, _Heard] = {}
        #: Instances that said good-bye, by name, and who of them left something behind.
        self._left: dict[str, str] = {}
        self._heirless: list[str] = []

    def __len__(self) -> int:
        """How many have been heard of and are not known to be gone."""
        return len(self._heard)

    def heard(self, beat: Beat, now: float) -> bool:
        """A beat arrived; whether it is the latest: one that was overtaken changes nothing."""
        if self._left.get(beat.coordinator) == beat.instance:
            return False
        known = self._heard.get(beat.coordinator)
        if known is not None:
            same = known.beat.instance == beat.instance
            if same and beat.number <= known.beat.number:
                return False
            known = known if same else None
        if beat.leaving:
            self._leave(beat)
            return False
        recall(beat, known.beat if known is not None else None)
        self._heard[beat.coordinator] = _Heard(beat, now)
        return True

    def _leave(self, beat: Beat) -> None:
        self._left[beat.coordinator] = beat.instance
        self._heard.pop(beat.coordinator, None)
        if beat.owns or beat.sessions:
            self._heirless.append(beat.coordinator)

    def is_live(self, name: str, now: float) -> bool:
        """Whether this one was heard of within the time to be missed."""
        heard = self._heard.get(name)
        return heard is not None and now - heard.at <= self._missed_s

    def live(self, now: float) -> dict[str, Beat]:
        """Latest beat of everybody who lives, by name."""
        return {
            name: heard.beat
            for name, heard in sorted(self._heard.items())
            if self.is_live(name, now)
        }

    def missed_in(self, now: float) -> float:
        """Seconds until the next one counts as dead, if it is not heard of before."""
        first = min((heard.at for heard in self._heard.values()), default=now)
        return max(0.0, first + self._missed_s - now) + JUST_AFTER_S

    def newly_dead(self, now: float) -> list[str]:
        """Coordinators whose beats have stopped, or who left while they were needed; once each."""
        dead = [name for name, heard in self._heard.items() if now - heard.at > self._missed_s]
        for name in dead:
            del self._heard[name]
        heirless, self._heirless = self._heirless, []
        return sorted({*dead, *heirless})
