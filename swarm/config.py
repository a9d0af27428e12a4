"""Settings: read once at start from the environment and a TOML file, and checked.

The environment wins over the file.  A setting's name in the file is its environment
name in lower case.  Whatever cannot be acted on is an error, never ignored: an unknown
key in the file, an unknown value, a number out of range, an impossible combination.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from swarm.core.balancing import LB_STRATEGIES
from swarm.core.conflicts import CONFLICT_RESOLUTIONS
from swarm.core.credits import SHARD_AFFINITIES
from swarm.core.rules import ROUTING_KEYS
from swarm.core.sharding import SHARD_DISTRIBUTIONS, SHARD_KEYS
from swarm.errors import BadConfig
from swarm.hosting.runfile import find_url
from swarm.setting_combinations import problems
from swarm.setting_kinds import (
    Address,
    Choice,
    Coordinators,
    Kind,
    Part,
    Rules,
    Seconds,
    Service,
    Switch,
    Token,
    Urls,
    Whole,
    parse_coordinators,
)

__all__ = ["SETTINGS", "Settings", "find_url", "load", "parse_coordinators", "to_toml"]


class Settings(Struct, frozen=True, kw_only=True):
    """What a swarm's processes act on; times in seconds.  `docs/settings.md` has the table."""

    #: First token of every subject, and of the names of streams and buckets.
    prefix: str = "swarm"
    shard_count: int = 16
    #: Whether items are spread over `shard_count` shards; else there is one.
    sharding_enabled: bool = True
    #: What of an item decides its shard: one of `SHARD_KEYS`.
    shard_key: str = "hash"
    #: How the key becomes a shard: one of `SHARD_DISTRIBUTIONS`.
    shard_distribution: str = "consistent_hash"
    #: The coordinators among which shards are placed, as ``name[=host][:port]``; see
    #: `coordinator_names` and `coordinator_addresses`.
    coordinators: list[str] = []
    #: Coordinator processes that `swarm up` runs.
    parallel_workers: int = 2
    #: Connections to NATS that the agents of one host process share.
    connection_pool_size: int = 8
    #: Most commands in a log entry, and most items in a batch of the SDK.
    batch_size: int = 1000
    #: How long what comes through a pipe waits to be submitted with others.
    batch_timeout_ms: int = 1000
    #: How long a claim holds without a heartbeat.
    lease_s: float = 30.0
    #: How often an agent sends one.
    heartbeat_s: float = 5.0
    #: How often a coordinator says that it lives.
    beat_s: float = 0.25
    #: After this silence a coordinator is taken for dead.
    missed_s: float = 1.2
    #: Coordinators that follow the log of each shard, so as to take it over without a replay.
    standbys: int = 1
    #: How long a coordinator that is told to stop may hand over its shards and sessions.
    drain_s: float = 8.0
    #: One step of priority is worth this much waiting.
    ageing_s: float = 60.0
    #: How long the answer to a command is remembered, so that a retry gets the same.
    dedupe_window_s: float = 86_400.0
    #: Of how many commands per shard it is remembered at most.
    dedupe_count: int = 1_000_000
    #: Attempts charged before an item is dead, unless it says otherwise.
    max_attempts: int = 3
    #: Pause after a first failed attempt, doubled with each up to the longest.
    retry_backoff_s: float = 1.0
    retry_backoff_max_s: float = 3600.0
    #: After this many agents died with it, an item is dead whatever attempts it has left.
    quarantine_deaths: int = 3
    #: How long an item waits for an answer, unless it says otherwise.
    wait_expires_s: float = 604_800.0
    #: How long a holder has to stop when the deadline of its item has passed.
    deadline_grace_s: float = 10.0
    #: Finished items that are kept in memory and in the logs, over all shards.
    cache_max_size: int = 100_000
    #: How long the records of finished items are kept; 0 = for ever.
    finished_retention_s: float = 604_800.0
    #: How long dead items stay in the shard, to be brought back; then they are records, too.
    dead_retention_s: float = 2_592_000.0
    #: A log is compacted when it is this much longer than twice what lives in it (bytes).
    log_floor_bytes: int = 16_777_216
    #: What NATS may store, all streams together (bytes).  0: for the server of `swarm up`
    #: three quarters of what its disk has; for another one, whatever its account says.
    storage_max_bytes: int = 0
    #: When so much of it is used, submits are refused.
    storage_soft_limit: float = 0.85
    #: Requests that wait for an actor, at most; further ones are answered ``overloaded``.
    mailbox_size: int = 100_000
    #: After this time without an answer an append's outcome counts as unknown.
    append_timeout_s: float = 2.0
    #: Whether `routing_rules` hold.
    routing_enabled: bool = False
    #: What submissions are routed by: one of `ROUTING_KEYS`.
    routing_key: str = "work_type"
    #: Lines ``feature -> coordinator[:port]``; see `swarm.core.rules`.
    routing_rules: str = ""
    #: How a coordinator is chosen where no rule names one: one of `LB_STRATEGIES`.
    lb_strategy: str = "least_connections"
    #: How often each router asks each coordinator whether it is ready, and for how long.
    health_check_interval_ms: int = 10_000
    health_check_timeout_ms: int = 5000
    #: Answers in a row that make an unhealthy coordinator healthy, and failures the reverse.
    health_check_rise: int = 2
    health_check_fall: int = 5
    #: For so long a new coordinator gets less agents than it has room for.
    slow_start_s: float = 10.0
    #: Agents that a coordinator is to have at most, while others have fewer; 0: no such number.
    agents_per_coordinator: int = 0
    #: Whose work an agent's free slots are for: one of `SHARD_AFFINITIES`.
    shard_affinity: str = "local"
    #: Whether coordinators tell each other how much work is ready and which agents are free.
    sync_enabled: bool = True
    #: How often they tell all of it, whatever has changed.
    sync_interval_ms: int = 5000
    #: What picks between two that disagree and are equal: one of `CONFLICT_RESOLUTIONS`.
    conflict_resolution: str = "timestamp"
    #: Whether the leader moves shards by itself, and how much more than an even part of the
    #: load a coordinator may have until it does.
    auto_rebalance_enabled: bool = False
    rebalance_threshold: float = 0.2
    #: NATS servers that keep each log.
    replicas: int = 1
    #: The part of the log lines below a warning that is kept.
    log_sample_rate: float = 1.0
    #: Of ``/health`` and ``/ready``; 0 = any free one.
    http_port: int = 4000
    #: Whether work is taken and given over HTTP, too.
    http_api: bool = True
    #: Where the coordinators are found: one of `DISCOVERIES`.
    discovery: str = "nats"
    #: Of what is asked for it; empty: its usual place.
    discovery_url: str = ""
    #: The coordinators' name there.
    discovery_service: str = "swarm"
    #: Between two questions where nothing tells of changes, and after one that failed.
    discovery_interval_s: float = 5.0

    @property
    def shards(self) -> int:
        """How many shards a new swarm gets."""
        return self.shard_count if self.sharding_enabled else 1

    @property
    def coordinator_names(self) -> list[str]:
        """`coordinators`; without any, ``coordinator-1`` to ``-<parallel_workers>``."""
        generated = [f"coordinator-{number}" for number in range(1, self.parallel_workers + 1)]
        return [address.name for address in self.coordinator_addresses] or generated

    @property
    def coordinator_addresses(self) -> list[Address]:
        """`coordinators`, taken apart."""
        return parse_coordinators(" ".join(self.coordinators))


