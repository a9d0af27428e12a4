"""/metrics: the load of coordinators and shards, and what the leader has moved."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from swarm.messages import Beat, ShardStats, Usage
from swarm.web.metrics import Figures, render
from tests.builders import beat


def samples(*beats: Beat, usage: Usage | None = None) -> dict[tuple[str, str], float]:
    """Values by name and label."""
    stats = ShardStats(3, "c1", 1, 1, {}, {}, 0, 0, 0, usage=usage or Usage())
    text = render(Figures(shards=[stats], coordinators=list(beats))).decode()
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_load_of_each_coordinator_is_shown() -> None:
    shown = samples(beat("c1", operations=120.5, cpu=0.75), beat("c2"), usage=Usage(4711))
    assert shown["swarmsh_operations_rate", "c1"] == 120.5
    assert shown["swarmsh_cpu_cores", "c1"] == 0.75
    assert shown["swarmsh_operations_rate", "c2"] == 0.0
    assert shown["swarmsh_operations_total", "3"] == 4711


def test_agents_are_shown_beside_how_many_there_are_to_be() -> None:
    shown = samples(beat("c1", sessions=61, agents_wanted=50), beat("c2", sessions=7))
    assert shown["swarmsh_sessions", "c1"] == 61
    assert shown["swarmsh_sessions_wanted", "c1"] == 50
    assert shown["swarmsh_sessions_wanted", "c2"] == 0


def test_rounds_are_those_that_the_latest_leader_knows() -> None:
    old = beat("c1", leads=2, rounds=1, moved=4)
    shown = samples(old, beat("c2", leads=3, rounds=2, moved=6), beat("c3"))
    assert shown["swarmsh_rebalance_rounds_total", ""] == 2
    assert shown["swarmsh_rebalance_moves_total", ""] == 6


def test_nobody_tells_of_rounds_while_nobody_leads() -> None:
    names = {name for name, _ in samples(beat("c1", rounds=7))}
    assert not {name for name in names if name.startswith("swarmsh_rebalance")}
