"""`make soak MINUTES=60`: a steady load for long; does memory grow, does latency?

A router and two coordinators as `swarm up` runs them, one nats-server, items on a schedule to
agents that complete them at once.  What is remembered on purpose is bounded so that the bounds
are reached within the first half.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import nats
from msgspec import Struct

from bench import long_runs, machine
from bench.child import Failed, Meter
from bench.load_latency import Due, Paced
from bench.long_runs import SOAK, Sample, Soak
from bench.nodes import Nodes, running
from bench.ours import Agents
from bench.plan import Job
from bench.probing import percentile
from bench.recording import record
from bench.scale import roles_of, until_settled
from bench.submitting import Ids
from bench.verifying import count
from swarm.bus.embedded import EmbeddedServer, find_binary
from swarm.errors import SwarmError
from swarm.hosting.process import run as run_loop
from swarm.messages import Assignment

PREFIX = "swarm"
COORDINATORS = 2
SHARDS = 16
SAMPLES = 60
#: Answers and finished items are remembered for this part of the run, and 60 s at least.
REMEMBERED_PART = 1 / 6
FINISHED = 10_000
#: A shorter soak is not recorded beside the others.
FULL_MINUTES = 30.0
#: More than any soak completes.
ENDLESS = 1 << 60

_due = msgspec.json.Decoder(Due)


class Plan(Struct, frozen=True):
    """How long, how much."""

    minutes: float = 60.0
    rate: float = 200.0
    agents: int = 100
    samples: int = SAMPLES


async def measure(plan: Plan, directory: Path) -> Soak:
    """Everything; raises `Failed`, `SwarmError`."""
    started = datetime.now(UTC)
    remembered_s = max(60.0, plan.minutes * 60 * REMEMBERED_PART)
    settings = {
        "SHARD_COUNT": str(SHARDS),
        "DEDUPE_WINDOW": f"{remembered_s:.0f}",
        "FINISHED_RETENTION_S": f"{remembered_s:.0f}",
        "CACHE_MAX_SIZE": str(FINISHED),
    }
    server = EmbeddedServer()
    await server.start(directory / "nats", port=0)
    try:
        async with running(server.url, directory, roles_of(COORDINATORS), **settings) as nodes:
            await until_settled(nodes, PREFIX, COORDINATORS, SHARDS)
            samples, checked = await _soak(plan, server, nodes)
    finally:
        await server.stop()
    return Soak(
        started=started.strftime("%Y-%m-%d %H:%M UTC"),
        minutes=plan.minutes,
        rate=plan.rate,
        agents=plan.agents,
        settings=settings,
        samples=samples,
        checked=checked,
        machine=machine.describe(directory, find_binary()),
    )


async def _soak(
    plan: Plan, server: EmbeddedServer, nodes: Nodes
) -> tuple[list[Sample], dict[str, int]]:
    client = await nats.connect(server.url, pending_size=1 << 26)
    job = Job(server.url, PREFIX, SHARDS, plan.agents, 1, ENDLESS, 0, rate=plan.rate)
    meter = Meter(job)
    started_s: list[float] = []

    def assigned(assignment: Assignment) -> None:
        started_s.append(time.monotonic() - _due.decode(assignment.item).payload)

    agents = Agents(client, job, Ids(), meter, assigned)
    await agents.attach()
    paced = Paced(client, job)
    await paced.start()
    pids = {"nats-server": server.pid, **nodes.pids}
    samples: list[Sample] = []
    began = time.monotonic()
    window_s = plan.minutes * 60 / plan.samples
    async with agents.beating():
        await agents.ask()
        working = asyncio.create_task(agents.work())
        try:
            for _ in range(plan.samples):
                await paced.run(asyncio.Event(), window_s)
                await nodes.pause(0)
                if working.done():
                    working.result()
                samples.append(_sample(began, pids, started_s, paced.latencies_s, meter.done))
                print(_line(samples[-1]), file=sys.stderr, flush=True)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
    found = await count(client, job)
    await client.close()
    wrong = {name: found[name] for name in ("dead", "conservation", "foreign") if found[name]}
    if wrong:
        raise Failed(f"the counts are wrong: {wrong}")
    return samples, found


def _sample(
    began: float,
    pids: dict[str, int],
    started_s: list[float],
    durable_s: list[float],
    completed: int,
) -> Sample:
    """The window that ends now; what was collected is taken out."""
    if not started_s or not durable_s:
        raise Failed("no item was worked on for a whole window")
    sample = Sample(
        round(time.monotonic() - began, 1),
        {name: machine.rss_bytes(pid) for name, pid in pids.items()},
        round(1000 * percentile(started_s, 50), 3),
        round(1000 * percentile(started_s, 99), 3),
        round(1000 * percentile(durable_s, 99), 3),
        completed,
    )
    started_s.clear()
    durable_s.clear()
    return sample


def _line(sample: Sample) -> str:
    rss = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sample.rss.items())
    return (
        f"{sample.at_s / 60:.1f} min: {sample.completed:,} completed, start p50 "
        f"{sample.start_p50_ms:.1f} ms, p99 {sample.start_p99_ms:.1f} ms; {rss}"
    )


def main() -> int:
    """0: flat; 1: not, or failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="default: 60")
    parser.add_argument("--rate", type=float, default=200.0, help="items a second (default: 200)")
    parser.add_argument("--agents", type=int, default=100, help="default: 100")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="record there; a shorter run only so"
    )
    args = parser.parse_args()
    if args.minutes <= 0 or args.rate <= 0 or args.agents < 1:
        parser.error("--minutes and --rate must be positive, --agents 1 or more")
    samples = max(6, min(SAMPLES, int(args.minutes * 6)))
    plan = Plan(args.minutes, args.rate, args.agents, samples)
    try:
        with tempfile.TemporaryDirectory(prefix="swarm-soak-") as directory:
            soak: Soak = run_loop(measure(plan, Path(directory)))
    except (Failed, SwarmError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(long_runs.of_soak(soak))
    print(record(soak, SOAK, args.out, full=args.minutes >= FULL_MINUTES))
    return 0 if all(verdict.flat for verdict in long_runs.verdicts(soak)) else 1


if __name__ == "__main__":
    sys.exit(main())
