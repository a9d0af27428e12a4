"""What one simulation does, drawn from its seed: who takes part, faults, mishaps."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from msgspec import Struct, structs

from swarm.bus.memory_faults import Faults
from swarm.config import Settings
from swarm.core.conflicts import CONFLICT_RESOLUTIONS
from swarm.core.sharding import SHARD_DISTRIBUTIONS, SHARD_KEYS
from swarm.testing.sim.mishaps import Mishap, draw_mishap

#: Short times: a simulated swarm lives through a day's trouble in half a minute.
SETTINGS = Settings(
    lease_s=4.0,
    heartbeat_s=0.8,
    beat_s=0.25,
    missed_s=1.2,
    drain_s=4.0,
    append_timeout_s=0.4,
    ageing_s=2.0,
    dedupe_window_s=1000.0,
    dedupe_count=1000,
    # Small enough that every schedule compacts, archives and purges.
    log_floor_bytes=3000,
    cache_max_size=2,
    retry_backoff_s=0.2,
    retry_backoff_max_s=2.0,
    deadline_grace_s=1.0,
)
WORK_TYPES = ("build", "test")
CLIENTS = ("u1", "u2")
FOLLOWER = "f1"
#: Half of the schedules end their faults after this, the others at up to twice of it.
FAULTS_S = 6.0


class Size(Struct, frozen=True):
    """How many of each take part; `items`: what a client submits, least and most."""

    weight: int
    shards: tuple[int, ...]
    coordinators: tuple[int, ...]
    routers: tuple[int, ...]
    agents: tuple[int, ...]
    items: tuple[int, int]


SIZES = (
    Size(5, (2,), (2,), (1, 2), (3,), (5, 20)),
    Size(3, (2, 3, 4), (2, 3), (2,), (3, 4), (5, 25)),
    Size(1, (5, 6, 8), (3,), (2,), (4, 6), (10, 30)),
)


class Plan(Struct):
    """One schedule."""

    settings: Settings
    faults: Faults
    mishaps: list[Mishap]
    faults_s: float
    #: What each client submits.
    items: int
    coordinators: list[str]
    routers: list[str]
    #: Agent id by process: two processes share one id.
    agents: dict[str, str]
    #: Items that each agent process works on at once.
    concurrency: dict[str, int]


def draw(rng: Random, focus: Collection[str] = ()) -> Plan:
    """A plan; about every fifth has no message faults, every fifth no log faults.

    `focus`: kinds of mishaps that are to be much more frequent than others.
    """
    (size,) = rng.choices(SIZES, [size.weight for size in SIZES])
    coordinators = [f"c{number}" for number in range(1, rng.choice(size.coordinators) + 1)]
    routers = [f"r{number}" for number in range(1, rng.choice(size.routers) + 1)]
    agents = {"a1x": "a1", "a1y": "a1"}
    for number in range(2, rng.choice(size.agents)):
        agents[f"a{number}x"] = f"a{number}"
    names = [*coordinators, *routers, *agents, *CLIENTS, FOLLOWER]
    faults_s = FAULTS_S * (1 + rng.random() * rng.choice((0, 1)))
    most = 2 * len(names) // 3 + 1
    mishaps = [draw_mishap(rng, names, faults_s, focus) for _ in range(rng.randint(0, most))]
    mishaps.sort(key=lambda mishap: mishap.at_s)
    return Plan(
        settings=_settings(rng, rng.choice(size.shards), coordinators),
        faults=_faults(rng),
        mishaps=mishaps,
        faults_s=faults_s,
        items=rng.randint(*size.items),
        coordinators=coordinators,
        routers=routers,
        agents=agents,
        concurrency={name: rng.randint(1, 3) for name in agents},
    )


def _settings(rng: Random, shards: int, coordinators: list[str]) -> Settings:
    return structs.replace(
        SETTINGS,
        shard_count=shards,
        coordinators=coordinators,
        shard_key=rng.choice(("hash", *SHARD_KEYS)),
        shard_distribution=rng.choice(SHARD_DISTRIBUTIONS),
        # Of each size another one; not drawn, so that seeds stay what they were.
        conflict_resolution=CONFLICT_RESOLUTIONS[(shards + len(coordinators)) % 3],
    )


def _faults(rng: Random) -> Faults:
    faults = Faults.none()
    if rng.random() < 0.8:
        faults.loss = rng.choice((0.0, 0.01, 0.05, 0.15))
        faults.duplicate = rng.choice((0.0, 0.02, 0.1))
        faults.delay = rng.choice((0.0, 0.05, 0.2))
        faults.delay_s = (0.001, rng.choice((0.05, 1.0, 3.0)))
    if rng.random() < 0.8:
        faults.append_lost = rng.choice((0.0, 0.02, 0.1))
        faults.append_late = rng.choice((0.0, 0.02, 0.1))
        faults.late_s = (0.0, rng.choice((0.2, 2.0)))
        faults.ack_lost = rng.choice((0.0, 0.02, 0.1))
        faults.read_lag = rng.choice((0.0, 0.1, 0.3))
        faults.gap = rng.choice((0.0, 0.05, 0.2))
    return faults
