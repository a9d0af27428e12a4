"""What leaves once a batch is durable."""

from __future__ import annotations

import msgspec

from swarm.actors.answers import Answers
from swarm.messages import Ack, Hold, Item, Work
from swarm.subjects import Subjects


def held(number: int, session: str) -> Item:
    item = Item(number, msgspec.Raw(b"{}"), "build", 2, 1.0, 0.0)
    item.hold = Hold("a1", session, 1, f"1.n.{session}", 1.0, 30.0)
    return item


def sent(answers: Answers) -> dict[str, Work]:
    messages = answers.encoded(Subjects("swarm"), "c1", 3, 1000)
    return {subject: msgspec.json.decode(data, type=Work) for subject, data in messages}


def test_an_assignment_leaves_with_what_its_agent_is_told() -> None:
    answers = Answers()
    answers.ack("a1", "s1", Ack("c", "3-7"))
    answers.assign("a1", "s1", held(8, "s1"))
    (work,) = sent(answers).values()
    assert [ack.work_item_id for ack in work.acks] == ["3-7"]
    assert [(one.work_item_id, one.token) for one in work.items] == [("3-8", "1.n.s1")]


def test_a_claim_that_the_same_batch_ends_is_not_handed_out() -> None:
    """A heartbeat asks for the item, and its outcome, or its end, is decided next."""
    answers = Answers()
    ended, given = held(8, "s1"), held(9, "s1")
    for item in (ended, given):
        answers.assign("a1", "s1", item)
    ended.hold = None
    given.hold = held(9, "s2").hold
    answers.assign("a1", "s2", given)
    told = sent(answers)
    assert [one.token for work in told.values() for one in work.items] == ["1.n.s2"]
    assert list(told) == ["swarm.agent.a1.s2.work"], "nobody is told nothing"
