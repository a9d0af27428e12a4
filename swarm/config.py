"""Settings: read once at start from the environment and a TOML file, and checked.

The environment wins over the file.  A setting's name in the file is its environment
name in lower case.  Whatever cannot be acted on is an error, never ignored: an unknown
key in the file, an unknown value, a number out of range, an impossible combination.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct, structs

from swarm.core.routing import parse_rules
from swarm.core.sharding import SHARD_DISTRIBUTIONS, SHARD_KEYS
from swarm.errors import BadConfig
from swarm.hosting.runfile import find_url
from swarm.messages import TOKEN_PATTERN

__all__ = ["SETTINGS", "Settings", "find_url", "load", "parse_coordinators", "to_toml"]

_TOKEN = re.compile(TOKEN_PATTERN)


class Settings(Struct, frozen=True, kw_only=True):
    """What a swarm's processes act on; times in seconds.  `docs/settings.md` has the table."""

    #: First token of every subject, and of the names of streams and buckets.
    prefix: str = "swarm"
    shard_count: int = 16
    #: What of an item decides its shard: one of `SHARD_KEYS`.
    shard_key: str = "hash"
    #: How the key becomes a shard: one of `SHARD_DISTRIBUTIONS`.
    shard_distribution: str = "consistent_hash"
    #: Names of the coordinators among which shards are placed; see `coordinator_names`.
    coordinators: list[str] = []
    #: Coordinator processes that `swarm up` runs.
    parallel_workers: int = 2
    #: Most commands in a log entry, and most items in a batch of the SDK.
    batch_size: int = 1000
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
    #: Requests that wait for an actor, at most; further ones are answered ``overloaded``.
    mailbox_size: int = 100_000
    #: After this time without an answer an append's outcome counts as unknown.
    append_timeout_s: float = 2.0
    #: Whether `routing_rules` hold.
    routing_enabled: bool = False
    #: Lines ``work_type -> coordinator[:port]``.
    routing_rules: str = ""
    #: How a coordinator is chosen where no rule names one.
    lb_strategy: str = "least_connections"
    #: NATS servers that keep each log.
    replicas: int = 1
    #: Of ``/health`` and ``/ready``; 0 = any free one.
    http_port: int = 4000

    @property
    def coordinator_names(self) -> list[str]:
        """`coordinators`; without any, ``coordinator-1`` to ``-<parallel_workers>``."""
        generated = [f"coordinator-{number}" for number in range(1, self.parallel_workers + 1)]
        return list(self.coordinators) or generated


# --- values --------------------------------------------------------------------------


class _Kind(Protocol):
    """Turns what stands in the environment (text) or the file into a field's value."""

    @property
    def allowed(self) -> str:
        """What may be written, for people."""
        ...

    def read(self, raw: object) -> object:
        """The value; ValueError (its text says more, or is empty) for anything else."""
        ...


