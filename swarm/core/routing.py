"""Which coordinator gets a submission or a new agent: rules, then balancing; and the counts.

Chosen are coordinators that live, do not leave and are healthy.  If none is healthy, any
that lives will do: then it is rather the router that hears nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from swarm.core.balancing import Balancer
from swarm.core.headers import values_of
from swarm.core.health import Health
from swarm.core.rules import NO_RULES, Rule, Rules
from swarm.messages import Beat, CoordinatorRouted, RoutingReport, RuleRouted


class Routing:
    """One router's choices, and how often it has chosen what.

    `health`: which coordinators answer.
    """

    def __init__(self, balancer: Balancer, health: Health) -> None:
        self.balancer = balancer
        self.health = health
        self.rules = NO_RULES
        #: Of the rules; 0: they are those of the settings.
        self.version = 0
        #: Submissions that a rule named the coordinators of, by (pattern, coordinator).
        self._matched: dict[tuple[str, str], int] = {}
        #: Of these, those that went elsewhere, as none of its coordinators could be chosen.
        self._fallbacks: dict[str, int] = {}
        #: Submissions without a rule.
        self._unmatched = 0
        #: Choices among unhealthy ones, as there was no other.
        self._in_need = 0
        self.submissions: dict[str, int] = {}
        self.sessions: dict[str, int] = {}

    def set_rules(self, rules: Rules, version: int) -> None:
        """Route by these from now on; counts of the same patterns go on."""
        assert version >= 0, "versions count up"
        self.rules, self.version = rules, version
        patterns = {rule.pattern for rule in rules.all}
        self._matched = {key: n for key, n in self._matched.items() if key[0] in patterns}
        self._fallbacks = {key: n for key, n in self._fallbacks.items() if key in patterns}

    def submission(
        self,
        work_type: str,
        headers: Mapping[str, str] | None,
        live: Mapping[str, Beat],
        now: float,
    ) -> str | None:
        """Where this submission goes; None if nobody is there."""
        rule = None
        if self.rules.all:
            rule = self.rules.match(*values_of(self.rules.key, work_type, headers))
        chosen = self._by_rule(rule, live, now) if rule is not None else None
        if chosen is None:
            chosen = self.balancer.request(self._eligible(live, live), live, now)
        if chosen is None:
            return None
        self.submissions[chosen] = self.submissions.get(chosen, 0) + 1
        if rule is None:
            self._unmatched += 1
        else:
            key = (rule.pattern, chosen)
            self._matched[key] = self._matched.get(key, 0) + 1
            if chosen not in rule.targets:
                self._fallbacks[rule.pattern] = self._fallbacks.get(rule.pattern, 0) + 1
        return chosen

    def session(self, live: Mapping[str, Beat], now: float) -> str | None:
        """Where an agent is to attach; None if nobody is there."""
        chosen = self.balancer.session(self._eligible(live, live), live, now)
        if chosen is not None:
            self.sessions[chosen] = self.sessions.get(chosen, 0) + 1
        return chosen

    def report(self, live: Mapping[str, Beat], enabled: bool) -> RoutingReport:
        """What this router has chosen, for whoever looks on."""
        coordinators = [
            self._routed(name, live) for name in sorted({*live, *self.submissions, *self.sessions})
        ]
        return RoutingReport(
            router=self.balancer.me,
            strategy=self.balancer.strategy,
            enabled=enabled,
            key=self.rules.key,
            version=self.version,
            rules=[self._rule_routed(rule) for rule in self.rules.all],
            unmatched=self._unmatched,
            in_need=self._in_need,
            coordinators=coordinators,
        )

    # ------------------------------------------------------------------------------------

    def _by_rule(self, rule: Rule, live: Mapping[str, Beat], now: float) -> str | None:
        names = [
            name for name in rule.targets if self._may(name, live) and self.health.healthy(name)
        ]
        return self.balancer.request(names, live, now, rule.pattern)

    def _eligible(self, names: Iterable[str], live: Mapping[str, Beat]) -> list[str]:
        staying = [name for name in names if self._may(name, live)]
        healthy = [name for name in staying if self.health.healthy(name)]
        if staying and not healthy:
            self._in_need += 1
            return staying
        assert len(healthy) <= len(live), "no more than there are"
        return healthy

    def _may(self, name: str, live: Mapping[str, Beat]) -> bool:
        return name in live and not live[name].draining

    def _rule_routed(self, rule: Rule) -> RuleRouted:
        to = {name: n for (pattern, name), n in self._matched.items() if pattern == rule.pattern}
        fallbacks = self._fallbacks.get(rule.pattern, 0)
        assert fallbacks <= sum(to.values()), "a fallback is a match, too"
        return RuleRouted(
            rule.pattern, list(rule.targets), rule.line, sum(to.values()), fallbacks, to
        )

    def _routed(self, name: str, live: Mapping[str, Beat]) -> CoordinatorRouted:
        return CoordinatorRouted(
            coordinator=name,
            live=name in live,
            draining=name in live and live[name].draining,
            healthy=self.health.healthy(name),
            attached=live[name].sessions if name in live else 0,
            submissions=self.submissions.get(name, 0),
            sessions=self.sessions.get(name, 0),
            response_s=round(self.health.response_s(name), 6),
            why=self.health.why(name),
        )
