"""What a node shows to Prometheus (``/metrics``), in Prometheus's text format.

Only figures that somebody has at hand: nothing is counted for a scrape.  `docs/operations.md`
has the table, and what to make of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct, field
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from swarm.discovery.base import MemberSet
from swarm.messages import Beat, RoutingReport, ShardStats

CONTENT_TYPE = CONTENT_TYPE_LATEST

#: Of each shard: the field of `ShardStats` that is shown, and what it means.
GAUGES = {
    "swarmsh_conservation": (
        "conservation",
        "How far the items are from what the log's events say: anything but 0 is a defect",
    ),
    "swarmsh_conservation_seq": (
        "walked_at",
        "Log sequence as of which swarmsh_conservation was found; 0: not found out yet",
    ),
    "swarmsh_log_seq": ("as_of", "Log sequence as of which the shard's other figures are"),
    "swarmsh_log_first_seq": ("first_seq", "Sequence of the oldest entry of the log"),
    "swarmsh_log_bytes": ("log_bytes", "Bytes of the log"),
    "swarmsh_live_bytes": ("live_bytes", "Bytes of the state that the log must keep, roughly"),
    "swarmsh_foreign_entries": (
        "foreign",
        "Entries of the log that are not the swarm's: anything but 0 wants a look",
    ),
    "swarmsh_epoch": ("epoch", "Epoch of the shard: counts its owners"),
}


class Fullness(Struct, frozen=True):
    """How full something is: used and allowed bytes (0: not known), and what follows."""

    used: int = 0
    limit: int = 0
    #: Submits are refused.
    nearly_full: bool = False


class Figures(Struct):
    """What is shown."""

    #: Counts of the shards that this node can tell of, by their owners' words.
    shards: list[ShardStats] = []
    #: All shards of the swarm, and who cannot open which of them: coordinators' names.
    shard_count: int = 0
    closed: dict[int, list[str]] = {}
    #: Shards that a live coordinator owns.
    owned: set[int] = field(default_factory=set)
    coordinators: list[Beat] = []
    #: None: this node does not look at it.
    storage: Fullness | None = None
    #: What the router of this node has chosen; None: it has none.
    routing: RoutingReport | None = None
    #: The coordinators that discovery has found.
    found: MemberSet | None = None
    #: How many conflicts there were, by kind and policy; None: somebody else tells.
    conflicts: dict[str, dict[str, int]] | None = None


def render(figures: Figures) -> bytes:
    """The text of a scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Shown(figures))
    text: bytes = generate_latest(registry)
    return text


class _Shown(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        yield from _of_shards(self._figures.shards)
        yield from _of_swarm(self._figures)
        yield from _of_storage(self._figures.storage)
        yield from _of_routing(self._figures.routing)
        yield from _of_discovery(self._figures.found)
        yield from _of_conflicts(self._figures.conflicts)


def _of_shards(shards: list[ShardStats]) -> Iterator[Metric]:
    for name, (field_name, text) in GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=["shard"])
        for stats in shards:
            gauge.add_metric([str(stats.shard)], getattr(stats, field_name))
        yield gauge
    yield _items(shards)
    submitted = CounterMetricFamily(
        "swarmsh_items_submitted", "Items ever submitted", labels=["shard"]
    )
    refused = CounterMetricFamily(
        "swarmsh_refused",
        "Commands refused since the shard's owner opened it",
        labels=["code", "shard"],
    )
    operations = CounterMetricFamily(
        "swarmsh_operations",
        "Requests about items, items submitted and assigned, since the shard's owner opened it",
        labels=["shard"],
    )
    for stats in shards:
        submitted.add_metric([str(stats.shard)], stats.submitted)
        operations.add_metric([str(stats.shard)], stats.usage.operations)
        for code, count in sorted(stats.refused.items()):
            refused.add_metric([code, str(stats.shard)], count)
    yield from (submitted, refused, operations)


def _items(shards: list[ShardStats]) -> Metric:
    items = GaugeMetricFamily(
        "swarmsh_items", "Items by status, archived ones included", labels=["shard", "status"]
    )
    for stats in shards:
        for status, count in stats.counts.items():
            items.add_metric([str(stats.shard), status], count)
    return items


def _of_swarm(figures: Figures) -> Iterator[Metric]:
    closed = GaugeMetricFamily(
        "swarmsh_shard_closed",
        "Coordinators that cannot open the shard (see /ready): anything but 0 wants a look",
        labels=["shard"],
    )
    owned = GaugeMetricFamily(
        "swarmsh_shard_owned", "Whether a live coordinator owns the shard", labels=["shard"]
    )
    for shard in range(figures.shard_count):
        closed.add_metric([str(shard)], len(figures.closed.get(shard, ())))
        owned.add_metric([str(shard)], shard in figures.owned)
    yield closed
    yield owned
    yield GaugeMetricFamily(
        "swarmsh_coordinators", "Live coordinators", value=len(figures.coordinators)
    )
    sessions = GaugeMetricFamily(
        "swarmsh_sessions", "Attached agent sessions", labels=["coordinator"]
    )
    wanted = GaugeMetricFamily(
        "swarmsh_sessions_wanted",
        "Agent sessions that a coordinator is to have at most; 0: any number",
        labels=["coordinator"],
    )
    alarms = GaugeMetricFamily(
        "swarmsh_alarms",
        "What a coordinator tells to look at (see /ready): anything but 0 wants a look",
        labels=["coordinator"],
    )
    for beat in figures.coordinators:
        sessions.add_metric([beat.coordinator], beat.sessions)
        wanted.add_metric([beat.coordinator], beat.agents_wanted)
        alarms.add_metric([beat.coordinator], len(beat.alarms))
    yield sessions
    yield wanted
    yield alarms
    yield from _of_load(figures.coordinators)


