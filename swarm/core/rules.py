"""Routing rules: which coordinators take the submissions of which kind.

One a line, ``feature -> coordinator-1:4000``.  What stands left is compared with what the
submission is routed by (`ROUTING_KEY`): a whole value, a prefix (``doc*``), or ``*`` for all
the rest; the most specific rule wins, whatever the order.  To the right there may be
several coordinators, separated by commas, and ``@bug_fix`` stands for the targets of the
rule for ``bug_fix``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from msgspec import Struct

from swarm.errors import BadConfig
from swarm.messages import PRIORITIES, TOKEN_PATTERN

ROUTING_KEYS = ("work_type", "priority", "team", "label")

#: Rules of one swarm, and coordinators of one rule.
RULES_MAX = 1000
TARGETS_MAX = 64
#: References that lead from one rule to the next.
REFERENCES_MAX = 16

_TOKEN = re.compile(TOKEN_PATTERN)
_PREFIX = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}\*$")
_TARGET = re.compile(r"^([A-Za-z0-9][A-Za-z0-9_-]{0,63})(?::([0-9]{1,5}))?$")
_FORM = "write: {what} -> coordinator:port, or several of them separated by commas"
_EXAMPLES = {"work_type": "feature", "priority": "high", "team": "core", "label": "region=eu"}


class Rule(Struct, frozen=True):
    """One line, its references resolved."""

    line: int
    pattern: str
    #: Names of coordinators, in the order in which they stand there.
    targets: tuple[str, ...]


class Rules:
    """Rules by one key.  `parse_rules` makes them."""

    def __init__(self, key: str, rules: Collection[Rule]) -> None:
        assert key in ROUTING_KEYS, f"{key!r} is nothing to route by"
        self.key = key
        self.all = tuple(rules)
        self._exact = {rule.pattern: rule for rule in rules if not rule.pattern.endswith("*")}
        prefixes = [rule for rule in rules if rule.pattern.endswith("*")]
        #: The longest first; the rest, ``*``, is the shortest.
        self._prefixes = sorted(prefixes, key=lambda rule: -len(rule.pattern))
        assert len(self._exact) + len(prefixes) == len(self.all), "no two rules for the same"

    def match(self, *values: str) -> Rule | None:
        """The most specific rule for any of these values; None if there is none.

        Several values: the labels of a submission.  None, or an empty one: only ``*`` fits.
        """
        for value in values:
            rule = self._exact.get(value) if value else None
            if rule is not None:
                return rule
        for rule in self._prefixes:
            start = rule.pattern[:-1]
            if not start or any(value.startswith(start) for value in values):
                return rule
        return None

    def lines(self) -> list[str]:
        """The rules as text, references resolved."""
        return [f"{rule.pattern} -> {', '.join(rule.targets)}" for rule in self.all]


NO_RULES = Rules("work_type", ())


def parse_rules(text: str, key: str = "work_type", known: Collection[str] | None = None) -> Rules:
    """The rules in `text`; blank lines, and lines that begin with ``#``, are skipped.

    `known`: the coordinators that there are; None: any name will do.  Raises `BadConfig`
    that names the line, what is wrong with it, and what is allowed.
    """
    written: dict[str, tuple[int, list[str]]] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        pattern, targets = _split(number, line, key)
        if pattern in written:
            raise _bad(
                number,
                f"a second rule for {pattern!r} (the first is in line {written[pattern][0]}); "
                "write one rule with all its coordinators",
            )
        written[pattern] = (number, targets)
        if len(written) > RULES_MAX:
            raise _bad(number, f"more than {RULES_MAX} rules; use prefixes, like doc*")
    resolver = _Resolver(written, known)
    rules = []
    for pattern, (number, _) in written.items():
        found = resolver.targets(pattern)
        assert found, "a line without a target is no rule"
        if len(found) > TARGETS_MAX:
            raise _bad(number, f"{len(found)} coordinators; at most {TARGETS_MAX} are allowed")
        rules.append(Rule(number, pattern, found))
    return Rules(key, rules)


def _split(number: int, line: str, key: str) -> tuple[str, list[str]]:
    """(pattern, targets as written) of a line."""
    left, arrow, right = line.rpartition("->")
    pattern = left.strip()
    targets = [word.strip() for word in right.split(",")]
    if not arrow or not pattern or not all(targets):
        form = _FORM.format(what=_EXAMPLES[key])
        raise _bad(number, f"{line!r} is no rule; {form}")
    _check_pattern(number, pattern, key)
    for target in targets:
        _check_target(number, target, key)
    for target in targets:
        if targets.count(target) > 1:
            raise _bad(number, f"{target!r} is there twice")
    return pattern, targets


def _check_pattern(number: int, pattern: str, key: str) -> None:
    if pattern == "*":
        return
    if "*" in pattern[:-1]:
        raise _bad(number, f"{pattern!r}: * stands at the end, like doc*, or alone")
    if key == "priority":
        if pattern not in PRIORITIES:
            allowed = ", ".join(PRIORITIES)
            raise _bad(number, f"{pattern!r} is no priority; allowed: {allowed}, *")
    elif key == "work_type":
        if not (_TOKEN.match(pattern) or _PREFIX.match(pattern)):
            raise _bad(
                number,
                f"{pattern!r} is no work type: 1 to 64 letters, digits, '_' or '-', beginning "
                "with a letter or digit, or the beginning of one and *",
            )
    elif len(pattern) > 513 or any(ord(letter) < 32 for letter in pattern):
        raise _bad(number, f"{pattern[:80]!r} is too long, or has control characters in it")
    elif key == "label" and not re.match(r"^[^=]+=", pattern):
        raise _bad(number, f"{pattern!r} is no label; write name=value, name=* or name=begin*")


def _check_target(number: int, target: str, key: str) -> None:
    if target.startswith("@") and len(target) > 1:
        return
    match = _TARGET.match(target)
    if match is None or (match[2] is not None and not 1 <= int(match[2]) <= 65_535):
        form = _FORM.format(what=_EXAMPLES[key])
        raise _bad(number, f"{target!r} is no coordinator[:port]; {form}")


class _Resolver:
    """Replaces references by what they stand for; each rule is looked at once."""

    def __init__(
        self, written: Mapping[str, tuple[int, list[str]]], known: Collection[str] | None
    ) -> None:
        self._written = written
        self._known = known
        self._found: dict[str, tuple[str, ...]] = {}

    def targets(self, pattern: str, way: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The coordinators of this rule; `way`: the rules that led here."""
        if pattern in self._found:
            return self._found[pattern]
        number, targets = self._written[pattern]
        if pattern in way:
            circle = " -> @".join((*way[way.index(pattern) :], pattern))
            raise _bad(number, f"the rules refer to each other in a circle: {circle}")
        if len(way) > REFERENCES_MAX:
            raise _bad(number, f"more than {REFERENCES_MAX} references (@) one after another")
        found: dict[str, None] = {}
        for target in targets:
            if not target.startswith("@"):
                found[self._coordinator(number, target)] = None
            elif target[1:] in self._written:
                found |= dict.fromkeys(self.targets(target[1:], (*way, pattern)))
            else:
                raise _bad(number, f"{target!r}: there is no rule for {target[1:]!r}")
        self._found[pattern] = tuple(found)
        return self._found[pattern]

    def _coordinator(self, number: int, target: str) -> str:
        name = target.partition(":")[0]
        if self._known is None or name in self._known:
            return name
        hint = f"; for what the rule for {name!r} says, write @{name}"
        raise _bad(
            number,
            f"{name!r} is no coordinator of this swarm; there are: "
            f"{', '.join(sorted(self._known)) or 'none'}{hint if name in self._written else ''}",
        )


def _bad(number: int, what: str) -> BadConfig:
    return BadConfig(f"routing rules, line {number}: {what}")
