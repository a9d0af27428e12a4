"""Which coordinators answer, and how fast: what a router finds out by asking them.

A beat shows that a coordinator lives; an answer to a probe goes through its mailbox, so it
shows that requests are taken, and how long that takes.  A coordinator that has not been
asked yet is relied on, as it beats.  Until its first good answer one failure is enough not
to; it is asked again soon then.  Later `fall` failures in a row make it unhealthy, and
`rise` good answers in a row healthy again.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from swarm.messages import Beat

#: Who has never given a good answer is asked this often, or more often.
UNPROVEN_S = 1.0
#: Weight of the latest answer in the response time, which else is that of those before.
LATEST_WEIGHT = 0.5


class Checked(Struct):
    """One coordinator, as it has answered so far."""

    instance: str
    #: When it is to be asked next (monotonic time).
    due_at: float
    healthy: bool = True
    #: Whether it has ever given a good answer.
    proven: bool = False
    #: Results in a row that speak against `healthy`.
    against: int = 0
    #: Seconds, averaged; 0: not known.
    response_s: float = 0.0
    #: Of the latest failure; empty after a good answer.
    why: str = ""
    #: Whether an answer is waited for.
    asked: bool = False


class Health:
    """See the module's docstring.  Times are monotonic, in seconds."""

    def __init__(self, interval_s: float, timeout_s: float, rise: int, fall: int) -> None:
        assert 0 < timeout_s <= interval_s, "one probe at a time"
        assert min(rise, fall) >= 1, "nothing changes without a result"
        self.timeout_s = timeout_s
        self._interval_s = interval_s
        self._rise, self._fall = rise, fall
        self._checked: dict[str, Checked] = {}

    def due(self, live: Mapping[str, Beat], now: float) -> list[str]:
        """Coordinators to be asked now, which are taken as asked; who does not live is forgotten.

        A newcomer, and one that was restarted, is asked at once.
        """
        for name in [name for name in self._checked if name not in live]:
            del self._checked[name]
        asked = []
        for name, beat in live.items():
            checked = self._checked.get(name)
            if checked is None or checked.instance != beat.instance:
                checked = self._checked[name] = Checked(beat.instance, now)
            if checked.due_at <= now and not checked.asked:
                soon_s = self._interval_s if checked.proven else UNPROVEN_S
                checked.asked, checked.due_at = True, now + min(self._interval_s, soon_s)
                asked.append(name)
        assert len(self._checked) == len(live), "one each"
        return asked

    def answered(
        self, name: str, instance: str, took_s: float, *, ready: bool, why: str = ""
    ) -> None:
        """The coordinator has answered, after `took_s`; `why` says what it lacks."""
        assert took_s >= 0, "no answer comes before its question"
        checked = self._asked(name, instance)
        if checked is None:
            return
        self._measured(checked, took_s)
        self._result(checked, good=ready, why="" if ready else why or "it is not ready")

    def failed(self, name: str, instance: str, why: str) -> None:
        """No answer came in time; counts as one that took all of it."""
        checked = self._asked(name, instance)
        if checked is None:
            return
        self._measured(checked, self.timeout_s)
        self._result(checked, good=False, why=why)

    def not_asked(self, name: str) -> None:
        """The probe did not go out: nothing is known, and it is asked again in its turn."""
        checked = self._checked.get(name)
        if checked is not None:
            checked.asked = False

    def next_due_at(self, now: float) -> float:
        """When somebody is to be asked next, if nobody comes; after `now`."""
        times = [checked.due_at for checked in self._checked.values() if not checked.asked]
        return max(now, min(times, default=now + self._interval_s))

    def healthy(self, name: str) -> bool:
        """Whether it is to be chosen; nothing is known against one that was not asked yet."""
        checked = self._checked.get(name)
        return checked is None or checked.healthy

    def response_s(self, name: str) -> float:
        """How long it takes to answer; 0: not known."""
        checked = self._checked.get(name)
        return 0.0 if checked is None else checked.response_s

    def why(self, name: str) -> str:
        """What the latest probe found wrong; empty: nothing."""
        checked = self._checked.get(name)
        return "" if checked is None else checked.why

    # ------------------------------------------------------------------------------------

    def _asked(self, name: str, instance: str) -> Checked | None:
        """Whom this result is about; None: it has gone, or was restarted since."""
        checked = self._checked.get(name)
        if checked is None or checked.instance != instance or not checked.asked:
            return None
        checked.asked = False
        return checked

    def _measured(self, checked: Checked, took_s: float) -> None:
        before = checked.response_s or took_s
        checked.response_s = LATEST_WEIGHT * took_s + (1 - LATEST_WEIGHT) * before

    def _result(self, checked: Checked, *, good: bool, why: str) -> None:
        checked.why = why
        if not checked.proven:
            checked.healthy = checked.proven = good
            return
        if good == checked.healthy:
            checked.against = 0
            return
        checked.against += 1
        needed = self._rise if good else self._fall
        assert checked.against <= needed, "it would have changed before"
        if checked.against == needed:
            checked.healthy, checked.against = good, 0
