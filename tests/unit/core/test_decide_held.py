"""What a holder, a former holder and a stranger may do to an item, in every state of it."""

from __future__ import annotations

from functools import partial

import pytest
from msgspec import Raw

from swarm.core import decide
from swarm.core.decide import Batch
from swarm.core.shard import ShardRules
from swarm.messages import (
    Ack,
    Assignment,
    Complete,
    Fail,
    ItemCommand,
    Progress,
    Release,
    Renew,
    Wait,
)
from tests.builders import NOW, Desk, command_id, new_item, number_of, refusal_of
from tests.states import state_of

VERBS = ("complete", "fail", "release", "wait", "progress", "renew")


class Case:
    """One item with the token it is (or was last) held with, and an earlier claim's."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.item = self.desk.submit_ids(new_item())[0]
        self.tokens = {"none": "", "odd": "1.nonce1.s9"}

    def take(self, agent: str) -> Assignment:
        """Claim it, remembering the token before as the old one."""
        held = self.desk.take(agent)
        if "now" in self.tokens:
            self.tokens["old"] = self.tokens["now"]
        self.tokens["now"] = held.token
        return held

    def queued(self) -> None:
        """Nobody ever held it."""

    def held(self) -> None:
        self.take("a1")

    def lapsed_to_a2(self) -> None:
        self.desk.lapse(self.take("a1"))
        self.take("a2")

    def held_again(self) -> None:
        self.desk.lapse(self.take("a1"))
        self.take("a1")

    def released(self) -> None:
        self.desk.release(self.take("a1"), "a1")

    def lapsed(self) -> None:
        self.desk.lapse(self.take("a1"))

    def completed(self) -> None:
        self.held_again()
        self.desk.tell(Complete("", self.item, self.tokens["now"]), "a1")

    def dead(self) -> None:
        self.held_again()
        self.desk.tell(Fail("", self.item, self.tokens["now"], "boom", final=True), "a1")

    def failed(self) -> None:
        self.desk.fail(self.take("a1"), "a1")

    def waiting(self) -> None:
        self.desk.wait(self.take("a1"), "a1")

    def cancelled(self) -> None:
        self.take("a1")
        self.desk.cancel(self.item, grace_s=0)

    def cancelled_unheld(self) -> None:
        self.desk.cancel(self.item)


#: state, sender, token; then what complete, fail, release, wait, progress, renew come to:
#: the status in the acknowledgement, or the code of the refusal.
TABLE = """
queued       a1 none  not_claimed      not_claimed      not_claimed      not_claimed      not_claimed      not_claimed
queued       a1 odd   stale_token      stale_token      stale_token      stale_token      stale_token      stale_token
held         a1 now   completed        scheduled        queued           waiting          claimed          claimed
held         a1 odd   stale_token      stale_token      stale_token      stale_token      stale_token      stale_token
held         a1 none  stale_token      stale_token      stale_token      stale_token      stale_token      stale_token
held         a2 now   not_holder       not_holder       not_holder       not_holder       not_holder       not_holder
held         a2 none  not_holder       not_holder       not_holder       not_holder       not_holder       not_holder
lapsed_to_a2 a1 old   not_holder       not_holder       not_holder       not_holder       not_holder       not_holder
lapsed_to_a2 a1 now   not_holder       not_holder       not_holder       not_holder       not_holder       not_holder
lapsed_to_a2 a2 old   stale_token      stale_token      stale_token      stale_token      stale_token      stale_token
lapsed_to_a2 a2 now   completed        scheduled        queued           waiting          claimed          claimed
held_again   a1 old   stale_token      stale_token      stale_token      stale_token      stale_token      stale_token
held_again   a1 now   completed        scheduled        queued           waiting          claimed          claimed
released     a1 now   stale_token      stale_token      stale_token      stale_token      stale_token      stale_token
released     a2 now   stale_token      stale_token      stale_token      stale_token      stale_token      stale_token
released     a1 none  not_claimed      not_claimed      not_claimed      not_claimed      not_claimed      not_claimed
lapsed       a1 now   stale_token      stale_token      stale_token      stale_token      stale_token      stale_token
failed       a1 now   stale_token      stale_token      stale_token      stale_token      stale_token      stale_token
failed       a1 none  not_claimed      not_claimed      not_claimed      not_claimed      not_claimed      not_claimed
waiting      a1 now   stale_token      stale_token      stale_token      stale_token      stale_token      stale_token
waiting      a1 none  not_claimed      not_claimed      not_claimed      not_claimed      not_claimed      not_claimed
completed    a1 now   completed        already_finished already_finished already_finished already_finished already_finished
completed    a1 old   already_finished already_finished already_finished already_finished already_finished already_finished
completed    a1 none  already_finished already_finished already_finished already_finished already_finished already_finished
completed    a2 now   already_finished already_finished already_finished already_finished already_finished already_finished
dead         a1 now   already_finished dead             dead             dead             already_finished already_finished
dead         a1 old   already_finished already_finished already_finished already_finished already_finished already_finished
dead         a2 now   already_finished already_finished already_finished already_finished already_finished already_finished
cancelled    a1 now   already_finished cancelled        cancelled        cancelled        already_finished already_finished
cancelled    a2 now   already_finished already_finished already_finished already_finished already_finished already_finished
cancelled_unheld a1 none already_finished already_finished already_finished already_finished already_finished already_finished
"""  # noqa: E501 - a table is read across

ROWS = [line.split() for line in TABLE.split("\n") if line]
ENDED = {"completed", "dead", "cancelled"}
ACKED = {*ENDED, "queued", "scheduled", "waiting", "claimed"}


def send(case: Case, verb: str, sender: str, token: str, out: Batch) -> Ack:
    """The command `verb` about the case's item."""
    shard, item = case.desk.shard, case.item
    match verb:
        case "complete":
            return decide.item_command(shard, Complete("", item, token), sender, out)
        case "fail":
            return decide.item_command(shard, Fail("", item, token, "no"), sender, out)
        case "release":
            return decide.item_command(shard, Release(case.desk.new_id(), item, token), sender, out)
        case "wait":
            wait = Wait(case.desk.new_id(), item, token, Raw(b'"ok?"'))
            return decide.item_command(shard, wait, sender, out)
        case "progress":
            command = Progress(case.desk.new_id(), item, token, 50.0, "halfway")
            return decide.item_command(shard, command, sender, out)
        case _:
            return decide.renew(shard, Renew(item, token), sender)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row[:3]))
