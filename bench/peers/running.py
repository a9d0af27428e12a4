"""Our system beside its peers: the same items, the same machine, in turns.

A peer's session: an empty broker, all items submitted with no worker, then the workers, until
the task of every item has started; then some more items on a schedule.  A peer counts an item
when its task starts, we when its completion is durable and acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

from bench import machine
from bench.child import Failed, cpu_seconds
from bench.peers import install
from bench.peers.apps import hits
from bench.peers.plan import REDIS, Peer
from bench.peers.redis import Redis
from bench.plan import BATCH, LIMIT, NO_SYNC, ONE_200, OURS, PLAIN, SYNC, Job, Measured, Workload
from bench.probing import percentile
from bench.results import Session
from bench.running import WARM, Env, session_of, tell
from bench.servers import for_others

APPS = Path(__file__).resolve().parent / "apps"
#: Submitted on a schedule after the others.
PACED_RATE = 100.0
PACED_ITEMS = 200
ITEMS_MAX = 100_000
#: How long all items may take, and how long nothing may happen.
SESSION_S = 60.0
STOP_S = 5.0
LOOK_S = 0.1
#: Between the workers' rest and the first item on schedule.
SETTLE_S = 0.5
QUICK_ITEMS = 300
#: Of our trials.
OURS_TRIAL_ITEMS = {PLAIN.name: 3000, OURS.name: 10_000}


async def measure(env: Env) -> list[Session]:
    """Rounds of everybody; raises `Failed`."""
    peers, left_out = install.chosen()
    for line in left_out:
        print(f"bench: {line}", flush=True)
    environments = {peer.name: install.ensure(peer) for peer in peers}
    async with AsyncExitStack() as stack:
        redis = None
        if install.redis_server():
            redis = Redis(install.redis_server(), env.directory / "redis")
            stack.push_async_callback(redis.stop)
            await redis.start()
        bench = _Bench(env, environments, redis)
        sessions: list[Session] = []
        for number in range(1 if env.options.quick else 0, env.options.rounds + 1):
            found = [*await bench.ours(number), *await bench.peers(number, peers)]
            sessions += found if number else []
        return sessions


def settings(env: Env) -> dict[str, str | int | float | bool]:
    """How each is run."""
    peers, left_out = install.chosen()
    found: dict[str, str | int | float | bool] = {
        f"{peer.title} ({', '.join(peer.packages)})": peer.settings for peer in peers
    }
    found |= {"rounds": env.options.rounds, "work_s": env.options.work_s}
    if install.redis_server():
        found["redis-server"] = install.redis_version()
    found |= {"paced_rate": PACED_RATE, "paced_items": PACED_ITEMS}
    return found | ({"peers": "; ".join(left_out)} if left_out else {})


class _Bench:
    """The sessions of a run."""

    def __init__(self, env: Env, environments: dict[str, Path], redis: Redis | None) -> None:
        self._env = env
        self._environments = environments
        self._redis = redis
        #: Items a second in the trial, by system and broker.
        self._trial: dict[tuple[str, str], float] = {}

    async def ours(self, number: int) -> list[Session]:
        """Ours and plain nats-py on both servers, the limit loop's gate included."""
        env, sessions = self._env, []
        for server in (NO_SYNC, SYNC):
            for system in (PLAIN, LIMIT, OURS) if server == NO_SYNC else (PLAIN, OURS):
                fallback = 500 if system == PLAIN else 3000
                if not env.options.quick:
                    fallback = OURS_TRIAL_ITEMS.get(system.name, 10_000)
                items = self._items(system.name, server, fallback, BATCH)
                sessions.append(await env.session(number, system, ONE_200, items, server))
                self._trial.setdefault((system.name, server), sessions[-1].rate)
            if number:
                sessions.append(await self._our_latency(number, server))
        return sessions

    async def _our_latency(self, number: int, server: str) -> Session:
        waiting = Workload("paced", ONE_200.agents, 1, "on schedule, 200 agents")
        return await self._env.session(
            number,
            OURS,
            waiting,
            50 if self._env.options.quick else PACED_ITEMS,
            server,
            load="bench.load_latency",
            job=Job("", "", 0, 0, 0, 0, 0, rate=PACED_RATE),
        )

    async def peers(self, number: int, peers: list[Peer]) -> list[Session]:
        """Every peer on each of its brokers."""
        return [
            await self._session(number, peer, broker) for peer in peers for broker in peer.brokers
        ]

    def _items(self, name: str, broker: str, fallback: int, step: int) -> int:
        rate = self._trial.get((name, broker))
        if rate is None or self._env.options.quick:
            return fallback
        wanted = rate * self._env.options.work_s / (1 - WARM)
        return max(1, round(min(wanted, ITEMS_MAX) / step)) * step

    async def _session(self, number: int, peer: Peer, broker: str) -> Session:
        env = self._env
        quick = env.options.quick
        trial = QUICK_ITEMS if quick else peer.trial_items
        items = self._items(peer.name, broker, trial, 100)
        paced = (50 if quick else PACED_ITEMS) if number else 0
        prefix = env.new_prefix()
        probe_ms = machine.probe_ms()
        if broker == REDIS:
            assert self._redis is not None, "chosen with a server only"
            await self._redis.wipe()
        url, pid = (
            (self._redis.url, self._redis.pid)
            if broker == REDIS and self._redis is not None
            else (env.servers[for_others(broker)].url, env.servers[for_others(broker)].pid)
        )
        run = _Run(peer, self._environments[peer.name], url, pid, prefix, env.directory)
        measured = await run.measure(items, paced)
        if broker != REDIS:
            await env.forget(for_others(broker), prefix)
        session = session_of(number, peer.name, ONE_200.name, items, measured, probe_ms, broker)
        self._trial.setdefault((peer.name, broker), session.rate)
        tell(session, peer.title)
        return session


