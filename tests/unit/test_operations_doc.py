"""docs/operations.md is true: its table of metrics, its anchors, and whoever refers to it."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from swarm.messages import Beat, ShardStats
from swarm.web.metrics import Figures, Fullness, render

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"
ROW = re.compile(r"^\| `(swarmsh_\w+)` \|([^|]*)\|([^|]+)\|([^|]+)\|$", re.MULTILINE)


def exported() -> dict[str, set[str]]:
    """Labels by name of everything that /metrics can show."""
    stats = ShardStats(
        shard=0,
        coordinator="c1",
        epoch=1,
        as_of=1,
        counts={"queued": 1},
        ready={},
        submitted=1,
        conservation=0,
        foreign=0,
        refused={"too_old": 1},
    )
    figures = Figures(
        shards=[stats],
        shard_count=1,
        coordinators=[Beat("c1", "x", 2, 1, leads=1)],
        storage=Fullness(1, 2),
        conflicts={"rules": {"log": 1}},
    )
    families = text_string_to_metric_families(render(figures).decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def test_the_table_has_every_metric_with_its_labels() -> None:
    rows = ROW.findall(PAGE.read_text("utf-8"))
    told = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels, _, _ in rows}
    assert told == exported()
    assert len(rows) == len(told), "each once"


def test_pages_that_are_named_exist() -> None:
    named: set[str] = set()
    for path in sorted((ROOT / "swarm").rglob("*.py")):
        named.update(re.findall(r"docs/[\w-]+\.md", path.read_text("utf-8")))
    assert "docs/operations.md" in named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_commands_in_it_exist() -> None:
    from swarm.cli.main import COMMANDS

    text = PAGE.read_text("utf-8")
    used = set(re.findall(r"(?:^|`)swarm ([a-z]+)", text, re.MULTILINE))
    assert used >= {"log", "doctor", "status"}
    assert used <= COMMANDS.keys()