def test_every_command_in_every_state(row: list[str], verb: str) -> None:
    state, sender, token, *expected_all = row
    expected = expected_all[VERBS.index(verb)]
    case = Case()
    getattr(case, state)()
    case.desk.shard.validate()
    before = state_of(case.desk.shard)
    out = Batch(case.desk.shard, case.desk.nonce, case.desk.now)

    def act() -> Ack:
        return send(case, verb, sender, case.tokens[token], out)

    if expected in ACKED:
        ack = act()
        assert ack.error is None
        assert (ack.work_item_id, ack.status) == (case.item, expected)
        assert ack.lease_s == (30.0 if expected == "claimed" else 0.0)
        unchanged = verb == "renew" or state in ENDED
        assert len(out.events) == (0 if unchanged else 1)
    else:
        refusal = refusal_of(act)
        assert refusal.code == expected
        assert not refusal.retry, "the same command would be refused again"
        assert case.item in refusal.message
        assert out.events == []
        unchanged = True
    assert (state_of(case.desk.shard) == before) == unchanged
    case.desk.shard.validate()


def test_the_table_names_every_pair_of_a_holder_and_a_token() -> None:
    states = {row[0] for row in ROWS}
    assert states == {name for name in vars(Case) if not name.startswith("_") and name != "take"}
    assert all(len(row) == 3 + len(VERBS) for row in ROWS)


# --- ids -------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("item", "code"),
    [
        ("3-99", "unknown_item"),
        ("3-2", "unknown_item"),
        ("4-1", "bad_request"),
        ("3", "bad_request"),
        ("", "bad_request"),
        ("3-01", "bad_request"),
        ("three-one", "bad_request"),
        ("3-1-1", "bad_request"),
    ],
)
def test_an_id_of_no_item_here(item: str, code: str, verb: str) -> None:
    case = Case()
    case.held()
    case.item = item
    out = Batch(case.desk.shard, case.desk.nonce, case.desk.now)
    refusal = refusal_of(lambda: send(case, verb, "a1", case.tokens["now"], out))
    assert refusal.code == code
    assert item in refusal.message
    assert out.events == []


