"""An agent process on the bus: attaches, receives, starts handlers, answers, stays alive.

Decisions are `swarm.core.agent`'s; this performs them.  Everything that happens goes
through one mailbox drained by one task, so what several handlers return in one turn of
the loop leaves in one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec
import structlog
from msgspec import Raw

from swarm.actors.actor import Mailbox
from swarm.bus.base import Message, Subscription
from swarm.core.agent import AgentCore
from swarm.core.handling import Cancel, Effect, Kept, Outcome, Reattach, Refused, Start
from swarm.core.held import Key
from swarm.errors import BusError, NoAnswer, Refusal, SwarmError
from swarm.messages import Assignment, Attach, Attached, Control, Work
from swarm.sdk.calls import Calls
from swarm.subjects import parse_item_id

log = structlog.get_logger()

#: Agents of a fallen coordinator attach again within this time, not all at once.
JITTER_S = 0.2
#: How often the connection is looked at: after a reconnect everything is said again.
LOOK_S = 1.0
#: Pause before attaching is tried again when the bus could not be used.
PAUSE_S = 1.0
#: Handlers that were told to stop get this long; then the agent leaves without them.
CANCEL_S = 5.0
#: How long a leaving agent waits for its outcomes to be acknowledged.
ACK_S = 30.0
MAILBOX_SIZE = 100_000


class Launched(Protocol):
    """A handler under way, or one that could not begin."""

    def cancel(self, cancel: Cancel) -> None:
        """It is to stop."""
        ...

    def kept(self, kept: Kept) -> None:
        """What became of its checkpoint."""
        ...


#: Starts the handler of an assignment.
Launch = Callable[[Assignment], Launched]

_encode = msgspec.json.Encoder().encode
_work = msgspec.json.Decoder(Work)
_control = msgspec.json.Decoder(Control)
_attached = msgspec.json.Decoder(Attached)


class AgentActor:
    """One agent session.  `run` it once; `ended` and what follows it tell of its handlers."""

    def __init__(
        self,
        calls: Calls,
        core: AgentCore,
        launch: Launch,
        *,
        takeover: bool,
        attach_timeout_s: float | None,
        drain_s: float,
    ) -> None:
        self._calls = calls
        self._bus = calls.bus
        self._subjects = calls.subjects
        self._core = core
        self._launch = launch
        self._takeover = takeover
        self._attach_timeout_s = attach_timeout_s
        self._drain_s = drain_s
        self._clock = asyncio.get_running_loop().time
        self._mailbox: Mailbox[Message | Callable[[], None]] = Mailbox(MAILBOX_SIZE)
        # Named here, not by whoever answers: a repeated attach must not make a second
        # session, which the first one would keep out as another process of the same id.
        self._first_session = calls.runtime.new_name("s")
        self._launched: dict[Key, Launched] = {}
        self._listening: dict[str, Subscription] = {}
        self._attaching: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heartbeat_at = 0.0
        self._reconnects = self._bus.reconnects
        #: When a leaving agent stops its handlers, leaves those that do not stop, and
        #: leaves without acknowledgements.  None: that stage has not begun.
        self._stop_at: float | None = None
        self._abandon_at: float | None = None
        self._give_up_at: float | None = None
        self._failure: SwarmError | None = None

    async def run(self) -> None:
        """Work until `stop`, or until another process takes over the agent id.

        Raises `Refusal` (``agent_id_in_use`` for a takeover) and `NoAnswer` if attaching
        failed.
        """
        self._attach("starting")
        try:
            while not self._over():
                self._arm()
                await self._mailbox.wait()
                while self._mailbox:
                    self._take(self._mailbox.pop())
                self._tick()
                await self._send_due()
            await self._leave()
        finally:
            await self._close()
        if self._failure is not None:
            raise self._failure
        if self._core.superseded:
            raise Refusal("agent_id_in_use", self._core.superseded)

    # --- told by others, in the loop's thread ------------------------------------------------

    def stop(self) -> None:
        """Take no more work, let handlers finish for `drain_s`, then leave; again: leave now."""
        self._mailbox.put(self._drain)

    def ended(self, work_item_id: str, token: str, outcome: Outcome) -> None:
        """The handler of this assignment has ended."""
        self._mailbox.put(partial(self._on_ended, work_item_id, token, outcome))

    def progress(self, work_item_id: str, token: str, percent: float, note: str) -> None:
        """The handler of this assignment reports."""
        self._mailbox.put(partial(self._on_progress, work_item_id, token, percent, note))

    def checkpoint(self, work_item_id: str, token: str, number: int, checkpoint: Raw) -> None:
        """The handler of this assignment leaves something for whoever goes on."""
        self._mailbox.put(partial(self._on_checkpoint, work_item_id, token, number, checkpoint))

    def _on_message(self, message: Message) -> None:
        if not self._mailbox.put(message):
            log.warning("dropped: an agent's mailbox is full", agent=self._calls.sender)

    # --- the mailbox -------------------------------------------------------------------------

    def _take(self, mail: Message | Callable[[], None]) -> None:
        if not isinstance(mail, Message):
            mail()
            return
        kind = mail.subject.rpartition(".")[2]
        try:
            if kind == "work":
                self._perform(self._core.on_work(_work.decode(mail.data), self._clock()))
            elif kind == "control":
                self._perform(self._core.on_control(_control.decode(mail.data), self._clock()))
            elif mail.subject == self._subjects.gone(self._core.coordinator):
                self._perform(self._core.lost_coordinator("its coordinator is gone"))
        except msgspec.MsgspecError as error:
            log.warning("a message cannot be read", subject=mail.subject, error=str(error))

    def _on_ended(self, work_item_id: str, token: str, outcome: Outcome) -> None:
        self._launched.pop((work_item_id, token), None)
        self._core.ended(work_item_id, token, outcome, self._clock())

    def _on_progress(self, work_item_id: str, token: str, percent: float, note: str) -> None:
        self._core.progress(work_item_id, token, percent, note, self._clock())

    def _on_checkpoint(self, work_item_id: str, token: str, number: int, checkpoint: Raw) -> None:
        self._core.checkpoint(work_item_id, token, number, checkpoint, self._clock())

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Start(assignment):
                    key = (assignment.work_item_id, assignment.token)
                    self._launched[key] = self._launch(assignment)
                case Cancel():
                    launched = self._launched.get((effect.work_item_id, effect.token))
                    if launched is not None:
                        launched.cancel(effect)
                case Kept():
                    launched = self._launched.get((effect.work_item_id, effect.token))
                    if launched is not None:
                        launched.kept(effect)
                case Reattach(reason):
                    self._attach(reason)
                case Refused(command, error):
                    log.warning(
                        "refused",
                        agent=self._calls.sender,
                        item=command.work_item_id,
                        command=type(command).__name__.lower(),
                        code=error.code,
                        error=error.message,
                    )

    # --- attaching ---------------------------------------------------------------------------

    def _attach(self, reason: str) -> None:
        if self._attaching is not None:
            return
        if self._core.session:
            log.info("attaching again", agent=self._calls.sender, reason=reason)
        self._attaching = asyncio.create_task(self._attach_until_done())

    async def _attach_until_done(self) -> None:
        first = not self._core.session
        if not first:
            await asyncio.sleep(self._calls.runtime.rng.random() * JITTER_S)
        deadline = None
        if first and self._attach_timeout_s is not None:
            deadline = self._clock() + self._attach_timeout_s
        while True:
            try:
                attached = await self._ask_to_attach(deadline)
                await self._listen(attached)
            except (Refusal, NoAnswer) as error:
                self._mailbox.put(partial(self._on_not_attached, error))
                return
            except BusError as error:
                if deadline is not None and self._clock() >= deadline:
                    self._mailbox.put(partial(self._on_not_attached, error))
                    return
                log.warning("attaching failed", agent=self._calls.sender, error=str(error))
                await asyncio.sleep(PAUSE_S)
                continue
            self._mailbox.put(partial(self._on_attached, attached))
            return

    async def _ask_to_attach(self, deadline: float | None) -> Attached:
        rules, session = self._core.rules, self._core.session
        attach = Attach(list(rules.work_types), rules.concurrency, session or self._first_session)
        # A takeover ends the others once, not whoever takes over from us later.
        attach.takeover = self._takeover and not session
        subject = self._subjects.attach(self._calls.sender)
        return await self._calls.ask(subject, attach, _attached, deadline)

    async def _listen(self, attached: Attached) -> None:
        """Hear what comes to the session before anything can be sent to it."""
        agent = self._calls.sender
        wanted = {
            self._subjects.agent_work(agent, attached.session): None,
            self._subjects.agent_control(agent, attached.session): None,
            self._subjects.gone(attached.coordinator): None,
        }
        for subject in wanted:
            if subject not in self._listening:
                subscription = await self._bus.subscribe(subject, self._on_message)
                self._listening[subject] = subscription
        for subject in [subject for subject in self._listening if subject not in wanted]:
            await self._listening.pop(subject).unsubscribe()

    def _on_attached(self, attached: Attached) -> None:
        self._attaching = None
        self._core.on_attached(attached, self._clock())
        self._heartbeat_at = self._clock()

    def _on_not_attached(self, error: SwarmError) -> None:
        """Attaching was refused for good: finish what is held without a coordinator."""
        self._attaching = None
        self._failure = error
        self._core.supersede(str(error))

    # --- time --------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Wake up when there is something to do although nothing arrives."""
        when = min(
            self._clock() + LOOK_S,
            self._core.outbox.next_due,
            self._heartbeat_at if self._core.session else float("inf"),
            self._next_stage_at(),
        )
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._wake)

    def _next_stage_at(self) -> float:
        """When the agent, if it is leaving, goes on without what it waits for."""
        at = self._give_up_at
        if self._core.running:
            at = self._stop_at if self._abandon_at is None else self._abandon_at
        return float("inf") if at is None else at

    def _wake(self) -> None:
        self._timer = None
        self._mailbox.wake()

    def _tick(self) -> None:
        now = self._clock()
        if self._bus.reconnects != self._reconnects:
            self._reconnects = self._bus.reconnects
            self._core.restate()
            self._heartbeat_at = now
        if now >= self._core.outbox.next_due or now >= self._heartbeat_at:
            self._perform(self._core.tick(now))
        if self._stop_at is not None and self._abandon_at is None and now >= self._stop_at:
            self._abandon_at = now + CANCEL_S
            self._perform(self._core.hand_back("its agent is stopping"))

    # --- sending -----------------------------------------------------------------------------

    async def _send_due(self) -> None:
        core, agent = self._core, self._calls.sender
        now = self._clock()
        # Commands go first: they may end what the heartbeat would list.
        subject = self._subjects.coordinator(core.coordinator, "next", agent)
        for message in core.flush(now):
            await self._publish(subject, _encode(message))
        for command in core.direct(now):
            shard, _ = parse_item_id(command.work_item_id)
            verb = str(command.__struct_config__.tag)
            to = self._subjects.shard(shard, verb, agent)
            # The owner answers to the session, as it does for coordinators.
            await self._publish(to, _encode(command), {"Swarm-Session": core.session})
        if core.session and now >= self._heartbeat_at:
            self._heartbeat_at = now + core.heartbeat_s
            await self._publish(self._subjects.heartbeat(agent), _encode(core.heartbeat()))

    async def _publish(
        self, subject: str, data: bytes, headers: dict[str, str] | None = None
    ) -> None:
        try:
            await self._bus.publish(subject, data, headers=headers)
        except BusError as error:
            # Commands are sent again until acknowledged, heartbeats come round anyhow.
            log.warning("a message was not sent", subject=subject, error=str(error))

    # --- leaving -----------------------------------------------------------------------------

    def _drain(self) -> None:
        now = self._clock()
        self._stop_at = now if self._core.draining else now + self._drain_s
        self._core.drain()

    def _over(self) -> bool:
        """Whether there is nothing left to do, or nothing left to wait for."""
        core = self._core
        if not core.draining and not core.superseded:
            return False
        now = self._clock()
        if core.running:
            return self._abandon_at is not None and now >= self._abandon_at
        if core.idle:
            return True
        if self._give_up_at is None:
            self._give_up_at = now + ACK_S
        return now >= self._give_up_at

    async def _leave(self) -> None:
        core = self._core
        if core.idle and core.session:
            await self._publish(
                self._subjects.heartbeat(self._calls.sender), _encode(core.heartbeat(leaving=True))
            )
            try:
                await self._bus.flush()
            except BusError as error:
                log.warning("leaving without a word", agent=self._calls.sender, error=str(error))
        elif not core.idle:
            # Nothing may be said of these: handlers may still be at work on them.
            log.warning(
                "leaving with unfinished items: they are queued again after their lease",
                agent=self._calls.sender,
                running=[work_item_id for work_item_id, _ in core.running],
                unacknowledged=len(core.outbox),
            )

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._attaching is not None:
            self._attaching.cancel()
            await asyncio.gather(self._attaching, return_exceptions=True)
        subscriptions, self._listening = self._listening, {}
        for subscription in subscriptions.values():
            try:
                await subscription.unsubscribe()
            except BusError as error:
                log.warning("unsubscribing failed", agent=self._calls.sender, error=str(error))
