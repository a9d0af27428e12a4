"""`swarm shards …` against a whole swarm in memory."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swarm.cli.main import main
from swarm.cli.shards import _resize_plan
from swarm.core.sharding import jump_hash, stable_hash
from swarm.sdk.client import Swarm
from tests.builders import shard_map
from tests.unit.cli_world import InMemory

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