@dataclass(frozen=True)
class _Whole:
    low: int
    high: int

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def read(self, raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise ValueError
        value = _number(int, raw)
        if not self.low <= value <= self.high:
            raise ValueError
        return int(value)


@dataclass(frozen=True)
class _Seconds:
    low: float
    high: float

    @property
    def allowed(self) -> str:
        return f"seconds from {self.low:g} to {self.high:_.0f}"

    def read(self, raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float | str):
            raise ValueError
        value = _number(float, raw)
        # Written so that not-a-number fails as well.
        if not self.low <= value <= self.high:
            raise ValueError
        return float(value)


def _number(kind: type[int] | type[float], raw: float | str) -> float:
    try:
        return kind(raw)
    except ValueError:
        raise ValueError from None  # Python's own text says less than ours


@dataclass(frozen=True)
class _Choice:
    choices: tuple[str | int, ...]

    @property
    def allowed(self) -> str:
        return ", ".join(str(choice) for choice in self.choices)

    def read(self, raw: object) -> str | int:
        for choice in self.choices:
            if not isinstance(raw, bool) and str(raw).strip() == str(choice):
                return choice
        raise ValueError


class _Switch:
    allowed = "0, 1, false, true"

    def read(self, raw: object) -> bool:
        match raw:
            case bool():
                return raw
            case "1" | "true" | 1:
                return True
            case "0" | "false" | 0:
                return False
            case _:
                raise ValueError


class _Token:
    allowed = "1 to 64 letters, digits, '_' or '-', beginning with a letter or digit"

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or not _TOKEN.match(raw):
            raise ValueError
        return raw


class _Coordinators:
    allowed = "coordinator names with or without a port, like: coordinator-1:4000 coordinator-2"

    def read(self, raw: object) -> list[str]:
        if isinstance(raw, list) and all(isinstance(word, str) for word in raw):
            return parse_coordinators(" ".join(raw))
        if not isinstance(raw, str):
            raise ValueError
        return parse_coordinators(raw)


class _Rules:
    allowed = "lines like: feature -> coordinator-1:4000"

    def read(self, raw: object) -> str:
        if not isinstance(raw, str):
            raise ValueError
        try:
            parse_rules(raw)
        except BadConfig as error:
            raise ValueError(str(error)) from error
        return raw.strip()


def parse_coordinators(text: str) -> list[str]:
    """Names out of ``name[:port]`` words; ValueError names the word that is none."""
    names: list[str] = []
    for word in text.split():
        name, colon, port = word.partition(":")
        if not _TOKEN.match(name):
            raise ValueError(f"{word!r} is no coordinator name")
        if colon and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
            raise ValueError(f"{word!r} has no port from 1 to 65535")
        if name in names:
            raise ValueError(f"{name!r} is there twice")
        names.append(name)
    return names


# --- settings ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One row of the table: a field of `Settings`, its environment name, what it takes."""

    field: str
    env: str
    kind: _Kind

    @property
    def key(self) -> str:
        """Its name in the file."""
        return self.env.lower()


_WEEK_S = 604_800

SETTINGS: tuple[Setting, ...] = (
    Setting("prefix", "SWARM_PREFIX", _Token()),
    Setting("shard_count", "SHARD_COUNT", _Whole(1, 1024)),
    Setting("shard_key", "SHARD_KEY", _Choice(SHARD_KEYS)),
    Setting("shard_distribution", "SHARD_DISTRIBUTION", _Choice(SHARD_DISTRIBUTIONS)),
    Setting("coordinators", "COORDINATORS", _Coordinators()),
    Setting("parallel_workers", "PARALLEL_WORKERS", _Whole(1, 256)),
    Setting("batch_size", "BATCH_SIZE", _Whole(1, 10_000)),
    Setting("lease_s", "LEASE_S", _Seconds(1, _WEEK_S)),
    Setting("heartbeat_s", "HEARTBEAT_S", _Seconds(0.1, _WEEK_S)),
    Setting("beat_s", "BEAT_S", _Seconds(0.05, 60)),
    Setting("missed_s", "MISSED_S", _Seconds(0.1, 600)),
    Setting("standbys", "STANDBYS", _Whole(0, 16)),
    Setting("drain_s", "DRAIN_S", _Seconds(0, 3600)),
    Setting("ageing_s", "AGEING_S", _Seconds(0.1, 52 * _WEEK_S)),
    Setting("dedupe_window_s", "DEDUPE_WINDOW", _Seconds(60, 52 * _WEEK_S)),
    Setting("dedupe_count", "DEDUPE_COUNT", _Whole(1000, 100_000_000)),
    Setting("mailbox_size", "MAILBOX_SIZE", _Whole(1, 10_000_000)),
    Setting("append_timeout_s", "APPEND_TIMEOUT_S", _Seconds(0.05, 60)),
    Setting("routing_enabled", "ROUTING_ENABLED", _Switch()),
    Setting("routing_rules", "ROUTING_RULES", _Rules()),
    Setting("lb_strategy", "LB_STRATEGY", _Choice(("least_connections",))),
    Setting("replicas", "LOG_REPLICAS", _Choice((1, 3, 5))),
    Setting("http_port", "HTTP_PORT", _Whole(0, 65_535)),
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
    problems = [
        # Two heartbeats may be lost before a lease lapses; one lost message is no death.
        _too_small(settings, "lease_s", 2, "heartbeat_s"),
        # A beat that is merely late must not cost a coordinator its shards.
        _too_small(settings, "missed_s", 2, "beat_s"),
        # Otherwise leases would lapse before anybody had taken over the shard.
        _too_small(settings, "lease_s", 1, "missed_s"),
        # An owner proves its ownership by an append within each lease time.
        _too_small(settings, "lease_s", 1, "append_timeout_s"),
        _bad_mailbox(settings),
        _unknown_targets(settings),
    ]
    for problem in problems:
        if problem:
            raise BadConfig(problem)


def _too_small(settings: Settings, field: str, times: int, other: str) -> str:
    value, limit = getattr(settings, field), times * getattr(settings, other)
    if value > limit:
        return ""
    factor = "twice " if times == 2 else ""
    return (
        f"{_ENV[field]} = {value:g} does not go with {_ENV[other]} = {getattr(settings, other):g}: "
        f"{_ENV[field]} must be more than {factor}{_ENV[other]} ({limit:g}); "
        "raise it, or lower the other"
    )


def _bad_mailbox(settings: Settings) -> str:
    if settings.mailbox_size >= settings.batch_size:
        return ""
    return (
        f"MAILBOX_SIZE = {settings.mailbox_size} does not go with BATCH_SIZE = "
        f"{settings.batch_size}: a batch is taken from the mailbox, so it must be at least as big"
    )


def _unknown_targets(settings: Settings) -> str:
    names = settings.coordinator_names
    rules = parse_rules(settings.routing_rules) if settings.routing_enabled else {}
    for work_type, target in rules.items():
        if target not in names:
            return (
                f"ROUTING_RULES sends {work_type!r} to {target!r}, which is no coordinator; "
                f"COORDINATORS (or PARALLEL_WORKERS) makes these: {', '.join(names)}"
            )
    return ""


assert [s.field for s in SETTINGS] == [f.name for f in structs.fields(Settings)], "one row each"
