"""Which coordinator gets a submission or a new agent: rules by work type, then balancing."""

from __future__ import annotations

import re
from collections.abc import Mapping

from swarm.errors import BadConfig
from swarm.messages import TOKEN_PATTERN, Beat

_RULE = re.compile(r"^(\S+)\s*->\s*([A-Za-z0-9][A-Za-z0-9_-]{0,63})(?::[0-9]{1,5})?$")
_TYPE = re.compile(TOKEN_PATTERN)


def parse_rules(text: str) -> dict[str, str]:
    """Coordinator by work type, from lines ``work_type -> coordinator[:port]``.

    Blank lines and lines beginning with ``#`` are skipped.  Raises `BadConfig` that names
    the line.
    """
    rules: dict[str, str] = {}
    for number, written in enumerate(text.splitlines(), start=1):
        line = written.strip()
        if not line or line.startswith("#"):
            continue
        match = _RULE.match(line)
        if match is None or not _TYPE.match(match[1]):
            raise BadConfig(
                f"routing rules, line {number}: {line!r} is no rule; "
                "write: work_type -> coordinator:port"
            )
        if match[1] in rules:
            raise BadConfig(f"routing rules, line {number}: a second rule for {match[1]!r}")
        rules[match[1]] = match[2]
    return rules


def least_connections(live: Mapping[str, Beat], given: Mapping[str, int]) -> str | None:
    """The coordinator with the fewest sessions; None if there is nobody to choose.

    `given`: what was sent to each since its latest beat, which that beat does not count
    yet.  Without it, everybody who joins between two beats would go to the same one.
    """
    candidates = [name for name, beat in live.items() if not beat.draining]
    if not candidates:
        return None
    return min(candidates, key=lambda name: (live[name].sessions + given.get(name, 0), name))


def choose(
    rules: Mapping[str, str], work_type: str, live: Mapping[str, Beat], given: Mapping[str, int]
) -> str | None:
    """Where a submission of this type goes: its rule's target if alive, else by balance."""
    target = rules.get(work_type)
    if target is not None and target in live and not live[target].draining:
        return target
    return least_connections(live, given)
