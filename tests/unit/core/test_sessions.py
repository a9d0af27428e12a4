"""Agent sessions: one live process per agent id, wherever and in whatever order it is heard."""

from __future__ import annotations

import itertools
from functools import partial

import pytest

from swarm.core.credits import CreditPool
from swarm.core.membership import Members
from swarm.core.sessions import Sessions
from swarm.errors import BadInput
from swarm.messages import Attach, Attached, Attention, Control, Heartbeat
from tests.builders import beat, refusal_of

LEASE_S, HEARTBEAT_S = 30.0, 5.0
#: A session is alive while heard of within three heartbeats.
SILENCE_S = 15.0
ATTACH = Attach(["t"])
TAKEOVER = Attach(["t"], takeover=True)


class Place:
    """One coordinator's sessions."""

    def __init__(self, name: str = "c1") -> None:
        self.name = name
        self.pool = CreditPool()
        self.members = Members(1.2)
        self.sessions = Sessions(name, self.pool, self.members, LEASE_S, HEARTBEAT_S)

    def attach(self, session: str, attach: Attach = ATTACH, now: float = 0.0) -> Attention:
        """Attach and hear the own announcement, as one does in the end."""
        _, attention = self.sessions.attach("a", session, attach, now)
        self.sessions.attention("a", attention, now)
        return attention

    def heartbeat(self, session: str, now: float, *, to: str = "", **fields: int) -> Control | None:
        said = Heartbeat(
            session, to or self.name, fields.get("number", 1), fields.get("slots", 1), ["t"]
        )
        return self.sessions.heartbeat("a", said, now)

    def here(self) -> list[str]:
        """Sessions of the agent that are attached here."""
        return [session for agent, session in self.pool.sessions if agent == "a"]


# --- attaching ---------------------------------------------------------------------------


def test_attaching_answers_with_what_the_agent_must_know() -> None:
    place = Place()
    attached, attention = place.sessions.attach("a", "s1", ATTACH, 0.0)
    assert attached == Attached("s1", "c1", LEASE_S, HEARTBEAT_S)
    assert (attention.session, attention.coordinator, attention.takeover) == ("s1", "c1", False)
    assert place.here() == ["s1"]
    assert place.pool.idle() == {"t": 0}


@pytest.mark.parametrize("agent", ["", "a b", "a.b", "a*", ">", "-a", "a\n", "a" * 65, "é"])
def test_an_agent_id_is_one_subject_token(agent: str) -> None:
    place = Place()
    with pytest.raises(BadInput, match="agent id"):
        place.sessions.attach(agent, "s1", ATTACH, 0.0)
    assert not place.pool.sessions


def test_an_agent_that_can_do_nothing_is_refused() -> None:
    place = Place()
    refusal = refusal_of(lambda: place.sessions.attach("a", "s1", Attach([]), 0.0))
    assert refusal.code == "bad_request"
    assert "work_types" in refusal.message
    assert place.here() == []


def test_a_second_live_process_of_the_same_id_is_refused() -> None:
    place = Place()
    place.attach("s1")
    refusal = refusal_of(lambda: place.sessions.attach("a", "s2", ATTACH, SILENCE_S))
    assert (refusal.code, refusal.retry) == ("agent_id_in_use", False)
    assert "'a'" in refusal.message
    assert "15.0 s ago" in refusal.message
    assert "takeover" in refusal.message
    assert place.here() == ["s1"]


def test_it_is_refused_wherever_it_asks() -> None:
    first, second = Place("c1"), Place("c2")
    second.sessions.attention("a", first.attach("s1"), 0.1)
    assert refusal_of(lambda: second.attach("s2", now=5.0)).code == "agent_id_in_use"
    third = Place("c3")
    third.heartbeat("s1", 1.0, to="c1")
    assert refusal_of(lambda: third.attach("s2", now=5.0)).code == "agent_id_in_use"


def test_a_process_that_fell_silent_makes_room() -> None:
    place = Place()
    place.attach("s1")
    place.heartbeat("s1", 3.0)
    assert refusal_of(lambda: place.attach("s2", now=18.0)).code == "agent_id_in_use"
    place.attach("s2", now=18.1)
    assert place.here() == ["s2"]


def test_a_process_that_left_makes_room_at_once() -> None:
    place = Place()
    place.attach("s1")
    place.sessions.heartbeat("a", Heartbeat("s1", "c1", 2, 0, ["t"], leaving=True), 1.0)
    assert place.here() == []
    place.attach("s2", now=1.1)
    assert place.here() == ["s2"]


