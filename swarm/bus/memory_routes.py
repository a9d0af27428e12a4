"""Subjects to subscribers, as a NATS server matches them: `*`, `>` and queue groups."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class Routed(Protocol):
    """What `Routes` asks of a subscriber."""

    @property
    def number(self) -> int:
        """Of the order in which subscribers came; unique."""
        ...

    @property
    def queue(self) -> str:
        """Its queue group, or empty."""
        ...


S = TypeVar("S", bound=Routed)

#: Remembered plans; one-time reply subjects must not fill the memory.
PLANS_MAX = 8192


class Plan(Generic[S]):
    """Who gets a message on one subject: each of `singles`, and one of each group."""

    __slots__ = ("groups", "singles")

    def __init__(self, matching: list[S]) -> None:
        matching.sort(key=lambda subscriber: subscriber.number)
        groups: dict[str, list[S]] = {}
        for subscriber in matching:
            if subscriber.queue:
                groups.setdefault(subscriber.queue, []).append(subscriber)
        self.singles = [subscriber for subscriber in matching if not subscriber.queue]
        self.groups = list(groups.values())


class _Level(Generic[S]):
    """One token deep in the tree of patterns."""

    __slots__ = ("below", "ending", "rest")

    def __init__(self) -> None:
        #: By the next token of the pattern, ``*`` among them.
        self.below: dict[str, _Level[S]] = {}
        #: Subscribers whose pattern ends here.
        self.ending: list[S] = []
        #: Subscribers whose pattern goes on with ``>``.
        self.rest: list[S] = []


class Routes(Generic[S]):
    """All subscribers of a world, by pattern."""

    def __init__(self) -> None:
        self._root: _Level[S] = _Level()
        self._plans: dict[str, Plan[S]] = {}

    def add(self, pattern: str, subscriber: S) -> None:
        """Route what matches `pattern` to `subscriber`."""
        tokens, rest = _split_pattern(pattern)
        level = self._root
        for token in tokens:
            level = level.below.setdefault(token, _Level())
        (level.rest if rest else level.ending).append(subscriber)
        self._plans.clear()

    def remove(self, pattern: str, subscriber: S) -> None:
        """Undo `add`; nothing happens if it was not there."""
        tokens, rest = _split_pattern(pattern)
        path = [self._root]
        for token in tokens:
            level = path[-1].below.get(token)
            if level is None:
                return
            path.append(level)
        members = path[-1].rest if rest else path[-1].ending
        if subscriber not in members:
            return
        members.remove(subscriber)
        for token, parent, level in zip(
            reversed(tokens), reversed(path[:-1]), reversed(path[1:]), strict=True
        ):
            if level.below or level.ending or level.rest:
                break
            del parent.below[token]
        self._plans.clear()

    def plan(self, subject: str, remember: bool = True) -> Plan[S]:
        """Who gets a message on `subject`.  Raises ValueError if none can be sent there.

        `remember`: whether the subject is likely to be used again.
        """
        plan = self._plans.get(subject)
        if plan is not None:
            return plan
        check_subject(subject)
        matching: list[S] = []
        _collect(self._root, subject.split("."), 0, matching)
        plan = Plan(matching)
        if remember:
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            self._plans[subject] = plan
        return plan


def check_subject(subject: str) -> None:
    """Raise ValueError unless a message can be sent to `subject`."""
    tokens = subject.split(".")
    if not all(tokens) or "*" in tokens or ">" in tokens or any(map(str.isspace, subject)):
        raise ValueError(
            f"nothing can be sent to the subject {subject!r}: "
            "tokens are not empty, have no blanks and are not * or >"
        )


def check_pattern(pattern: str) -> None:
    """Raise ValueError unless `pattern` can be subscribed to."""
    tokens = pattern.split(".")
    if not all(tokens) or ">" in tokens[:-1] or any(map(str.isspace, pattern)):
        raise ValueError(
            f"{pattern!r} is no subject pattern: tokens are not empty, have no blanks, "
            "and > stands only at the end"
        )


def _split_pattern(pattern: str) -> tuple[list[str], bool]:
    """Tokens before ``>``, and whether there is one."""
    check_pattern(pattern)
    tokens = pattern.split(".")
    return (tokens[:-1], True) if tokens[-1] == ">" else (tokens, False)


def _collect(level: _Level[S], tokens: list[str], depth: int, found: list[S]) -> None:
    if depth == len(tokens):
        found += level.ending
        return
    found += level.rest
    for token in (tokens[depth], "*"):
        below = level.below.get(token)
        if below is not None:
            _collect(below, tokens, depth + 1, found)
