"""Random lives of a shard, beside a model; its log is compacted, purged and folded again.

After each step the shard is what the model says.  Whoever reads the log, from wherever it
has been purged to, ends in the same state, and remembers at least as much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

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
from swarm.core.decide import TakenBack
from swarm.core.ids import command_order
from swarm.core.shard import Shard, ShardRules
from swarm.errors import Refusal
from swarm.messages import (
    HISTORY_MAX,
    PRIORITIES,
    Ack,
    Answer,
    Assignment,
    Cancel,
    Complete,
    Fail,
    Heard,
    ItemCommand,
    ItemControl,
    Marked,
    Outcome,
    Prioritize,
    Progress,
    Release,
    Renew,
    Retry,
    Status,
    SubmitReply,
    Wait,
    Watch,
    Watching,
)
from swarm.subjects import item_id
from tests.builders import Desk, new_item, number_of, refusal_of
from tests.property.shard_model import ENDED, Known, Model
from tests.states import check_timers, differences, meaning_of, state_of

TYPES = ("a", "b")
AGENTS = ("a1", "a2")
#: Items of other shards, on which some depend.
ELSEWHERE = ("9-1", "9-2")

Given = dict[str, Any]

types = st.sampled_from(TYPES)
agents = st.sampled_from(AGENTS)
sessions = st.sampled_from(["s1", "s1", "s2"])
texts = st.sampled_from(["", "n", "note", "x" * 900])
checkpoints = st.sampled_from([b"null", b"null", b'{"page":7}'])
verbs = st.sampled_from(["complete", "fail", "release", "progress", "wait"])
given_by_holders = st.fixed_dictionaries(
    {
        "text": texts,
        "checkpoint": checkpoints,
        "percent": st.sampled_from([0.0, 50.0, 100.0]),
        "final": st.sampled_from([False, False, True]),
        "retry_after": st.sampled_from([None, None, 0.0, 7.0]),
        "expires_s": st.sampled_from([0.0, 4.0]),
        "on_expiry": st.sampled_from(["dead", "resume"]),
    }
)
given_by_others = st.fixed_dictionaries(
    {
        "verb": st.sampled_from(["cancel", "prioritize", "retry", "answer"]),
        "grace_s": st.sampled_from([0.0, 5.0, 30.0]),
        "priority": st.sampled_from(PRIORITIES),
        "wait": st.sampled_from([0, 0, 1, 2]),
    }
)
described = st.fixed_dictionaries(
    {
        "work_type": types,
        "priority": st.sampled_from(PRIORITIES),
        "idempotency_key": st.sampled_from(["", "", "", "k1", "k2", "k3"]),
        "description": st.sampled_from(["x", "y"]),
        "max_attempts": st.sampled_from([0, 0, 1, 2]),
        "not_before": st.sampled_from([0.0, 0.0, 0.0, 6.0]),
        "deadline": st.sampled_from([0.0, 0.0, 0.0, 3.0, 20.0]),
        "dependencies": st.sampled_from([[], [], [], ["9-1"], ["9-1", "9-2"]]),
        "on_dependency_failure": st.sampled_from(["block", "cancel", "run"]),
    }
)


PLAIN: Given = {
    "work_type": "a",
    "priority": "medium",
    "idempotency_key": "",
    "description": "",
    "max_attempts": 0,
    "not_before": 0.0,
    "deadline": 0.0,
    "dependencies": [],
    "on_dependency_failure": "block",
}


@dataclass
class Said:
    """A command that was carried out, its id, and the answer that it got."""

    id_: str
    again: Callable[[], object]
    answer: object


class ShardMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    held: Bundle[tuple[str, Assignment]] = Bundle("held")
    said: Bundle[Said] = Bundle("said")

    @initialize(count=st.sampled_from([2, 5, 1000]), window_s=st.sampled_from([15.0, 1e6]))
    def begin(self, count: int, window_s: float) -> None:
        rules = ShardRules(
            ageing_s=10.0,
            dedupe_count=count,
            dedupe_window_s=window_s,
            item_bytes_max=800,
            grace_s=4.0,
            wait_s=50.0,
        )
        self.desk = Desk(rules)
        self.model = Model(rules)
        self.opened_at = 0
        #: Ids of commands that were carried out and are remembered.
        self.done: list[str] = []
        #: Nobody has begun to read in the middle: all fold the same to the last detail.
        self.exact = True
        self.submit([PLAIN, PLAIN | {"work_type": "b"}, PLAIN], 0)

    # --- submitting ------------------------------------------------------------------

    @rule(target=said, items=st.lists(described, min_size=1, max_size=3), offset=st.integers(0, 3))
    def submit(self, items: list[Given], offset: int) -> Said:
        desk, id_, first = self.desk, self.desk.new_id(), self.desk.shard.next_number
        raws = [new_item(**self.timed(fields)) for fields in items]
        indexes = [offset + position for position in range(len(raws))]
        reply = desk.submit(*raws, id_=id_, indexes=indexes)
        assert sorted(result.index for result in reply.results) == indexes
        self.accepted(first)
        for result in reply.results:
            raw = raws[result.index - offset]
            if result.error is None:
                accepted = self.desk.shard.items.get(number_of(result.work_item_id))
                assert accepted is None or bytes(accepted.spec) == bytes(raw), "that very item"
            else:
                assert result.error.code == "idempotency_conflict"
                assert b'"idempotency_key"' in bytes(raw), "only keys can clash"
        self.done.append(id_)
        return Said(id_, lambda: desk.submit(*raws, id_=id_, indexes=indexes, retry=1), reply)

    def timed(self, fields: Given) -> Given:
        """With times from now on; not of keyed ones, which come again with the same content."""
        if fields["idempotency_key"]:
            return fields
        times = {name: fields[name] for name in ("not_before", "deadline") if fields[name]}
        return fields | {name: self.desk.now + after_s for name, after_s in times.items()}

    def accepted(self, first: int) -> None:
        """The items from number `first` on are new."""
        for number in range(first, self.desk.shard.next_number):
            fields = msgspec.json.decode(self.desk.shard.items[number].spec)
            known = Known(
                fields["work_type"],
                PRIORITIES.index(fields.get("priority", "medium")),
                self.desk.now,
                fields.get("max_attempts", 0),
                fields.get("deadline", 0.0),
                fields.get("not_before", 0.0),
                dict.fromkeys(fields.get("dependencies", []), ""),
                fields.get("on_dependency_failure", "block"),
            )
            known.queue(known.not_before, self.desk.now)
            if known.depends:
                known.status, known.until = "blocked", 0.0
            self.model.items[number] = known

    # --- claiming --------------------------------------------------------------------

    def claimed(self, agent: str, expected: int, got: Assignment) -> None:
        """An assignment of what must be `expected` was got."""
        assert number_of(got.work_item_id) == expected
        self.model.claimed(expected, agent, got.token)
        known = self.model.items[expected]
        assert got.attempt == known.charged
        assert bytes(got.checkpoint) == known.checkpoint
        assert {name: one.status for name, one in got.depends.items()} == known.depends

    @precondition(lambda self: self.model.best(TYPES) is not None)
    @rule(target=held, data=st.data(), agent=agents, session=sessions)
    def take(self, data: st.DataObject, agent: str, session: str) -> tuple[str, Assignment]:
        return self.take_one(data, agent, session)

    # Of each kind of rule Hypothesis leaves out some; without this one nothing happens.
    @precondition(lambda self: self.model.best(TYPES) is not None)
    @rule(target=held, data=st.data(), agent=agents, session=sessions)
    def take_more(self, data: st.DataObject, agent: str, session: str) -> tuple[str, Assignment]:
        return self.take_one(data, agent, session)

    def take_one(self, data: st.DataObject, agent: str, session: str) -> tuple[str, Assignment]:
        """Serve a free slot."""
        ready = [name for name in TYPES if self.model.best((name,)) is not None]
        work_type = data.draw(st.sampled_from(ready))
        expected = self.model.best((work_type,))
        assert expected is not None
        got = self.desk.take(agent, session, work_type)
        self.claimed(agent, expected, got)
        return (agent, got)

    @rule(target=said, agent=agents, work_types=st.lists(types, min_size=1, max_size=3))
    def claim(self, agent: str, work_types: list[str]) -> Said | MultipleResults[Said]:
        desk, id_, expected = self.desk, self.desk.new_id(), self.model.best(tuple(work_types))
        if expected is None:
            self.refused("no_work", lambda: desk.claim(agent, *work_types))
            return multiple()
        got = desk.claim(agent, *work_types, id_=id_)
        self.claimed(agent, expected, got)
        self.done.append(id_)
        return Said(id_, lambda: desk.claim(agent, *work_types, id_=id_, retry=1), got)

    # --- what holders, former holders and strangers say --------------------------------

    def refused(self, code: str, act: Callable[[], object]) -> None:
        """`act` is refused with this code, and changes nothing."""
        before = state_of(self.desk.shard)
        assert refusal_of(act).code == code
        assert state_of(self.desk.shard) == before

    @precondition(lambda self: self.desk.shard.held)
    @rule(target=said, data=st.data(), verb=verbs, given=given_by_holders)
    def the_holder_says(
        self, data: st.DataObject, verb: str, given: Given
    ) -> Said | MultipleResults[Said]:
        return self.holder_says(data, verb, given)

    @precondition(lambda self: self.desk.shard.held)
    @rule(target=said, data=st.data(), verb=verbs, given=given_by_holders)
    def the_holder_says_more(
        self, data: st.DataObject, verb: str, given: Given
    ) -> Said | MultipleResults[Said]:
        return self.holder_says(data, verb, given)

    @precondition(lambda self: self.desk.shard.held)
    @rule(target=said, data=st.data(), verb=verbs, given=given_by_holders)
    def the_holder_says_still_more(
        self, data: st.DataObject, verb: str, given: Given
    ) -> Said | MultipleResults[Said]:
        return self.holder_says(data, verb, given)

    def holder_says(
        self, data: st.DataObject, verb: str, given: Given
    ) -> Said | MultipleResults[Said]:
        """A command of one who may say it."""
        number = data.draw(st.sampled_from([number for number, _ in self.desk.shard.holds()]))
        item = self.desk.shard.items[number]
        assert item.hold is not None
        got = decide.assignment(self.desk.shard.number, item)
        return self.say(item.hold.agent, got, verb, given)

    @rule(target=said, holding=held, other=st.none() | agents, verb=verbs, given=given_by_holders)
    def anybody_says(
        self, holding: tuple[str, Assignment], other: str | None, verb: str, given: Given
    ) -> Said | MultipleResults[Said]:
        return self.say(other or holding[0], holding[1], verb, given)

    def say(
        self, sender: str, got: Assignment, verb: str, given: Given
    ) -> Said | MultipleResults[Said]:
        """A command, right or wrong; what it was and got if it was carried out."""
        desk, number, id_ = self.desk, number_of(got.work_item_id), self.desk.new_id()
        command = self.command(id_, got, verb, given, 0)
        expected = self.model.expect(number, sender, got.token, verb)
        if expected == "repetition":
            before = state_of(desk.shard)
            assert desk.tell(command, sender).status == self.model.items[number].status
            assert state_of(desk.shard) == before
            return multiple()
        if expected:
            self.refused(expected, lambda: desk.tell(command, sender))
            return multiple()
        if len(given["text"]) > 800:
            self.refused("too_large", lambda: desk.tell(command, sender))
            return multiple()
        ack = desk.tell(command, sender)
        self.model.says(number, verb, desk.now, given)
        assert (ack.error, ack.status) == (None, self.model.items[number].status)
        event(f"{verb}: {ack.status}")
        if desk.shard.commands.get(id_) is not None:
            self.done.append(id_)
        again = self.command(id_, got, verb, given, 1)
        return Said(id_, lambda: desk.tell(again, sender), ack)

    def command(
        self, id_: str, got: Assignment, verb: str, given: Given, retry: int
    ) -> ItemCommand:
        """The command `verb` about what was got."""
        item, token, text = got.work_item_id, got.token, given["text"]
        checkpoint, value = Raw(given["checkpoint"]), Raw(msgspec.json.encode(text))
        match verb:
            case "complete":
                return Complete(id_, item, token, value, retry)
            case "fail":
                after, final = given["retry_after"], given["final"]
                return Fail(id_, item, token, text, retry, after, final)
            case "release":
                return Release(id_, item, token, text, retry, checkpoint)
            case "wait":
                expires_s, on_expiry = given["expires_s"], given["on_expiry"]
                return Wait(id_, item, token, value, expires_s, on_expiry, checkpoint, retry)
            case _:
                return Progress(id_, item, token, given["percent"], text, retry, checkpoint)

    @rule(holding=held, stranger=agents | st.none(), token=st.sampled_from(["", "1.nonce1.s1"]))
    def guess_a_token(
        self, holding: tuple[str, Assignment], stranger: str | None, token: str
    ) -> None:
        sender, item = stranger or holding[0], holding[1].work_item_id
        number = number_of(item)
        if token and token == self.model.items[number].token:
            return
        code = self.model.expect(number, sender, token, "progress")
        commands: list[ItemCommand] = [
            Complete("", item, token),
            Fail("", item, token),
            Release(self.desk.new_id(), item, token),
            Wait(self.desk.new_id(), item, token, Raw(b"1")),
            Progress(self.desk.new_id(), item, token, 1.0),
        ]
        for command in commands:
            self.refused(code, partial(self.desk.tell, command, sender))
        renew = Renew(item, token)
        self.refused(
            code, lambda: self.desk.decide(lambda _: decide.renew(self.desk.shard, renew, sender))
        )

    # --- what anybody says ---------------------------------------------------------------

    @precondition(lambda self: self.model.items)
    @rule(target=said, data=st.data(), given=given_by_others)
    def control(self, data: st.DataObject, given: Given) -> Said | MultipleResults[Said]:
        number = data.draw(st.sampled_from(list(self.model.items)))
        id_, desk, verb = self.desk.new_id(), self.desk, given["verb"]
        expected = self.model.control(number, verb, desk.now, given)
        first = self.control_command(id_, number, given, 0)
        if expected:
            self.refused(expected, lambda: desk.control(first))
            return multiple()
        ack = desk.control(first)
        assert ack.status == self.model.items[number].status
        event(f"{verb}: {ack.status}")
        if desk.shard.commands.get(id_) is not None:
            self.done.append(id_)
        again = self.control_command(id_, number, given, 1)
        return Said(id_, lambda: desk.control(again), ack)

    def control_command(self, id_: str, number: int, given: Given, retry: int) -> ItemControl:
        """The command about item `number`."""
        item = item_id(self.desk.shard.number, number)
        match given["verb"]:
            case "cancel":
                return Cancel(id_, item, "unwanted", given["grace_s"], retry)
            case "prioritize":
                return Prioritize(id_, item, given["priority"], retry)
            case "retry":
                return Retry(id_, item, retry)
            case _:
                return Answer(id_, item, Raw(b'"yes"'), given["wait"], retry)

    # --- dependencies ----------------------------------------------------------------------

    @precondition(lambda self: self.model.items)
    @rule(
        data=st.data(),
        about=st.sampled_from(["watch", "heard", "outcome", "outcome"]),
        other=st.sampled_from(ELSEWHERE),
        status=st.sampled_from(["completed", "completed", "dead", "cancelled"]),
        odd=st.booleans(),
    )
    def edge(self, data: st.DataObject, about: str, other: str, status: Status, odd: bool) -> None:
        """A message about a dependency; an odd one comes late, or to the wrong item."""
        items = self.model.items
        likely = [
            number
            for number, known in items.items()
            if (known.depends if about == "outcome" else known.dependents)
        ]
        number = data.draw(st.sampled_from(list(items) if odd or not likely else likely))
        known, name = items[number], item_id(self.desk.shard.number, number)
        if about == "outcome":
            missing = odd and status == "dead"
            self.model.outcome(number, other, status, missing, self.desk.now)
            message = Outcome(other, name, status, Raw(b"1"), missing)
            assert self.desk.edge(message) == Heard(other, name, status)
        elif about == "heard":
            if not odd and known.status in ENDED:
                status = msgspec.convert(known.status, Status)
            dependent = next(iter(known.dependents), other)
            self.model.heard(number, dependent, status)
            assert self.desk.edge(Heard(name, dependent, status)) is None
        else:
            self.model.watch(number, other)
            answer = self.desk.edge(Watch(name, other))
            if known.status in ENDED:
                assert isinstance(answer, Outcome)
                assert (answer.status, answer.missing) == (known.status, False)
            else:
                assert answer == Watching(name, other)

    # --- repetitions -----------------------------------------------------------------

    @rule(command=said)
    def repeat(self, command: Said) -> None:
        before = state_of(self.desk.shard)
        known = self.desk.shard.commands.get(command.id_) is not None
        try:
            answer = command.again()
        except Refusal as refusal:
            # Forgotten, or of a claim that has ended since; carried out again never.
            event("repeated: " + refusal.code)
            ended = {"stale_token", "not_holder", "already_finished"}
            self.allowed = {"stale_token"} if known else {"too_old", *ended}
            if refusal.code not in self.allowed or (
                known and not isinstance(command.answer, Assignment)
            ):
                raise AssertionError(f"repeated {command} was refused: {refusal}") from refusal
        else:
            event("repeated: " + type(answer).__name__)
            assert self.same(answer, command.answer), f"{answer} is not {command.answer}"
        assert state_of(self.desk.shard) == before

    def same(self, answer: object, first: object) -> bool:
        if isinstance(answer, Ack) and isinstance(first, Ack):
            # A command of somebody else's is told where the item is by now.
            return answer.work_item_id == first.work_item_id and answer.error is None
        if isinstance(answer, SubmitReply) and isinstance(first, SubmitReply):
            return answer.results == first.results
        assert isinstance(answer, Assignment)
        assert isinstance(first, Assignment)
        # What came with it may have changed since: a checkpoint, for one.
        same = (answer.work_item_id, answer.token, answer.attempt)
        return same == (first.work_item_id, first.token, first.attempt)

    # --- time, silence, other owners ---------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.001, 1.0, 4.0, 40.0]), late=st.booleans())
    def pass_time(self, seconds: float, late: bool) -> None:
        self.desk.now += seconds
        if late:
            # The owner has other things to do first.
            return
        claims = {number for number, _ in self.desk.shard.holds()}
        stopped = self.desk.due()
        self.model.due(self.desk.now)
        ended = [number for number in claims if self.model.items[number].status in ENDED]
        assert len(stopped) == len(ended)
        check_timers(self.desk.shard, self.desk.now)

    @precondition(lambda self: self.desk.shard.held)
    @rule(
        data=st.data(),
        cause=st.sampled_from(["lapsed", "lapsed", "unlisted", "stalled", "trouble"]),
    )
    def give_up(self, data: st.DataObject, cause: TakenBack) -> None:
        numbers = [number for number, _ in self.desk.shard.holds()]
        number, shard = data.draw(st.sampled_from(numbers)), self.desk.shard
        self.desk.decide(lambda out: decide.give_up(shard, number, cause, "", out))
        self.model.given_up(number, cause, self.desk.now)

    @precondition(lambda self: len(self.desk.log) - self.opened_at > 6)
    @rule()
    def another_owner_folds_the_log_and_goes_on(self) -> None:
        folded = self.compared(self.desk.refold())
        self.exact = self.exact and self.desk.first_seq == 1
        self.desk.shard = folded
        self.desk.open(f"c{len(self.desk.log)}")
        self.opened_at = len(self.desk.log)

    # --- the life of the log --------------------------------------------------------------

    @rule(
        wanted=st.sampled_from([1, 500, 2000, 100_000]),
        does=st.sampled_from(["compact", "compact", "mark", "round", "round"]),
    )
    def keep_the_log_short(self, does: str, wanted: int) -> None:
        before, desk = meaning_of(self.desk.shard), self.desk
        if does != "mark":
            desk.compact(wanted)
        if does == "round":
            desk.compact()
        if does != "compact":
            desk.mark()
        # The entry's time is the only thing that is news.
        changed = differences(meaning_of(desk.shard), before)
        assert [found for found in changed if not found.startswith(".timers")] == []
        if does == "round" and desk.shard.needs > desk.first_seq:
            event("purged")
            desk.purge()

    @rule(kept=st.sampled_from([0, 1, 5]), dead_kept_s=st.sampled_from([0.0, 10.0]))
    def archive(self, kept: int, dead_kept_s: float) -> None:
        dead_before = self.desk.now - dead_kept_s
        numbers = decide.may_archive(self.desk.shard, kept, dead_before, 3)
        for number in numbers:
            known = self.model.items[number]
            assert known.status in ENDED
            assert not known.untold()
            known.archived = True
        if numbers:
            event("archived")
            self.desk.archive(*numbers)

    # --- always ------------------------------------------------------------------------

    @invariant()
    def the_shard_is_what_the_model_says(self) -> None:
        shard, model = self.desk.shard, self.model
        shard.validate()
        kept = [number for number, known in model.items.items() if not known.archived]
        assert sorted(shard.items) == kept
        for number in kept:
            known, item = model.items[number], shard.items[number]
            assert (item.status, item.rank, item.fence, item.attempt) == (
                known.status, known.rank, known.claims, known.charged,
            )  # fmt: skip
            if item.hold is not None:
                assert (item.hold.agent, item.hold.token) == (known.agent, known.token)
                assert item.hold.percent == known.percent
            if item.pause is not None:
                assert item.pause.until == known.until
            if item.end is not None and known.cause:
                assert item.end.cause == known.cause
            story = item.story
            if story is not None:
                ask = (story.ask.status, story.ask.until) if story.ask is not None else None
                assert ask == known.ask
                assert len(story.history) == min(known.kept, HISTORY_MAX)
                assert (story.deaths, story.waits, story.replays) == (
                    known.deaths, known.waits, known.replays,
                )  # fmt: skip
                assert {name: one.status for name, one in story.depends.items()} == known.depends
                assert story.dependents == known.dependents
                assert bytes(story.checkpoint) == known.checkpoint
        told = [number for number, known in model.items.items() if known.untold()]
        assert sorted(shard.untold) == told

    @invariant()
    def the_best_of_any_types_is_the_best_of_all(self) -> None:
        for wanted in (("a",), ("b",), TYPES):
            assert self.desk.shard.lanes.best(wanted) == self.model.best(wanted)

    @invariant()
    def nothing_is_carried_out_twice(self) -> None:
        self.strict(self.desk.shard)

    def strict(self, shard: Shard) -> None:
        """Whatever was carried out is known by its id, or too old."""
        horizon, known = shard.commands.horizon, shard.commands
        for id_ in self.done:
            assert known.get(id_) is not None or command_order(id_) <= horizon, id_

    # --- readers -----------------------------------------------------------------------

    def compared(self, reader: Shard) -> Shard:
        """The reader, which knows all that the owner does."""
        owner = self.desk.shard
        reader.validate()
        assert reader.complete
        assert differences(meaning_of(reader), meaning_of(owner)) == []
        if self.exact and reader.first_seq == 1:
            assert differences(state_of(reader), state_of(owner)) == []
        self.strict(reader)
        for id_, answer in owner.commands._answers.items():
            found = reader.commands.get(id_)
            assert found is not None, f"{id_} is not remembered"
            assert type(found) is type(answer)
        for key, keyed in owner.keys._answers.items():
            assert reader.keys.get(key) == keyed, f"{key} is not remembered"
        check_timers(reader)
        return reader

    def teardown(self) -> None:
        if not hasattr(self, "desk"):
            return
        desk = self.desk
        self.compared(desk.refold(1))
        self.compared(desk.refold())
        needs = [
            (seq, one.needs)
            for seq in range(1, len(desk.log) + 1)
            for one in desk.entry(seq).events
            if isinstance(one, Marked)
        ]
        for first in range(1, len(desk.log) + 1, 1 + len(desk.log) // 12):
            reader = desk.refold(first)
            covered = any(seq >= first and need >= first for seq, need in needs)
            assert reader.complete == (first == 1 or covered)
            if reader.complete:
                event("read from the middle")
                self.compared(reader)
        self.read_up_to_every_entry()

    def read_up_to_every_entry(self) -> None:
        """Two readers, of all there ever was and of what is left, agree from the mark on."""
        desk = self.desk
        if desk.first_seq == 1:
            return
        marks = [
            seq
            for seq in range(desk.first_seq, len(desk.log) + 1)
            for one in desk.entry(seq).events
            if isinstance(one, Marked) and one.needs >= desk.first_seq
        ]
        for last in range(marks[0], len(desk.log) + 1, 1 + len(desk.log) // 12):
            reader = desk.refold(desk.first_seq, last)
            assert reader.complete
            whole = desk.refold(1, last)
            assert differences(meaning_of(reader), meaning_of(whole)) == []


# Not shrunk: that can take longer than a test may (pyproject.toml, faulthandler_timeout),
# and fifty steps are readable as they are.
ShardMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=80,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
TestShardMachine = ShardMachine.TestCase
