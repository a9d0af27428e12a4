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

from collections.abc import Callable, Iterable
from typing import assert_never

import msgspec
from msgspec import Raw, Struct

from swarm.core.texts import cut_text, text_bytes
from swarm.messages import (
    Ack,
    Assignment,
    Attached,
    Complete,
    Control,
    ErrorBody,
    Fail,
    Heartbeat,
    ItemCommand,
    Next,
    Progress,
    Release,
    Work,
)

#: What was said and is not acknowledged is said again after this long.
RESEND_S = 1.0
#: A coordinator that answers nothing for this many heartbeats is taken for lost.
SILENT_HEARTBEATS = 3
#: Longest failure message, in bytes.
ERROR_BYTES_MAX = 8192
#: Bytes of a command besides its texts, and of a `Next` besides its commands.
COMMAND_BYTES = 320

#: Codes that say: this claim has ended.
LOST = frozenset({"stale_token", "not_holder", "not_claimed", "already_finished", "unknown_item"})

Key = tuple[str, str]

_NEVER = float("inf")


class AgentRules(Struct, frozen=True, kw_only=True):
    """What an agent is made for, and the limits of its messages in bytes."""

    work_types: tuple[str, ...]
    concurrency: int
    item_bytes_max: int
    message_bytes_max: int

    @property
    def held_max(self) -> int:
        """Unacknowledged items at which no more are taken: the swarm is slow or away."""
        return 2 * self.concurrency + 16


# --- how a handler ends -----------------------------------------------------------


class Done(Struct, frozen=True):
    """It returned; `result` is JSON."""

    result: Raw


class Failed(Struct, frozen=True):
    """It raised; `error` tells people how."""

    error: str


class Stopped(Struct, frozen=True):
    """It was cancelled, as asked."""


Outcome = Done | Failed | Stopped


# --- what the actor is to do ---------------------------------------------------------


class Start(Struct, frozen=True):
    """Run the handler for this assignment."""

    assignment: Assignment


class Cancel(Struct, frozen=True):
    """Stop the handler of this item; it still ends with an outcome."""

    work_item_id: str
    token: str
    reason: str


class Reattach(Struct, frozen=True):
    """Attach again, with the same session."""

    reason: str


class Refused(Struct, frozen=True):
    """The swarm refused a command; whatever follows from it is under way already."""

    command: ItemCommand
    error: ErrorBody


Effect = Start | Cancel | Reattach | Refused


class _Held(Struct):
    """One assignment."""

    work_item_id: str
    token: str
    item_bytes: int
    #: This claim has ended while the handler ran: nothing will be said of it any more.
    stopped: bool = False
    #: Why the item is handed back if its handler stops; empty: it was not asked to.
    handback: str = ""
    note_bytes: int = 0
    #: Command id of the progress under way, and the newest that waits behind it.
    progress_sent: str = ""
    progress_next: Progress | None = None

    @property
    def key(self) -> Key:
        return self.work_item_id, self.token


