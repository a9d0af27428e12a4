"""The sections of a run: what each measures, in its rounds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from bench import scale
from bench.peers import running as peers
from bench.plan import (
    BATCH,
    BATCHES_IN_FLIGHT,
    LIMIT_OVER_PLAIN_MIN,
    MATRIX,
    NO_SYNC,
    ONE_10,
    ONE_200,
    ONE_1000,
    OURS,
    OURS_16,
    PLAIN,
    PLAIN_CONSUMERS,
    PLAIN_CONSUMERS_TENS,
    PLAIN_FETCH,
    PLAIN_PENDING,
    QUICK_MATRIX,
    SERVERS,
    SYNC,
    TENS,
    Job,
    System,
    Workload,
)
from bench.results import Session
from bench.running import WARM, Env
from swarm.config import Settings
from swarm.sdk.host import CONNECTIONS

Settled = dict[str, str | int | float | bool]

#: Items of a trial: enough to see the rate.
TRIAL_ITEMS = {"submit": 20_000, "one_10": 2000, "one_200": 6000, "one_1000": 6000}
TRIAL_ITEMS_TENS = 20_000
TRIAL_ITEMS_PLAIN = 2000
QUICK_ITEMS = {"submit": 10_000, "one_200": 3000, "tens_100": 10_000}
QUICK_ITEMS_PLAIN = 500
ITEMS_MAX = 1_500_000
#: Workloads that show a range and carry no goal: fewer rounds of them do.
BESIDE = (ONE_10, ONE_1000)

#: Submissions a second at which latency is measured, and for how long.
LATENCIES: tuple[tuple[System, float, str], ...] = (
    *((OURS_16, rate, SYNC) for rate in (200.0, 1000.0, 2000.0)),
    (OURS_16, 1000.0, NO_SYNC),
    (OURS, 1000.0, SYNC),
    (OURS, 1000.0, NO_SYNC),
)
LATENCIES_QUICK = ((OURS_16, 1000.0, SYNC),)
LATENCY_S = 5.0
LATENCY_QUICK_S = 1.0
#: Agents of the SDK in one process, and the rate at which they get work.
HOSTED_AGENTS = 1000
HOSTED_QUICK = 50
HOSTED_CONNECTIONS = CONNECTIONS
HOSTED_RATE = 100.0
IDLE_S = 5.0
IDLE_QUICK_S = 1.0
IDLE_AGENTS = (0, 500, 1000)
QUEUES = (1000, 10_000, 100_000, 1_000_000)


class Part(Struct, frozen=True):
    """One section."""

    title: str
    measure: Callable[[Env], Awaitable[list[Session]]]
    settings: Callable[[Env], Settled]
    #: Servers on which the limit loop must be fast enough.
    gates: tuple[str, ...] = ()


def items_for(session: Session | None, fallback: int, work_s: float) -> int:
    """Whole batches for about `work_s` at the trial's rate, if there was one."""
    if session is None:
        return fallback
    wanted = min(session.rate * work_s / (1 - WARM), ITEMS_MAX)
    return max(1, round(wanted / BATCH)) * BATCH


# --- throughput ---------------------------------------------------------------------------


async def rates(env: Env) -> list[Session]:
    """Every system with every workload on its servers."""
    options = env.options
    matrix = QUICK_MATRIX if options.quick else MATRIX
    trial: dict[tuple[str, str, str], Session] = {}
    sessions: list[Session] = []
    for number in range(1 if options.quick else 0, options.rounds + 1):
        for workload, server, systems in matrix:
            if number > options.few_rounds and workload in BESIDE:
                continue
            for system in systems:
                key = (system.name, workload.name, server)
                items = items_for(
                    trial.get(key), _first_items(system, workload, options.quick), options.work_s
                )
                session = await env.session(number, system, workload, items, server)
                if number:
                    sessions.append(session)
                else:
                    trial[key] = session
    return sessions


def _first_items(system: System, workload: Workload, quick: bool) -> int:
    if quick:
        return QUICK_ITEMS_PLAIN if system == PLAIN else QUICK_ITEMS[workload.name]
    if system == PLAIN and workload != TENS:
        return TRIAL_ITEMS_PLAIN
    return TRIAL_ITEMS.get(workload.name, TRIAL_ITEMS_TENS)


def _rates_settings(env: Env) -> Settled:
    return {
        **{f"nats-server, {name}": f"file storage, {how}" for name, how in SERVERS.items()},
        "rounds": env.options.rounds,
        "work_s": env.options.work_s,
        "warm": WARM,
        "item_bytes": 91,
        "batch": BATCH,
        "batches_in_flight": BATCHES_IN_FLIGHT,
        "plain_consumers": PLAIN_CONSUMERS,
        "plain_consumers_tens": f"{PLAIN_CONSUMERS_TENS}, fetch({PLAIN_FETCH}), ack not confirmed",
        "plain_publishes_pending": PLAIN_PENDING,
        "gate": LIMIT_OVER_PLAIN_MIN,
        **_ours(),
    }


