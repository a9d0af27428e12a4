"""Which faults happen when, to whom, for how long: drawn from a seed before a run begins.

Two rules shape a plan:

- there is one fault at a time for each role, and after one of a server a pause in which it
  catches up: so a majority of the servers is well, but for the faults that are meant to
  take it away (`two`);
- the kinds that a run must have shown come first, in an order that the seed decides; then
  the whole deck is dealt, again and again, shuffled anew each time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal

from msgspec import Struct

#: `kill`: SIGKILL, started again later.  `stop`: SIGSTOP, then SIGCONT.  `cut`: its link is
#: down.  `split`: two servers cannot reach one another, everybody else reaches both.
#: `restart`: SIGTERM, and a new start once it has ended.
Kind = Literal["kill", "stop", "cut", "split", "restart"]
Role = Literal["server", "coordinator", "router", "agent", "client"]
#: `any`: drawn.  `chief`: whoever leads the stream (server) or owns the shard (coordinator)
#: of a drawn shard when the fault begins.  `two`: two of three.
Pick = Literal["any", "chief", "two"]

#: These need links that can be cut.
LINK_KINDS: tuple[Kind, ...] = ("cut", "split")

#: Seconds after a server's fault in which no other begins.
CATCH_UP_S = 6.0
#: Between the end of one fault and the next.
PAUSE_S = (1.0, 4.0)
#: How often a second fault joins one, for another role.
JOINED = 0.4


class Card(Struct, frozen=True):
    """A kind of fault, and how long it lasts: from, to."""

    kind: Kind
    role: Role
    pick: Pick
    for_s: tuple[float, float]


class Fault(Struct, frozen=True):
    """One fault of a plan."""

    #: Seconds after the first moment of the plan.
    at_s: float
    kind: Kind
    role: Role
    pick: Pick
    #: Members that were drawn; the first one stands in where a chief cannot be found out.
    names: list[str]
    for_s: float
    #: Of a chief.
    shard: int = 0

    @property
    def label(self) -> str:
        """What it is called in reports."""
        return label(self.kind, self.role, self.pick)

    @property
    def end_s(self) -> float:
        """When it is over."""
        return self.at_s + self.for_s


class Cast(Struct, frozen=True):
    """Who there is: names by role."""

    servers: list[str]
    coordinators: list[str]
    routers: list[str]
    agents: list[str]
    clients: list[str]
    shards: int

    def of(self, role: Role) -> list[str]:
        """The names of this role."""
        by_role = {
            "server": self.servers,
            "coordinator": self.coordinators,
            "router": self.routers,
            "agent": self.agents,
            "client": self.clients,
        }
        return by_role[role]


def label(kind: Kind, role: Role, pick: Pick) -> str:
    """What a kind of fault is called in reports."""
    chiefs = {"server": "stream leader", "coordinator": "shard owner"}
    if kind == "split":
        return "split two servers"
    if pick == "two":
        return f"{kind} two {role}s"
    return f"{kind} {chiefs.get(role, role) if pick == 'chief' else role}"


#: From a blink to much longer than any takeover.
PAUSED = (0.5, 15.0)
DEAD = (0.3, 8.0)

#: What every run must have shown.
ESSENTIAL: tuple[Card, ...] = (
    Card("kill", "coordinator", "chief", (1.0, 5.0)),
    Card("stop", "coordinator", "chief", (4.0, 15.0)),
    Card("kill", "server", "chief", (1.0, 6.0)),
    Card("stop", "server", "chief", (3.0, 15.0)),
    Card("kill", "agent", "any", DEAD),
    Card("stop", "agent", "any", (2.0, 20.0)),
    Card("kill", "router", "any", DEAD),
    Card("cut", "coordinator", "chief", (2.0, 15.0)),
    Card("cut", "server", "chief", (2.0, 15.0)),
    Card("cut", "agent", "any", (2.0, 20.0)),
)

#: Dealt again and again, as often as it stands here.
DECK: tuple[Card, ...] = (
    *ESSENTIAL,
    Card("kill", "coordinator", "chief", DEAD),
    Card("kill", "coordinator", "any", DEAD),
    Card("stop", "coordinator", "chief", PAUSED),
    Card("stop", "coordinator", "chief", PAUSED),
    Card("stop", "coordinator", "any", PAUSED),
    Card("restart", "coordinator", "chief", (0.2, 3.0)),
    Card("cut", "coordinator", "chief", PAUSED),
    Card("kill", "coordinator", "two", DEAD),
    Card("stop", "coordinator", "two", PAUSED),
    Card("kill", "server", "chief", DEAD),
    Card("kill", "server", "any", DEAD),
    Card("stop", "server", "chief", PAUSED),
    Card("stop", "server", "any", PAUSED),
    Card("restart", "server", "any", (0.2, 3.0)),
    Card("cut", "server", "any", PAUSED),
    Card("split", "server", "two", (2.0, 15.0)),
    Card("kill", "server", "two", (0.5, 5.0)),
    Card("stop", "server", "two", (0.5, 5.0)),
    Card("cut", "server", "two", (0.5, 5.0)),
    Card("kill", "agent", "any", DEAD),
    Card("kill", "agent", "two", DEAD),
    Card("stop", "agent", "any", PAUSED),
    Card("cut", "agent", "any", PAUSED),
    Card("restart", "agent", "any", (0.2, 3.0)),
    Card("stop", "router", "any", PAUSED),
    Card("cut", "router", "any", PAUSED),
    Card("kill", "router", "two", (0.3, 3.0)),
    Card("cut", "client", "any", PAUSED),
    Card("stop", "client", "any", PAUSED),
)


def draw(rng: Random, cast: Cast, seconds: float, *, links: bool) -> list[Fault]:
    """The faults of a run whose last one is over after `seconds`, in the order of `at_s`.

    `links`: whether links can be cut; without, the kinds that need it are left out.
    """
    faults: list[Fault] = []
    cards = _deal(rng, links=links)
    # When the next fault may begin, and by role when that one may.
    at_s = 1.0
    free_s: dict[Role, float] = {}
    while True:
        card = next(cards)
        start_s = max(at_s, free_s.get(card.role, 0.0))
        fault = _fault(rng, cast, card, start_s)
        if fault.end_s > seconds:
            return sorted(faults, key=lambda one: one.at_s)
        faults.append(fault)
        _take(free_s, fault)
        end_s = fault.end_s
        if rng.random() < JOINED:
            other = next(cards)
            joined_s = rng.uniform(start_s, fault.end_s)
            joined = _fault(rng, cast, other, max(joined_s, free_s.get(other.role, 0.0)))
            if joined.end_s <= seconds:
                faults.append(joined)
                _take(free_s, joined)
                end_s = max(end_s, joined.end_s)
        at_s = end_s + rng.uniform(*PAUSE_S)


def draw_short(rng: Random, cast: Cast, *, links: bool) -> list[Fault]:
    """The essential faults once, two at a time and none for long: some 30 s."""
    cards = [card for card in ESSENTIAL if links or card.kind not in LINK_KINDS]
    rng.shuffle(cards)
    faults: list[Fault] = []
    at_s = 0.5
    free_s: dict[Role, float] = {}
    while cards:
        card = cards.pop(0)
        pair = [card, *_partner(cards, card)]
        for one in pair:
            shorter = Card(one.kind, one.role, one.pick, _shortened(one.for_s))
            fault = _fault(rng, cast, shorter, max(at_s, free_s.get(one.role, 0.0)))
            faults.append(fault)
            _take(free_s, fault, catch_up_s=1.0)
        at_s = max(fault.end_s for fault in faults) + 0.5
    return sorted(faults, key=lambda one: one.at_s)


def _deal(rng: Random, *, links: bool) -> Iterator[Card]:
    deck: Sequence[Card] = ESSENTIAL
    while True:
        cards = [card for card in deck if links or card.kind not in LINK_KINDS]
        rng.shuffle(cards)
        yield from cards
        deck = DECK


def _partner(cards: list[Card], card: Card) -> list[Card]:
    """Take the first card of another role out of `cards`; [] without any."""
    for index, other in enumerate(cards):
        if other.role != card.role:
            return [cards.pop(index)]
    return []


def _shortened(for_s: tuple[float, float]) -> tuple[float, float]:
    return for_s[0], min(for_s[1], max(for_s[0], 4.0))


def _fault(rng: Random, cast: Cast, card: Card, at_s: float) -> Fault:
    names = list(cast.of(card.role))
    rng.shuffle(names)
    low, high = card.for_s
    # Short ones as often as long ones: each doubling of the time is as likely.
    for_s = math.exp(rng.uniform(math.log(low), math.log(high)))
    return Fault(
        at_s=round(at_s, 3),
        kind=card.kind,
        role=card.role,
        pick=card.pick,
        names=names[: 2 if card.pick == "two" else 1],
        for_s=round(for_s, 3),
        shard=rng.randrange(cast.shards),
    )


def _take(free_s: dict[Role, float], fault: Fault, catch_up_s: float = CATCH_UP_S) -> None:
    """Note when the next fault of its role may begin."""
    rest_s = catch_up_s if fault.role == "server" else 0.5
    free_s[fault.role] = fault.end_s + rest_s