@pytest.mark.parametrize("id_", ["", "1", "0190b5e0-0000-4000-8000-000000000000", "x" * 36])
@pytest.mark.parametrize("verb", ["release", "wait", "progress"])
def test_a_command_that_only_its_id_tells_from_a_repetition_needs_a_uuid7(
    verb: str, id_: str
) -> None:
    desk = Desk()
    desk.submit(new_item())
    held = desk.take("a1")
    before = state_of(desk.shard)
    command: ItemCommand = Release(id_, held.work_item_id, held.token)
    if verb == "progress":
        command = Progress(id_, held.work_item_id, held.token, 1.0)
    elif verb == "wait":
        command = Wait(id_, held.work_item_id, held.token, Raw(b"1"))
    refusal = refusal_of(lambda: desk.tell(command, "a1"))
    assert refusal.code == "bad_request"
    assert "UUIDv7" in refusal.message
    assert state_of(desk.shard) == before


# --- repetitions -----------------------------------------------------------------------------


def test_a_repeated_release_gets_the_first_answer_whoever_holds_the_item_now() -> None:
    desk = Desk()
    desk.submit(new_item())
    held = desk.take("a1")
    id_ = desk.new_id()
    first = desk.release(held, "a1", id_)
    desk.take("a2")
    before = state_of(desk.shard)
    again = desk.release(held, "a1", id_, retry=1)
    assert again == first == Ack(id_, held.work_item_id, "queued", 0.0)
    assert state_of(desk.shard) == before


@pytest.mark.parametrize("later", ["held", "released", "by another", "completed"])
def test_a_repeated_progress_gets_the_first_answer_but_no_lease_of_a_later_claim(
    later: str,
) -> None:
    desk = Desk()
    desk.submit(new_item())
    held = desk.take("a1")
    id_ = desk.new_id()
    first = desk.progress(held, "a1", 40.0, "first", id_)
    assert first == Ack(id_, held.work_item_id, "claimed", 30.0)
    if later == "completed":
        desk.complete(held, "a1")
    elif later != "held":
        desk.lapse(held)
    if later == "by another":
        desk.take("a2")
    before = state_of(desk.shard)
    again = desk.progress(held, "a1", 99.0, "other", id_, retry=1)
    assert (again.command_id, again.status) == (id_, "claimed")
    # The shard worker renews the lease of what the answer says is held.
    assert again.lease_s == (30.0 if later == "held" else 0.0)
    assert state_of(desk.shard) == before


@pytest.mark.parametrize("used_for", ["progress here", "release elsewhere", "submit", "claim"])
def test_a_command_id_is_good_for_one_command(used_for: str) -> None:
    desk = Desk()
    desk.submit(new_item(), new_item(), new_item())
    held, other = desk.take("a1"), desk.take("a1")
    id_ = desk.new_id()
    if used_for == "progress here":
        desk.progress(held, "a1", id_=id_)
    elif used_for == "release elsewhere":
        desk.release(other, "a1", id_)
    elif used_for == "claim":
        desk.claim("a1", id_=id_)
    else:
        desk.submit(new_item(), id_=id_)
    before = state_of(desk.shard)
    assert refusal_of(lambda: desk.release(held, "a1", id_, retry=1)).code == "bad_request"
    assert state_of(desk.shard) == before


def test_a_retry_from_before_the_window_is_too_old() -> None:
    desk = Desk(ShardRules(dedupe_count=2))
    desk.submit(new_item())
    held = desk.take("a1")
    old = command_id(1, desk.now - 10)
    desk.progress(held, "a1", id_=old)
    for age_s in (9, 8):
        desk.progress(held, "a1", id_=command_id(2, desk.now - age_s))
    before = state_of(desk.shard)
    refusal = refusal_of(lambda: desk.progress(held, "a1", id_=old, retry=1))
    assert (refusal.code, refusal.retry) == ("too_old", False)
    assert state_of(desk.shard) == before
    # A first try that is as old was never carried out by anybody.
    first_try = command_id(9, desk.now - 100)
    assert desk.progress(held, "a1", id_=first_try).status == "claimed"


