"""Routers and coordinators: probes, and what routers have chosen."""

from __future__ import annotations

from msgspec import Struct


class Probe(Struct, omit_defaults=True):
    """``<p>.coordinator.<id>.health.<sender>``: is this coordinator ready, how fast is it?"""

    #: The router process that asks: a name of its own, unlike the sender's.  Empty: no router.
    router: str = ""


class Pulse(Struct, omit_defaults=True):
    """Answer to `Probe`, said when all that came before it has been taken."""

    coordinator: str
    instance: str
    #: Whether it can serve submissions and agents now; `why` says what it lacks.
    ready: bool
    why: str = ""


class Routes(Struct, omit_defaults=True):
    """``<p>.routes.<sender>``: what every router has chosen; each of them answers."""


class RuleRouted(Struct, omit_defaults=True):
    """A routing rule, and what it did in one router."""

    pattern: str
    #: The coordinators that it names.
    targets: list[str]
    #: Of the rules as they were written.
    line: int = 0
    #: Submissions that it was the rule for, fallbacks included.
    matched: int = 0
    #: Of these, those that went elsewhere as none of its coordinators could be chosen.
    fallbacks: int = 0
    #: Submissions by the coordinator that they went to.
    to: dict[str, int] = {}


class CoordinatorRouted(Struct, omit_defaults=True):
    """A coordinator, as one router sees it."""

    coordinator: str
    #: Its beats come.
    live: bool = False
    draining: bool = False
    #: Its probes are answered.
    healthy: bool = False
    #: Sessions attached to it by its latest beat.
    attached: int = 0
    #: What this router has sent there.
    submissions: int = 0
    sessions: int = 0
    #: How long it takes to answer a probe; 0: not known.
    response_s: float = 0.0
    #: What the latest probe found wrong.
    why: str = ""


class RoutingReport(Struct, omit_defaults=True):
    """Answer to `Routes`, of one router since its start."""

    router: str
    strategy: str
    #: Whether rules hold.
    enabled: bool
    #: What submissions are routed by.
    key: str
    #: Of the rules; 0: they are those of the settings.
    version: int = 0
    rules: list[RuleRouted] = []
    #: Submissions that no rule was for.
    unmatched: int = 0
    #: Choices among unhealthy coordinators, as there was no healthy one.
    in_need: int = 0
    coordinators: list[CoordinatorRouted] = []
    #: Who set the rules, and when.
    by: str = ""
    at: float = 0.0