def _of_load(beats: list[Beat]) -> Iterator[Metric]:
    rate = GaugeMetricFamily(
        "swarmsh_operations_rate",
        "Operations per second of the coordinator's shards, over some seconds",
        labels=["coordinator"],
    )
    cpu = GaugeMetricFamily(
        "swarmsh_cpu_cores",
        "Processors that the coordinator's process keeps busy, over some seconds",
        labels=["coordinator"],
    )
    for beat in beats:
        rate.add_metric([beat.coordinator], beat.operations)
        cpu.add_metric([beat.coordinator], beat.cpu)
    yield from (rate, cpu)
    leader = max(beats, key=lambda beat: beat.leads, default=None)
    if leader is None or not leader.leads:
        return
    yield CounterMetricFamily(
        "swarmsh_rebalance_rounds",
        "Rounds in which the leader moved shards by itself, or tried to",
        value=leader.rounds,
    )
    yield CounterMetricFamily(
        "swarmsh_rebalance_moves", "Shards that were moved in these rounds", value=leader.moved
    )


def _of_storage(storage: Fullness | None) -> Iterator[Metric]:
    if storage is None:
        return
    yield GaugeMetricFamily(
        "swarmsh_storage_used_bytes", "Bytes that NATS stores", value=storage.used
    )
    yield GaugeMetricFamily(
        "swarmsh_storage_limit_bytes",
        "Bytes that NATS may store; 0: not known",
        value=storage.limit,
    )
    yield GaugeMetricFamily(
        "swarmsh_storage_nearly_full",
        "Whether submits are refused because there is little room left",
        value=storage.nearly_full,
    )


def _of_routing(routing: RoutingReport | None) -> Iterator[Metric]:
    if routing is None:
        return
    forwarded = CounterMetricFamily(
        "swarmsh_router_forwarded",
        "What this router has sent to each coordinator",
        labels=["coordinator", "kind"],
    )
    healthy = GaugeMetricFamily(
        "swarmsh_router_healthy",
        "Whether this router would choose the coordinator: its beats and probes speak for it",
        labels=["coordinator"],
    )
    response = GaugeMetricFamily(
        "swarmsh_router_response_seconds",
        "How long the coordinator takes to answer this router's probes",
        labels=["coordinator"],
    )
    for one in routing.coordinators:
        name = one.coordinator
        forwarded.add_metric([name, "session"], one.sessions)
        forwarded.add_metric([name, "submission"], one.submissions)
        healthy.add_metric([name], one.live and one.healthy and not one.draining)
        if one.response_s:
            response.add_metric([name], one.response_s)
    yield from (forwarded, healthy, response)
    yield from _of_rules(routing)


def _of_rules(routing: RoutingReport) -> Iterator[Metric]:
    matched = CounterMetricFamily(
        "swarmsh_router_rule_matched", "Submissions by routing rule", labels=["rule"]
    )
    fallbacks = CounterMetricFamily(
        "swarmsh_router_rule_fallbacks",
        "Of these, those that went elsewhere, as none of the rule's coordinators could be chosen",
        labels=["rule"],
    )
    for rule in routing.rules:
        matched.add_metric([rule.pattern], rule.matched)
        fallbacks.add_metric([rule.pattern], rule.fallbacks)
    matched.add_metric([""], routing.unmatched)
    yield from (matched, fallbacks)
    yield CounterMetricFamily(
        "swarmsh_router_in_need",
        "Choices among unhealthy coordinators, as there was no healthy one",
        value=routing.in_need,
    )
    yield GaugeMetricFamily(
        "swarmsh_router_rules_version",
        "Version of the routing rules; 0: those of the settings",
        value=routing.version,
    )


def _of_discovery(found: MemberSet | None) -> Iterator[Metric]:
    if found is None:
        return
    members = GaugeMetricFamily(
        "swarmsh_discovered_coordinators",
        "Coordinators that COORDINATOR_DISCOVERY has found",
        labels=["source"],
    )
    members.add_metric([found.source], len(found.members))
    yield members
    stale = GaugeMetricFamily(
        "swarmsh_discovery_stale",
        "Whether discovery does not answer, so that the last known ones are in use",
        labels=["source"],
    )
    stale.add_metric([found.source], found.stale)
    yield stale


def _of_conflicts(conflicts: dict[str, dict[str, int]] | None) -> Iterator[Metric]:
    if conflicts is None:
        return
    counted = CounterMetricFamily(
        "swarmsh_conflicts",
        "Two that disagreed, ever (see `swarm conflicts`), by what picked between them",
        labels=["kind", "policy"],
    )
    for kind, by_policy in sorted(conflicts.items()):
        for policy, count in sorted(by_policy.items()):
            counted.add_metric([kind, policy], count)
    yield counted