@pytest.mark.parametrize("verb", ["complete", "fail", "release", "wait"])
def test_what_ends_a_claim_is_never_too_old_as_the_token_tells(verb: str) -> None:
    desk = Desk(ShardRules(dedupe_count=1))
    desk.submit(new_item())
    held = desk.take("a1")
    old = command_id(1, desk.now - 1000)
    for age_s in (9, 8):
        desk.progress(held, "a1", id_=command_id(2, desk.now - age_s))
    assert desk.shard.commands.horizon > 0
    commands: dict[str, ItemCommand] = {
        "complete": Complete(old, held.work_item_id, held.token, retry=1),
        "fail": Fail(old, held.work_item_id, held.token, retry=1),
        "release": Release(old, held.work_item_id, held.token, retry=1),
        "wait": Wait(old, held.work_item_id, held.token, Raw(b"1"), retry=1),
    }
    # The claim goes on, so that the first try was not carried out.
    assert desk.tell(commands[verb], "a1").error is None
    desk.submit(new_item())
    before = state_of(desk.shard)
    if verb == "complete":
        assert desk.tell(commands[verb], "a1").status == "completed"
    else:
        assert refusal_of(lambda: desk.tell(commands[verb], "a1")).code == "stale_token"
    assert state_of(desk.shard) == before


def test_an_id_from_the_future_would_spoil_the_window_and_is_refused() -> None:
    desk = Desk()
    desk.submit(new_item())
    held = desk.take("a1")
    ahead_s = decide.CLOCK_AHEAD_MAX_S
    late = command_id(1, desk.now + ahead_s + 1)
    commands: list[ItemCommand] = [
        Progress(late, held.work_item_id, held.token, 1.0),
        Release(late, held.work_item_id, held.token),
        Wait(late, held.work_item_id, held.token, Raw(b"1")),
    ]
    for command in commands:
        refusal = refusal_of(partial(desk.tell, command, "a1"))
        assert refusal.code == "bad_request"
        assert "301 s in the future" in refusal.message
    assert desk.progress(held, "a1", id_=command_id(1, desk.now + ahead_s)).status == "claimed"


@pytest.mark.parametrize("id_", ["", "1", command_id(1, NOW + 1e6)])
def test_an_outcome_is_taken_whatever_its_id_is_worth_and_not_known_by_it(id_: str) -> None:
    desk = Desk(ShardRules(dedupe_count=1))
    one, two = desk.submit_ids(new_item(), new_item())
    for item in (one, two):
        held = desk.take("a1")
        assert desk.tell(Fail(id_, item, held.token), "a1").status == "scheduled"
    assert desk.shard.commands.get(id_) is None
    desk.submit(new_item())
    assert desk.shard.commands.horizon <= desk.now * 1000, "nobody else's retries look too old"
    held = desk.take("a1")
    assert desk.tell(Complete(id_, held.work_item_id, held.token), "a1").status == "completed"


# --- outcomes --------------------------------------------------------------------------------


def test_the_first_outcome_stays_whatever_a_repetition_says() -> None:
    desk = Desk()
    desk.submit(new_item())
    held = desk.take("a1")
    desk.complete(held, "a1", {"answer": 1})
    assert desk.complete(held, "a1", {"answer": 2}).status == "completed"
    end = desk.shard.items[1].end
    assert end is not None
    assert bytes(end.result) == b'{"answer":1}'


def test_attempts_count_lapses_but_not_hand_backs() -> None:
    desk = Desk()
    desk.submit(new_item())
    held = desk.take("a1")
    assert held.attempt == 1
    desk.release(held, "a1")
    held = desk.take("a1")
    assert held.attempt == 1
    desk.lapse(held)
    held = desk.take("a1")
    assert held.attempt == 2
    number = number_of(held.work_item_id)
    desk.decide(lambda out: decide.give_up(desk.shard, number, "unlisted", "never came", out))
    held = desk.take("a1")
    assert held.attempt == 2
    desk.fail(held, "a1")
    assert desk.shard.items[1].attempt == 2
    assert desk.shard.items[1].fence == 4, "fences grow with every claim, charged or not"