class _Run:
    """One session of one peer."""

    def __init__(
        self, peer: Peer, environment: Path, url: str, pid: int, prefix: str, directory: Path
    ) -> None:
        self._peer = peer
        self._bin = environment / "bin"
        self._broker_pid = pid
        self._hits = directory / f"{prefix}-hits"
        self._log = directory / f"{prefix}-{peer.name}.log"
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        self._env = {
            **kept,
            "PATH": f"{self._bin}:{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(APPS),
            "BENCH_BROKER": url,
            "BENCH_PREFIX": prefix,
            "BENCH_HITS": str(self._hits),
            **peer.environment,
        }
        self._workers: list[asyncio.subprocess.Process] = []

    async def measure(self, items: int, paced: int) -> Measured:
        """Submit, work, submit on schedule."""
        self._hits.write_bytes(b"\0" * (hits.SLOT.size * (items + paced)))
        enqueue_s = await self._submit(0, items)
        try:
            await self._start()
            pids = {"nats": self._broker_pid}
            before = cpu_seconds(pids)
            await self._until_started(0, items)
            measured = self._throughput(items)
            measured.cpu_s = {
                "broker": round(cpu_seconds(pids).get("nats", 0.0) - before.get("nats", 0.0), 3)
            }
            measured.figures["submit_per_s"] = round(items / enqueue_s, 1)
            if paced:
                await asyncio.sleep(SETTLE_S)
                await self._submit(items, paced, PACED_RATE)
                await self._until_started(items, paced)
                measured.figures |= self._latency(items, paced)
            rss = sum(machine.rss_bytes(pid) for pid in self._tree())
            measured.figures["workers_mb"] = round(rss / 1e6, 1)
            measured.checked = self._counted(items + paced)
            return measured
        finally:
            await self._stop()
            self._hits.unlink()

    async def _submit(self, first: int, count: int, rate: float = 0.0) -> float:
        """Seconds that the submitter worked."""
        command = [str(self._bin / "python"), str(APPS / f"{self._peer.app}.py")]
        command += [str(first), str(count), *([str(rate)] if rate else [])]
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, env=self._env, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        try:
            async with asyncio.timeout(SESSION_S):
                said, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise self._failed(f"submitting took longer than {SESSION_S:.0f} s") from None
        if process.returncode != 0 or not said.strip():
            raise self._failed(f"the submitter ended with exit code {process.returncode}")
        seconds: float = json.loads(said.splitlines()[-1])["seconds"]
        return seconds

    async def _start(self) -> None:
        for command in self._peer.workers:
            with self._log.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    str(self._bin / command[0]),
                    *command[1:],
                    env=self._env,
                    cwd=APPS,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._workers.append(process)

    async def _stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self._workers:
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    continue  # all of this worker's processes have ended
            try:
                async with asyncio.timeout(STOP_S):
                    await asyncio.gather(*(process.wait() for process in self._workers))
            except TimeoutError:
                continue

    async def _until_started(self, first: int, count: int) -> None:
        """Return when the tasks of these items have started; raises `Failed`."""
        give_up_at = time.monotonic() + SESSION_S
        size = hits.SLOT.size
        at = first
        with self._hits.open("rb", buffering=0) as file:
            while at < first + count:
                # What has started stays so: only what follows is looked at again.
                file.seek(at * size)
                for _, started, _ in hits.SLOT.iter_unpack(file.read((first + count - at) * size)):
                    if not started:
                        break
                    at += 1
                if at == first + count:
                    return
                if time.monotonic() > give_up_at:
                    raise self._failed(f"item {at} was not worked on within {SESSION_S:.0f} s")
                for process in self._workers:
                    if process.returncode is not None:
                        raise self._failed(f"a worker ended, exit code {process.returncode}")
                await asyncio.sleep(LOOK_S)

    def _throughput(self, items: int) -> Measured:
        starts = sorted(started for _, started, _ in self._slots()[:items])
        warm = int(items * WARM)
        seconds = starts[-1] - starts[warm]
        return Measured(items - 1 - warm, seconds, {}, {})

    def _latency(self, first: int, count: int) -> dict[str, float]:
        waits = [started - due for due, started, _ in self._slots()[first : first + count]]
        return {
            f"start_p{percent}_ms": round(1000 * percentile(waits, percent), 3)
            for percent in (50, 90, 99, 100)
        }

    def _counted(self, items: int) -> dict[str, int]:
        """Nothing may be missing; repetitions are shown."""
        counts = [count for _, _, count in self._slots()]
        return {"items": items, "lost": counts.count(0), "again": sum(c > 1 for c in counts)}

    def _slots(self) -> list[tuple[float, float, int]]:
        return list(hits.SLOT.iter_unpack(self._hits.read_bytes()))

    def _tree(self) -> list[int]:
        """The workers and their children."""
        groups = {process.pid for process in self._workers}
        return [pid for pid in machine.pids() if machine.group_of(pid) in groups]

    def _failed(self, why: str) -> Failed:
        lines = self._log.read_text("utf-8", errors="replace").splitlines()[-15:]
        return Failed("\n  ".join([f"{self._peer.title}: {why}", *lines]))