# --- settings ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One row of the table: a field of `Settings`, its environment name, what it takes."""

    field: str
    env: str
    kind: Kind

    @property
    def key(self) -> str:
        """Its name in the file."""
        return self.env.lower()


_WEEK_S = 604_800

#: What `COORDINATOR_DISCOVERY` may be.
DISCOVERIES = ("nats", "static", "kubernetes", "consul", "etcd")

SETTINGS: tuple[Setting, ...] = (
    Setting("prefix", "SWARM_PREFIX", Token()),
    Setting("shard_count", "SHARD_COUNT", Whole(1, 1024)),
    Setting("sharding_enabled", "SHARDING_ENABLED", Switch()),
    Setting("shard_key", "SHARD_KEY", Choice(SHARD_KEYS)),
    Setting("shard_distribution", "SHARD_DISTRIBUTION", Choice(SHARD_DISTRIBUTIONS)),
    Setting("coordinators", "COORDINATORS", Coordinators()),
    Setting("parallel_workers", "PARALLEL_WORKERS", Whole(1, 256)),
    Setting("connection_pool_size", "CONNECTION_POOL_SIZE", Whole(1, 10_000)),
    Setting("batch_size", "BATCH_SIZE", Whole(1, 10_000)),
    Setting("batch_timeout_ms", "BATCH_TIMEOUT", Whole(0, 3_600_000)),
    Setting("lease_s", "LEASE_S", Seconds(1, _WEEK_S)),
    Setting("heartbeat_s", "HEARTBEAT_S", Seconds(0.1, _WEEK_S)),
    Setting("beat_s", "BEAT_S", Seconds(0.05, 60)),
    Setting("missed_s", "MISSED_S", Seconds(0.1, 600)),
    Setting("standbys", "STANDBYS", Whole(0, 16)),
    Setting("drain_s", "DRAIN_S", Seconds(0, 3600)),
    Setting("ageing_s", "AGEING_S", Seconds(0.1, 52 * _WEEK_S)),
    Setting("dedupe_window_s", "DEDUPE_WINDOW", Seconds(60, 52 * _WEEK_S)),
    Setting("dedupe_count", "DEDUPE_COUNT", Whole(1000, 100_000_000)),
    Setting("max_attempts", "MAX_ATTEMPTS", Whole(1, 1_000_000)),
    Setting("retry_backoff_s", "RETRY_BACKOFF_S", Seconds(0.01, _WEEK_S)),
    Setting("retry_backoff_max_s", "RETRY_BACKOFF_MAX_S", Seconds(0.01, 52 * _WEEK_S)),
    Setting("quarantine_deaths", "QUARANTINE_DEATHS", Whole(1, 1_000_000)),
    Setting("wait_expires_s", "WAIT_EXPIRES_S", Seconds(1, 52 * _WEEK_S)),
    Setting("deadline_grace_s", "DEADLINE_GRACE_S", Seconds(0, 86_400)),
    Setting("cache_max_size", "CACHE_MAX_SIZE", Whole(1, 100_000_000)),
    Setting("finished_retention_s", "FINISHED_RETENTION_S", Seconds(0, 520 * _WEEK_S)),
    Setting("dead_retention_s", "DEAD_RETENTION_S", Seconds(1, 520 * _WEEK_S)),
    Setting("log_floor_bytes", "LOG_FLOOR_BYTES", Whole(1000, 1 << 40)),
    Setting("storage_max_bytes", "STORAGE_MAX_BYTES", Whole(0, 1 << 60)),
    Setting("storage_soft_limit", "STORAGE_SOFT_LIMIT", Part(0.1, 0.98)),
    Setting("mailbox_size", "MAILBOX_SIZE", Whole(1, 10_000_000)),
    Setting("append_timeout_s", "APPEND_TIMEOUT_S", Seconds(0.05, 60)),
    Setting("routing_enabled", "ROUTING_ENABLED", Switch()),
    Setting("routing_key", "ROUTING_KEY", Choice(ROUTING_KEYS)),
    Setting("routing_rules", "ROUTING_RULES", Rules()),
    Setting("lb_strategy", "LB_STRATEGY", Choice(LB_STRATEGIES)),
    Setting("health_check_interval_ms", "HEALTH_CHECK_INTERVAL", Whole(50, 3_600_000)),
    Setting("health_check_timeout_ms", "HEALTH_CHECK_TIMEOUT", Whole(10, 3_600_000)),
    Setting("health_check_rise", "HEALTH_CHECK_RISE", Whole(1, 100)),
    Setting("health_check_fall", "HEALTH_CHECK_FALL", Whole(1, 100)),
    Setting("slow_start_s", "SLOW_START_S", Seconds(0, 3600)),
    Setting("agents_per_coordinator", "AGENTS_PER_COORDINATOR", Whole(0, 1_000_000)),
    Setting("shard_affinity", "SHARD_AFFINITY", Choice(SHARD_AFFINITIES)),
    Setting("sync_enabled", "COORDINATOR_SYNC_ENABLED", Switch()),
    Setting("sync_interval_ms", "COORDINATOR_SYNC_INTERVAL", Whole(50, 3_600_000)),
    Setting("conflict_resolution", "CONFLICT_RESOLUTION", Choice(CONFLICT_RESOLUTIONS)),
    Setting("auto_rebalance_enabled", "AUTO_REBALANCE_ENABLED", Switch()),
    Setting("rebalance_threshold", "REBALANCE_THRESHOLD", Part(0.05, 5)),
    Setting("replicas", "LOG_REPLICAS", Choice((1, 3, 5))),
    Setting("log_sample_rate", "LOG_SAMPLE_RATE", Part(0, 1)),
    Setting("http_port", "HTTP_PORT", Whole(0, 65_535)),
    Setting("http_api", "HTTP_API", Switch()),
    Setting("discovery", "COORDINATOR_DISCOVERY", Choice(DISCOVERIES)),
    Setting("discovery_url", "DISCOVERY_URL", Urls()),
    Setting("discovery_service", "DISCOVERY_SERVICE", Service()),
    Setting("discovery_interval_s", "DISCOVERY_INTERVAL", Seconds(0.2, 3600)),
)
_ENV = {setting.field: setting.env for setting in SETTINGS}


