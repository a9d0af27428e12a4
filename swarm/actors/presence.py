"""A coordinator's beats: its own, which it must hear again, and those of all others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from swarm.actors.sending import Outgoing
from swarm.bus.base import Bus
from swarm.config import Settings
from swarm.core.membership import Members
from swarm.core.syncing import StateSync
from swarm.messages import Beat
from swarm.subjects import Subjects

_encode = msgspec.json.Encoder().encode


class Presence:
    """Shows that this coordinator lives, and knows who else does.

    `describe` makes a beat of what the coordinator has now; its number is filled in here.
    """

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        say: Outgoing,
        settings: Settings,
        describe: Callable[[], Beat],
    ) -> None:
        self._bus = bus
        self._subjects = subjects
        self._say = say
        self._missed_s = settings.missed_s
        self._describe = describe
        #: Which beats tell its state.
        interval_s, ageing_s = settings.sync_interval_ms / 1000, settings.ageing_s
        self.sync = StateSync(interval_s, ageing_s, enabled=settings.sync_enabled)
        self._clock = asyncio.get_running_loop().time
        self.members = Members(settings.missed_s)
        #: When each of our own beats was sent that has not come back yet.
        self._sent: dict[int, float] = {}
        #: When the latest one that came back was sent: since then we hear.
        self._heard_since = float("-inf")
        self._number = 0
        #: The latest beat.
        self.shown = Beat("", "", 0, 0)

    def live(self) -> dict[str, Beat]:
        """The latest beat of each live coordinator, by name."""
        return self.members.live(self._clock())

    def hearing(self) -> bool:
        """Whether messages reach this process: its own beats come back, and in time.

        One that was sent long ago proves nothing: a process that was stopped finds it among
        what has waited for it.
        """
        silent_s = self._clock() - self._heard_since
        return self._bus.connected and silent_s < self._missed_s

    def beat(self, *, leaving: bool = False, owned: list[int] | None = None) -> None:
        """Show what this coordinator has now."""
        self._number += 1
        self.shown = self._describe()
        self.shown.number, self.shown.leaving = self._number, leaving
        if owned is not None:
            self.shown.owns = owned
        others = [beat for name, beat in self.live().items() if name != self.shown.coordinator]
        listeners = [*(beat.instance for beat in others), *self.shown.routed]
        # Those of an earlier version say of no shard map that they know it.
        old = any(not beat.map_version for beat in others)
        self.sync.shape(self.shown, listeners, self._clock(), all_=old)
        self._sent[self._number] = self._clock()
        self._say(self._subjects.beat(self.shown.coordinator), _encode(self.shown))

    def leave(self, owned: list[int]) -> None:
        """Say good-bye; `owned`: shards that are left behind."""
        self.beat(leaving=True, owned=owned)

    def heard(self, beat: Beat) -> bool:
        """A beat has come; whether it is one of our own."""
        now = self._clock()
        self.members.heard(beat, now)
        shown = self.shown
        if (beat.coordinator, beat.instance) != (shown.coordinator, shown.instance):
            return False
        self._heard_since = max(self._heard_since, self._sent.get(beat.number, self._heard_since))
        for number in [number for number in self._sent if number <= beat.number]:
            del self._sent[number]
        return True