def test_leaving_ends_only_the_session_that_leaves() -> None:
    place = Place()
    place.attach("s2")
    place.sessions.heartbeat("a", Heartbeat("s1", "c1", 2, 0, ["t"], leaving=True), 1.0)
    assert place.here() == ["s2"]
    assert refusal_of(lambda: place.attach("s3", now=1.1)).code == "agent_id_in_use"


def test_the_same_session_may_attach_as_often_as_it_likes() -> None:
    place = Place()
    for now in (0.0, 1.0, 2.0):
        place.attach("s1", now=now)
    assert place.here() == ["s1"]


# --- taking over, moving -----------------------------------------------------------------


def test_a_takeover_ends_the_other_everywhere() -> None:
    first, second = Place("c1"), Place("c2")
    second.sessions.attention("a", first.attach("s1"), 0.0)
    attention = second.attach("s2", TAKEOVER, 1.0)
    ended = first.sessions.attention("a", attention, 1.1)
    assert [(session, control.kind) for session, control in ended] == [("s1", "superseded")]
    assert "'a'" in ended[0][1].reason
    assert (first.here(), second.here()) == ([], ["s2"])


def test_a_takeover_at_the_same_coordinator() -> None:
    place = Place()
    place.attach("s1")
    _, attention = place.sessions.attach("a", "s2", TAKEOVER, 1.0)
    ended = place.sessions.attention("a", attention, 1.1)
    assert [(session, control.kind) for session, control in ended] == [("s1", "superseded")]
    assert place.here() == ["s2"]


def test_a_takeover_can_be_taken_over_whatever_the_sessions_are_called() -> None:
    for names in itertools.permutations(("s1", "s2", "s3")):
        first, second = Place("c1"), Place("c2")
        for place, session in ((first, names[0]), (second, names[1]), (first, names[2])):
            attention = place.attach(session, TAKEOVER, 1.0)
            for other in (first, second):
                other.sessions.attention("a", attention, 1.1)
        assert (first.here(), second.here()) == ([names[2]], [])


def test_a_session_that_moved_is_let_go_without_a_word() -> None:
    first, second = Place("c1"), Place("c2")
    first.attach("s1")
    assert first.sessions.attention("a", second.attach("s1", now=1.0), 1.1) == []
    assert (first.here(), second.here()) == ([], ["s1"])
    assert refusal_of(lambda: first.attach("s2", now=2.0)).code == "agent_id_in_use"


@pytest.mark.parametrize("moves_after", ["its attach", "a heartbeat"])
def test_one_that_took_over_still_goes_first_where_that_was_not_heard(moves_after: str) -> None:
    """The third coordinator, where the replaced one lives, missed the takeover."""
    second, third = Place("c2"), Place("c3")
    second.sessions.attention("a", third.attach("s1"), 0.0)
    second.attach("s2", TAKEOVER, 1.0)
    if moves_after == "a heartbeat":
        assert second.heartbeat("s2", 2.0) is None
    moved = second.attach("s2", now=3.0)
    ended = third.sessions.attention("a", moved, 3.1)
    assert [(session, control.kind) for session, control in ended] == [("s1", "superseded")]
    assert (second.here(), third.here()) == (["s2"], [])


RACES = {
    "neither takes over": (ATTACH, ATTACH, "s1"),
    "both take over": (TAKEOVER, TAKEOVER, "s1"),
    "the smaller takes over": (TAKEOVER, ATTACH, "s1"),
    "the greater takes over": (ATTACH, TAKEOVER, "s2"),
}


@pytest.mark.parametrize("race", RACES)
@pytest.mark.parametrize("earlier", ["", "s0", "s9"])
def test_of_two_that_attach_at_once_exactly_one_stays(race: str, earlier: str) -> None:
    """In every order in which three coordinators can hear of the two."""
    attach_1, attach_2, winner = RACES[race]
    for orders in itertools.product(itertools.permutations((0, 1)), repeat=3):
        places = [Place("c1"), Place("c2"), Place("c3")]
        if earlier:
            # An earlier process, at the third, that has been silent for long.
            news = places[2].attach(earlier, now=-100.0)
            for place in places[:2]:
                place.sessions.attention("a", news, -100.0)
        told: list[tuple[str, str]] = []
        _, one = places[0].sessions.attach("a", "s1", attach_1, 0.0)
        _, two = places[1].sessions.attach("a", "s2", attach_2, 0.0)
        for place, order in zip(places, orders, strict=True):
            for index in order:
                ended = place.sessions.attention("a", (one, two)[index], 0.1)
                told += [(session, control.kind) for session, control in ended]
        loser = "s2" if winner == "s1" else "s1"
        assert [place.here() for place in places] == [
            ["s1"] if winner == "s1" else [],
            ["s2"] if winner == "s2" else [],
            [],
        ]
        assert (loser, "superseded") in told
        assert (winner, "superseded") not in told
        # And all of them know who is in charge: nobody else may come …
        for place in places:
            refusal = refusal_of(partial(place.attach, "s5", now=1.0))
            assert refusal.code == "agent_id_in_use"
        # … but the winner may move.
        _, moved = places[2].sessions.attach("a", winner, ATTACH, 1.0)
        for place in places:
            place.sessions.attention("a", moved, 1.1)
        assert [place.here() for place in places] == [[], [], [winner]]