def load(env: Mapping[str, str], toml_path: Path | None = None) -> Settings:
    """The settings in `env` over those in the file over the defaults.

    A variable that is empty counts as unset.  Raises `BadConfig` that names the setting,
    its value and what is allowed.
    """
    values: dict[str, Any] = {}
    table = _read_file(toml_path) if toml_path is not None else {}
    for setting in SETTINGS:
        text = env.get(setting.env, "")
        if text.strip():
            values[setting.field] = _read(setting, setting.env, text)
        elif setting.key in table:
            where = f"{toml_path}: {setting.key}"
            values[setting.field] = _read(setting, where, table[setting.key])
    settings = Settings(**values)
    _check_combinations(settings)
    return settings


def to_toml(settings: Settings) -> str:
    """The text of a file from which `load` reads the same settings."""
    lines = []
    for setting in SETTINGS:
        value = getattr(settings, setting.field)
        # JSON's numbers, booleans, lists and (unescaped) strings are TOML's as well.
        lines.append(f"{setting.key} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines)


def _read(setting: Setting, where: str, raw: object) -> object:
    try:
        return setting.kind.read(raw)
    except ValueError as error:
        more = f" ({error})" if str(error) else ""
        raise BadConfig(
            f"{where} = {raw!r} cannot be used{more}; allowed: {setting.kind.allowed}"
        ) from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadConfig(f"the settings file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadConfig(f"the settings file {path} is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(f"the settings file {path} is no TOML: {error}") from error
    keys = [setting.key for setting in SETTINGS]
    for key in table:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean {near[0]}?  " if near else ""
            raise BadConfig(
                f"{path}: this version has no setting {key!r}; {hint}"
                f"remove it, or use one of: {', '.join(keys)}"
            )
    return table


def _check_combinations(settings: Settings) -> None:
    """Each setting is possible by itself; raise if two are not together."""
    for problem in problems(settings, _ENV):
        raise BadConfig(problem)


assert [s.field for s in SETTINGS] == [f.name for f in structs.fields(Settings)], "one row each"
