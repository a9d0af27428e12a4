"""One shard full of items: their memory, its cold opening, and compaction under way.

`python -m bench.shard_life --items 1000000`.  One process is coordinator and router, as
`swarm node` runs it; nats-server syncs before every acknowledgement.

1. *Memory*: resident set of the coordinator, after so many items were submitted minus
   before, an item; and the same after a cold opening, minus that of the nearly empty shard.
2. *Cold opening*: kill -9, a new process, until it has answered a request about an item of
   the shard.  What a process with a nearly empty shard takes for it is shown beside it.
   NATS and the system's file cache are warm.
3. *Compaction*: single submissions on a schedule, each timed until it is acknowledged:
   before, and while the log is copied forward.  So that there is something to compact, a
   held item reports large checkpoints until the log is more than twice what lives in it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
from msgspec import Struct
from nats.aio.client import Client

from bench import machine
from bench.child import Failed
from bench.nodes import Nodes, running
from bench.plan import BATCH, WORK_TYPE, Job
from bench.probing import Prober, percentile
from bench.submitting import Ids, Submitting
from swarm.bus.embedded import EmbeddedServer, find_binary
from swarm.config import Settings
from swarm.errors import BusError
from swarm.hosting.process import run
from swarm.messages import ShardStats
from swarm.sdk.client import Swarm
from swarm.subjects import Subjects

NODE = "coordinator-1"
PREFIX = "swarm"
#: Items of the nearly empty shard.
FEW = 1000
#: The payload is one JSON string, so long with its quotes.
PAYLOAD_BYTES = 100
#: A smaller shard is not recorded beside the others.
FULL_ITEMS = 1_000_000
CHECKPOINT_BYTES = 150_000
CHECKPOINTS_AT_ONCE = 8
#: Of compaction: a machine that is too busy to show one purge in so many shows nothing.
ROUNDS_MAX = 50
#: A process is at rest when its resident set has not grown for so many looks.
REST_LOOKS = 4
LOOK_S = 0.25
#: Between two looks at how far the compaction is.
WATCH_S = 0.1
READY_S = 300.0
RETRY_S = 0.01
#: What was sent before NATS knew that its receiver is dead is lost: it is asked again.
ANSWER_S = 0.5
GET = b'{"work_item_id":"0-1"}'


class Memory(Struct):
    """Resident set of the coordinator, bytes."""

    before: int
    after: int
    #: Of the items between, without their payload.
    per_item: float


class Opening(Struct):
    """Seconds from the start of a process to its first answer about the shard."""

    nearly_empty_s: list[float]
    full_s: list[float]


class Latency(Struct):
    """From the time a submission is due to its acknowledgement, milliseconds."""

    count: int
    p50_ms: float
    p99_ms: float
    most_ms: float


class Life(Struct):
    """All that was measured."""

    items: int
    payload_bytes: int
    batch: int
    rate: float
    log_bytes_per_item: float
    submitted: Memory
    opened: Memory
    opening: Opening
    before: Latency
    compacting: Latency
    #: Entries that the purges of the compaction dropped, and rounds of it that were seen.
    purged_entries: int
    rounds: int
    machine: dict[str, str | int | float]

    @property
    def p99_rise_ms(self) -> float:
        """What compaction adds."""
        return self.compacting.p99_ms - self.before.p99_ms


class Plan(Struct):
    """What to measure."""

    items: int
    opens: int = 3
    rate: float = 200.0
    #: Of each of the two measurements of latency.
    seconds: float = 20.0


class Bench:
    """One server, one node, one shard."""

    def __init__(self, plan: Plan, nodes: Nodes, client: Client, swarm: Swarm) -> None:
        self._plan = plan
        self._nodes = nodes
        self._client = client
        self._swarm = swarm
        payload = b'"%s"' % (b"x" * (PAYLOAD_BYTES - 2))
        self._items = [b'{"work_type":"%s","payload":%s}' % (WORK_TYPE.encode(), payload)] * BATCH

    async def measure(self) -> Life:
        """Everything, in order."""
        plan = self._plan
        await self._submit(FEW)
        nearly_empty_s = [await self._reopen() for _ in range(plan.opens)]
        empty_bytes = await self._rss_at_rest()
        await self._submit(plan.items)
        submitted = self._memory(empty_bytes, await self._rss_at_rest())
        log_bytes = (await self._stats()).log_bytes
        full_s = [await self._reopen() for _ in range(plan.opens)]
        opened = self._memory(empty_bytes, await self._rss_at_rest())
        prober = await self._prober()
        await prober.run(asyncio.Event(), plan.seconds)
        before = _latency(prober.latencies_s)
        compacting, purged, rounds = await self._compact(len(prober.latencies_s))
        return Life(
            plan.items,
            PAYLOAD_BYTES,
            BATCH,
            plan.rate,
            log_bytes / (plan.items + FEW),
            submitted,
            opened,
            Opening(nearly_empty_s, full_s),
            before,
            compacting,
            purged,
            rounds,
            {},
        )

    async def _submit(self, items: int) -> None:
        job = Job("", PREFIX, 1, 0, 1, items=items, warm=0)
        await Submitting(self._client, job, Ids(), None, self._items).run()

    async def _reopen(self) -> float:
        """kill -9, start anew, and wait for an answer; how long that took."""
        await self._nodes.kill(NODE)
        started = time.monotonic()
        await self._nodes.start(NODE, "coordinator,router")
        subject = Subjects(PREFIX).shard(0, "get", self._swarm.bus.sender)
        while True:
            try:
                # Nobody listens before the shard is open: told at once, so asked again at once.
                await self._swarm.bus.request(subject, GET, ANSWER_S)
            except BusError as error:
                if time.monotonic() > started + READY_S:
                    raise Failed(f"the shard did not open: {error}") from error
                await asyncio.sleep(RETRY_S)
                continue
            return time.monotonic() - started

    async def _rss_at_rest(self) -> int:
        """Once it does not grow any more: what came with the last request is freed."""
        seen: list[int] = []
        give_up_at = time.monotonic() + READY_S / 2
        while len(seen) < REST_LOOKS or max(seen[-REST_LOOKS:]) > min(seen[-REST_LOOKS:]):
            await asyncio.sleep(LOOK_S)
            seen.append(machine.rss_bytes(self._nodes.pids[NODE]))
            if time.monotonic() > give_up_at:
                raise Failed(f"the memory of {NODE} does not come to rest: {seen[-REST_LOOKS:]}")
        return seen[-1]

    def _memory(self, before: int, after: int) -> Memory:
        return Memory(before, after, (after - before) / self._plan.items - PAYLOAD_BYTES)

    async def _stats(self) -> ShardStats:
        (stats,) = (await self._swarm.stats(timeout_s=READY_S)).values()
        if not isinstance(stats, ShardStats):
            raise stats
        return stats

    async def _prober(self) -> Prober:
        prober = Prober(self._client, PREFIX, self._plan.rate, self._items[0])
        await prober.start()
        return prober

    # --- compaction ----------------------------------------------------------------------

    async def _compact(self, wanted: int) -> tuple[Latency, int, int]:
        """Latency while the log is copied forward, entries purged meanwhile, rounds of it.

        A round is watched until all that was in the log before it is gone; more of them
        follow until as many submissions were timed as without compaction.
        """
        prober = await self._prober()
        floor = Settings().log_floor_bytes
        purged = rounds = 0
        while rounds < ROUNDS_MAX and (len(prober.latencies_s) < wanted or purged <= 0):
            before = await self._outgrow(floor)
            first_seq = (await self._stats()).first_seq
            over = asyncio.Event()
            watching = asyncio.create_task(self._watch(before, over))
            await prober.run(over, self._plan.seconds)
            over.set()
            purged += await watching - first_seq
            rounds += 1
        if purged <= 0:
            raise Failed("nothing was purged while compaction was to be measured")
        return _latency(prober.latencies_s), purged, rounds

    async def _outgrow(self, floor: int) -> int:
        """Make the log so long that it is compacted; a sequence from before that began."""
        claimed = await self._swarm.claim([WORK_TYPE], lease_s=3600.0, timeout_s=READY_S)
        assert claimed is not None, "the shard is full of items"
        checkpoint = "x" * CHECKPOINT_BYTES
        stats = await self._stats()
        before = stats.as_of
        # As `swarm.core.upkeep.Pace.limit`, as long as nothing was compacted before.
        while stats.log_bytes <= floor + 2 * stats.live_bytes:
            before = stats.as_of
            async with asyncio.TaskGroup() as group:
                for _ in range(CHECKPOINTS_AT_ONCE):
                    group.create_task(
                        self._swarm.progress(
                            claimed.work_item_id,
                            claimed.token,
                            1.0,
                            checkpoint=checkpoint,
                            timeout_s=READY_S,
                        )
                    )
            stats = await self._stats()
        await self._swarm.complete(claimed.work_item_id, claimed.token, timeout_s=READY_S)
        return before

    async def _watch(self, before: int, over: asyncio.Event) -> int:
        """Set `over` when the log begins behind `before`; returns where it begins then."""
        while True:
            first_seq = (await self._stats()).first_seq
            if over.is_set() or first_seq > before:
                over.set()
                return first_seq
            await asyncio.sleep(WATCH_S)


def _latency(latencies_s: list[float]) -> Latency:
    p50, p99, most = (1000 * percentile(latencies_s, percent) for percent in (50, 99, 100))
    return Latency(len(latencies_s), round(p50, 3), round(p99, 3), round(most, 3))


@asynccontextmanager
async def one_node(directory: Path, **settings: str) -> AsyncIterator[tuple[Nodes, str]]:
    """A server and a node with one shard; the server's URL."""
    server = EmbeddedServer()
    await server.start(directory / "nats", port=0)
    try:
        roles = {NODE: "coordinator,router"}
        async with running(server.url, directory, roles, SHARD_COUNT="1", **settings) as nodes:
            yield nodes, server.url
    finally:
        await server.stop()


