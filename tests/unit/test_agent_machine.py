"""An agent's core against a swarm that loses, repeats and reorders everything."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from msgspec import Raw

from swarm.core.agent import AgentCore
from swarm.core.handling import (
    AgentRules,
    Cancel,
    Done,
    Effect,
    Failed,
    Kept,
    Reattach,
    Refused,
    Start,
    Stopped,
    Waiting,
)
from swarm.core.held import Key
from swarm.messages import (
    NULL,
    Ack,
    Assignment,
    Attached,
    Complete,
    Control,
    ErrorBody,
    Fail,
    ItemCommand,
    Progress,
    Work,
)

picks = st.integers(0, 10**6)


class AgentMachine(RuleBasedStateMachine):
    """The swarm is a dict of claims and two bags of messages on their way."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ids = itertools.count(1)
        self.numbers = itertools.count(1)
        rules = AgentRules(
            work_types=("a",), concurrency=3, item_bytes_max=500, message_bytes_max=1500
        )
        self.core = AgentCore(rules, lambda: f"id-{next(self.ids)}")
        #: By the log: claims held by this agent (True) or ended (False).
        self.claims: dict[Key, bool] = {}
        self.delivered: dict[Key, None] = {}
        self.started: dict[Key, int] = {}
        self.cancelled: dict[Key, None] = {}
        #: How the swarm saw each claim end, by the agent's word.
        self.verdicts: dict[Key, str] = {}
        #: Checkpoints that the swarm has taken, and those that handlers left, by number.
        self.taken: dict[Key, list[int]] = {}
        self.left: dict[Key, int] = {}
        self.to_agent: list[Work | Control] = []
        self.to_swarm: list[ItemCommand] = []
        self.coordinators = itertools.count(1)
        self.reattach_wanted = False
        self.received = 0
        self.last_number = 0

    @initialize()
    def begin(self) -> None:
        self.attach()

    # --- the agent's side ---------------------------------------------------------------

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Start(assignment):
                    key = (assignment.work_item_id, assignment.token)
                    self.started[key] = self.started.get(key, 0) + 1
                case Cancel(work_item_id, token, _):
                    assert (work_item_id, token) in self.core.running
                    self.cancelled[work_item_id, token] = None
                case Kept(work_item_id, token, number, None):
                    assert number in self.taken[work_item_id, token], "told, but not durable"
                case Kept(work_item_id, token, number, _):
                    assert number <= self.left[work_item_id, token]
                case Reattach():
                    assert not self.reattach_wanted, "asked once until it is done"
                    self.reattach_wanted = True
                case Refused(command, error):
                    assert not error.retry
                    assert command.command_id

    def attach(self) -> None:
        self.reattach_wanted = False
        self.core.on_attached(Attached("s1", f"c{next(self.coordinators)}", 30.0, 5.0), self.now)
        self.flush()
        assert self.core.flush(self.now) == [], "said once"

    @rule()
    def flush(self) -> None:
        for message in self.core.flush(self.now):
            assert message.number > self.last_number
            self.last_number = message.number
            assert (message.slots, message.received) == (self.core.slots(), self.received)
            self.to_swarm += message.done
        self.to_swarm += self.core.direct(self.now)

    @rule(data=picks, how=st.sampled_from(["done", "large", "failed", "waits", "stopped"]))
    @precondition(lambda self: self.core.running)
    def handler_ends(self, data: int, how: str) -> None:
        keys = list(self.core.running)
        key = keys[data % len(keys)]
        outcome: Any = Failed("ValueError: no")
        if how in ("done", "large"):
            outcome = Done(Raw(b"7" if how == "done" else b"7" * 600))
        elif how == "waits":
            outcome = Waiting(Raw(b"1"))
        elif how == "stopped" and key in self.cancelled:
            outcome = Stopped()
        self.core.ended(*key, outcome, self.now)

    @rule(data=picks, percent=st.integers(0, 100))
    @precondition(lambda self: self.core.running)
    def handler_reports(self, data: int, percent: int) -> None:
        keys = list(self.core.running)
        self.core.progress(*keys[data % len(keys)], percent, "note", self.now)

    @rule(data=picks)
    @precondition(lambda self: self.core.running)
    def handler_leaves_a_checkpoint(self, data: int) -> None:
        keys = list(self.core.running)
        key = keys[data % len(keys)]
        number = self.left[key] = self.left.get(key, 0) + 1
        self.core.checkpoint(*key, number, Raw(str(number).encode()), self.now)

    @rule(passed_s=st.sampled_from([0.1, 1.0, 6.0, 20.0]))
    def time_passes(self, passed_s: float) -> None:
        self.now += passed_s
        self.perform(self.core.tick(self.now))

    @rule()
    def heartbeat(self) -> None:
        heartbeat = self.core.heartbeat()
        assert heartbeat.number > self.last_number
        self.last_number = heartbeat.number
        for key in heartbeat.held:
            # What is listed and not held any more is answered by a stop.
            if not self.claims[key]:
                self.to_agent.append(Control("stop", *key, "this claim has ended"))

    @rule()
    def reconnects(self) -> None:
        self.core.restate()

    @rule()
    @precondition(lambda self: self.reattach_wanted)
    def attaches_again(self) -> None:
        self.attach()

    @rule()
    def drains(self) -> None:
        self.core.drain()

    @rule()
    @precondition(lambda self: self.core.draining)
    def hands_back(self) -> None:
        self.perform(self.core.hand_back("stopping"))

    # --- the swarm's side ------------------------------------------------------------------

    @rule(again=st.booleans(), data=picks)
    def assign(self, again: bool, data: int) -> None:
        """A new claim; or a claim that is held is sent once more."""
        held = [key for key, is_held in self.claims.items() if is_held]
        if again and held:
            key = held[data % len(held)]
        else:
            number = next(self.numbers)
            key = (f"0-{number % 5 + 1}", f"{number}.n.s1")
            self.claims[key] = True
        self.to_agent.append(Work([Assignment(*key, 1, 30.0, Raw(b"x" * 20))]))

    @rule(data=picks)
    @precondition(lambda self: any(self.claims.values()))
    def lapse(self, data: int) -> None:
        held = [key for key, is_held in self.claims.items() if is_held]
        self.claims[held[data % len(held)]] = False

    @rule(data=picks, copy=st.booleans(), later=st.booleans())
    @precondition(lambda self: self.to_swarm)
    def swarm_hears(self, data: int, copy: bool, later: bool) -> None:
        index = data % len(self.to_swarm)
        command = self.to_swarm[index] if copy else self.to_swarm.pop(index)
        self.decide(command, later=later)

    def decide(self, command: ItemCommand, *, later: bool = False) -> None:
        key = (command.work_item_id, command.token)
        verb = type(command).__name__
        error: ErrorBody | None = None
        if later:
            error = ErrorBody("overloaded", "later", retry=True)
        elif self.claims[key]:
            if not isinstance(command, Progress | Complete | Fail) and command.checkpoint != NULL:
                assert int(bytes(command.checkpoint)) == self.left[key], "not the newest"
            if isinstance(command, Progress):
                if command.checkpoint != NULL:
                    self.taken.setdefault(key, []).append(int(bytes(command.checkpoint)))
            else:
                self.claims[key] = False
                assert key not in self.verdicts, "an item ends once"
                self.verdicts[key] = verb
        elif self.verdicts.get(key) != verb:
            error = ErrorBody("stale_token", "this claim has ended")
        self.to_agent.append(
            Work(acks=[Ack(command.command_id, command.work_item_id, error=error)])
        )

    @rule(data=picks)
    @precondition(lambda self: any(self.claims.values()))
    def asks_to_stop(self, data: int) -> None:
        held = [key for key, is_held in self.claims.items() if is_held]
        self.to_agent.append(Control("cancel", *held[data % len(held)], "not wanted", 10.0))

    @rule(data=picks)
    @precondition(lambda self: self.to_swarm)
    def swarm_does_not_hear(self, data: int) -> None:
        self.to_swarm.pop(data % len(self.to_swarm))

    # --- the way to the agent ------------------------------------------------------------------

    @rule(data=picks, copy=st.booleans())
    @precondition(lambda self: self.to_agent)
    def agent_hears(self, data: int, copy: bool) -> None:
        index = data % len(self.to_agent)
        self.hear(self.to_agent[index] if copy else self.to_agent.pop(index))

    def hear(self, message: Work | Control) -> None:
        if isinstance(message, Control):
            self.perform(self.core.on_control(message, self.now))
            return
        for item in message.items:
            self.delivered[item.work_item_id, item.token] = None
            self.received += 1
        self.perform(self.core.on_work(message, self.now))

    @rule(data=picks)
    @precondition(lambda self: self.to_agent)
    def agent_does_not_hear(self, data: int) -> None:
        self.to_agent.pop(data % len(self.to_agent))

    @rule(kind=st.sampled_from(["reattach", "superseded"]))
    def control(self, kind: Any) -> None:
        self.perform(self.core.on_control(Control(kind, reason="scripted"), self.now))

    @rule()
    def coordinator_falls(self) -> None:
        self.perform(self.core.lost_coordinator("gone"))

    # --- what must hold ------------------------------------------------------------------

    @invariant()
    def consistent(self) -> None:
        self.core.validate()
        assert all(count == 1 for count in self.started.values()), "run twice"
        listed = self.core.held
        for key in self.delivered:
            # Whatever it got and holds by the log is listed, or it would be taken away.
            assert not self.claims[key] or key in listed, f"{key} is held but not listed"

    def teardown(self) -> None:
        """From here on nothing is lost: everything ends, and nothing stays held."""
        if not self.core.attached:
            if self.core.superseded:
                self.flush()
            else:
                self.attach()
        for _ in range(50):
            self.now += 1.0
            self.perform(self.core.tick(self.now))
            for key in list(self.core.running):
                self.core.ended(*key, Failed("end"), self.now)
            self.flush()
            said, self.to_swarm = self.to_swarm, []
            for command in said:
                self.decide(command)
            heard, self.to_agent = self.to_agent, []
            for message in heard:
                self.hear(message)
            self.consistent()
            if self.core.idle and not self.to_agent:
                break
        assert self.core.idle, "something is never acknowledged"
        assert not self.core.heartbeat().held
        assert not any(self.claims[key] for key in self.delivered)


AgentMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, derandomize=True
)
TestAgentMachine = AgentMachine.TestCase