def test_the_loser_of_a_race_does_not_come_back_by_its_heartbeats() -> None:
    first, second = Place("c1"), Place("c2")
    _, one = first.sessions.attach("a", "s1", ATTACH, 0.0)
    _, two = second.sessions.attach("a", "s2", ATTACH, 0.0)
    for place in (first, second):
        place.sessions.attention("a", one, 0.1)
        place.sessions.attention("a", two, 0.2)
    for now in (1.0, 6.0, 11.0, 16.0):
        for place in (first, second):
            place.heartbeat("s1", now, to="c1")
            place.heartbeat("s2", now + 0.1, to="c2")
        assert (first.here(), second.here()) == (["s1"], [])


# --- heartbeats --------------------------------------------------------------------------


def test_a_heartbeat_states_the_free_slots() -> None:
    place = Place()
    place.attach("s1")
    assert place.heartbeat("s1", 1.0, number=3, slots=4) is None
    assert place.pool.idle() == {"t": 4}
    assert place.heartbeat("s1", 2.0, number=2, slots=9) is None
    assert place.pool.idle() == {"t": 4}


def test_a_heartbeat_adopts_a_session_that_names_this_coordinator() -> None:
    place = Place()
    assert place.heartbeat("s1", 1.0, slots=2) is None
    assert place.here() == ["s1"]
    assert place.pool.idle() == {"t": 2}


def test_a_heartbeat_that_names_another_lets_the_session_go() -> None:
    place = Place()
    place.members.heard(beat("c2"), 1.0)
    place.attach("s1")
    assert place.heartbeat("s1", 1.0, to="c2") is None
    assert place.here() == []


def test_a_superseded_process_that_did_not_hear_of_it_is_told_again() -> None:
    place = Place()
    place.attach("s1")
    place.attach("s2", TAKEOVER, 1.0)
    for now in (2.0, 7.0):
        control = place.heartbeat("s1", now)
        assert control is not None
        assert control.kind == "superseded"
        assert "'a'" in control.reason
        assert place.heartbeat("s2", now) is None
    assert place.here() == ["s2"]


def test_only_the_coordinator_that_it_names_tells_it_again() -> None:
    place = Place("c1")
    place.attach("s2")
    assert place.heartbeat("s1", 1.0, to="c2") is None


def test_a_session_lives_on_when_the_one_in_charge_fell_silent() -> None:
    place = Place()
    place.attach("s2")
    assert place.heartbeat("s1", SILENCE_S + 0.1) is None
    assert "s1" in place.here()
    control = place.heartbeat("s2", SILENCE_S + 0.2)
    assert control is not None
    assert control.kind == "superseded"


@pytest.mark.parametrize("session", ["", "a b", "a.b", "s\r\nPUB x", ">", "s" * 65])
def test_a_session_is_one_subject_token(session: str) -> None:
    place = Place()
    with pytest.raises(BadInput, match="session"):
        place.heartbeat(session, 1.0)
    assert not place.pool.sessions


@pytest.mark.parametrize("coordinators", [["c1"], ["c1", "c2"], ["c1", "c2", "c3", "c4", "c5"]])
def test_exactly_one_tells_an_agent_of_a_dead_coordinator_to_attach_again(
    coordinators: list[str],
) -> None:
    places = [Place(name) for name in coordinators]
    for place in places:
        for other in coordinators:
            place.members.heard(beat(other), 10.0)
    tellers: dict[str, int] = {}
    for number in range(300):
        agent = f"agent-{number}"
        said = Heartbeat("s1", "dead", 1, 1, ["t"])
        told = [p.name for p in places if p.sessions.heartbeat(agent, said, 10.1) is not None]
        assert len(told) == 1
        tellers[told[0]] = tellers.get(told[0], 0) + 1
    # Evenly: five standard deviations around the fair share of 300.
    share = 1 / len(coordinators)
    spread = 5 * (300 * share * (1 - share)) ** 0.5
    assert all(abs(count - 300 * share) <= spread for count in tellers.values())
    assert sorted(tellers) == coordinators


