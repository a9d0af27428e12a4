"""The same idempotency key with other content: which item has it, and what is kept of it.

An item that is in the log has its key; whatever comes under it later is refused.  Within
one submission none is yet: there `CONFLICT_RESOLUTION` picks.  All of them were made at
the same time, so that by ``timestamp`` the first of the list has it; by ``priority`` the
most urgent item, of equals the first; by ``random`` any.
"""

from __future__ import annotations

from msgspec import Raw

from swarm.core.checks import read_item
from swarm.core.conflicts import SIDE_CHARS_MAX, best_first
from swarm.core.decide.batch import Batch
from swarm.messages import Conflict


def prefers_later(first: Raw, later: Raw, out: Batch) -> bool:
    """Whether of two new items under one key the later one is to have it."""
    sides = [read_item(first), read_item(later)]
    best = best_first(sides, out.policy, lambda _: 0, lambda spec: spec.priority, out.rng)[0]
    return best is sides[1]


def told(name: str, kept: Raw | None, dropped: Raw, policy: str) -> Conflict:
    """What is kept of an item that was refused, as its key is that of work item `name`.

    `kept`: that item; None: it is archived.
    """
    key = read_item(dropped).idempotency_key
    assert key, "without a key nothing is known again"
    text = _start(kept) if kept is not None else "(archived)"
    return Conflict("idempotency", f"key {key}", f"{name}: {text}", _start(dropped), policy)


def _start(raw: Raw) -> str:
    """The beginning of an item's JSON, for people."""
    begun = bytes(memoryview(raw)[: 4 * SIDE_CHARS_MAX])
    return begun.decode("utf-8", "replace")[:SIDE_CHARS_MAX]
