"""The number of shards of real processes changes under load, and the leader is killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import Any

from swarm.bus.embedded import EmbeddedServer
from swarm.sdk.client import Handle, Swarm
from swarm.subjects import Subjects
from swarm.testing.history import check, read_acks, read_logs
from tests.acceptance.processes import DEADLINE_S, POLL_S
from tests.acceptance.runs import AGENT, SHARDS, THREE, Run, eventually

MOST = 10


async def test_growing_and_shrinking_lose_and_double_nothing(
    run: Run, nats_server: EmbeddedServer, nats_prefix: str
) -> None:
    run.prefix = nats_prefix
    nodes = run.start_three(nats_server.url)
    for number in (1, 2):
        run.place.start("agent", "--id", f"agent-{number}", *AGENT)
    async with Swarm.connect(nats_server.url, prefix=nats_prefix) as swarm:
        await all_owned(swarm)
        done = asyncio.Event()
        ids: dict[int, str] = {}
        loading = asyncio.create_task(load(run, swarm, ids, done))
        await eventually("some are submitted", lambda: len(ids) > 20)
        grown = await resize(run, MOST)
        assert (grown["from"], grown["to"], grown["done"]) == (SHARDS, MOST, True)
        await eventually("the new shards are used", lambda: any_in(ids, range(SHARDS, MOST)))
        leader = (await swarm.cluster(timeout_s=DEADLINE_S)).leader
        nodes[leader].send_signal(signal.SIGKILL)
        shrunk = await resize(run, 3)
        assert shrunk["done"]
        nodes[leader] = run.start_node(leader)
        mark = len(ids)
        await eventually("more are submitted", lambda: len(ids) > mark + 30)
        # Everything is sent once more, under its key, by somebody who knows of no answer.
        done.set()
        await loading
        again = await submit(swarm, list(ids))
        assert again == ids
        view = await swarm.cluster(timeout_s=DEADLINE_S)
        assert (view.map.version, view.map.shard_count, view.map.accepts) == (3, MOST, 3)
        await run.results()
        history = await read_logs(swarm.bus, Subjects(run.prefix), range(MOST))
    report = check(run.executions(), read_acks(run.records), history)
    assert report.ok, report.findings
    assert report.acknowledged == report.completed == len(run.handles) == len(history.items)
    doctor = await asyncio.to_thread(run.place.run, "doctor", "--json")
    assert doctor.returncode == 0, doctor.stdout
    shown = await asyncio.to_thread(run.place.json, "shards")
    assert [row["state"] for row in shown["shards"]] == ["open"] * 3 + ["drained"] * (MOST - 3)


async def all_owned(swarm: Swarm) -> None:
    """Return once all three live and every shard has an owner, whoever that is."""
    give_up_at = time.monotonic() + DEADLINE_S
    while True:
        beats = (await swarm.describe(timeout_s=DEADLINE_S)).coordinators
        owned = sorted(shard for beat in beats for shard in beat.owns)
        if len(beats) == len(THREE) and owned == list(range(SHARDS)):
            return
        assert time.monotonic() < give_up_at, f"not all are owned: {beats}"
        await asyncio.sleep(POLL_S)


async def resize(run: Run, shards: int) -> Any:
    done = await asyncio.to_thread(run.place.run, "shards", "resize", str(shards), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def any_in(ids: dict[int, str], shards: range) -> bool:
    return any(int(name.split("-")[0]) in shards for name in ids.values())


async def submit(swarm: Swarm, numbers: list[int]) -> dict[int, str]:
    """Item ids by number; every item has a key of its own."""
    items = [
        {
            "work_type": "work",
            "payload": {"number": number, "seconds": 0.02},
            "idempotency_key": f"item-{number}",
        }
        for number in numbers
    ]
    outcomes = await swarm.submit_many(items, timeout_s=DEADLINE_S)
    found = {}
    for number, outcome in zip(numbers, outcomes, strict=True):
        assert isinstance(outcome, Handle), outcome
        found[number] = outcome.work_item_id
    return found


async def load(run: Run, swarm: Swarm, ids: dict[int, str], done: asyncio.Event) -> None:
    """Submit three at a time, and some earlier ones again, until told to stop."""
    began = time.monotonic()
    while not done.is_set() and time.monotonic() < began + 2 * DEADLINE_S:
        numbers = list(range(len(ids), len(ids) + 3))
        found = await submit(swarm, [*numbers, *numbers[:1], *list(ids)[-30::10]])
        for number in numbers:
            run.acks.submitted([found[number]])
            run.handles.append(Handle(swarm, found[number]))
            ids[number] = found[number]
        for number, name in found.items():
            assert ids[number] == name, f"item {number} is {ids[number]} and {name}"