class _Pending(Struct):
    """A command under way."""

    command: ItemCommand
    held: _Held
    size: int
    queued_at: float
    tries: int = 0
    #: When to send it again; `_NEVER` while it waits to be sent.
    due: float = _NEVER


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
        self.received = 0
        self.number = 0
        self.held: dict[Key, _Held] = {}
        self.running: dict[Key, _Held] = {}
        self.draining = False
        #: Why this session takes no more work for good; empty: it does.
        self.superseded = ""
        self._pending: dict[str, _Pending] = {}
        self._to_send: list[_Pending] = []
        #: Free slots as the coordinator should count them by now.
        self._believed = 0
        self._heard_at = 0.0
        self._next_due = _NEVER
        #: Assignments that have ended, oldest first: a late copy must not run again.
        self._recent: dict[Key, None] = {}

    # --- looking -----------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing runs, and nothing that was said waits for its acknowledgement."""
        return not self.running and not self._pending

    @property
    def unacknowledged(self) -> int:
        """Commands under way."""
        return len(self._pending)

    def slots(self) -> int:
        """Items that could be taken right now."""
        if self.draining or self.superseded:
            return 0
        rules = self.rules
        room = min(rules.concurrency - len(self.running), rules.held_max - len(self.held))
        return max(0, room)

    def wake_at(self) -> float:
        """When to call `tick` at the latest."""
        return self._next_due

    # --- the session ----------------------------------------------------------------------

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
        for pending in self._pending.values():
            self._queue(pending)

    def on_control(self, control: Control, now: float) -> list[Effect]:
        """The coordinator, or the owner of an item, tells what to do."""
        self._heard_at = now
        match control.kind:
            case "stop":
                return self._stop((control.work_item_id, control.token), control.reason)
            case "superseded":
                self.supersede(control.reason or "another process uses this agent id")
                return []
            case "reattach":
                return self.lost_coordinator(control.reason or "the coordinator asks for it")
            case _:
                assert_never(control.kind)

    def supersede(self, reason: str) -> None:
        """This session takes no more work, for good; what is held is finished."""
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
        for held in self.running.values():
            if not held.stopped and not held.handback:
                held.handback = reason
                effects.append(Cancel(held.work_item_id, held.token, reason))
        return effects

    # --- work ---------------------------------------------------------------------------------

    def on_work(self, work: Work, now: float) -> list[Effect]:
        """Acknowledgements and assignments."""
        self._heard_at = now
        effects: list[Effect] = []
        for ack in work.acks:
            effects += self._on_ack(ack, now)
        for assignment in work.items:
            effects += self._on_assignment(assignment, now)
        return effects

    def _on_assignment(self, assignment: Assignment, now: float) -> list[Effect]:
        self.received += 1
        self._believed -= 1
        key = (assignment.work_item_id, assignment.token)
        if key in self.held or key in self.running or key in self._recent:
            return []
        held = _Held(*key, len(memoryview(assignment.item)))
        if not self.slots():
            self.held[key] = held
            why = "the agent is leaving" if self.draining or self.superseded else "no free slot"
            self._say(Release(self._new_id(), *key, why), held, now)
            return []
        self.held[key] = self.running[key] = held
        return [Start(assignment)]

    def ended(self, work_item_id: str, token: str, outcome: Outcome, now: float) -> None:
        """The handler of a started assignment has ended."""
        held = self.running.pop((work_item_id, token))
        if held.stopped:
            return
        self._last_progress(held, now)
        match outcome:
            case Done():
                self._say(self._complete(held, outcome.result), held, now)
            case Failed():
                self._say(self._fail(held, outcome.error), held, now)
            case Stopped():
                reason = held.handback or "its handler was cancelled"
                self._say(Release(self._new_id(), *held.key, reason), held, now)
            case _:
                assert_never(outcome)

    def progress(
        self, work_item_id: str, token: str, percent: float, note: str, now: float
    ) -> None:
        """A running handler reports; one report an item is under way, the newest one waits."""
        held = self.running.get((work_item_id, token))
        if held is None or held.stopped:
            return
        report = Progress(self._new_id(), work_item_id, token, percent, note)
        if held.progress_sent:
            held.progress_next = report
        else:
            self._say_progress(report, held, now)

    # --- what to send ------------------------------------------------------------------------------

    def flush(self, now: float) -> list[Next]:
        """What there is to tell the coordinator: commands, and changed free slots."""
        if not self.attached:
            return []
        commands = self._take_commands(now)
        if not commands and self.slots() == self._believed:
            return []
        messages: list[Next] = []
        for done in commands or [[]]:
            messages.append(Next(self.session, self._state(), self.slots(), self.received, done))
        return messages

    def direct(self, now: float) -> list[ItemCommand]:
        """What there is to tell the owners themselves: no coordinator serves the session, for good."""
        if self.attached or not self.superseded:
            return []
        return [command for done in self._take_commands(now) for command in done]

    def heartbeat(self, *, leaving: bool = False) -> Heartbeat:
        """Everything held, and the free slots."""
        number = self._state()
        types = list(self.rules.work_types)
        held = list(self.held)
        return Heartbeat(
            self.session,
            self.coordinator,
            number,
            self.slots(),
            types,
            self.received,
            held,
            leaving,
        )

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: what is overdue is sent again by the next `flush`."""
        self._next_due = _NEVER
        for pending in self._pending.values():
            if pending.due <= now:
                self._queue(pending)
            else:
                self._next_due = min(self._next_due, pending.due)
        if not self.attached or not self._pending:
            return []
        oldest = next(iter(self._pending.values()))
        silent_s = now - max(self._heard_at, oldest.queued_at)
        if silent_s <= SILENT_HEARTBEATS * self.heartbeat_s:
            return []
        return self.lost_coordinator(f"{self.coordinator} has not answered for {silent_s:.1f} s")

    def _state(self) -> int:
        """The free slots are being told: the number of this statement."""
        self.number += 1
        self._believed = self.slots()
        return self.number

    def _take_commands(self, now: float) -> list[list[ItemCommand]]:
        """Commands to send, in parts that each fit into one message."""
        queued, self._to_send = self._to_send, []
        parts: list[list[ItemCommand]] = []
        size = 0
        for pending in queued:
            command = pending.command
            if pending.tries and command.command_id not in self._pending:
                continue
            command.retry = pending.tries
            pending.tries += 1
            pending.due = now + RESEND_S
            self._next_due = min(self._next_due, pending.due)
            if not parts or size + pending.size > self.rules.message_bytes_max:
                parts.append([])
                size = COMMAND_BYTES
            parts[-1].append(command)
            size += pending.size
        return parts

    # --- saying something about an item ---------------------------------------------------------------

    def _say(self, command: ItemCommand, held: _Held, now: float) -> None:
        size = COMMAND_BYTES + sum(map(_field_bytes, _texts(command)))
        pending = _Pending(command, held, size, now)
        self._pending[command.command_id] = pending
        self._to_send.append(pending)

    def _queue(self, pending: _Pending) -> None:
        """Send once more, unless it waits to be sent anyhow."""
        if pending.due != _NEVER:
            pending.due = _NEVER
            self._to_send.append(pending)

    def _say_progress(self, report: Progress, held: _Held, now: float) -> None:
        held.progress_sent = report.command_id
        held.progress_next = None
        held.note_bytes = text_bytes(report.note)
        self._say(report, held, now)

    def _last_progress(self, held: _Held, now: float) -> None:
        """Before an outcome: the newest report goes along once, no report is repeated."""
        if held.progress_next is not None:
            self._forget_progress(held)
            self._say_progress(held.progress_next, held, now)
        self._forget_progress(held)

    def _forget_progress(self, held: _Held) -> None:
        self._pending.pop(held.progress_sent, None)
        held.progress_sent = ""

    def _complete(self, held: _Held, result: Raw) -> ItemCommand:
        size = len(memoryview(result))
        limit = self.rules.item_bytes_max
        if held.item_bytes + held.note_bytes + size <= limit:
            return Complete(self._new_id(), *held.key, result)
        return self._fail(
            held,
            f"the handler's result has {size} bytes, too large: with the item's own "
            f"{held.item_bytes} bytes and its note an item may have {limit}; store the result "
            "elsewhere and return a reference, or raise max_payload on the NATS server",
        )

    def _fail(self, held: _Held, error: str) -> Fail:
        room = self.rules.item_bytes_max - held.item_bytes - held.note_bytes
        return Fail(self._new_id(), *held.key, cut_text(error, min(room, ERROR_BYTES_MAX)))

    # --- answers --------------------------------------------------------------------------------------

    def _on_ack(self, ack: Ack, now: float) -> list[Effect]:
        pending = self._pending.get(ack.command_id)
        if pending is None:
            return []
        error = ack.error
        if error is not None and error.retry:
            # Not now: it is sent again when it is due.
            return []
        del self._pending[ack.command_id]
        if isinstance(pending.command, Progress):
            return self._progress_answered(pending, error, now)
        if error is None or error.code in LOST:
            self._let_go(pending.held)
        else:
            lesser = self._lesser(pending, error)
            if lesser is None:
                self._let_go(pending.held)
            else:
                self._say(lesser, pending.held, now)
        return [] if error is None else [Refused(pending.command, error)]

    def _progress_answered(
        self, pending: _Pending, error: ErrorBody | None, now: float
    ) -> list[Effect]:
        held = pending.held
        if held.progress_sent == pending.command.command_id:
            held.progress_sent = ""
        if error is not None and error.code in LOST:
            return [Refused(pending.command, error), *self._stop(held.key, error.message)]
        if held.progress_next is not None:
            self._say_progress(held.progress_next, held, now)
        return [] if error is None else [Refused(pending.command, error)]

    def _lesser(self, pending: _Pending, error: ErrorBody) -> ItemCommand | None:
        """What to say instead of a refused outcome, so that the item does not stay held."""
        command, held = pending.command, pending.held
        match command:
            case Complete():
                why = f"the result was refused: {error.code}: {error.message}"
                return self._fail(held, why)
            case Fail() if command.error:
                return Fail(self._new_id(), *held.key, "")
            case Release() if command.reason:
                return Release(self._new_id(), *held.key, "")
            case _:
                return None

    def _stop(self, key: Key, reason: str) -> list[Effect]:
        """The claim has ended elsewhere; an outcome under way gets its own answer."""
        held = self.running.get(key)
        if held is None or held.stopped:
            return []
        held.stopped = True
        held.progress_next = None
        self._forget_progress(held)
        self._let_go(held)
        return [Cancel(*key, reason)]

    def _let_go(self, held: _Held) -> None:
        """The item is not held any more."""
        self.held.pop(held.key, None)
        self._recent[held.key] = None
        while len(self._recent) > 256 + 4 * self.rules.concurrency:
            del self._recent[next(iter(self._recent))]

    # --- checking -----------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Assert every invariant; for tests and the simulation: O(items held)."""
        assert len(self.running) <= self.rules.concurrency, "more handlers than slots"
        outcomes: dict[Key, int] = {}
        for pending in self._pending.values():
            if isinstance(pending.command, Progress):
                assert pending.held.key in self.running, "progress of what does not run"
                assert pending.held.progress_sent == pending.command.command_id, "two reports"
            else:
                key = pending.held.key
                outcomes[key] = outcomes.get(key, 0) + 1
        for key, held in self.running.items():
            assert (key in self.held) != held.stopped, "running, but held iff not stopped"
            assert key not in outcomes, "an outcome while the handler runs"
        for key in self.held:
            assert key in self.running or outcomes.get(key) == 1, "held, but nobody's business"
        assert all(key in self.held for key in outcomes), "an outcome of what is not held"
        assert not any(key in self.held for key in self._recent), "held and ended"


def _texts(command: ItemCommand) -> Iterable[Raw | str]:
    match command:
        case Complete():
            return (command.result,)
        case Fail():
            return (command.error,)
        case Release():
            return (command.reason,)
        case Progress():
            return (command.note,)
        case _:
            assert_never(command)


def _field_bytes(value: Raw | str) -> int:
    """Bytes of a field as JSON."""
    return len(memoryview(value)) if isinstance(value, Raw) else len(msgspec.json.encode(value))
