"""Dependencies between shards: is there an outcome that nobody will ever hear of?

The dependent's shard asks until it hears, the other shard tells until it is heard, so
that an edge can only be lost if the one that tells believes to be heard and the
dependent's log does not have it.  Two logs are never read at the same moment: what looks
lost must be looked up in the dependent's log once more (`Unheard.after`).
"""

from __future__ import annotations

from msgspec import Struct

from swarm.core.audit.ledger import Ledger
from swarm.core.audit.lives import pending, untold
from swarm.errors import BadInput
from swarm.subjects import item_id, parse_item_id


class Edges(Struct):
    """The edges of one shard, from both sides, as of entry `seq`."""

    shard: int
    seq: int
    next_number: int
    #: (dependent here, id of what it waits for) -> what it knows of that.
    pending: dict[tuple[int, str], str]
    #: (item here, dependent) of those that are to be told.
    watched: set[tuple[int, str]]
    #: Of these, the ones whose item has ended: told again until they are heard.
    outbox: set[tuple[int, str]]
    #: (item here, dependent) -> outcome that the dependent is said to have logged.
    told: dict[tuple[int, str], str]


class Unheard(Struct, frozen=True):
    """An outcome that one log says was heard, and the dependent's log does not have."""

    shard: int
    dependent: int
    on: str
    status: str
    #: The dependent's log was read up to here.
    after: int


class EdgeCounts(Struct):
    """How the open edges stand."""

    #: Outcomes that blocked items wait for.
    pending: int = 0
    #: Of these: the edge is in the other log; its owner will be asked (again); the other
    #: shard was not looked at; there is no such item (then the owner says so).
    registered: int = 0
    asked_again: int = 0
    elsewhere: int = 0
    nowhere: int = 0
    #: Outcomes that are told until they are heard.
    outbox: int = 0


def edges_of(shard: int, seq: int, ledger: Ledger) -> Edges:
    """What the ledger says of edges."""
    edges = Edges(shard, seq, ledger.next_number, {}, set(), set(), dict(ledger.told))
    for number, life in ledger.lives.items():
        if life.status == "blocked":
            for on in pending(life):
                edges.pending[number, on] = (life.depends or {})[on]
        for dependent, told in (life.dependents or {}).items():
            edges.watched.add((number, dependent))
            if told:
                edges.told.setdefault((number, dependent), told)
        edges.outbox.update((number, dependent) for dependent in untold(life))
    return edges


def unheard(all_edges: dict[int, Edges]) -> list[Unheard]:
    """Outcomes that look lost."""
    found: list[Unheard] = []
    for edges in all_edges.values():
        for (number, on), known in edges.pending.items():
            shard, on_number = _parse(on)
            other = all_edges.get(shard)
            if other is None:
                continue
            told = other.told.get((on_number, item_id(edges.shard, number)), "")
            if (
                told
                and told != known
                and (on_number, item_id(edges.shard, number)) not in (other.outbox)
            ):
                found.append(Unheard(edges.shard, number, on, told, edges.seq))
    return found


def count_edges(edges: Edges, all_edges: dict[int, Edges]) -> EdgeCounts:
    """How the open edges of this shard stand."""
    counts = EdgeCounts(pending=len(edges.pending), outbox=len(edges.outbox))
    for number, on in edges.pending:
        shard, on_number = _parse(on)
        other = all_edges.get(shard)
        if other is None:
            counts.elsewhere += 1
        elif (on_number, item_id(edges.shard, number)) in other.watched:
            counts.registered += 1
        elif not 0 < on_number < other.next_number:
            counts.nowhere += 1
        else:
            counts.asked_again += 1
    return counts


def _parse(name: str) -> tuple[int, int]:
    try:
        return parse_item_id(name)
    except BadInput:
        return -1, 0  # admission refuses it
