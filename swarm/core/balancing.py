"""Choosing a coordinator: for an agent that attaches, for a submission that no rule names.

Several routers choose at the same time and do not see each other's choices; each knows the
latest beat of every coordinator, and what it has itself sent there since.  So it has to
guess what the others do, and it guesses: the same as I do.  Its view of a coordinator is

    attached there by its latest beat  +  w · (sent there by me, not counted in that beat)

with w = how many routers there are (the beats tell).  An agent goes where this is least.
Then, with R ≤ w routers and loads that were D apart, however many agents join between two
beats, by whichever of the routers:

    the loads end at most max(D, w) apart                                            (1)

Proof.  Let c end above d, let them begin at b_c and b_d, and router r send c_r and d_r
there.  A router that chooses c for the last time sees b_c + w(c_r - 1) ≤ b_d + w·d_r, so
c_r - d_r ≤ 1 - (b_c - b_d)/w; one that never does has c_r - d_r ≤ 0.  If k routers choose
c, the loads end at most D' + k(1 - D'/w) apart, with D' = b_c - b_d, which is linear in k:
at most D' for k = 0 and, for k = R, at most w if 0 ≤ D' ≤ w, else less than D'; and if c
began below d (D' < 0), at most D' + R + R·|D'|/w ≤ R ≤ w.  (tests/property tries it.)

Without the guess (w = 1) each of R routers would fill up the emptiest one, all of them
together R times what it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from swarm.core.sharding import stable_hash
from swarm.messages import Beat

LB_STRATEGIES = ("least_connections", "round_robin", "response_time")

#: What has been sent and is not counted by any beat after this long is lost, or forgotten.
SETTLE_S = 5.0
#: A guess at the loads is used again for this long, unless a beat or an agent has come.
GUESS_S = 0.1
#: A coordinator that has been heard of for so long knows this router, if it counts routers.
STRANGER_S = 2.0
#: Response times below this are alike: what is less is chance.
ALIKE_S = 0.002


NO_GUESS: tuple[float, list[str], dict[str, float]] = (0.0, [], {})


class _Sent(Struct):
    """What this router has sent to one process of a coordinator."""

    instance: str
    first_heard_at: float
    #: Agents sent so far: the number of the latest; of these, those that its beats count.
    sessions: int = 0
    counted: int = 0
    sent_at: float = 0.0
    #: Submissions sent since its latest beat, and in all.
    requests: int = 0
    requests_ever: int = 0


class Balancer:
    """One router's choices.  Times are monotonic, in seconds.

    `me`: the name of this router process, unlike any other's.  `response_s(name)`: how long
    a coordinator takes to answer, 0 if that is not known.  `agents_wanted`: agents that each
    coordinator is to have at most, while others have fewer; 0: whatever they have.
    """

    def __init__(
        self,
        strategy: str,
        me: str,
        slow_start_s: float = 0.0,
        response_s: Callable[[str], float] = lambda _: 0.0,
        agents_wanted: int = 0,
    ) -> None:
        assert strategy in LB_STRATEGIES, f"{strategy!r} is no strategy"
        assert slow_start_s >= 0, "a time"
        assert agents_wanted >= 0, "a number of agents"
        self.strategy = strategy
        self.me = me
        self._slow_start_s = slow_start_s
        self._response_s = response_s
        self._agents_wanted = agents_wanted
        self._sent: dict[str, _Sent] = {}
        self._began_at: float | None = None
        #: Whose turn was the last: of agents, of submissions, and of those of each rule.
        self._last: dict[str, str] = {}
        self._ties: dict[str, int] = {}
        #: The latest guess at the loads: when, of whom, and what.
        self._guessed: tuple[float, list[str], dict[str, float]] = NO_GUESS

    def heard(self, beat: Beat, now: float) -> None:
        """The latest beat of a coordinator."""
        if self._began_at is None:
            self._began_at = now
        sent = self._sent.get(beat.coordinator)
        if sent is None or sent.instance != beat.instance:
            sent = self._sent[beat.coordinator] = _Sent(beat.instance, now)
        self._guessed = NO_GUESS
        sent.requests = 0
        counted = beat.routed.get(self.me, 0)
        if self.me not in beat.routed and now - sent.first_heard_at > STRANGER_S:
            # It counts nobody's: it is of an earlier version, or there are too many of us.
            counted = sent.sessions
        sent.counted = max(sent.counted, min(sent.sessions, counted))
        assert sent.counted <= sent.sessions, "nothing was counted that was not sent"

    # --- choosing -------------------------------------------------------------------------

    def session(self, names: Iterable[str], live: Mapping[str, Beat], now: float) -> str | None:
        """Where an agent is to attach; None if `names` is empty."""
        chosen = self._choose("session", self._with_room(sorted(names), live, now), live, now, "")
        if chosen is not None:
            sent = self._of(chosen, live, now)
            sent.sessions += 1
            sent.sent_at = now
            self._guessed = NO_GUESS
        return chosen

    def request(
        self, names: Iterable[str], live: Mapping[str, Beat], now: float, rule: str = ""
    ) -> str | None:
        """Where a submission is to go; None if `names` is empty.

        `rule`: that names them, if any; each has turns of its own.
        """
        chosen = self._choose("request", sorted(names), live, now, rule)
        if chosen is not None:
            sent = self._of(chosen, live, now)
            sent.requests += 1
            sent.requests_ever += 1
        return chosen

    def number(self, name: str) -> int:
        """Of the latest agent that was sent to this coordinator; the beats say it again."""
        sent = self._sent.get(name)
        return 0 if sent is None else sent.sessions

    def _with_room(self, names: list[str], live: Mapping[str, Beat], now: float) -> list[str]:
        """Those that have fewer agents than wanted; all, if none has: no agent is homeless.

        A newcomer among them is not spared: it is what the others wait for.
        """
        if not self._agents_wanted:
            return names
        routers = self.routers(live)
        room = [
            name
            for name in names
            if live[name].sessions + routers * self._unseen(name, live, now) < self._agents_wanted
        ]
        return room or names

    def _choose(
        self, kind: str, names: list[str], live: Mapping[str, Beat], now: float, rule: str
    ) -> str | None:
        if not names:
            return None
        if self.strategy == "round_robin":
            turn = f"{kind} {rule}"
            last = self._last.get(turn, "")
            chosen = next((name for name in names if name > last), names[0])
            if not last:
                # Routers that start together do not all begin with the same one.
                chosen = names[stable_hash(self.me) % len(names)]
            self._last[turn] = chosen
            return chosen
        costs = self._costs(kind, names, live, now)
        assert len(costs) == len(names), "one each"
        least = min(costs.values())
        equal = [name for name in names if costs[name] == least]
        if len(equal) == 1:
            return equal[0]
        ever = self._requests_ever if kind == "request" else lambda _: 0
        return min(equal, key=lambda name: (ever(name), self._tie(name)))

    def _costs(
        self, kind: str, names: list[str], live: Mapping[str, Beat], now: float
    ) -> dict[str, float]:
        loads = self._loads(names, live, now)
        sent = self._sent
        if self.strategy == "least_connections":
            if kind == "session":
                return loads
            return {name: loads[name] + sent[name].requests for name in names}
        assert self.strategy == "response_time", "the others are above"
        # How long one more of its kind would take there: so each gets its share of them.
        times = self._times(names)
        if kind == "session":
            return {name: times[name] * (1 + loads[name]) for name in names}
        return {name: times[name] * (1 + sent[name].requests) for name in names}

    def _times(self, names: list[str]) -> dict[str, float]:
        """Response times; of who has not been measured yet, the middle one of the others."""
        found = {name: self._response_s(name) for name in names}
        measured = sorted(max(ALIKE_S, time_s) for time_s in found.values() if time_s > 0)
        middle = measured[len(measured) // 2] if measured else ALIKE_S
        return {
            name: max(ALIKE_S, time_s) if time_s > 0 else middle for name, time_s in found.items()
        }

    def _loads(self, names: list[str], live: Mapping[str, Beat], now: float) -> dict[str, float]:
        """Agents at each, as far as can be guessed.

        An empty newcomer would get every agent that comes until it has as many as the
        others: so at first it counts as having as many, and less of this with time.
        """
        at, known, loads = self._guessed
        # Submissions change nothing of it, and there may be many between two beats.
        if known == names and 0 <= now - at < GUESS_S:
            return loads
        loads = self._guess(names, live, now)
        self._guessed = (now, names, loads)
        return loads

    def _guess(self, names: list[str], live: Mapping[str, Beat], now: float) -> dict[str, float]:
        newness = {name: self._newness(name, live, now) for name in names}
        settled = [live[name].sessions for name in names if not newness[name]]
        mean = sum(settled) / len(settled) if settled else 0.0
        routers = self.routers(live)
        return {
            name: max(live[name].sessions, newness[name] * mean)
            + routers * self._unseen(name, live, now)
            for name in names
        }

    def routers(self, live: Mapping[str, Beat]) -> int:
        """How many routers choose, this one included."""
        return len({self.me, *(router for beat in live.values() for router in beat.routed)})

    def _unseen(self, name: str, live: Mapping[str, Beat], now: float) -> int:
        """Agents sent to it that its latest beat does not count yet."""
        sent = self._of(name, live, now)
        if now - sent.sent_at > SETTLE_S:
            sent.counted = sent.sessions
        return sent.sessions - sent.counted

    def _newness(self, name: str, live: Mapping[str, Beat], now: float) -> float:
        """1 for who has just come, 0 for who has been there for long."""
        first = self._of(name, live, now).first_heard_at
        # Whom this router met when it began is new to it alone.
        if self._slow_start_s <= 0 or self._began_at is None or first - self._began_at < 1.0:
            return 0.0
        return max(0.0, 1 - (now - first) / self._slow_start_s)

    def _of(self, name: str, live: Mapping[str, Beat], now: float) -> _Sent:
        assert name in live, "only who lives is chosen"
        if name not in self._sent:
            self.heard(live[name], now)
        return self._sent[name]

    def _requests_ever(self, name: str) -> int:
        return self._sent[name].requests_ever

    def _tie(self, name: str) -> int:
        if name not in self._ties:
            self._ties[name] = stable_hash(f"{self.me}/{name}")
        return self._ties[name]


class RoutersSeen:
    """The routers that a coordinator has heard of, and the latest agent each has sent it."""

    #: More names than any swarm has routers: what else comes is not noted.
    ROUTERS_MAX = 64

    def __init__(self, forget_s: float) -> None:
        assert forget_s > 0, "a router would be forgotten at once"
        self._forget_s = forget_s
        self._seen: dict[str, tuple[int, float]] = {}

    def heard(self, router: str, number: int, now: float) -> None:
        """A router has sent something: agent `number`, or (0) a probe."""
        known = self._seen.get(router)
        if known is None and len(self._seen) >= self.ROUTERS_MAX:
            return
        self._seen[router] = (max(number, known[0] if known else 0), now)

    def shown(self, now: float) -> dict[str, int]:
        """Number of the latest agent by router, of those heard of lately."""
        for router, (_, at) in list(self._seen.items()):
            if now - at > self._forget_s:
                del self._seen[router]
        assert len(self._seen) <= self.ROUTERS_MAX, "bounded, as every beat holds it"
        return {router: number for router, (number, _) in self._seen.items()}
