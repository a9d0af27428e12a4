"""`make bench`: our system beside the limit loop and plain nats-py, round by round."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import nats
from nats.aio.client import Client

from bench import machine, report
from bench.child import Failed
from bench.plan import (
    BATCH,
    BATCHES_IN_FLIGHT,
    LIMIT_OVER_PLAIN_MIN,
    PLAIN,
    PLAIN_CONSUMERS,
    PLAIN_PENDING,
    QUICK_WORKLOADS,
    WORKLOADS,
    Job,
    System,
    Workload,
    systems_of,
)
from bench.results import Run, Session, conclude
from bench.session import run_session
from swarm.bus.embedded import EmbeddedServer, find_binary
from swarm.config import Settings
from swarm.errors import SwarmError
from swarm.hosting.process import run as run_loop

HERE = Path(__file__).resolve().parent
#: How long a measured session is to work, at the rate of the trial round.
WORK_S = 2.0
#: Of a session's items, this part is done before the clock starts.
WARM = 0.1
#: Items of the trial round: enough to see the rate.
TRIAL_ITEMS = {"submit": 20_000, "one_10": 2000, "one_200": 6000, "one_1000": 6000}
TRIAL_ITEMS_TENS = 20_000
TRIAL_ITEMS_PLAIN = 2000
QUICK_ITEMS = {"submit": 10_000, "one_200": 3000, "tens_100": 10_000}
QUICK_ITEMS_PLAIN = 500
ITEMS_MAX = 1_500_000


class Bench:
    """All sessions of a run on one server."""

    def __init__(self, server: EmbeddedServer, client: Client, log_dir: Path, quick: bool) -> None:
        self._quick = quick
        self._server = server
        self._client = client
        self._log_dir = log_dir
        self._number = 0
        #: Items a second in the trial round, by system and workload.
        self._trial: dict[tuple[str, str], float] = {}

    async def round(self, number: int, workloads: tuple[Workload, ...]) -> list[Session]:
        """One session of every system with every workload; number 0 is the trial."""
        sessions = []
        for workload in workloads:
            for system in systems_of(workload, self._quick):
                session = await self._session(number, system, workload)
                self._trial.setdefault((system.name, workload.name), session.rate)
                sessions.append(session)
        return sessions

    async def _session(self, number: int, system: System, workload: Workload) -> Session:
        self._number += 1
        items = self._items(system, workload)
        job = Job(
            url=self._server.url,
            prefix=f"bench{self._number}",
            shards=system.shards,
            agents=workload.agents,
            slots=workload.slots,
            items=items,
            warm=int(items * WARM),
        )
        probe_ms = machine.probe_ms()
        measured = await run_session(system, job, self._server.pid, self._client, self._log_dir)
        await self._forget(job.prefix)
        which = f"round {number}" if number else "trial"
        line = f"{which}: {workload.title}: {system.title}: {measured.rate:,.0f} items/s"
        print(line, file=sys.stderr, flush=True)
        return Session(
            number,
            system.name,
            workload.name,
            items,
            measured.items,
            measured.seconds,
            measured.rate,
            measured.cpu_s,
            measured.checked,
            measured.noted,
            probe_ms,
        )

    def _items(self, system: System, workload: Workload) -> int:
        """Whole batches for about `WORK_S`; the trial's number where the rate is not known."""
        if self._quick:
            return QUICK_ITEMS_PLAIN if system == PLAIN else QUICK_ITEMS[workload.name]
        rate = self._trial.get((system.name, workload.name))
        if rate is not None:
            wanted = min(rate * WORK_S / (1 - WARM), ITEMS_MAX)
            return max(1, round(wanted / BATCH)) * BATCH
        if system == PLAIN:
            return TRIAL_ITEMS_PLAIN
        return TRIAL_ITEMS.get(workload.name, TRIAL_ITEMS_TENS)

    async def _forget(self, prefix: str) -> None:
        """Delete a session's streams, so that the server has the same to do in each."""
        js = self._client.jetstream()
        for name in [info.config.name for info in await js.streams_info()]:
            # Of a name like bench1log_0, or KV_bench1-state, or bench1_plain.
            if name is not None and name.removeprefix("KV_").startswith(prefix):
                await js.delete_stream(name)


async def measure(args: argparse.Namespace) -> Run:
    """Run all rounds; raises `Failed`, `SwarmError`."""
    started, clock = datetime.now(UTC), time.monotonic()
    workloads = QUICK_WORKLOADS if args.quick else WORKLOADS
    with tempfile.TemporaryDirectory(prefix="swarm-bench-", dir=args.data) as name:
        data_dir = Path(name)
        server = EmbeddedServer()
        await server.start(data_dir / "nats", port=0)
        try:
            client = await nats.connect(server.url)
            bench = Bench(server, client, data_dir, args.quick)
            if not args.quick:
                await bench.round(0, workloads)
            sessions: list[Session] = []
            for number in range(1, args.rounds + 1):
                sessions += await bench.round(number, workloads)
            await client.close()
        finally:
            await server.stop()
        found = machine.describe(data_dir, find_binary())
    run = Run(
        format=1,
        started=started.strftime("%Y-%m-%d %H:%M UTC"),
        took_s=round(time.monotonic() - clock, 1),
        command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        quick=args.quick,
        rounds=args.rounds,
        machine=found,
        settings=_settings(args),
        sessions=sessions,
    )
    conclude(run)
    return run


def _settings(args: argparse.Namespace) -> dict[str, str | int | float | bool]:
    ours = Settings()
    return {
        "nats-server": "embedded, one server, file storage, sync_interval always",
        "rounds": args.rounds,
        "work_s": WORK_S,
        "warm": WARM,
        "item_bytes": 91,
        "batch": BATCH,
        "batches_in_flight": BATCHES_IN_FLIGHT,
        "plain_consumers": PLAIN_CONSUMERS,
        "plain_publishes_pending": PLAIN_PENDING,
        "gate": LIMIT_OVER_PLAIN_MIN,
        "lease_s": ours.lease_s,
        "heartbeat_s": ours.heartbeat_s,
        "beat_s": ours.beat_s,
        "batch_size": ours.batch_size,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=_rounds, default=None, help="default: 5 (1 with --quick)")
    parser.add_argument(
        "--quick", action="store_true", help="small sessions, fewer workloads: shows that it runs"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write latest.json and README.md there (default: bench/results/latest.json and "
        "bench/README.md; a quick or void run writes only with --out)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="keep NATS's files below (default: the system's temporary directory)",
    )
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 5)
    return args


def _rounds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds; 1 to 100 are allowed")
    return int(text)


def _write(run: Run, out: Path | None) -> str:
    """Keep the results; returns where, for people."""
    if out is None and (run.quick or run.void):
        return "Not recorded: only a full run that counts replaces the recorded results."
    results = (HERE / "results" if out is None else out) / "latest.json"
    readme = HERE / "README.md" if out is None else out / "README.md"
    text = report.write_section(HERE / "README.md", run)
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    readme.write_text(text, "utf-8")
    return f"Written: {results} and {readme}"


def main() -> int:
    """0: measured; 1: failed or void."""
    args = _parse()
    try:
        run: Run = run_loop(measure(args))
        written = _write(run, args.out)
    except (Failed, SwarmError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted, nothing recorded", file=sys.stderr)
        return 1
    print(report.section(run))
    print(written)
    if run.machine["file_system"] in machine.MEMORY_FILE_SYSTEMS:
        print("NATS's files lay in memory, where a sync is free; choose a disk with --data.")
    return 1 if run.void else 0


if __name__ == "__main__":
    sys.exit(main())