def test_no_two_claims_ever_share_a_token() -> None:
    desk = Desk(ShardRules(quarantine_deaths=99))
    desk.submit(new_item(max_attempts=99))
    tokens = []
    for owner in ("c1", "c2", "c1"):
        desk.open(owner)
        for session in ("s1", "s2", "s1"):
            held = desk.take("a1", session)
            tokens.append(held.token)
            desk.lapse(held)
    assert len(set(tokens)) == 9


def test_a_claim_that_never_became_durable_shares_no_token_with_the_one_that_did() -> None:
    lost, kept = Desk(), Desk()
    for desk in (lost, kept):
        desk.submit(new_item())
    kept.open("c2")
    # Both decide the same claim with the same fence, but only one of them owns the log.
    assert lost.take("a1").token != kept.take("a1").token


# --- size ------------------------------------------------------------------------------------

SPEC = new_item()
LIMIT = 200


def roomy(text: int) -> Desk:
    """A shard where one item may grow by exactly `text` bytes, and is held."""
    desk = Desk(ShardRules(item_bytes_max=len(memoryview(SPEC)) + text))
    desk.submit(SPEC)
    return desk


@pytest.mark.parametrize("verb", ["complete", "fail", "release", "wait", "progress"])
def test_an_item_may_grow_to_its_limit_and_not_a_byte_further(verb: str) -> None:
    def tell(desk: Desk, held: Assignment, size: int) -> Ack:
        text = "x" * size
        match verb:
            case "complete":
                return desk.complete(held, "a1", "x" * (size - 2))
            case "fail":
                return desk.fail(held, "a1", text)
            case "wait":
                return desk.wait(held, "a1", "x" * (size - 2))
            case "release":
                command = Release(desk.new_id(), held.work_item_id, held.token, text)
                return desk.tell(command, "a1")
            case _:
                return desk.progress(held, "a1", 1.0, text)

    desk = roomy(LIMIT)
    held = desk.take("a1")
    before = state_of(desk.shard)
    refusal = refusal_of(lambda: tell(desk, held, LIMIT + 1))
    assert (refusal.code, refusal.retry) == ("too_large", False)
    assert str(desk.rules.item_bytes_max) in refusal.message
    assert str(desk.rules.item_bytes_max + 1) in refusal.message
    assert state_of(desk.shard) == before
    assert tell(desk, held, LIMIT).error is None


def test_the_note_counts_beside_result_and_error() -> None:
    desk = roomy(LIMIT)
    held = desk.take("a1")
    desk.progress(held, "a1", 1.0, "n" * 100)
    assert refusal_of(lambda: desk.fail(held, "a1", "e" * 101)).code == "too_large"
    assert refusal_of(lambda: desk.complete(held, "a1", "r" * 99)).code == "too_large"
    assert desk.complete(held, "a1", "r" * 98).status == "completed"


@pytest.mark.parametrize("text", ["é" * 10, "\n" * 10, '"' * 10, "\x01" * 10, "漢" * 10])
def test_texts_are_measured_as_the_log_stores_them(text: str) -> None:
    def stored_bytes(error: str) -> int:
        desk = roomy(LIMIT)
        desk.die(desk.take("a1"), "a1", error)
        return len(desk.log[-1])

    stored = stored_bytes("x" + text) - stored_bytes("x")
    # The limit that just holds it: one byte less refuses.
    tight = roomy(stored)
    tight.fail(tight.take("a1"), "a1", text)
    tighter = roomy(stored - 1)
    held = tighter.take("a1")
    assert refusal_of(lambda: tighter.fail(held, "a1", text)).code == "too_large"


@pytest.mark.parametrize(
    ("result", "named"),
    [(b'"\xff"', "UTF-8"), (b"[" * 5000 + b"]" * 5000, "deep"), (b'"\xed\xa0\x80"', "UTF-8")],
    ids=["not-utf8", "nested", "surrogate"],
)
def test_a_result_that_readers_could_not_read_is_refused(result: bytes, named: str) -> None:
    desk = Desk()
    desk.submit(new_item())
    held = desk.take("a1")
    before = state_of(desk.shard)
    command = Complete(desk.new_id(), held.work_item_id, held.token, Raw(result))
    refusal = refusal_of(lambda: desk.tell(command, "a1"))
    assert refusal.code == "bad_request"
    assert named in refusal.message
    assert state_of(desk.shard) == before
