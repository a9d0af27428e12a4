"""`swarm shards …` against a whole swarm in memory."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from swarm.cli import common, placing, shards
from swarm.cli.main import main
from swarm.cli.shards import _resize_plan
from swarm.core.affinity import Local
from swarm.core.rebalance import PlannedMove
from swarm.core.sharding import jump_hash, stable_hash
from swarm.messages import Attach, Attached, Next, Round, ShardMove, ShardStats, Usage
from swarm.sdk.client import Swarm
from tests.builders import shard_map
from tests.unit.cli_world import SETTINGS, InMemory

ROOT = Path(__file__).parents[2]

Captured = pytest.CaptureFixture[str]


def printed(capsys: Captured) -> Any:
    return json.loads(capsys.readouterr().out)


async def some_items(swarm: Swarm) -> None:
    await swarm.submit_many([{"work_type": "t"}] * 20)


def test_shards_are_shown_with_their_load(memory: InMemory, capsys: Captured) -> None:
    memory.prepare = some_items
    assert main(["shards", "--json"]) == 0
    shown = printed(capsys)
    assert [row["owner"] for row in shown["shards"]] == ["coordinator-1"] * 2
    assert [row["state"] for row in shown["shards"]] == ["open", "open"]
    assert sum(row["submitted"] for row in shown["shards"]) == 20
    assert sum(row["load"] for row in shown["shards"]) == pytest.approx(2.0)
    assert main(["shards"]) == 0
    text = capsys.readouterr().out
    assert "map 1: new items go to 2 of 2 shards by hash (consistent_hash)" in text
    assert "coordinator-1" in text


def test_a_resize_says_what_it_will_do_and_does_it(memory: InMemory, capsys: Captured) -> None:
    async def check(swarm: Swarm) -> None:
        assert (await swarm.cluster()).map.shard_count == 4

    memory.check = check
    assert main(["shards", "resize", "4", "--json"]) == 0
    done = printed(capsys)
    assert (done["from"], done["to"], done["map_version"], done["done"]) == (2, 4, 2, True)
    assert done["moved_keys"] == 0.5
    assert done["steps"][1] == "2 new shards are opened (2 to 3)"


def test_a_dry_run_changes_nothing(memory: InMemory, capsys: Captured) -> None:
    async def check(swarm: Swarm) -> None:
        assert (await swarm.describe()).map.version == 1

    memory.check = check
    assert main(["shards", "resize", "1", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "shards 1 to 1 take nothing new, and end what they have" in captured.out
    assert "nothing was done" in captured.err


@pytest.mark.parametrize("argv", [["resize", "0"], ["resize", "1025"], ["resize", "many"]])
def test_a_number_that_cannot_be_is_named(argv: list[str], capsys: Captured) -> None:
    assert main(["shards", *argv]) == 2
    assert "is no whole number from 1 to 1024" in capsys.readouterr().err


def test_options_may_stand_before_the_verb(memory: InMemory, capsys: Captured) -> None:
    assert main(["shards", "--json", "resize", "2", "--dry-run"]) == 0
    assert printed(capsys)["steps"] == ["new items go to 2 shards already: there is nothing to do"]


def test_a_balanced_swarm_is_left_alone(memory: InMemory, capsys: Captured) -> None:
    memory.prepare = some_items
    assert main(["shards", "rebalance"]) == 0
    assert "even enough: the most loaded has 1.00 of an even part" in capsys.readouterr().out
    assert main(["shards", "rebalance", "--threshold", "-1"]) == 2
    assert "is no part" in capsys.readouterr().err


@pytest.mark.parametrize(("old", "new"), [(16, 17), (16, 64), (64, 16), (3, 7)])
def test_the_part_of_keys_that_a_plan_names_is_what_moves(old: int, new: int) -> None:
    keys = [stable_hash(str(number)) for number in range(20_000)]
    plan = _resize_plan(shard_map(old), new)
    moved = sum(jump_hash(key, old) != jump_hash(key, new) for key in keys) / len(keys)
    assert plan["moved_keys"] == pytest.approx(moved, abs=0.02)
    from msgspec import structs

    dealt = structs.replace(shard_map(old), shard_distribution="round_robin")
    moved = sum(key % old != key % new for key in keys) / len(keys)
    assert _resize_plan(dealt, new)["moved_keys"] == pytest.approx(moved, abs=0.02)


# --- who uses which shard ------------------------------------------------------------------------


async def work_at_the_second(swarm: Swarm) -> None:
    """100 items, all given to an agent that is attached at coordinator-2."""
    bus, at = swarm.bus, "swarm.coordinator.coordinator-2"
    attach = msgspec.json.encode(Attach(["t"], 200))
    answer = await bus.request(f"{at}.attach.{bus.sender}", attach, 5.0)
    session = msgspec.json.decode(answer.data, type=Attached).session
    await bus.publish(f"{at}.next.{bus.sender}", msgspec.json.encode(Next(session, 1, 200)))
    await swarm.submit_many([{"work_type": "t", "idempotency_key": key} for key in even_keys()])
    async with asyncio.timeout(10.0):
        while sum(assigned(one) for one in (await swarm.stats()).values()) < 100:
            continue  # each look is a round trip


def even_keys() -> list[str]:
    """50 keys of each of two shards."""
    keys: tuple[list[str], list[str]] = ([], [])
    for number in range(1000):
        keys[jump_hash(stable_hash(f"k{number}"), 2)].append(f"k{number}")
    return [*keys[0][:50], *keys[1][:50]]


def assigned(stats: object) -> int:
    return sum(stats.usage.assigned.values()) if isinstance(stats, ShardStats) else 0


async def owners(swarm: Swarm) -> list[str]:
    found = (await swarm.stats()).values()
    return sorted({one.coordinator for one in found if isinstance(one, ShardStats)})


@pytest.fixture
def two(memory: InMemory) -> InMemory:
    """Two coordinators with a shard each, and an agent at the second one."""
    memory.settings = structs.replace(SETTINGS, parallel_workers=2)
    memory.prepare = work_at_the_second
    return memory


def test_access_is_shown_by_shard_and_coordinator(two: InMemory, capsys: Captured) -> None:
    assert main(["shards", "access", "--json"]) == 0
    shown = printed(capsys)
    assert shown["assigned"] == 100
    assert 0 < shown["assigned_locally"] < 1
    rows = {row["owner"]: row for row in shown["shards"]}
    away, home = rows["coordinator-1"], rows["coordinator-2"]
    assert (away["assigned_locally"], home["assigned_locally"]) == (0, home["assigned"])
    assert away["by_coordinator"] == {"coordinator-2": away["assigned"]}
    assert away["sessions"] == {"coordinator-2": 1}
    assert away["local"] + away["remote"] + home["local"] + home["remote"] >= 100
    assert main(["shards", "access"]) == 0
    text = capsys.readouterr().out
    assert text.count(" (1)") == 2, "each shard's items went to one session"
    assert "of 100 assignments in the last" in text


def test_access_to_a_shard_that_nobody_uses(memory: InMemory, capsys: Captured) -> None:
    assert main(["shards", "access"]) == 0
    assert "no item was assigned to an attached agent" in capsys.readouterr().out


def test_a_shard_that_does_not_answer_is_told(
    memory: InMemory, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swarm.errors import NoAnswer

    async def stats(self: Swarm, *, timeout_s: float = 1.0) -> dict[int, Any]:
        return {0: NoAnswer("nobody owns it")}

    monkeypatch.setattr(Swarm, "stats", stats)
    assert main(["shards", "access", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["shards"][0]["error"] == "nobody owns it"
    assert "shard 0 does not answer: nobody owns it" in captured.err


def test_optimize_moves_shards_to_their_agents(two: InMemory, capsys: Captured) -> None:
    async def check(swarm: Swarm) -> None:
        assert await owners(swarm) == ["coordinator-2"]

    two.check = check
    assert main(["shards", "optimize", "--slack", "1", "--json"]) == 0
    shown = printed(capsys)
    (move,) = shown["plan"]["moves"]
    assert (move["source"], move["to"]) == ("coordinator-1", "coordinator-2")
    assert shown["plan"]["before"] < 1.0 == shown["plan"]["after"]
    assert (shown["done"], shown["failed"]) == (True, [])


def test_optimize_says_before_it_acts_and_keeps_the_bound(two: InMemory, capsys: Captured) -> None:
    async def check(swarm: Swarm) -> None:
        assert await owners(swarm) == ["coordinator-1", "coordinator-2"]

    two.check = check
    assert main(["shards", "optimize", "--slack", "1", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "coordinator-1 -> coordinator-2" in captured.out
    assert "100% of 100 assignments would be local instead of" in captured.out
    assert "nothing was done; without --dry-run it is" in captured.err
    assert main(["shards", "optimize"]) == 0
    assert "are local: no move is worth it" in capsys.readouterr().out


def test_optimize_has_nothing_to_go_by_without_use(memory: InMemory, capsys: Captured) -> None:
    assert main(["shards", "optimize"]) == 0
    assert "nothing to go by" in capsys.readouterr().out
    assert main(["shards", "optimize", "--slack", "much"]) == 2
    assert "is no part" in capsys.readouterr().err


def test_a_plan_says_what_each_move_brings(capsys: Captured) -> None:
    moves = [PlannedMove(3, "c1", "c2", 0.25)]
    usage = Usage(assigned={"c1": 10, "c2": 90})
    stats = ShardStats(3, "c1", 1, 1, {}, {}, 0, 0, 0, usage=usage)
    placing._print_plan(Local(moves, 0.1, 0.9, 1.0, 1.2), {3: stats})
    text = capsys.readouterr().out
    assert "shard 3: c1 -> c2 (of 100 assignments, 90 there, 10 here)" in text
    assert "90% of 100 assignments would be local instead of 10%" in " ".join(text.split())


# --- the last round of the leader ----------------------------------------------------------------


def test_the_last_round_is_shown(capsys: Captured) -> None:
    moves = [ShardMove(3, "c1", "c2")]
    last = Round(2, 1733396400.0, "c1 has 1.5 of an even part", moves, "no answer", 1.5, 1.1, 4)
    shards._print_round(last)
    text = " ".join(capsys.readouterr().out.split())
    assert "last round of rebalancing (2, 2024-12-05 11:00:00 UTC): c1 has 1.5" in text
    assert "shard 3: c1 -> c2" in text
    assert "no more than that: no answer" in text


def test_without_a_round_there_is_none_to_show(memory: InMemory, capsys: Captured) -> None:
    assert main(["shards", "--json"]) == 0
    assert printed(capsys)["last_round"] is None


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("rebalance_shards", "swarm shards rebalance"),
        ("show_shard_distribution", "swarm shards"),
        ("monitor_sharding", "swarm shards"),
        ("analyze_shard_access", "swarm shards access"),
        ("optimize_shard_placement", "swarm shards optimize"),
    ],
)
def test_the_guides_scripts_are_ways_to_the_commands(script: str, words: str) -> None:
    path = ROOT / "scripts" / f"{script}.sh"
    assert path.stat().st_mode & 0o111
    assert path.read_text("utf-8").endswith(f'exec {words} "$@"\n')
    parser = argparse.ArgumentParser()
    shards.add_parser(parser.add_subparsers())
    assert parser.parse_args(words.split()[1:]) is not None
    assert common.part("0.2") == 0.2
