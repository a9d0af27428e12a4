"""kill -9 in the middle of a run, on real processes: nothing is lost, nothing is held twice.

The verdict is that of `swarm.testing.history`: it joins what the handlers recorded, what
the client was told and the swarm's logs, and does not ask the queue.
"""

from __future__ import annotations

import asyncio
import time

from swarm.bus.embedded import EmbeddedServer
from swarm.sdk.client import Swarm
from swarm.subjects import parse_item_id
from swarm.testing.history import Execution
from tests.acceptance.processes import command_of, kill
from tests.acceptance.runs import AGENT, LEASE_S, THREE, Run, eventually, owners

# --- everything dies -----------------------------------------------------------------------


async def test_a_run_survives_kill_9_of_every_process(run: Run) -> None:
    place = run.place
    agents = ("--agents", "2", *AGENT)
    first = await asyncio.to_thread(place.up, *agents)
    async with Swarm.connect(first.nats_url) as swarm:
        # Under way at the kill, however far the others are.
        await run.submit(swarm, 4, seconds=5.0)
        await run.submit(swarm, 200, seconds=0.05)
        await eventually("a good part is done", lambda: len(run.executions()) > 50)
        # Some of these submissions meet a swarm that is dead; the client goes on trying.
        submitting = asyncio.create_task(submit_in_parts(run, swarm))
        await eventually("more is acknowledged", lambda: len(run.handles) > 254)

        killed = place.pids()
        assert any(command_of(pid)[0].endswith("nats-server") for pid in killed)
        assert len(killed) == 6
        for pid in killed:
            kill(pid)
        await asyncio.to_thread(place.until_empty)
        cut_off = run.running()
        assert cut_off
        assert not submitting.done()

        second = await asyncio.to_thread(place.up, *agents)
        # The client that is connected since before comes back to the same address.
        assert second.nats_url == first.nats_url
        await submitting
        await run.results()
        report, history = await run.verdict(swarm)
    assert report.ok, report.findings
    assert report.acknowledged == report.completed == len(run.handles) == 404
    # What was cut off was done anew, under another token, once its lease was over.
    for execution in cut_off:
        holds = history.items[execution.work_item_id].holds
        assert [hold.ending for hold in holds] == ["released", "completed"]
        assert holds[0].token == execution.token
    # So was what had just ended without its completion being durable.
    assert report.executions >= 404 + len(cut_off)
    assert second.stop() == 0
    place.until_empty()


async def submit_in_parts(run: Run, swarm: Swarm) -> None:
    for _ in range(20):
        await run.submit(swarm, 10, seconds=0.05)


# --- one of three coordinators dies -----------------------------------------------------------


async def test_agents_keep_what_they_hold_when_a_coordinator_is_killed(
    run: Run, nats_server: EmbeddedServer, nats_prefix: str
) -> None:
    run.prefix = nats_prefix
    place = run.place
    nodes = run.start_three(nats_server.url)
    for number in (1, 2, 3):
        place.start("agent", "--id", f"agent-{number}", *AGENT)
    async with Swarm.connect(nats_server.url, prefix=nats_prefix) as swarm:
        before = await owners(swarm, THREE)
        # Long enough to lapse after the kill if their heartbeats meant nothing to the new owner.
        await run.submit(swarm, 9, seconds=LEASE_S + 5)
        await eventually("all are worked on", lambda: len(run.running()) == 9)
        await run.submit(swarm, 150, seconds=0.05)
        await eventually("some of the others are done", lambda: len(run.executions()) > 30)

        long = [handle.work_item_id for handle in run.handles[:9]]
        held = [execution for execution in run.running() if execution.work_item_id in long]
        assert len(held) == 9
        victim = busiest(before, held)
        nodes[victim].kill()
        killed_at = time.time()
        await run.submit(swarm, 150, seconds=0.05)
        await run.results()

        after = await owners(swarm, [name for name in THREE if name != victim])
        report, history = await run.verdict(swarm)
    assert report.ok, report.findings
    assert report.acknowledged == report.completed == 309
    # Each that ran at the kill went on, and was completed under the token it had.
    for execution in held:
        (hold,) = history.items[execution.work_item_id].holds
        assert (hold.token, hold.ending) == (execution.token, "completed")
        assert hold.ended_time > killed_at
    lost = [shard for shard, owner in before.items() if owner == victim]
    assert lost
    assert all(after[shard] != victim for shard in lost)


def busiest(owner: dict[int, str], held: list[Execution]) -> str:
    """The coordinator that owns most of what is held."""
    shards = [parse_item_id(execution.work_item_id)[0] for execution in held]
    counts = {name: sum(owner[shard] == name for shard in shards) for name in THREE}
    return max(counts, key=lambda name: counts[name])
