"""Two that disagree: what picks between them, and what is kept of it.

The logs decide first: what is durable, and perhaps acknowledged, stays, and whoever comes
later is refused.  A policy (`CONFLICT_RESOLUTION`) only picks between *equals*: those that
wait at the same place at the same time, none of them decided yet.

| policy | who is first |
|---|---|
| timestamp | the later one |
| priority | the more urgent one, by the priority that it says itself |
| random | any |

Those that a policy cannot tell apart stay in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from msgspec import structs

from swarm.messages import PRIORITIES, Conflict, Priority

CONFLICT_RESOLUTIONS = ("timestamp", "priority", "random")
#: Most characters of each side of a conflict.  (All that is remembered fits into an entry.)
SIDE_CHARS_MAX = 300
#: Kinds of conflicts, about one thing each, that wait to be told to the leader.
UNTOLD_MAX = 100

Side = TypeVar("Side")


def best_first(
    sides: Sequence[Side],
    policy: str,
    made_ms: Callable[[Side], int],
    priority: Callable[[Side], Priority],
    rng: Callable[[], float],
) -> list[Side]:
    """Equals in the order in which `policy` prefers them.

    `made_ms`: when each was made; `priority`: what each says of itself; `rng`: 0 to 1.
    """
    assert policy in CONFLICT_RESOLUTIONS, f"{policy!r} is no policy"
    if policy == "timestamp":
        return sorted(sides, key=made_ms, reverse=True)
    if policy == "priority":
        return sorted(sides, key=lambda side: PRIORITIES.index(priority(side)))
    drawn = sorted((rng(), place) for place in range(len(sides)))
    assert len(drawn) == len(sides), "each has its place"
    return [sides[place] for _, place in drawn]


def short(conflict: Conflict) -> Conflict:
    """The conflict with sides that are not too long to be kept."""
    cut = {name: getattr(conflict, name)[:SIDE_CHARS_MAX] for name in ("about", "kept", "dropped")}
    return structs.replace(conflict, **cut)


class Untold:
    """Conflicts that the leader is yet to be told.

    Those about the same thing are one, which counts them.  When there are too many
    different ones, further ones are only counted, with the latest of their kind.
    """

    def __init__(self) -> None:
        self._conflicts: dict[tuple[str, str, str], Conflict] = {}

    def __len__(self) -> int:
        return len(self._conflicts)

    def note(self, conflict: Conflict) -> None:
        """Add one."""
        assert conflict.count > 0, "it has happened"
        key: tuple[str, str, str] = (conflict.kind, conflict.policy, conflict.about)
        if key not in self._conflicts and len(self) >= UNTOLD_MAX:
            alike = [other for other in self._conflicts if other[:2] == key[:2]]
            key = alike[-1] if alike else key
        known = self._conflicts.get(key)
        if known is None:
            self._conflicts[key] = short(conflict)
        else:
            self._conflicts[key] = structs.replace(known, count=known.count + conflict.count)

    def take(self, most: int) -> list[Conflict]:
        """At most so many, oldest first; they are the caller's to tell."""
        assert most > 0, "nothing would ever be told"
        keys = list(self._conflicts)[:most]
        return [self._conflicts.pop(key) for key in keys]
