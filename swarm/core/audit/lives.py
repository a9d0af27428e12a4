"""What may happen to an item when, and what comes of it: rules of their own.

They say the same as `swarm.core.life` from the point of view of an auditor: who holds the
item, under which fence, whether it has ended.  They share no code with it, so that one
can be held against the other.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from swarm.messages import (
    Answered,
    Asked,
    Cancelled,
    Claimed,
    Completed,
    Died,
    Event,
    Item,
    NewItem,
    Prioritized,
    Progressed,
    Released,
    Replayed,
    Resolved,
    Retried,
    Status,
    Told,
    Waited,
    Watched,
)

_read = msgspec.json.Decoder(NewItem).decode

LIVE: frozenset[Status] = frozenset({"queued", "scheduled", "blocked", "waiting", "claimed"})
OVER: frozenset[Status] = frozenset({"completed", "dead", "cancelled"})

#: In which states of its item each event may come.
ALLOWED: dict[type[Event], frozenset[Status]] = {
    Claimed: frozenset({"queued"}),
    Progressed: frozenset({"claimed"}),
    Completed: frozenset({"claimed"}),
    Retried: frozenset({"claimed"}),
    Released: frozenset({"claimed"}),
    Waited: frozenset({"claimed"}),
    Asked: frozenset({"claimed"}),
    Died: LIVE,
    Cancelled: LIVE,
    Answered: frozenset({"waiting"}),
    Prioritized: LIVE,
    # Of a queued or claimed item it changes nothing, but is remembered.
    Replayed: frozenset({"dead", "scheduled", "blocked", "queued", "claimed"}),
    Watched: LIVE | OVER,
    Told: OVER,
    Resolved: LIVE,
}

#: Those that name the fence of the item's latest claim; `Claimed` the next one.
FENCED = (Completed, Retried, Released, Waited, Died, Cancelled)

#: Those whose command must be remembered by its id.  (How an item ended tells by itself
#: whether a `complete` or a last `fail` was carried out.)
REMEMBERED = (
    Claimed,
    Progressed,
    Released,
    Retried,
    Waited,
    Answered,
    Asked,
    Cancelled,
    Prioritized,
    Replayed,
)


class Holder(Struct, gc=False, frozen=True):
    """Who holds an item by its latest claim."""

    agent: str
    session: str
    #: Nonce of the owner that issued the claim.
    nonce: str


class Life(Struct, gc=False):
    """One item, as far as an auditor cares."""

    status: Status
    #: Sequence of the entry that stated the item whole last.
    stated: int
    not_before: float = 0.0
    fence: int = 0
    attempt: int = 0
    holder: Holder | None = None
    #: When a pause is over; 0: nobody knows.
    until: float = 0.0
    runs_anyway: bool = False
    #: What it depends on, and how that ended ("" if it has not).
    depends: dict[str, str] | None = None
    #: What depends on it, and the outcome that was logged there.
    dependents: dict[str, str] | None = None


def born(raw: Raw, now: float, seq: int) -> tuple[Life, str]:
    """A submitted item, and its idempotency key."""
    spec = _read(raw)
    life = Life("queued", seq, spec.not_before, runs_anyway=spec.on_dependency_failure == "run")
    if spec.dependencies:
        life.status, life.depends = "blocked", dict.fromkeys(spec.dependencies, "")
    else:
        _schedule(life, spec.not_before, now)
    return life, spec.idempotency_key


def copied(item: Item, seq: int) -> Life:
    """An item of which nothing was known before it was stated again."""
    assert item.fence >= item.attempt >= 0, "every attempt has a fence"
    spec = _read(item.spec)
    life = Life(item.status, seq, spec.not_before, item.fence, item.attempt)
    life.runs_anyway = spec.on_dependency_failure == "run"
    if item.hold is not None:
        nonce = item.hold.token.split(".")[1]
        life.holder = Holder(item.hold.agent, item.hold.session, nonce)
    if item.pause is not None:
        life.until = item.pause.until
    if item.story is not None and item.story.depends:
        life.depends = {on: str(known.status) for on, known in item.story.depends.items()}
    if item.story is not None and item.story.dependents:
        life.dependents = dict(item.story.dependents)
    return life


def unlike(life: Life, item: Item) -> str:
    """How an item, as the swarm's own fold or a copy has it, differs; "" if it does not."""
    for what, ours, theirs in (
        ("status", life.status, item.status),
        ("fence", life.fence, item.fence),
        ("attempts", life.attempt, item.attempt),
        ("holder", _of_life(life), _of_item(item)),
    ):
        if ours != theirs:
            return f"its {what} is {ours} by its events, but {theirs} here"
    return ""


