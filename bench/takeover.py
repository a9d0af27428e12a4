"""How long a shard stands still when it changes hands: `python -m bench.takeover`.

Three coordinators and a router as processes of their own, one shard with as many queued
items as asked for.  First the shard is moved from owner to owner, while a client asks it
for one thing after the other: the longest wait is the pause.  Then its owner gets kill
-9; from that moment on a client asks the shard (`get`) and submits to it, as clients do,
until both are answered.  The killed one is started again, and once somebody stands by,
the next round begins.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.nodes import Nodes, running
from swarm.bus.embedded import EmbeddedServer
from swarm.core.placement import stands_by
from swarm.hosting.process import run
from swarm.messages import Beat, Moved
from swarm.sdk.client import Swarm
from swarm.subjects import Subjects

NAMES = ("coordinator-1", "coordinator-2", "coordinator-3")
ROLES = {"router-1": "router", **dict.fromkeys(NAMES, "coordinator")}
#: Items of one call, and calls under way at once.
SUBMIT_ITEMS = 20_000
#: Between two looks at who stands by.
LOOK_S = 0.05
READY_S = 300.0
#: How long requests are timed before the move, and after it.
BEFORE_S = 1.0
#: Requests that are timed before a kill.
GETS_BEFORE = 50
GET = b'{"work_item_id":"0-1"}'


class Takeover(Struct):
    """One death of the owner."""

    items: int
    killed: str
    heir: str
    #: From the kill to the answer.
    get_s: float
    submit_s: float
    #: The longest wait just before: how busy the machine is with other things.
    usual_s: float


class Handoff(Struct):
    """One move of the shard."""

    items: int
    old: str
    new: str
    #: The longest wait of any request, and the longest in the second before.
    pause_s: float
    usual_s: float


class Measured(Struct):
    """All rounds."""

    handoffs: list[Handoff]
    takeovers: list[Takeover]


async def submit(swarm: Swarm, items: int) -> str:
    """Submit so many; the id of one."""
    work_item_id = ""
    for start in range(0, items, SUBMIT_ITEMS):
        batch = [
            {"work_type": "feature", "payload": {"n": number}}
            for number in range(start, min(items, start + SUBMIT_ITEMS))
        ]
        outcomes = await swarm.submit_many(batch, timeout_s=READY_S)
        work_item_id = outcomes[0].work_item_id  # type: ignore[union-attr]
    return work_item_id


async def until_stood_by(swarm: Swarm, alive: int) -> Beat:
    """Return the owner's beat once so many live, one owns the shard, another stands by."""
    give_up_at = time.monotonic() + READY_S
    while True:
        beats = (await swarm.describe(timeout_s=READY_S)).coordinators
        owners = [beat for beat in beats if 0 in beat.owns]
        if len(beats) == alive and owners and any(stands_by(beat, 0) for beat in beats):
            return owners[0]
        if time.monotonic() > give_up_at:
            raise SystemExit(f"nobody stands by after {READY_S:.0f} s: {beats}")
        await asyncio.sleep(LOOK_S)


async def takeover(nodes: Nodes, swarm: Swarm, work_item_id: str, items: int) -> Takeover:
    """Kill the owner, and see when the shard answers again."""
    owner = (await until_stood_by(swarm, len(NAMES))).coordinator
    usual_s = 0.0
    for _ in range(GETS_BEFORE):
        began = time.monotonic()
        await swarm.get(work_item_id, timeout_s=READY_S)
        usual_s = max(usual_s, time.monotonic() - began)
    await nodes.kill(owner)
    killed_at = time.monotonic()

    async def get() -> float:
        await swarm.get(work_item_id, timeout_s=READY_S)
        return time.monotonic() - killed_at

    async def submit_one() -> float:
        await swarm.submit("feature", timeout_s=READY_S)
        return time.monotonic() - killed_at

    get_s, submit_s = await asyncio.gather(get(), submit_one())
    heir = (await until_stood_by(swarm, len(NAMES) - 1)).coordinator
    await nodes.start(owner)
    return Takeover(items, owner, heir, get_s, submit_s, usual_s)


async def handoff(swarm: Swarm, items: int) -> Handoff:
    """Move the shard, and see how long anybody has to wait for it."""
    owner = (await until_stood_by(swarm, len(NAMES))).coordinator
    subjects, me = Subjects("swarm"), swarm.bus.sender
    waits: list[float] = []
    done = asyncio.Event()

    async def ask() -> None:
        while not done.is_set():
            began = time.monotonic()
            await swarm.bus.request(subjects.shard(0, "get", me), GET, READY_S)
            waits.append(time.monotonic() - began)

    asking = asyncio.create_task(ask())
    await asyncio.sleep(BEFORE_S)
    usual_s = max(waits)
    move = subjects.coordinator(owner, "move", me)
    answer = await swarm.bus.request(move, b'{"shard":0}', READY_S)
    await asyncio.sleep(BEFORE_S)
    done.set()
    await asking
    moved = msgspec.json.decode(answer.data, type=Moved)
    return Handoff(items, owner, moved.coordinator, max(waits), usual_s)


async def measure(items: int, rounds: int, logs: Path, **settings: str) -> Measured:
    """`rounds` of both, of a shard with `items` queued, on a server of its own."""
    server = EmbeddedServer()
    await server.start(logs / "nats", port=0)
    try:
        settings = {"SHARD_COUNT": "1", **settings}
        async with running(server.url, logs, ROLES, **settings) as nodes, nodes.connect() as swarm:
            work_item_id = await submit(swarm, items)
            handoffs = [await handoff(swarm, items) for _ in range(rounds)]
            takeovers = [await takeover(nodes, swarm, work_item_id, items) for _ in range(rounds)]
            return Measured(handoffs, takeovers)
    finally:
        await server.stop()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.takeover", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000, help="default: 1,000,000")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swarm-takeover-") as logs:
        measured = run(measure(args.items, args.rounds, Path(logs)))
        for moved in measured.handoffs:
            print(
                f"{moved.items:,} items, moved from {moved.old} to {moved.new}: the longest wait "
                f"was {1000 * moved.pause_s:.0f} ms (in the second before: "
                f"{1000 * moved.usual_s:.0f} ms)"
            )
        for taken in measured.takeovers:
            print(
                f"{taken.items:,} items, {taken.killed} killed, {taken.heir} took over: "
                f"get answered after {taken.get_s:.2f} s, submit after {taken.submit_s:.2f} s"
            )


if __name__ == "__main__":
    main()