async def measure(plan: Plan, directory: Path) -> Life:
    """Measure on a server of its own; raises `Failed`, `SwarmError`."""
    async with one_node(directory) as (nodes, url), nodes.connect() as swarm:
        client = await nats.connect(url)
        try:
            await until_ready(swarm)
            life = await Bench(plan, nodes, client, swarm).measure()
        finally:
            await client.close()
    life.machine = machine.describe(directory, find_binary())
    return life


async def until_ready(swarm: Swarm) -> None:
    """Return once the shard has an owner."""
    give_up_at = time.monotonic() + READY_S
    while True:
        beats = (await swarm.describe(timeout_s=READY_S)).coordinators
        if any(0 in beat.owns for beat in beats):
            return
        if time.monotonic() > give_up_at:
            raise Failed(f"nobody owns the shard after {READY_S:.0f} s")
        await asyncio.sleep(RETRY_S)


def tell(life: Life) -> str:
    """For people."""
    opening, submitted, opened = life.opening, life.submitted, life.opened
    rss = [f"{b / 1e6:.0f} MB" for b in (submitted.before, submitted.after, opened.after)]
    full = ", ".join(f"{seconds:.2f}" for seconds in opening.full_s)
    return f"""\
{life.items:,} queued items, payload {life.payload_bytes} bytes, {life.batch:,} a request
log: {life.log_bytes_per_item:.0f} bytes an item
memory besides the payload: {submitted.per_item:.0f} bytes an item; \
{opened.per_item:.0f} after a cold opening
coordinator: {rss[0]} before, {rss[1]} after, {rss[2]} after a cold opening
cold opening, process start included: {statistics.median(opening.full_s):.2f} s ({full}); \
nearly empty: {statistics.median(opening.nearly_empty_s):.2f} s
submit to acknowledgement at {life.rate:g}/s: {_told(life.before)}
the same while the log is compacted: {_told(life.compacting)}
p99 rises by {life.p99_rise_ms:.1f} ms; {life.purged_entries:,} entries were purged meanwhile"""