def test_one_that_hears_nobody_else_still_tells() -> None:
    place = Place("c1")
    control = place.heartbeat("s1", 10.0, to="dead")
    assert control == Control("reattach", reason="dead is not alive")
    assert place.here() == []


def test_nobody_tells_while_the_coordinator_beats() -> None:
    place = Place("c1")
    place.members.heard(beat("c2"), 9.0)
    assert place.heartbeat("s1", 10.0, to="c2") is None
    assert place.heartbeat("s1", 10.3, to="c2") == Control("reattach", reason="c2 is not alive")


# --- forgetting --------------------------------------------------------------------------


def test_the_silent_are_forgotten() -> None:
    place = Place()
    place.attach("s1")
    place.sessions.drop_silent(SILENCE_S)
    assert place.here() == ["s1"]
    place.sessions.drop_silent(SILENCE_S + 0.1)
    assert place.here() == []
    assert place.sessions._live == {}
    place.attach("s2", now=SILENCE_S + 0.2)


def test_free_slots_that_it_states_keep_a_session_attached_between_heartbeats() -> None:
    place = Place()
    place.attach("s1")
    slots = place.pool.sessions["a", "s1"]
    place.pool.update(slots, 2, 1, 0, 14.0)
    place.sessions.drop_silent(20.0)
    assert place.here() == ["s1"]


# --- two in charge -----------------------------------------------------------------------


def settle(places: list[Place], now: float) -> list[tuple[str, str]]:
    """Each place hears the heartbeats of what is attached at the others, and what is said then.

    (session, kind) of what the sessions are told.
    """
    told: list[tuple[str, str]] = []
    said: list[Attention] = []
    for place, other in itertools.product(places, repeat=2):
        place.members.heard(beat(other.name), now)
    attached = [(place.name, session) for place in places for session in place.here()]
    for name, session in attached:
        for other in places:
            control = other.heartbeat(session, now, to=name)
            told += [(session, control.kind)] if control is not None else []
            said += [one for one in [other.sessions.dispute("a", session)] if one is not None]
    rounds = 0
    while said:
        rounds += 1
        assert rounds < 5, "they never agree"
        answers: list[Attention] = []
        for heard in said:
            for place in places:
                ended = place.sessions.attention("a", heard, now)
                told += [(session, control.kind) for session, control in ended]
                answer = place.sessions.dispute("a", heard.session)
                answers += [answer] if answer is not None else []
        said = answers
    return told


@pytest.mark.parametrize("race", RACES)
@pytest.mark.parametrize(
    "known", ["nothing", "the other, by the first", "the other, by the second"]
)
@pytest.mark.parametrize("turned", [False, True])
def test_two_that_were_accepted_unheard_agree_by_their_heartbeats(
    race: str, known: str, turned: bool
) -> None:
    """One was down, or cut off, when the other accepted its session."""
    attach_1, attach_2, winner = RACES[race]
    first, second = Place("c1"), Place("c2")
    if known == "the other, by the first":
        first.sessions.attention("a", Attention("s2", "c2"), -2 * SILENCE_S)
        winner = "s1"
    elif known == "the other, by the second":
        second.sessions.attention("a", Attention("s1", "c1"), -2 * SILENCE_S)
        winner = "s2"
    first.attach("s1", attach_1)
    second.attach("s2", attach_2)
    assert (first.here(), second.here()) == (["s1"], ["s2"]), "both are in charge"

    told = settle([second, first] if turned else [first, second], 1.0)
    loser = "s2" if winner == "s1" else "s1"
    assert first.here() + second.here() == [winner]
    assert (loser, "superseded") in told
    assert (winner, "superseded") not in told
    assert settle([first, second], 2.0) == []


def test_who_is_in_charge_alone_disputes_nothing() -> None:
    first, second = Place("c1"), Place("c2")
    attention = first.attach("s1")
    second.sessions.attention("a", attention, 0.1)
    assert first.sessions.dispute("a", "s1") is None
    assert first.sessions.dispute("b", "s1") is None
    assert second.sessions.dispute("a", "s2") is None, "only where it is attached"
    assert first.sessions.dispute("a", "s2") == attention
