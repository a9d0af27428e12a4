"""What a shard ought to be, told a second time: plain dicts, no indexes, no log."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.core.shard import ShardRules
from swarm.messages import PRIORITIES

#: The statuses of items that an agent's command ends in, and what else may be.
UNHELD = ("queued", "scheduled", "blocked", "waiting")
ENDED = ("completed", "dead", "cancelled")


@dataclass
class Known:
    """What the model knows of an item."""

    work_type: str
    rank: int
    submitted_at: float
    max_attempts: int
    deadline: float
    not_before: float
    depends: dict[str, str]
    policy: str
    status: str = "queued"
    agent: str = ""
    token: str = ""
    claims: int = 0
    charged: int = 0
    deaths: int = 0
    percent: float = 0.0
    #: When a pause is over, 0 = never by itself, and what then.
    until: float = 0.0
    on_expiry: str = "dead"
    waits: int = 0
    #: How and when the item ends if its holder does not stop by itself.
    ask: tuple[str, float] | None = None
    cause: str = ""
    replayed_at: float = 0.0
    replays: int = 0
    #: Attempts in its history.
    kept: int = 0
    checkpoint: bytes = b"null"
    dependents: dict[str, str] = field(default_factory=dict)
    archived: bool = False

    def unresolved(self) -> bool:
        """Whether dependencies keep it from being claimed."""
        return any(
            status != "completed" and not (status and self.policy == "run")
            for status in self.depends.values()
        )

    def end(self, status: str, cause: str = "") -> None:
        """It is over; only the claim that ended it may still speak of it."""
        if self.status != "claimed":
            self.agent = self.token = ""
        self.status, self.cause, self.ask, self.until = status, cause, None, 0.0

    def queue(self, until: float, now: float) -> None:
        """It can be claimed, perhaps later."""
        self.status = "scheduled" if until > now else "queued"
        self.until = until if until > now else 0.0

    @property
    def overdue_at(self) -> float:
        """The deadline that counts; 0 = none."""
        return self.deadline if self.deadline > self.replayed_at else 0.0

    def untold(self) -> list[str]:
        """Dependents that have not heard how it ended."""
        if self.status not in ENDED:
            return []
        return [name for name, told in self.dependents.items() if told != self.status]


class Model:
    """Items by number, and the rules of their lives."""

    def __init__(self, rules: ShardRules) -> None:
        self.rules = rules
        self.items: dict[int, Known] = {}
        #: Every claim there was, as (number, token).
        self.claims: set[tuple[int, str]] = set()

    # --- claiming ----------------------------------------------------------------------

    def best(self, work_types: tuple[str, ...]) -> int | None:
        """The best queued item, by looking at all."""
        ageing_s = self.rules.ageing_s
        ready = [
            (known.submitted_at + known.rank * ageing_s, number)
            for number, known in self.items.items()
            if known.status == "queued" and known.work_type in work_types
        ]
        return min(ready)[1] if ready else None

    def claimed(self, number: int, agent: str, token: str) -> None:
        """The best item was claimed."""
        known = self.items[number]
        assert known.status == "queued", "only what is ready is handed out"
        known.claims += 1
        known.charged += 1
        known.status, known.agent, known.token, known.percent = "claimed", agent, token, 0.0
        claim = (number, token)
        assert claim not in self.claims, "no token is issued twice for an item"
        self.claims.add(claim)

    # --- holders -------------------------------------------------------------------------

    def expect(self, number: int, sender: str, token: str, verb: str) -> str:
        """The code that a command is refused with; "" when it is done, else "repetition"."""
        known = self.items[number]
        if known.status in ENDED:
            by_this_claim = bool(token) and (known.agent, known.token) == (sender, token)
            fits = (known.status == "completed") == (verb == "complete") and verb != "progress"
            return "repetition" if by_this_claim and fits else "already_finished"
        if known.status != "claimed":
            return "stale_token" if token else "not_claimed"
        if known.agent != sender:
            return "not_holder"
        return "" if known.token == token else "stale_token"

    def says(self, number: int, verb: str, now: float, given: dict[str, object]) -> None:
        """The holder says it, and may."""
        known = self.items[number]
        if verb == "progress":
            known.percent = float(str(given["percent"]))
            self._keep_checkpoint(known, given)
            return
        if verb == "complete":
            known.end("completed")
            known.checkpoint = b"null"
            return
        if known.ask is not None:
            self._end_as_asked(known)
            return
        if verb == "fail":
            self._fail(known, now, given)
        elif verb == "release":
            self._keep_checkpoint(known, given)
            known.charged -= 1
            known.queue(0.0, now)
        else:
            self._keep_checkpoint(known, given)
            known.charged -= 1
            known.waits += 1
            known.status = "waiting"
            known.until = now + float(str(given["expires_s"] or self.rules.wait_s))
            known.on_expiry = str(given["on_expiry"])

    def _keep_checkpoint(self, known: Known, given: dict[str, object]) -> None:
        checkpoint = given["checkpoint"]
        assert isinstance(checkpoint, bytes)
        if checkpoint != b"null":
            known.checkpoint = checkpoint

    def _end_as_asked(self, known: Known) -> None:
        assert known.ask is not None
        if known.ask[0] == "dead":
            # Dying under a claim is kept as an attempt that failed.
            known.kept += 1
        known.end(known.ask[0], "deadline" if known.ask[0] == "dead" else "")

    def _fail(self, known: Known, now: float, given: dict[str, object]) -> None:
        known.kept += 1
        if given["final"] or known.charged >= (known.max_attempts or self.rules.max_attempts):
            known.end("dead", "failed")
            return
        pause_s = given["retry_after"]
        if pause_s is None:
            doubled = self.rules.backoff_s * 2 ** (known.charged - 1)
            # Half of it, and half of the other half: the jitter of tests is 0.5.
            pause_s = min(self.rules.backoff_max_s, doubled) * 0.75
        known.queue(now + float(str(pause_s)), now)

    def given_up(self, number: int, cause: str, now: float) -> None:
        """The owner takes it from its holder."""
        known = self.items[number]
        if known.ask is not None:
            self._end_as_asked(known)
            return
        if cause in ("unlisted", "trouble"):
            known.charged -= 1
            known.queue(0.0, now)
            return
        known.deaths += 1
        known.kept += 1
        if known.deaths >= self.rules.quarantine_deaths:
            known.end("dead", "quarantined")
        elif known.charged >= (known.max_attempts or self.rules.max_attempts):
            known.end("dead", "lapsed")
        else:
            known.queue(0.0, now)

    # --- everybody -----------------------------------------------------------------------

    def control(self, number: int, verb: str, now: float, given: dict[str, object]) -> str:
        """Anybody's command; the code that it is refused with, "" when it is done."""
        known = self.items[number]
        if verb == "cancel":
            return self._cancel(known, now, float(str(given["grace_s"])))
        if verb == "retry":
            return self._retry(known, now)
        if known.status in ENDED:
            return "already_finished"
        if verb == "prioritize":
            known.rank = PRIORITIES.index(given["priority"])
            return ""
        wait = int(str(given["wait"]))
        if not known.waits or wait > known.waits:
            return "not_waiting"
        if known.status != "waiting" or wait not in (0, known.waits):
            return "already_answered"
        known.queue(0.0, now)
        return ""

    def _cancel(self, known: Known, now: float, grace_s: float) -> str:
        if known.status in ENDED:
            return "" if known.status == "cancelled" else "already_finished"
        if known.status != "claimed" or not grace_s:
            known.end("cancelled")
            return ""
        until = now + grace_s
        known.ask = ("cancelled", min(until, known.ask[1]) if known.ask else until)
        return ""

    def _retry(self, known: Known, now: float) -> str:
        if known.status in ("completed", "cancelled") or known.archived:
            return "already_finished"
        if known.status == "waiting":
            return "bad_request"
        if known.status == "dead":
            known.charged = known.deaths = 0
            known.replays += 1
            known.replayed_at = now
            known.cause = ""
        if known.status != "claimed":
            known.queue(0.0, now)
        return ""

    # --- time and dependencies -------------------------------------------------------------

    def due(self, now: float) -> None:
        """Whatever has come due by now is done."""
        for known in self.items.values():
            if known.status in ENDED:
                continue
            if known.ask is not None and known.ask[1] <= now:
                self._end_as_asked(known)
            elif known.overdue_at and known.overdue_at <= now:
                if known.status != "claimed":
                    known.end("dead", "deadline")
                elif known.ask is None:
                    known.ask = ("dead", now + self.rules.grace_s)
            elif known.until and known.until <= now:
                if known.status == "waiting" and known.on_expiry == "dead":
                    known.end("dead", "expired")
                else:
                    known.queue(0.0, now)

    def outcome(self, number: int, on: str, status: str, missing: bool, now: float) -> None:
        """Item `number` hears how `on` has ended."""
        known = self.items[number]
        before = known.depends.get(on)
        if known.status in ENDED or before is None or before in (status, "completed", "cancelled"):
            return
        known.depends[on] = status
        if known.status != "blocked":
            return
        if not known.unresolved():
            known.queue(known.not_before, now)
        elif status != "completed" and missing:
            known.end("dead", "failed")
        elif status != "completed" and known.policy == "cancel":
            known.end("cancelled")

    def watch(self, number: int, dependent: str) -> None:
        """`dependent` wants to know how item `number` ends."""
        known = self.items[number]
        final = known.status in ("completed", "cancelled") or known.archived
        if not final:
            known.dependents.setdefault(dependent, "")

    def heard(self, number: int, dependent: str, status: str) -> None:
        """`dependent` has heard that item `number` ended as `status`."""
        known = self.items[number]
        if known.status != status or dependent not in known.dependents:
            return
        if status == "dead":
            known.dependents[dependent] = "dead"
        elif not known.archived:
            del known.dependents[dependent]