def _told(latency: Latency) -> str:
    return (
        f"p50 {latency.p50_ms:.1f} ms, p99 {latency.p99_ms:.1f} ms, "
        f"most {latency.most_ms:.1f} ms (n={latency.count})"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.shard_life", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000, help="default: 1,000,000")
    parser.add_argument("--opens", type=int, default=3, help="cold openings (default: 3)")
    parser.add_argument("--rate", type=float, default=200.0, help="probes a second (default: 200)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of probing (default: 20)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="record there; with fewer items only so"
    )
    args = parser.parse_args()
    if args.items <= 0 or args.items % BATCH:
        parser.error(f"--items {args.items}: give a multiple of {BATCH}")
    if args.opens < 1 or args.rate <= 0 or args.seconds <= 0:
        parser.error("--opens, --rate and --seconds must be positive")
    plan = Plan(args.items, args.opens, args.rate, args.seconds)
    with tempfile.TemporaryDirectory(prefix="swarm-shard-life-") as directory:
        life: Life = run(measure(plan, Path(directory)))
    print(tell(life))
    # These show what is measured here.
    from bench import long_runs  # noqa: PLC0415
    from bench.recording import record  # noqa: PLC0415

    print(record(life, long_runs.SHARD_LIFE, args.out, full=args.items >= FULL_ITEMS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
