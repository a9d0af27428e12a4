"""The peers: what is installed, how each runs, and what each can lose."""

from __future__ import annotations

from msgspec import Struct

from bench.plan import NO_SYNC, SYNC

REDIS = "redis"


class Peer(Struct, frozen=True):
    """One peer at the best settings that we found."""

    name: str
    title: str
    #: Exact, so that a run can be repeated.
    packages: tuple[str, ...]
    #: Module in `bench/peers/apps`; run as a program, it submits.
    app: str
    #: Command lines of the workers, programs of the peer's environment.
    workers: tuple[tuple[str, ...], ...]
    #: Brokers on which it runs: `REDIS`, or the names of nats-servers.
    brokers: tuple[str, ...]
    #: Items of the trial.
    trial_items: int
    settings: str
    worker_killed: str
    environment: dict[str, str] = {}


class Durability(Struct, frozen=True):
    """What is lost with a broker."""

    title: str
    broker_killed: str
    power_cut: str


BROKERS: dict[str, Durability] = {
    REDIS: Durability(
        "Redis, RDB snapshots as by default, no AOF",
        "everything since the last snapshot",
        "everything since the last snapshot",
    ),
    NO_SYNC: Durability(
        "NATS JetStream, file, its default sync (2 min)",
        "nothing acknowledged",
        "up to the last two minutes",
    ),
    SYNC: Durability(
        "NATS JetStream, file, sync_interval always",
        "nothing acknowledged",
        "nothing acknowledged",
    ),
}

_CELERY = (
    "celery",
    *("-A", "celery_app", "worker", "-P", "solo", "-c", "1", "-l", "WARNING"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
)

PEERS: tuple[Peer, ...] = (
    Peer(
        "celery",
        "Celery",
        ("celery[redis]==5.7.0", "hiredis==3.5.0"),
        "celery_app",
        ((*_CELERY, "-n", "one@%h"), (*_CELERY, "-n", "two@%h")),
        (REDIS,),
        4000,
        "two solo workers, prefetch 64, acks_late, results ignored, JSON, no events, gossip, "
        "mingle or heartbeat; submitted by `delay`, one call after the other",
        "items in hand come back after the visibility timeout, an hour",
    ),
    Peer(
        "dramatiq",
        "dramatiq",
        ("dramatiq[redis]==2.2.1", "hiredis==3.5.0"),
        "dramatiq_app",
        (("dramatiq", "dramatiq_app", "--processes", "2", "--threads", "8"),),
        (REDIS,),
        10_000,
        "2 processes of 8 threads, queue_prefetch 500, default middleware; submitted by `send`, "
        "one call after the other",
        "items in hand come back after 60 to 300 s",
        {"dramatiq_queue_prefetch": "500"},
    ),
    Peer(
        "arq",
        "arq",
        ("arq==0.28.0", "uvloop==0.23.0", "hiredis==3.5.0"),
        "arq_app",
        (("arq", "arq_app.WorkerSettings"),),
        (REDIS,),
        4000,
        "one worker (two are slower), max_jobs 1,000, queue_read_limit 5,000, poll_delay 10 ms, "
        "keep_result 0, uvloop; submitted 50 at once",
        "items in hand come back after 310 s",
    ),
    Peer(
        "taskiq",
        "taskiq-nats",
        ("taskiq==0.13.0", "taskiq-nats==0.7.0", "uvloop==0.23.0"),
        "taskiq_app",
        (
            (
                *("taskiq", "worker", "taskiq_app:broker", "--workers", "2"),
                *("--max-async-tasks", "200", "--log-level", "WARNING"),
            ),
        ),
        (NO_SYNC, SYNC),
        10_000,
        "2 processes of 200 tasks, pull in batches of 100, timeout 50 ms, uvloop, "
        "acknowledged when saved; submitted 100 at once",
        "items in hand come back after 30 s; healthy tasks of more than 30 s run twice",
    ),
    Peer(
        "faststream",
        "FastStream",
        ("faststream[cli,nats]==0.7.8", "uvloop==0.23.0"),
        "faststream_app",
        (("faststream", "run", "faststream_app:app", "--workers", "2"),),
        (NO_SYNC, SYNC),
        10_000,
        "2 processes, pull in batches of 100, timeout 50 ms, default acknowledgement; "
        "submitted 100 at once",
        "items in hand come back after 30 s",
    ),
)
