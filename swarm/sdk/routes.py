"""What all routers of a swarm have chosen, asked for and added up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from swarm.errors import Refusal
from swarm.messages import CoordinatorRouted, Routes, RoutingReport, RuleRouted
from swarm.sdk.calls import Calls, Verdict

#: How long answers are waited for: how many routers there are, nobody knows.
COLLECT_S = 0.5

_encode = msgspec.json.Encoder().encode
_report = msgspec.json.Decoder(RoutingReport)


class Routed(Struct):
    """All routers together, since each one's start."""

    #: Of the rules, as the routers have them; more than one while new ones are on their way.
    versions: list[int]
    enabled: bool
    key: str
    strategy: str
    rules: list[RuleRouted]
    unmatched: int
    in_need: int
    coordinators: list[CoordinatorRouted]
    routers: list[RoutingReport]


class _Collected:
    """An exchange that takes whatever comes, once from each router."""

    def __init__(self) -> None:
        self.reports: dict[str, RoutingReport] = {}

    def encode(self, attempt: int) -> bytes:
        return _encode(Routes())

    def take(self, data: bytes, attempt: int) -> Verdict:
        try:
            report = _report.decode(data)
        except msgspec.MsgspecError:
            return "wait"  # a router of another version: what it says cannot be added up
        self.reports[report.router] = report
        return "wait"

    def nobody(self, attempt: int) -> None:
        """No router was there for this try; the next one may find one."""


async def collect(calls: Calls, collect_s: float = COLLECT_S) -> Routed:
    """Ask every router, and add up what comes within `collect_s`.

    Raises `Refusal` if no router answers, `BusUnavailable`.
    """
    collected = _Collected()
    deadline = asyncio.get_running_loop().time() + collect_s
    subject = calls.subjects.routes(calls.sender)
    await calls.run(subject, collected, deadline, attempt_s=collect_s)
    if not collected.reports:
        raise Refusal(
            "unavailable",
            f"no router answered on {subject} within {collect_s:g} s; is one running, "
            "and reachable?",
            retry=True,
        )
    return add_up([collected.reports[name] for name in sorted(collected.reports)])


def add_up(reports: list[RoutingReport]) -> Routed:
    """One report of all.  Rules are those of the highest version."""
    newest = max(reports, key=lambda report: report.version)
    return Routed(
        versions=sorted({report.version for report in reports}),
        enabled=newest.enabled,
        key=newest.key,
        strategy=newest.strategy,
        rules=[_rule(rule, reports) for rule in newest.rules],
        unmatched=sum(report.unmatched for report in reports),
        in_need=sum(report.in_need for report in reports),
        coordinators=_coordinators(reports),
        routers=reports,
    )


def _rule(rule: RuleRouted, reports: list[RoutingReport]) -> RuleRouted:
    same = [one for report in reports for one in report.rules if one.pattern == rule.pattern]
    to: dict[str, int] = {}
    for one in same:
        for name, count in one.to.items():
            to[name] = to.get(name, 0) + count
    return RuleRouted(
        rule.pattern,
        rule.targets,
        rule.line,
        sum(one.matched for one in same),
        sum(one.fallbacks for one in same),
        dict(sorted(to.items())),
    )


def _coordinators(reports: Iterable[RoutingReport]) -> list[CoordinatorRouted]:
    """Each coordinator: alive and healthy if it is so for every router that knows it."""
    by_name: dict[str, list[CoordinatorRouted]] = {}
    for report in reports:
        for one in report.coordinators:
            by_name.setdefault(one.coordinator, []).append(one)
    return [
        CoordinatorRouted(
            coordinator=name,
            live=all(one.live for one in seen),
            draining=any(one.draining for one in seen),
            healthy=all(one.healthy for one in seen),
            attached=max(one.attached for one in seen),
            submissions=sum(one.submissions for one in seen),
            sessions=sum(one.sessions for one in seen),
            response_s=max(one.response_s for one in seen),
            why=next((one.why for one in seen if one.why), ""),
        )
        for name, seen in sorted(by_name.items())
    ]
