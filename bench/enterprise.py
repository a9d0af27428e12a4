"""`make bench-enterprise`: the guide's enterprise configuration on one machine.

20 coordinators, 64 shards, 1,000 agents, 1,000,000 items, as processes of their own, with the
guide's settings.  What is measured of them gives a forecast of what real machines need.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench import long_runs, machine
from bench.child import Failed
from bench.long_runs import ENTERPRISE, Rehearsal
from bench.nodes import Nodes, running
from bench.plan import BATCH, Job, Measured
from bench.recording import record
from bench.running import WARM
from bench.scale import at_rest, roles_of, until_settled
from bench.session import run_load
from swarm.bus.disk import stored_bytes
from swarm.bus.embedded import EmbeddedServer, find_binary
from swarm.config import SETTINGS
from swarm.errors import SwarmError
from swarm.hosting.process import run as run_loop

#: As the guide's section "Enterprise Scale Configuration" has them.
GUIDE = {
    "SHARD_COUNT": "64",
    "SHARD_KEY": "hash",
    "AGENTS_PER_COORDINATOR": "50",
    "BATCH_SIZE": "1000",
    "BATCH_TIMEOUT": "10000",
    "CACHE_MAX_SIZE": "1000000",
    "METRICS_RETENTION_DAYS": "30",
    "TRACE_SAMPLE_RATE": "0.01",
    "LOG_SAMPLE_RATE": "0.1",
}
#: Not of the guide, whose coordinators have machines of their own: 22 processes that share a few
#: cores beat late when all begin at once.
ONE_MACHINE = {"BEAT_S": "1", "MISSED_S": "10"}
PREFIX = "swarm"
IDLE_S = 10.0
LOOK_S = 1.0
#: No run takes longer.
RUN_S = 7200.0


class Plan(msgspec.Struct, frozen=True):
    """How large."""

    coordinators: int = 20
    shards: int = 64
    agents: int = 1000
    items: int = 1_000_000
    idle_s: float = IDLE_S


#: A smaller rehearsal is not recorded beside the others.
FULL = Plan()


class Watch:
    """Looks at processes and storage once a second, and keeps the most."""

    def __init__(self, pids: dict[str, int], store_dir: Path) -> None:
        self._pids = pids
        self._store_dir = store_dir
        self.rss: dict[str, int] = dict.fromkeys(pids, 0)
        self.stored_most = 0
        self.stored = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Once."""
        for name, pid in self._pids.items():
            self.rss[name] = max(self.rss[name], machine.rss_bytes(pid))
        self.stored = stored_bytes(self._store_dir)
        self.stored_most = max(self.stored_most, self.stored)


async def measure(plan: Plan, directory: Path) -> Rehearsal:
    """Everything; raises `Failed`, `SwarmError`."""
    started, clock = datetime.now(UTC), time.monotonic()
    known = {setting.env for setting in SETTINGS}
    guide = GUIDE | {"SHARD_COUNT": str(plan.shards)}
    settings = {name: value for name, value in guide.items() if name in known} | ONE_MACHINE
    server = EmbeddedServer()
    await server.start(directory / "nats", port=0, monitor_port=0)
    try:
        roles = roles_of(plan.coordinators)
        async with running(server.url, directory, roles, **settings) as nodes:
            owns = await until_settled(nodes, PREFIX, plan.coordinators, plan.shards)
            settled_s = time.monotonic() - clock
            pids = {"nats": server.pid, **nodes.pids}
            idle = await at_rest(pids, plan.idle_s)
            watch = Watch(pids, server.store_dir)
            before = await _network(directory / "nats")
            began = time.monotonic()
            measured = await _load(plan, server, nodes, pids, directory, watch)
            worked_s = time.monotonic() - began
            network = await _network(directory / "nats") - before
        return Rehearsal(
            started=started.strftime("%Y-%m-%d %H:%M UTC"),
            took_s=round(time.monotonic() - clock, 1),
            settings=settings,
            unknown=[name for name in guide if name not in known],
            coordinators=plan.coordinators,
            shards=plan.shards,
            agents=plan.agents,
            items=plan.items,
            settled_s=round(settled_s, 1),
            owns=owns,
            submit_and_work_s=round(worked_s, 1),
            rate=round(measured.rate, 1),
            rss=watch.rss,
            cpu_s=measured.cpu_s,
            measured=measured.items,
            idle_nodes_percent=round(sum(v for k, v in idle.items() if k != "nats"), 2),
            idle_nats_percent=round(idle.get("nats", 0.0), 2),
            stored_most=watch.stored_most,
            stored=watch.stored,
            network=network,
            checked=measured.checked,
            machine=machine.describe(directory, find_binary()),
        )
    finally:
        await server.stop()


async def _load(
    plan: Plan,
    server: EmbeddedServer,
    nodes: Nodes,
    pids: dict[str, int],
    directory: Path,
    watch: Watch,
) -> Measured:
    """Submit and work, watched."""
    job = Job(
        server.url,
        PREFIX,
        plan.shards,
        plan.agents,
        1,
        plan.items,
        int(plan.items * WARM),
        pids=pids,
    )
    watching = asyncio.create_task(watch.run())
    try:
        measured = await run_load("bench.ours", job, directory, RUN_S)
        await nodes.pause(LOOK_S)
        watch.look()
        return measured
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _network(data_dir: Path) -> int:
    """Bytes to and from nats-server so far, as its monitoring tells."""

    def read() -> bytes:
        ports = next(data_dir.glob("*.ports")).read_text("utf-8")
        found = re.search(r'"monitoring"\s*:\s*\[\s*"([^"]+)"', ports)
        if found is None:
            raise Failed("nats-server does not tell where its monitoring is")
        url = f"{found[1]}/varz"
        with urllib.request.urlopen(url, timeout=10) as answer:
            body: bytes = answer.read()
            return body

    told = msgspec.json.decode(await asyncio.to_thread(read))
    return int(told["in_bytes"]) + int(told["out_bytes"])


def main() -> int:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(prog="python -m bench.enterprise", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000, help="default: 1,000,000")
    parser.add_argument("--agents", type=int, default=1000, help="default: 1,000")
    parser.add_argument("--coordinators", type=int, default=20, help="default: 20")
    parser.add_argument("--shards", type=int, default=64, help="default: 64")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="record there; a smaller run only so"
    )
    args = parser.parse_args()
    if args.items <= 0 or args.items % BATCH:
        parser.error(f"--items {args.items}: give a multiple of {BATCH}")
    if min(args.agents, args.coordinators, args.shards) < 1:
        parser.error("--agents, --coordinators and --shards must be 1 or more")
    plan = Plan(args.coordinators, args.shards, args.agents, args.items)
    try:
        with tempfile.TemporaryDirectory(prefix="swarm-enterprise-") as directory:
            run: Rehearsal = run_loop(measure(plan, Path(directory)))
    except (Failed, SwarmError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(long_runs.of_rehearsal(run))
    full = plan.items >= FULL.items and plan.coordinators >= FULL.coordinators
    print(record(run, ENTERPRISE, args.out, full=full))
    return 0


if __name__ == "__main__":
    sys.exit(main())
