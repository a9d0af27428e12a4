"""Dependencies between shards over a channel that loses, repeats and reorders messages.

Owners restart at any moment with what their logs say, which are compacted and purged.
Nobody is ever told what was not so; and once messages arrive again, whoever can go on
does, and nobody has anything left to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from swarm.core import decide
from swarm.core.edge_book import REPEAT_LONGEST_S, EdgeBook
from swarm.core.shard import ShardRules
from swarm.messages import ENDED, Edge, Outcome, Status, Submitted, Watching
from swarm.subjects import item_id, parse_item_id
from tests.builders import Desk, new_item
from tests.states import differences, meaning_of

SHARDS = 3
#: An id that no item will ever have.
NOWHERE = "1-999"

#: What may happen, as often as it stands here.
STEPS = (
    *["submit"] * 3,
    *["something_happens"] * 4,
    *["message"] * 6,
    "all_messages_arrive",
    *["time_passes"] * 2,
    "restart",
    "keep_the_log_short",
)


@dataclass
class Truth:
    """What really happened to an item."""

    policy: str
    depends: list[str]
    #: Every way that it ever ended, the latest last.
    ends: list[str] = field(default_factory=list)
    #: An operator queued it, whatever it depends on.
    forced: bool = False


class Owner:
    """The owner of one shard: its desk, and what it has said to others."""

    def __init__(self, number: int) -> None:
        self.desk = Desk(ShardRules(backoff_s=0.001, dedupe_count=50), number)
        self.book = EdgeBook(self.desk.shard)

    def restart(self) -> None:
        """Begin anew with what the log says."""
        before = meaning_of(self.desk.shard)
        self.desk.take_over()
        assert differences(meaning_of(self.desk.shard), before) == []
        self.book = EdgeBook(self.desk.shard)

    def news(self) -> list[Edge]:
        """What the latest entry makes this owner say."""
        said = []
        for one in self.desk.entry().events:
            numbers = getattr(one, "n", [])
            if isinstance(one, Submitted):
                numbers = range(one.first, one.first + len(one.items))
            for number in [numbers] if isinstance(numbers, int) else numbers:
                said += self.book.of(number, self.desk.now)
        return said


class EdgesMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    @initialize()
    def begin(self) -> None:
        self.owners = [Owner(number) for number in range(SHARDS)]
        self.truth: dict[str, Truth] = {}
        #: On their way, to the shard of this number.
        self.channel: list[tuple[int, Edge]] = []

    # One rule for all, as Hypothesis leaves out some kinds of rules in each example: here
    # little happens unless all kinds of steps do.
    @rule(data=st.data(), step=st.sampled_from(STEPS))
    def step(self, data: st.DataObject, step: str) -> None:
        event(step)
        getattr(self, step)(data)

    # --- the channel ---------------------------------------------------------------------

    def send(self, messages: list[Edge]) -> None:
        """To the shard of the item that each is for."""
        for message in messages:
            to_dependent = isinstance(message, Watching | Outcome)
            name = message.dependent if to_dependent else message.on
            self.channel.append((parse_item_id(name)[0], message))

    def deliver(self, shard: int, message: Edge) -> None:
        """The owner of this shard takes the message, and answers."""
        owner = self.owners[shard]
        answer = owner.desk.edge(message)
        about_dependent = isinstance(message, Watching | Outcome)
        mine = message.dependent if about_dependent else message.on
        owner.book.heard(parse_item_id(mine)[1], message)
        if answer is not None:
            self.send([answer])
        self.send(owner.news())
        self.note()

    def note(self) -> None:
        """Keep up with how items have ended."""
        for owner in self.owners:
            for number, item in owner.desk.shard.items.items():
                ends = self.truth[item_id(owner.desk.shard.number, number)].ends
                if item.end is not None and ends[-1:] != [item.end.status]:
                    ends.append(item.end.status)
                elif item.end is None and ends and ends[-1] != "":
                    ends.append("")

    def message(self, data: st.DataObject) -> None:
        """One message arrives, once or twice, or never does."""
        if not self.channel:
            return
        fate = data.draw(st.sampled_from(["arrives", "arrives", "arrives twice", "is lost"]))
        shard, message = self.channel.pop(data.draw(st.integers(0, len(self.channel) - 1)))
        if fate == "is lost":
            return
        event(type(message).__name__)
        if fate == "arrives twice":
            self.channel.append((shard, message))
        self.deliver(shard, message)

    def all_messages_arrive(self, _: st.DataObject) -> None:
        """For once the channel works."""
        self.drain()

    def drain(self) -> None:
        """Deliver what is on its way, and what that brings about."""
        for _ in range(10_000):
            if not self.channel:
                return
            self.deliver(*self.channel.pop(0))
        raise AssertionError("they never stop talking")

    # --- the lives of items ----------------------------------------------------------------

    def submit(self, data: st.DataObject) -> None:
        """An item that depends on earlier ones, or on one that there is not."""
        depends = data.draw(st.sampled_from([[]] * 9 + [[NOWHERE]]))
        policy = data.draw(st.sampled_from(["block", "cancel", "run"]))
        if self.truth:
            some = st.lists(st.sampled_from(list(self.truth)), max_size=3, unique=True)
            depends = depends + data.draw(some)
        owner = data.draw(st.sampled_from(self.owners))
        number = owner.desk.shard.next_number
        fields = {"dependencies": depends, "on_dependency_failure": policy}
        name = owner.desk.submit_ids(new_item(f"t{number}", **fields))[0]
        self.truth[name] = Truth(policy, depends)
        self.send(owner.news())

    def something_happens(self, data: st.DataObject) -> None:
        """To an item that something can happen to."""
        lively = [name for name in self.truth if self.status(name) in ("queued", "dead")]
        names = data.draw(st.sampled_from([lively, lively, lively, list(self.truth)]))
        if names:
            how = st.sampled_from(["complete", "complete", "die", "cancel", "retry", "retry"])
            self.happen(data.draw(st.sampled_from(names)), data.draw(how))

    def happen(self, name: str, ends: str) -> None:
        """The item is worked on, or somebody says something of it."""
        shard, number = parse_item_id(name)
        owner = self.owners[shard]
        item = owner.desk.shard.items.get(number)
        if item is None or (item.end is not None and (ends, item.end.status) != ("retry", "dead")):
            return
        if ends in ("complete", "die"):
            if item.status != "queued":
                return
            held = owner.desk.take("a", work_type=f"t{number}")
            self.send(owner.news())
            (owner.desk.complete if ends == "complete" else owner.desk.die)(held, "a")
        elif ends == "cancel":
            owner.desk.cancel(name)
        else:
            self.truth[name].forced = True
            owner.desk.retry(name)
        self.send(owner.news())
        self.note()

    # --- owners ------------------------------------------------------------------------------

    def restart(self, data: st.DataObject) -> None:
        """An owner begins anew with its log."""
        data.draw(st.sampled_from(self.owners)).restart()

    def time_passes(self, data: st.DataObject) -> None:
        """All owners look at what they must say again."""
        seconds = data.draw(st.sampled_from([0.1, 1.0, 31.0]))
        for owner in self.owners:
            owner.desk.now += seconds
            self.send(owner.book.look(owner.desk.now))

    def keep_the_log_short(self, data: st.DataObject) -> None:
        """A round of compaction, perhaps with archiving before."""
        desk = data.draw(st.sampled_from(self.owners)).desk
        if data.draw(st.booleans()):
            numbers = decide.may_archive(desk.shard, 0, desk.now + 1, 2)
            if numbers:
                event("archived")
                desk.archive(*numbers)
        desk.compact()
        desk.compact()
        desk.mark()
        if desk.shard.needs > desk.first_seq:
            desk.purge()

    # --- always ------------------------------------------------------------------------------

    @invariant()
    def each_shard_is_sound(self) -> None:
        for owner in self.owners:
            owner.desk.shard.validate()

    @invariant()
    def nobody_is_told_what_was_not_so(self) -> None:
        for owner in self.owners:
            for number, item in owner.desk.shard.items.items():
                truth = self.truth[item_id(owner.desk.shard.number, number)]
                if item.story is None:
                    assert not truth.depends
                    continue
                known = {on: one.status for on, one in item.story.depends.items()}
                assert list(known) == truth.depends
                for on, status in known.items():
                    ends = self.truth[on].ends if on in self.truth else ["dead"]
                    assert not status or status in ends, f"{on} never was {status}"
                if truth.forced:
                    continue
                stuck = self.unmet(truth, known)
                if item.status == "blocked":
                    assert stuck, "blocked by nothing"
                elif item.status in ("queued", "claimed", "completed"):
                    assert not stuck, f"goes on in spite of {stuck}"

    def unmet(self, truth: Truth, known: Mapping[str, Status | str]) -> list[str]:
        """Dependencies that keep an item from being worked on."""
        met = ("completed", "dead", "cancelled") if truth.policy == "run" else ("completed",)
        return [on for on in truth.depends if known[on] not in met]

    # --- in the end --------------------------------------------------------------------------

    def settle(self) -> None:
        """Messages arrive again, for a while."""
        for _ in range(3):
            for owner in self.owners:
                owner.desk.now += REPEAT_LONGEST_S + 1
                self.send(owner.book.look(owner.desk.now))
            self.drain()
        self.nobody_is_told_what_was_not_so()

    def status(self, name: str) -> str:
        """Where in its life the item is."""
        shard, number = parse_item_id(name)
        item = self.owners[shard].desk.shard.items.get(number)
        return item.status if item is not None else self.truth[name].ends[-1]

    def everybody_knows(self) -> None:
        """What has ended is known to all who depend on it; nothing is left to be said."""
        for owner in self.owners:
            assert not owner.desk.shard.untold
            owner.book.look(owner.desk.now)
            if not owner.desk.shard.blocked:
                assert not owner.book._said
                assert not owner.book._watched
            for number in owner.desk.shard.blocked:
                story = owner.desk.shard.items[number].story
                assert story is not None
                for on, known in story.depends.items():
                    now = self.status(on) if on in self.truth else "dead"
                    if now in ENDED:
                        assert known.status == now, f"{on} is {now}, and {number} does not know"

    def teardown(self) -> None:
        if not hasattr(self, "owners"):
            return
        self.settle()
        self.everybody_knows()
        # Everything that can still be done is done, in the order of dependencies.
        for name in [*self.truth] * 2:
            if self.status(name) == "dead" and not self.is_final(name):
                self.happen(name, "retry")
            self.happen(name, "complete")
            self.settle()
        self.everybody_knows()
        for owner in self.owners:
            for number in owner.desk.shard.blocked:
                truth = self.truth[item_id(owner.desk.shard.number, number)]
                stuck = [on for on in truth.depends if self.status(on) == "blocked"]
                if truth.policy == "block":
                    stuck += [on for on in truth.depends if self.is_final(on)]
                assert stuck, "all that it depends on is done, and it is blocked"

    def is_final(self, name: str) -> bool:
        """Whether the item ended without completing, and cannot be brought back."""
        shard, number = parse_item_id(name)
        archived = number not in self.owners[shard].desk.shard.items
        status = self.status(name)
        return status == "cancelled" or (status == "dead" and archived)


EdgesMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
TestEdgesMachine = EdgesMachine.TestCase
