"""Random lives of a shard, beside a model of plain dicts; its log folds to the same state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import msgspec
from hypothesis import Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from msgspec import Raw

from swarm.core import decide
from swarm.core.shard import ShardRules
from swarm.errors import Refusal
from swarm.messages import (
    PRIORITIES,
    Ack,
    Assignment,
    Complete,
    Fail,
    ItemCommand,
    Progress,
    Release,
    Renew,
    SubmitReply,
)
from tests.builders import Desk, new_item, number_of, refusal_of
from tests.states import state_of

T = TypeVar("T")

TYPES = ("a", "b")
AGENTS = ("a1", "a2")
AGEING_S = 10.0

#: Commands of a holder, and the status that each leaves behind.
OUTCOMES = {"complete": "completed", "fail": "dead", "release": "queued", "progress": "claimed"}

types = st.sampled_from(TYPES)
verbs = st.sampled_from(list(OUTCOMES))
texts = st.sampled_from(["", "n", "note", "x" * 500])
agents = st.sampled_from(AGENTS)
specs = st.builds(
    lambda work_type, priority, key, content: new_item(
        work_type, priority=priority, idempotency_key=key, description=content
    ),
    types,
    st.sampled_from(PRIORITIES),
    st.sampled_from(["", "", "k1", "k2", "k3"]),
    st.sampled_from(["x", "y"]),
)


@dataclass
class Known:
    """What the model knows of an item."""

    work_type: str
    score: float
    status: str = "queued"
    agent: str = ""
    token: str = ""
    claims: int = 0
    charged: int = 0
    percent: float = 0.0


@dataclass
class Said:
    """A command that was carried out, and the answer that it got."""

    again: Callable[[], object]
    answer: object


@dataclass
class Model:
    """Items by number; every claim there was, as (number, token)."""

    items: dict[int, Known] = field(default_factory=dict)
    claims: set[tuple[int, str]] = field(default_factory=set)


class ShardMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    held: Bundle[tuple[str, Assignment]] = Bundle("held")
    said: Bundle[Said] = Bundle("said")

    @initialize(count=st.sampled_from([2, 5, 1000]), window_s=st.sampled_from([15.0, 1e6]))
    def begin(self, count: int, window_s: float) -> None:
        rules = ShardRules(
            ageing_s=AGEING_S, dedupe_count=count, dedupe_window_s=window_s, item_bytes_max=400
        )
        self.desk = Desk(rules)
        self.model = Model()
        self.opened_at = 0

    # --- submitting ------------------------------------------------------------------

    @rule(target=said, items=st.lists(specs, min_size=1, max_size=5), offset=st.integers(0, 3))
    def submit(self, items: list[Raw], offset: int) -> Said:
        desk, id_, first = self.desk, self.desk.new_id(), self.desk.shard.next_number
        indexes = [offset + position for position in range(len(items))]
        reply = desk.submit(*items, id_=id_, indexes=indexes)
        assert sorted(result.index for result in reply.results) == indexes
        for number in range(first, desk.shard.next_number):
            item = desk.shard.items[number]
            self.model.items[number] = Known(item.work_type, desk.now + item.rank * AGEING_S)
        for result in reply.results:
            raw = items[result.index - offset]
            if result.error is None:
                accepted = desk.shard.items[number_of(result.work_item_id)]
                assert bytes(accepted.spec) == bytes(raw), "that very item"
            else:
                assert result.error.code == "idempotency_conflict"
                assert b'"idempotency_key"' in bytes(raw), "only keys can clash"
        return Said(lambda: desk.submit(*items, id_=id_, indexes=indexes, retry=1), reply)

    # --- claiming --------------------------------------------------------------------

    def best(self, work_types: tuple[str, ...]) -> int | None:
        """The best queued item, by looking at all."""
        ready = [
            (known.score, number)
            for number, known in self.model.items.items()
            if known.status == "queued" and known.work_type in work_types
        ]
        return min(ready)[1] if ready else None

    def claimed(self, agent: str, expected: int, got: Assignment) -> None:
        """The model after a claim that must have taken `expected`."""
        number = number_of(got.work_item_id)
        assert number == expected
        known = self.model.items[number]
        known.claims += 1
        known.charged += 1
        assert got.attempt == known.charged
        known.status, known.agent, known.token, known.percent = "claimed", agent, got.token, 0.0
        claim = (number, got.token)
        assert claim not in self.model.claims, "no token is issued twice for an item"
        self.model.claims.add(claim)

    @rule(target=held, agent=agents, session=st.sampled_from(["s1", "s1", "s2"]), work_type=types)
    def take(
        self, agent: str, session: str, work_type: str
    ) -> tuple[str, Assignment] | MultipleResults[tuple[str, Assignment]]:
        expected = self.best((work_type,))
        if expected is None:
            return multiple()
        got = self.desk.take(agent, session, work_type)
        self.claimed(agent, expected, got)
        return (agent, got)

    @rule(target=said, agent=agents, work_types=st.lists(types, min_size=1, max_size=3))
    def claim(self, agent: str, work_types: list[str]) -> Said | MultipleResults[Said]:
        desk, id_, expected = self.desk, self.desk.new_id(), self.best(tuple(work_types))
        if expected is None:
            self.refused("no_work", lambda: desk.claim(agent, *work_types))
            return multiple()
        got = desk.claim(agent, *work_types, id_=id_)
        self.claimed(agent, expected, got)
        return Said(lambda: desk.claim(agent, *work_types, id_=id_, retry=1), got)

    # --- what holders, former holders and strangers say --------------------------------

    def refused(self, code: str, act: Callable[[], object]) -> None:
        """`act` is refused with this code, and changes nothing."""
        before = state_of(self.desk.shard)
        assert refusal_of(act).code == code
        assert state_of(self.desk.shard) == before

    def expect(self, sender: str, got: Assignment, outcome: str) -> str:
        """The code that a command about `got` is refused with; "" when it is done."""
        known = self.model.items[number_of(got.work_item_id)]
        if known.status in ("completed", "dead"):
            same = (known.status, known.agent, known.token) == (outcome, sender, got.token)
            return "repetition" if same else "already_finished"
        if known.status == "queued":
            return "stale_token"
        if known.agent != sender:
            return "not_holder"
        return "" if known.token == got.token else "stale_token"

    def tell(
        self, sender: str, got: Assignment, outcome: str, act: Callable[[], Ack]
    ) -> Known | None:
        """Do `act`, compare with what is expected; the item if it was carried out."""
        expected = self.expect(sender, got, outcome)
        if expected == "repetition":
            before = state_of(self.desk.shard)
            assert act().status == outcome
            assert state_of(self.desk.shard) == before
            return None
        if expected:
            self.refused(expected, act)
            return None
        ack = act()
        assert ack.error is None
        assert ack.status == outcome
        return self.model.items[number_of(got.work_item_id)]

    @precondition(lambda self: self.desk.shard.held)
    @rule(target=said, data=st.data(), verb=verbs, text=texts)
    def the_holder_says(
        self, data: st.DataObject, verb: str, text: str
    ) -> Said | MultipleResults[Said]:
        shard = self.desk.shard
        number = data.draw(st.sampled_from([number for number, _ in shard.holds()]))
        item = shard.items[number]
        assert item.hold is not None
        got = decide.assignment(shard, item, item.hold)
        return self.say(item.hold.agent, got, verb, text)

    @rule(target=said, holding=held, sender=agents, verb=verbs, text=texts)
    def anybody_says(
        self, holding: tuple[str, Assignment], sender: str, verb: str, text: str
    ) -> Said | MultipleResults[Said]:
        return self.say(sender, holding[1], verb, text)

    @rule(target=said, holding=held, verb=verbs)
    def one_who_held_it_says(
        self, holding: tuple[str, Assignment], verb: str
    ) -> Said | MultipleResults[Said]:
        return self.say(*holding, verb, "")

    def say(
        self, sender: str, got: Assignment, verb: str, text: str
    ) -> Said | MultipleResults[Said]:
        """A command, right or wrong; what it was and got if it was carried out."""
        id_ = self.desk.new_id()
        first = self.command(id_, got, verb, text, 0)
        if len(text) > 400 and not self.expect(sender, got, OUTCOMES[verb]):
            self.refused("too_large", lambda: self.desk.tell(first, sender))
            return multiple()
        known = self.tell(sender, got, OUTCOMES[verb], lambda: self.desk.tell(first, sender))
        if known is None:
            return multiple()
        known.status = OUTCOMES[verb]
        known.charged -= verb == "release"
        if verb == "progress":
            known.percent = min(100.0, len(text))
        again = self.command(id_, got, verb, text, 1)
        answer = Ack(id_, got.work_item_id, OUTCOMES[verb])
        return Said(lambda: self.desk.tell(again, sender), answer)

    def command(self, id_: str, got: Assignment, verb: str, text: str, retry: int) -> ItemCommand:
        """The command `verb` about what was got; a progress of as many percent as letters."""
        item, token = got.work_item_id, got.token
        match verb:
            case "complete":
                return Complete(id_, item, token, Raw(msgspec.json.encode(text)), retry)
            case "fail":
                return Fail(id_, item, token, text, retry)
            case "release":
                return Release(id_, item, token, text, retry)
            case _:
                return Progress(id_, item, token, min(100.0, len(text)), text, retry)

    @rule(holding=held, stranger=agents | st.none(), token=st.sampled_from(["", "1.nonce1.s1"]))
    def guess_a_token(
        self, holding: tuple[str, Assignment], stranger: str | None, token: str
    ) -> None:
        sender, item = stranger or holding[0], holding[1].work_item_id
        known = self.model.items[number_of(item)]
        if token and token == known.token:
            return
        commands: list[ItemCommand] = [
            Complete("", item, token),
            Fail("", item, token),
            Release(self.desk.new_id(), item, token),
            Progress(self.desk.new_id(), item, token, 1.0),
        ]
        code = "already_finished" if known.status in ("completed", "dead") else "stale_token"
        if known.status == "claimed" and known.agent != sender:
            code = "not_holder"
        if known.status == "queued" and not token:
            code = "not_claimed"
        for command in commands:
            self.refused(code, partial(self.desk.tell, command, sender))
        renew = Renew(item, token)
        self.refused(code, lambda: decide.renew(self.desk.shard, renew, sender))

    # --- repetitions -----------------------------------------------------------------

    @rule(command=said)
    def repeat(self, command: Said) -> None:
        before = state_of(self.desk.shard)
        try:
            answer = command.again()
        except Refusal as refusal:
            # Forgotten, or a claim that has ended since; carried out again never.
            claim_ended = isinstance(command.answer, Assignment)
            allowed = ("too_old", "stale_token") if claim_ended else ("too_old",)
            event("refused: " + refusal.code)
            if refusal.code not in allowed:
                raise
        else:
            event("repeated: " + type(answer).__name__)
            assert self.same(answer, command.answer)
        assert state_of(self.desk.shard) == before

    def same(self, answer: object, first: object) -> bool:
        if isinstance(answer, Ack) and isinstance(first, Ack):
            return (answer.work_item_id, answer.status) == (first.work_item_id, first.status)
        if isinstance(answer, SubmitReply) and isinstance(first, SubmitReply):
            return answer.results == first.results
        return answer == first

    # --- time, silence, other owners ---------------------------------------------------

    @rule(seconds=st.sampled_from([0.001, 1.0, 9.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.desk.now += seconds

    @precondition(lambda self: self.desk.shard.held)
    @rule(data=st.data(), cause=st.sampled_from(["lapsed", "unlisted"]))
    def give_up(self, data: st.DataObject, cause: str) -> None:
        numbers = [number for number, _ in self.desk.shard.holds()]
        number = data.draw(st.sampled_from(numbers))
        shard = self.desk.shard
        if cause == "lapsed":
            self.desk.decide(lambda out: decide.give_up(shard, number, "lapsed", "", out))
        else:
            self.desk.decide(lambda out: decide.give_up(shard, number, "unlisted", "", out))
        known = self.model.items[number]
        known.status = "queued"
        known.charged -= cause == "unlisted"

    @precondition(lambda self: len(self.desk.log) - self.opened_at > 6)
    @rule()
    def another_owner_folds_the_log_and_goes_on(self) -> None:
        folded = self.desk.refold()
        assert state_of(folded) == state_of(self.desk.shard)
        folded.validate()
        self.desk.shard = folded
        self.desk.open(f"c{len(self.desk.log)}")
        self.opened_at = len(self.desk.log)

    # --- always ------------------------------------------------------------------------

    @invariant()
    def the_shard_is_what_the_model_says(self) -> None:
        shard, model = self.desk.shard, self.model
        shard.validate()
        assert list(shard.items) == list(model.items) == list(range(1, shard.next_number))
        for number, known in model.items.items():
            item = shard.items[number]
            assert (item.status, item.fence, item.attempt) == (
                known.status,
                known.claims,
                known.charged,
            )
            if item.hold is not None:
                assert (item.hold.agent, item.hold.token) == (known.agent, known.token)
                assert item.hold.percent == known.percent
            if item.end is not None:
                assert (item.end.hold.agent, item.end.hold.token) == (known.agent, known.token)

    @invariant()
    def the_best_of_any_types_is_the_best_of_all(self) -> None:
        for wanted in (("a",), ("b",), TYPES):
            assert self.desk.shard.lanes.best(wanted) == self.best(wanted)
        for work_type, ready in self.desk.shard.lanes.ready.items():
            queued = [
                known
                for known in self.model.items.values()
                if known.status == "queued" and known.work_type == work_type
            ]
            assert ready == len(queued)

    @invariant()
    def windows_are_bounded(self) -> None:
        for window in (self.desk.shard.commands, self.desk.shard.keys):
            assert len(window) == len(window._queue) <= self.desk.rules.dedupe_count

    def teardown(self) -> None:
        if hasattr(self, "desk"):
            assert state_of(self.desk.refold()) == state_of(self.desk.shard)


# Not shrunk: that can take longer than a test may (pyproject.toml, faulthandler_timeout),
# and fifty steps are readable as they are.
ShardMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
TestShardMachine = ShardMachine.TestCase
