"""What an agent process decides: whom to run, what to say, when to say it again.

Pure: the actor (`swarm.actors.agent`) tells it what arrived and what handlers returned,
performs the effects it gets back, and sends what `flush` and `heartbeat` make.

Invariants (checked by `validate`):

- at most `concurrency` handlers run, those told to stop included until they end;
- `held` is exactly what the swarm believes this agent holds, as far as the agent knows:
  assigned, and neither an outcome acknowledged nor a stop received;
- an item that is held and does not run has exactly one outcome under way;
- an assignment (item and token) is run at most once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from msgspec import Raw

from swarm.core.handling import (
    AgentRules,
    Cancel,
    Done,
    Effect,
    Failed,
    Kept,
    Outcome,
    Reattach,
    Refused,
    Start,
    Stopped,
    Waiting,
)
from swarm.core.held import LOST, Held, Key
from swarm.core.outbox import Outbox
from swarm.messages import (
    NULL,
    Ack,
    Assignment,
    Attached,
    Control,
    ErrorBody,
    Heartbeat,
    ItemCommand,
    Next,
    Progress,
    Work,
)

#: A coordinator silent for this many heartbeats is taken for lost.
SILENT_HEARTBEATS = 3


class AgentCore:
    """See the module's docstring.  `new_id` makes command ids."""

    def __init__(self, rules: AgentRules, new_id: Callable[[], str]) -> None:
        self.rules = rules
        self._new_id = new_id
        self.session = ""
        #: The coordinator that serves the session, or last did.
        self.coordinator = ""
        self.attached = False
        self.heartbeat_s = 0.0
        #: Assignments that have arrived in this session, copies included.
        self.received = 0
        self.held: dict[Key, Held] = {}
        self.running: dict[Key, Held] = {}
        self.draining = False
        #: Why this session takes no more work for good; empty: it does.
        self.superseded = ""
        self.outbox = Outbox(rules.message_bytes_max)
        self._number = 0
        #: Free slots as the coordinator should count them by now.
        self._believed = 0
        self._heard_at = 0.0
        #: Assignments that have ended, oldest first: a late copy must not run again.
        self._recent: dict[Key, None] = {}

    # --- looking -----------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing runs, and nothing said waits for its answer."""
        return not self.running and not self.outbox

    def slots(self) -> int:
        """Items that could be taken right now."""
        if self.draining or self.superseded:
            return 0
        rules = self.rules
        room = min(rules.concurrency - len(self.running), rules.held_max - len(self.held))
        return max(0, room)

    # --- the session -------------------------------------------------------------------------

    def on_attached(self, reply: Attached, now: float) -> None:
        """A coordinator serves the session: tell it everything."""
        if reply.session != self.session:
            self.session = reply.session
            self.received = 0
        self.coordinator = reply.coordinator
        self.heartbeat_s = reply.heartbeat_s
        self.attached = True
        self._heard_at = now
        self.restate()

    def restate(self) -> None:
        """What was sent may be lost: send it all again, and the free slots."""
        self._believed = -1
        self.outbox.repeat_all()

    def on_control(self, control: Control, now: float) -> list[Effect]:
        """The coordinator, or the owner of an item, tells what to do."""
        self._heard_at = now
        match control.kind:
            case "stop":
                return self._stop((control.work_item_id, control.token), control.reason)
            case "cancel":
                return self._asked_to_stop(control)
            case "superseded":
                self.supersede(control.reason or "another process uses this agent id")
                return []
            case "reattach":
                return self.lost_coordinator(control.reason or "the coordinator asks for it")
            case _:
                assert_never(control.kind)

    def _asked_to_stop(self, control: Control) -> list[Effect]:
        """The item is not wanted any more; told again and again until the claim ends."""
        held = self.running.get((control.work_item_id, control.token))
        if held is None or held.stopped or held.handback:
            return []
        held.handback = control.reason or "it was cancelled"
        return [Cancel(*held.key, held.handback, "asked", control.grace_s)]

    def supersede(self, reason: str) -> None:
        """This session takes no more work, for good; what is held is finished."""
        assert reason, "a reason is what tells a superseded session"
        self.superseded = self.superseded or reason

    def lost_coordinator(self, reason: str) -> list[Effect]:
        """The coordinator does not serve this session any more."""
        if not self.attached:
            return []
        self.attached = False
        return [] if self.superseded else [Reattach(reason)]

    def drain(self) -> None:
        """Take no more work; what runs may finish."""
        self.draining = True

    def hand_back(self, reason: str) -> list[Effect]:
        """Stop all handlers; what they do not finish is queued again for others."""
        effects: list[Effect] = []
        for key, held in self.running.items():
            if not held.stopped and not held.handback:
                held.handback = reason
                effects.append(Cancel(*key, reason, "leaving"))
        return effects

    # --- work --------------------------------------------------------------------------------

    def on_work(self, work: Work, now: float) -> list[Effect]:
        """Acknowledgements and assignments."""
        self._heard_at = now
        effects = [effect for ack in work.acks for effect in self._on_ack(ack, now)]
        for assignment in work.items:
            effects += self._on_assignment(assignment, now)
        return effects

    def _on_assignment(self, assignment: Assignment, now: float) -> list[Effect]:
        self.received += 1
        self._believed -= 1
        key = (assignment.work_item_id, assignment.token)
        if key in self.held or key in self.running or key in self._recent:
            return []
        held = self.held[key] = Held.of(assignment, self.rules.item_bytes_max)
        leaving = self.draining or self.superseded
        if not leaving and len(self.running) < self.rules.concurrency:
            self.running[key] = held
            return [Start(assignment)]
        why = "the agent is leaving" if leaving else "no free slot"
        self.outbox.say(held.release(self._new_id, why), now)
        return []

    def ended(self, work_item_id: str, token: str, outcome: Outcome, now: float) -> None:
        """The handler of a started assignment has ended."""
        held = self.running.pop((work_item_id, token))
        if held.stopped:
            return
        # An outcome that says what to keep needs no report that says it, too.
        self._last_progress(held, now, with_checkpoint=isinstance(outcome, Failed))
        match outcome:
            case Done():
                self.outbox.say(held.complete(self._new_id, outcome.result), now)
            case Failed():
                self.outbox.say(held.fail(self._new_id, outcome), now)
            case Waiting():
                self.outbox.say(held.wait(self._new_id, outcome), now)
            case Stopped():
                why = held.handback or "its handler was cancelled"
                self.outbox.say(held.release(self._new_id, why), now)
            case _:
                assert_never(outcome)

    def progress(
        self, work_item_id: str, token: str, percent: float, note: str, now: float
    ) -> None:
        """A running handler reports; one report an item is under way, the newest one waits."""
        held = self.running.get((work_item_id, token))
        if held is None or held.stopped:
            return
        held.report(percent, note)
        self._say_progress(held, now)

    def checkpoint(
        self, work_item_id: str, token: str, number: int, checkpoint: Raw, now: float
    ) -> None:
        """A running handler leaves something for whoever goes on: goes along with a report."""
        held = self.running.get((work_item_id, token))
        if held is None or held.stopped:
            return
        held.keep(number, checkpoint)
        self._say_progress(held, now)

    # --- what to send ------------------------------------------------------------------------

    def flush(self, now: float) -> list[Next]:
        """What there is to tell the coordinator: commands, and changed free slots."""
        if not self.attached:
            return []
        parts = self.outbox.take(now)
        if not parts and self.slots() == self._believed:
            return []
        return [
            Next(self.session, self._state(), self.slots(), self.received, done)
            for done in parts or [[]]
        ]

    def direct(self, now: float) -> list[ItemCommand]:
        """What there is to tell the owners themselves, as no coordinator will pass it on."""
        if self.attached or not self.superseded:
            return []
        return [command for part in self.outbox.take(now) for command in part]

    def heartbeat(self, *, leaving: bool = False) -> Heartbeat:
        """Everything held, and the free slots."""
        return Heartbeat(
            session=self.session,
            coordinator=self.coordinator,
            number=self._state(),
            slots=self.slots(),
            work_types=list(self.rules.work_types),
            received=self.received,
            held=list(self.held),
            leaving=leaving,
        )

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: what is overdue is sent again by the next `flush`."""
        self.outbox.repeat_overdue(now)
        # What waited for an answer only since then cannot have been answered before.
        silent_s = now - max(self._heard_at, self.outbox.oldest_at())
        if not self.attached or silent_s <= SILENT_HEARTBEATS * self.heartbeat_s:
            return []
        return self.lost_coordinator(f"{self.coordinator} has not answered for {silent_s:.1f} s")

    def _state(self) -> int:
        """The free slots are being told: the number of this statement."""
        assert self.session, "there is nobody to tell before the first attach"
        self._number += 1
        self._believed = self.slots()
        return self._number

    # --- reports -----------------------------------------------------------------------------

    def _say_progress(self, held: Held, now: float) -> None:
        if held.reports and not held.progress_sent:
            self.outbox.say(held.progress(self._new_id), now)

    def _last_progress(self, held: Held, now: float, *, with_checkpoint: bool) -> None:
        """Before an outcome: the newest report goes along once, no report is repeated."""
        self.outbox.forget(held.progress_sent)
        # Its answer will not be looked at: the outcome's tells the same.
        held.progress_sent, held.number_sent = "", 0
        if held.reports or (with_checkpoint and held.unsettled() != NULL):
            held.reports = True
            report = held.progress(self._new_id, with_checkpoint=with_checkpoint)
            self.outbox.say(report, now)
            self.outbox.forget(report.command_id)

    # --- answers -----------------------------------------------------------------------------

    def _on_ack(self, ack: Ack, now: float) -> list[Effect]:
        command = self.outbox.get(ack.command_id)
        if command is None:
            return []
        error = ack.error
        if error is not None and error.code == "unknown_session":
            return self.lost_coordinator(error.message)
        if error is not None and error.retry:
            return []  # It is sent again when it is due.
        self.outbox.forget(ack.command_id)
        key = command.work_item_id, command.token
        if isinstance(command, Progress):
            return self._progress_answered(self.running[key], command, error, now)
        held = self.held[key]
        lesser = None if error is None else held.lesser(self._new_id, command, error)
        if lesser is None:
            self._let_go(key)
        else:
            self.outbox.say(lesser, now)
        return [] if error is None else [Refused(command, error)]

    def _progress_answered(
        self, held: Held, command: Progress, error: ErrorBody | None, now: float
    ) -> list[Effect]:
        number = held.progress_answered()
        if error is not None and error.code in LOST:
            return [Refused(command, error), *self._stop(held.key, error.message)]
        effects: list[Effect] = [] if error is None else [Refused(command, error)]
        if number:
            effects.append(Kept(*held.key, number, error))
        self._say_progress(held, now)
        return effects

    def _stop(self, key: Key, reason: str) -> list[Effect]:
        """The claim has ended elsewhere; an outcome under way gets its own answer."""
        held = self.running.get(key)
        if held is None or held.stopped:
            return []
        held.stopped = True
        held.reports = False
        self.outbox.forget(held.progress_sent)
        held.progress_sent = ""
        self._let_go(key)
        return [Cancel(*key, reason)]

    def _let_go(self, key: Key) -> None:
        """The item is not held any more."""
        del self.held[key]
        self._recent[key] = None
        while len(self._recent) > 256 + 4 * self.rules.concurrency:
            del self._recent[next(iter(self._recent))]

    # --- checking ----------------------------------------------------------------------------

    def validate(self) -> None:
        """Assert every invariant; for tests and the simulation: O(items held)."""
        assert len(self.running) <= self.rules.concurrency, "more handlers than slots"
        outcomes: dict[Key, int] = {}
        for command in self.outbox:
            key = (command.work_item_id, command.token)
            if isinstance(command, Progress):
                assert key in self.running, "progress of what does not run"
                assert self.running[key].progress_sent == command.command_id, "two reports"
            else:
                outcomes[key] = outcomes.get(key, 0) + 1
        for key, held in self.running.items():
            assert (key in self.held) != held.stopped, "running, but held iff not stopped"
            assert key not in outcomes, "an outcome while the handler runs"
        for key in self.held:
            assert key in self.running or outcomes.get(key) == 1, "held, but nobody's business"
        assert all(key in self.held for key in outcomes), "an outcome of what is not held"
        assert not any(key in self.held for key in self._recent), "held and ended"
