"""What one simulation does, drawn from its seed: faults, and who fails when."""

from __future__ import annotations

from random import Random

from msgspec import Struct

from swarm.bus.memory_faults import Faults
from swarm.config import Settings

#: Short times: a simulated swarm lives through a day's trouble in half a minute.
SETTINGS = Settings(
    shard_count=2,
    coordinators=["c1", "c2"],
    lease_s=4.0,
    heartbeat_s=0.8,
    beat_s=0.25,
    missed_s=1.2,
    append_timeout_s=0.4,
    ageing_s=2.0,
    dedupe_count=1000,
    # Small enough that every schedule compacts, archives and purges.
    log_floor_bytes=3000,
    cache_max_size=6,
    retry_backoff_s=0.2,
    retry_backoff_max_s=2.0,
)

COORDINATORS = ("c1", "c2")
#: Process and the agent id it runs under: two processes share one id.
AGENTS = {"a1x": "a1", "a1y": "a1", "a2x": "a2"}
CLIENTS = ("u1", "u2")
#: Half of the schedules end their faults after this, the others at up to twice of it.
FAULTS_S = 8.0


class Mishap(Struct):
    """Something that happens to a process."""

    at_s: float
    kind: str
    node: str
    for_s: float


class Plan(Struct):
    """One schedule."""

    faults: Faults
    mishaps: list[Mishap]
    faults_s: float
    items: int


def draw(rng: Random) -> Plan:
    """A plan; about every fifth has no message faults, every fifth no log faults."""
    faults_s = FAULTS_S * (1 + rng.random() * rng.choice((0, 1)))
    mishaps = [_mishap(rng, faults_s) for _ in range(rng.randint(0, 6))]
    mishaps.sort(key=lambda mishap: mishap.at_s)
    return Plan(_faults(rng), mishaps, faults_s, rng.randint(5, 30))


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


def _mishap(rng: Random, faults_s: float) -> Mishap:
    kind = rng.choice(("crash", "crash", "partition", "pause", "cut_log", "foreign"))
    nodes = (*COORDINATORS, *COORDINATORS, *AGENTS)
    node = rng.choice(COORDINATORS if kind in ("cut_log", "foreign") else nodes)
    return Mishap(rng.random() * faults_s, kind, node, 0.1 + rng.random() * 5.0)