def _ours() -> Settled:
    ours = Settings()
    names = ("lease_s", "heartbeat_s", "beat_s", "batch_size", "standbys")
    return {name: getattr(ours, name) for name in names}


# --- latency -------------------------------------------------------------------------------


async def latency(env: Env) -> list[Session]:
    """Items on a schedule, with 1,000 agents that wait for work."""
    options, sessions = env.options, []
    workload = Workload("latency", 1000, 1, "submit to start, 1,000 agents")
    seconds = LATENCY_QUICK_S if options.quick else LATENCY_S
    for number in range(1, options.few_rounds + 1):
        for system, rate, server in LATENCIES_QUICK if options.quick else LATENCIES:
            session = await env.session(
                number,
                system,
                workload,
                int(rate * seconds),
                server,
                load="bench.load_latency",
                job=Job("", "", 0, 0, 0, 0, 0, rate=rate),
                name=f"at_{rate:.0f}",
            )
            sessions.append(session)
    sessions += await hosted(env)
    return sessions


async def hosted(env: Env) -> list[Session]:
    """1,000 agents of the SDK in one process, over a few connections."""
    quick = env.options.quick
    agents = HOSTED_QUICK if quick else HOSTED_AGENTS
    seconds = LATENCY_QUICK_S if quick else LATENCY_S
    workload = Workload("hosted", agents, 1, f"{agents} agents of the SDK in one process")
    job = Job("", "", 0, 0, 0, 0, 0, rate=HOSTED_RATE, connections=HOSTED_CONNECTIONS)
    return [
        await env.session(
            number,
            OURS_16,
            workload,
            int(HOSTED_RATE * seconds),
            load="bench.load_hosted",
            job=job,
        )
        for number in range(1, env.options.few_rounds + 1)
    ]


def _latency_settings(env: Env) -> Settled:
    quick = env.options.quick
    return {
        "rounds": env.options.few_rounds,
        "seconds": LATENCY_QUICK_S if quick else LATENCY_S,
        "agents": 1000,
        "hosted_agents": HOSTED_QUICK if quick else HOSTED_AGENTS,
        "hosted_connections": HOSTED_CONNECTIONS,
        "hosted_rate": HOSTED_RATE,
        **_ours(),
    }


# --- the queue's length ----------------------------------------------------------------------


async def queue(env: Env) -> list[Session]:
    """Claims one at a time by 200 agents, of queues of several lengths, kept at that length."""
    options = env.options
    lengths = (1000, 5000) if options.quick else QUEUES
    trial: Session | None = None
    sessions: list[Session] = []
    for number in range(1 if options.quick else 0, options.few_rounds + 1):
        for length in lengths if number else lengths[:1]:
            session = await env.session(
                number,
                OURS,
                ONE_200,
                items_for(trial, 3000 if options.quick else 6000, options.work_s),
                load="bench.load_queue",
                job=Job("", "", 0, 0, 0, 0, 0, queued=length),
                name=f"queue_{length}",
            )
            if number:
                sessions.append(session)
            else:
                trial = session
    return sessions


def _queue_settings(env: Env) -> Settled:
    return {"rounds": env.options.few_rounds, "agents": 200, "shards": 1, **_ours()}


# --- agents without work ------------------------------------------------------------------------


async def idle(env: Env) -> list[Session]:
    """Agents that wait: CPU and memory of their coordinator."""
    options, sessions = env.options, []
    numbers = (100,) if options.quick else IDLE_AGENTS
    for number in range(1, options.few_rounds + 1):
        for agents in numbers:
            workload = Workload("idle", agents, 1, f"{agents} agents without work")
            session = await env.session(
                number,
                OURS_16,
                workload,
                0,
                load="bench.load_idle",
                job=Job("", "", 0, 0, 0, 0, 0, seconds=_idle_s(env)),
                name=f"idle_{agents}",
            )
            sessions.append(session)
    return sessions


def _idle_s(env: Env) -> float:
    return IDLE_QUICK_S if env.options.quick else IDLE_S


def _idle_settings(env: Env) -> Settled:
    return {"rounds": env.options.few_rounds, "seconds": _idle_s(env), "shards": 16, **_ours()}


PARTS: dict[str, Part] = {
    "rates": Part("Throughput", rates, _rates_settings, (SYNC, NO_SYNC)),
    "peers": Part("Beside the peers", peers.measure, peers.settings, (NO_SYNC,)),
    "latency": Part("Latency", latency, _latency_settings),
    "queue": Part("Length of the queue", queue, _queue_settings),
    "idle": Part("Idle agents", idle, _idle_settings),
    "scale": Part("Coordinators and shards", scale.measure, scale.settings),
}
#: Not part of a plain `make bench`: the peers are installed first.
ASKED_FOR = ("peers",)
