"""Random traffic of free slots between two coordinators and agents that keep count.

Every assignment arrives within `TRANSIT_S` or is lost.  Under that, no agent ever gets
an item more than it has room for: pools may be late to know of a free slot, never early.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from swarm.core.credits import SETTLE_S, CreditPool, Slots
from swarm.messages import Credit

#: What is not there after this long never comes.
TRANSIT_S = 1.0
#: Lent slots go back after this long.
LEND_S = 2.0
TYPES = ("t", "u")

types = st.sampled_from(TYPES)
draws = st.data()


@dataclass
class Statement:
    """What an agent said, on its way to its coordinator."""

    number: int
    slots: int
    received: int
    said_at: float


@dataclass
class Agent:
    """An agent process: it knows what it runs and what it has received."""

    name: str
    work_types: tuple[str, ...]
    concurrency: int
    running: int = 0
    received: int = 0
    number: int = 0
    #: When each assignment under way was sent.
    coming: list[float] = field(default_factory=list)
    said: list[Statement] = field(default_factory=list)

    def state(self, now: float) -> None:
        self.number += 1
        free = self.concurrency - self.running
        self.said.append(Statement(self.number, free, self.received, now))


class CreditMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.home, self.peer = CreditPool(), CreditPool()
        self.agents: dict[str, Agent] = {}
        self.names = 0

    # --- agents --------------------------------------------------------------------------

    @precondition(lambda self: len(self.agents) < 4)
    @rule(
        work_types=st.lists(types, min_size=1, max_size=3, unique=True),
        concurrency=st.integers(1, 4),
    )
    def attach(self, work_types: list[str], concurrency: int) -> None:
        self.names += 1
        agent = Agent(f"a{self.names}", tuple(work_types), concurrency)
        self.agents[agent.name] = agent
        self.home.attach(agent.name, "s1", work_types, self.now)
        agent.state(self.now)
        self.hear(agent, agent.said.pop())

    @precondition(lambda self: self.agents)
    @rule(data=draws)
    def detach(self, data: st.DataObject) -> None:
        agent = data.draw(st.sampled_from(list(self.agents.values())))
        del self.agents[agent.name]
        self.home.detach(agent.name, "s1")

    @precondition(lambda self: self.agents)
    @rule(data=draws, finished=st.integers(0, 4))
    def state(self, data: st.DataObject, finished: int) -> None:
        agent = data.draw(st.sampled_from(list(self.agents.values())))
        agent.running -= min(finished, agent.running)
        agent.state(self.now)

    @precondition(lambda self: self.agents)
    @rule(data=draws, finished=st.integers(0, 4))
    def state_at_once(self, data: st.DataObject, finished: int) -> None:
        self.state(data, finished)
        for agent in self.agents.values():
            if agent.said and agent.said[-1].said_at == self.now:
                self.hear(agent, agent.said.pop())

    @precondition(lambda self: any(agent.said for agent in self.agents.values()))
    @rule(data=draws, copies=st.integers(0, 2))
    def statement_arrives(self, data: st.DataObject, copies: int) -> None:
        """In any order, perhaps twice, perhaps never."""
        agent = data.draw(st.sampled_from([a for a in self.agents.values() if a.said]))
        index = data.draw(st.integers(0, len(agent.said) - 1))
        said = agent.said.pop(index)
        for _ in range(copies):
            self.hear(agent, said)

    def hear(self, agent: Agent, said: Statement) -> None:
        slots = self.home.sessions[agent.name, "s1"]
        heard = slots.number
        self.home.update(slots, said.number, said.slots, said.received, self.now)
        assert slots.number == max(heard, said.number)
        if said.number >= heard:
            assert slots.free <= said.slots, "never more free than stated"

    @precondition(lambda self: any(agent.coming for agent in self.agents.values()))
    @rule(data=draws, lost=st.booleans())
    def assignment_arrives(self, data: st.DataObject, lost: bool) -> None:
        agent = data.draw(st.sampled_from([a for a in self.agents.values() if a.coming]))
        agent.coming.pop(data.draw(st.integers(0, len(agent.coming) - 1)))
        if not lost:
            agent.running += 1
            agent.received += 1

    # --- work ----------------------------------------------------------------------------

    def sent(self, slots: Slots) -> None:
        """An assignment is on its way to the session."""
        agent = self.agents.get(slots.agent)
        if agent is not None:
            agent.coming.append(self.now)

    @rule(work_type=types, here=st.booleans(), times=st.integers(1, 6))
    def take(self, work_type: str, here: bool, times: int) -> None:
        pool = self.home if here else self.peer
        for _ in range(times):
            free = work_type in pool.waiting()
            slots = pool.take(work_type, self.now)
            assert (slots is not None) == free
            if slots is None:
                return
            assert work_type in slots.work_types
            self.sent(slots)

    @precondition(lambda self: self.agents)
    @rule(data=draws, work_type=types, times=st.integers(1, 3), steps=st.sampled_from([0, 1, 3]))
    def assignments_cross_with_a_statement(
        self, data: st.DataObject, work_type: str, times: int, steps: int
    ) -> None:
        """The agent says how much it has free before what was sent has arrived."""
        self.take(work_type, True, times)
        self.pass_time(steps)
        self.state_at_once(data, 0)
        self.take(work_type, True, 6)

    @rule(work_type=types, slots_max=st.integers(0, 5))
    def lend(self, work_type: str, slots_max: int) -> None:
        before = self.home.idle().get(work_type, 0)
        lent = self.home.lend(work_type, slots_max, self.now)
        assert sum(credit.slots for credit in lent) == min(before, slots_max)
        self.move(lent)

    def move(self, lent: list[Credit]) -> None:
        for credit in lent:
            self.peer.borrowed(credit, self.now + LEND_S, "c1")

    @rule(ready=st.lists(types, max_size=1))
    def the_peer_returns_what_it_cannot_use(self, ready: list[str]) -> None:
        before = {key: slots.free for key, slots in self.home.sessions.items()}
        for lender, unused in self.peer.unused(dict.fromkeys(ready, 1)).items():
            assert lender == "c1"
            for credit in unused:
                assert not set(credit.work_types) & set(ready)
                self.home.returned(credit)
                slots = self.home.sessions.get((credit.agent, credit.session))
                if slots is not None:
                    assert 0 <= slots.free - before[slots.key] <= credit.slots
        if not ready:
            assert self.peer.waiting() == []

    @rule(work_type=types, slots=st.integers(0, 5), coordinator=st.sampled_from(["c2", "c3"]))
    def wish(self, work_type: str, slots: int, coordinator: str) -> None:
        self.home.wish(work_type, coordinator, slots, self.now + LEND_S)
        served = work_type in self.home.served
        if not served:
            assert work_type not in self.home.wished()
        elif slots:
            assert work_type in self.home.wished()

    @rule(work_type=types, ready_here=st.booleans())
    def grant(self, work_type: str, ready_here: bool) -> None:
        granted = 0
        while answer := self.home.grant(work_type, ready_here, self.now):
            _, lent = answer
            assert [credit.slots for credit in lent] == [1]
            assert work_type in lent[0].work_types
            self.move(lent)
            granted += 1
            assert granted <= 16, "it ends"
        if work_type in self.home.wished() and not ready_here:
            assert not self.home.idle().get(work_type), "nothing is kept from peers for nothing"

    @rule(steps=st.sampled_from([1, 1, 3, 25]))
    def pass_time(self, steps: int) -> None:
        """A quarter of a second each, as coordinators look around."""
        for _ in range(steps):
            self.now += 0.25
            for pool in (self.home, self.peer):
                pool.expire(self.now)
        for agent in self.agents.values():
            agent.coming = [at for at in agent.coming if self.now - at <= TRANSIT_S]
            agent.said = [one for one in agent.said if self.now - one.said_at <= TRANSIT_S]

    @precondition(lambda self: self.agents)
    @rule()
    def all_is_quiet(self) -> None:
        """Nothing under way, all stated: every free slot is known again, whatever was lost."""
        self.pass_time(int((SETTLE_S + LEND_S) / 0.25) + 1)
        for agent in self.agents.values():
            agent.state(self.now)
            said = agent.said.pop()
            slots = self.home.sessions[agent.name, "s1"]
            self.home.update(slots, said.number, said.slots, said.received, self.now)
            assert slots.free == agent.concurrency - agent.running
        assert self.peer.waiting() == []

    # --- always --------------------------------------------------------------------------

    @invariant()
    def no_agent_is_given_more_than_it_has_room_for(self) -> None:
        for agent in self.agents.values():
            assert agent.running + len(agent.coming) <= agent.concurrency, agent

    @invariant()
    def a_session_waits_if_and_only_if_it_has_free_slots(self) -> None:
        for pool in (self.home, self.peer):
            everybody = [*pool.sessions.values(), *pool._lent.values()]
            assert all(slots.free >= 0 for slots in everybody)
            for work_type in TYPES:
                waiting = dict(pool._waiting[work_type]) if work_type in pool._waiting else {}
                expected = {
                    slots.key: slots
                    for slots in everybody
                    if slots.free and work_type in slots.work_types
                }
                assert waiting == expected
                assert (work_type in pool.waiting()) == bool(expected)

    @invariant()
    def counts_agree_with_a_walk(self) -> None:
        pool = self.home
        idle: dict[str, int] = {}
        for slots in pool.sessions.values():
            for work_type in slots.work_types:
                idle[work_type] = idle.get(work_type, 0) + slots.free
        assert pool.idle() == idle
        assert {agent.name for agent in self.agents.values()} == {key[0] for key in pool.sessions}
        for agent in self.agents.values():
            assert pool.of_agent(agent.name) == ["s1"]
        assert set(pool._wishes) <= set(idle)


# Not shrunk: that can take longer than a test may (pyproject.toml, faulthandler_timeout),
# and fifty steps are readable as they are.
CreditMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
TestCreditMachine = CreditMachine.TestCase