def _of_life(life: Life) -> str:
    holder = life.holder
    return f"{holder.agent} ({life.fence}.{holder.nonce}.{holder.session})" if holder else "nobody"


def _of_item(item: Item) -> str:
    return f"{item.hold.agent} ({item.hold.token})" if item.hold is not None else "nobody"


def pending(life: Life) -> list[str]:
    """Outcomes that the item waits for."""
    return [
        on
        for on, status in (life.depends or {}).items()
        if status != "completed" and not (status and life.runs_anyway)
    ]


def untold(life: Life) -> list[str]:
    """Dependents that have not logged how the item ended."""
    if life.status not in OVER:
        return []
    return [name for name, told in (life.dependents or {}).items() if told != life.status]


def complaint(life: Life, event: Event) -> str:
    """Why this event may not happen to the item as it is; "" if it may."""
    kind = type(event)
    if life.status not in ALLOWED[kind]:
        held = f" by {life.holder.agent}" if life.holder else ""
        return f"`{_name(event)}`, but it is {life.status}{held}"
    if isinstance(event, Claimed) and event.fence != life.fence + 1:
        return f"claimed under fence {event.fence} after fence {life.fence}"
    if isinstance(event, FENCED) and event.fence != life.fence:
        return f"`{_name(event)}` under fence {event.fence}, its claim has fence {life.fence}"
    if isinstance(event, Told) and event.status != life.status:
        return f"{event.dependent} was told {event.status}, it is {life.status}"
    if isinstance(event, Resolved) and event.on not in (life.depends or {}):
        return f"the outcome of {event.on}, which it does not depend on"
    return ""


def is_about_holding(event: Event) -> bool:
    """Whether a complaint about this event is one about who holds the item."""
    return isinstance(event, (Claimed, Progressed, *FENCED))


def happens(life: Life, event: Event, now: float, nonce: str) -> None:
    """The event, in an entry of this time and owner, happens to the item, allowed or not."""
    match event:
        case Claimed():
            life.status, life.fence, life.until = "claimed", event.fence, 0.0
            life.attempt += 1
            life.holder = Holder(event.agent, event.session, nonce)
        case Completed():
            _end(life, "completed")
        case Died():
            _end(life, "dead")
        case Cancelled():
            _end(life, "cancelled")
        case Retried():
            life.holder = None
            _schedule(life, event.until, now)
        case Released():
            life.holder = None
            if event.cause not in ("lapsed", "stalled"):
                life.attempt -= 1
            _schedule(life, 0.0, now)
        case Waited():
            life.status, life.holder, life.until = "waiting", None, event.until
            life.attempt -= 1
        case Answered():
            _schedule(life, 0.0, now)
        case Replayed() if life.status in ("queued", "claimed"):
            pass
        case Replayed():
            if life.status in OVER:
                life.attempt = 0
            _schedule(life, 0.0, now)
        case Resolved():
            _resolve(life, event, now)
        case Watched() | Told():
            _edge(life, event)
        case _:
            assert type(event) in ALLOWED, f"{event} is not about an item"


def _end(life: Life, status: Status) -> None:
    life.status, life.holder, life.until = status, None, 0.0


def _edge(life: Life, event: Watched | Told) -> None:
    if life.dependents is None:
        life.dependents = {}
    if isinstance(event, Watched):
        life.dependents.setdefault(event.dependent, "")
    elif event.status == "dead":
        # It may be brought back, and end otherwise.
        life.dependents[event.dependent] = event.status
    else:
        life.dependents.pop(event.dependent, None)


def _resolve(life: Life, event: Resolved, now: float) -> None:
    if life.depends is None:
        life.depends = {}
    life.depends[event.on] = event.status
    if life.status == "blocked" and not pending(life):
        _schedule(life, life.not_before, now)


def _schedule(life: Life, until: float, now: float) -> None:
    assert now >= 0, "times are seconds since the epoch"
    life.status, life.until = ("scheduled", until) if until > now else ("queued", 0.0)


def _name(event: Event) -> str:
    return type(event).__name__.lower()
