"""Which settings do not go together: each is possible by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from swarm.core.rules import parse_rules
from swarm.errors import BadConfig

if TYPE_CHECKING:
    from swarm.config import Settings


def problems(settings: Settings, env: Mapping[str, str]) -> list[str]:
    """What is wrong with them, in sentences; `env`: a setting's name by its field."""
    found = [
        # Two heartbeats may be lost before a lease lapses; one lost message is no death.
        _too_small(settings, env, "lease_s", 2, "heartbeat_s"),
        # A beat that is merely late must not cost a coordinator its shards.
        _too_small(settings, env, "missed_s", 2, "beat_s"),
        # Otherwise leases would lapse before anybody had taken over the shard.
        _too_small(settings, env, "lease_s", 1, "missed_s"),
        # An owner proves its ownership by an append within each lease time.
        _too_small(settings, env, "lease_s", 1, "append_timeout_s"),
        _too_small(settings, env, "retry_backoff_max_s", 1, "retry_backoff_s", or_equal=True),
        # One probe of a coordinator at a time.
        _too_small(
            settings, env, "health_check_interval_ms", 1, "health_check_timeout_ms", or_equal=True
        ),
        _bad_mailbox(settings),
        _bad_rules(settings),
        _bad_discovery(settings),
        _bad_sync(settings),
    ]
    return [problem for problem in found if problem]


def _too_small(
    settings: Settings,
    env: Mapping[str, str],
    field: str,
    times: int,
    other: str,
    *,
    or_equal: bool = False,
) -> str:
    value, limit = getattr(settings, field), times * getattr(settings, other)
    if value > limit or (or_equal and value == limit):
        return ""
    factor = "twice " if times == 2 else ""
    bound = "at least" if or_equal else "more than"
    return (
        f"{env[field]} = {value:g} does not go with {env[other]} = {getattr(settings, other):g}: "
        f"{env[field]} must be {bound} {factor}{env[other]} ({limit:g}); "
        "raise it, or lower the other"
    )


def _bad_mailbox(settings: Settings) -> str:
    if settings.mailbox_size >= settings.batch_size:
        return ""
    return (
        f"MAILBOX_SIZE = {settings.mailbox_size} does not go with BATCH_SIZE = "
        f"{settings.batch_size}: a batch is taken from the mailbox, so it must be at least as big"
    )


def _bad_rules(settings: Settings) -> str:
    known = settings.coordinator_names if settings.routing_enabled else None
    try:
        parse_rules(settings.routing_rules, settings.routing_key, known)
    except BadConfig as error:
        return (
            f"ROUTING_RULES (by ROUTING_KEY = {settings.routing_key}) cannot be used: {error}.  "
            "COORDINATORS, or PARALLEL_WORKERS, says which coordinators there are"
        )
    return ""


def _bad_sync(settings: Settings) -> str:
    affinity, beat_ms = settings.shard_affinity, 1000 * settings.beat_s
    if not settings.sync_enabled and affinity != "strict":
        return (
            f"COORDINATOR_SYNC_ENABLED = 0 does not go with SHARD_AFFINITY = {affinity}: "
            "coordinators that tell each other nothing cannot lend free slots, so work would wait "
            "for agents of its own coordinator; say so by SHARD_AFFINITY = strict, or leave it on"
        )
    if settings.sync_interval_ms < beat_ms:
        return (
            f"COORDINATOR_SYNC_INTERVAL = {settings.sync_interval_ms} (milliseconds) does not go "
            f"with BEAT_S = {settings.beat_s:g}: the state travels in beats, so it must be at "
            f"least {beat_ms:.0f}; raise it, or lower BEAT_S"
        )
    return ""


def _bad_discovery(settings: Settings) -> str:
    if settings.discovery == "static" and not settings.coordinators:
        return (
            "COORDINATOR_DISCOVERY = static does not go without COORDINATORS: name there where "
            "each answers HTTP, like coordinator-1:4000"
        )
    dns = "dns://" in settings.discovery_url
    if settings.discovery_url and settings.discovery in ("nats", "static"):
        return (
            f"DISCOVERY_URL = {settings.discovery_url!r} does not go with COORDINATOR_DISCOVERY = "
            f"{settings.discovery}, which asks nobody else: leave it out"
        )
    if dns and settings.discovery != "kubernetes":
        return (
            f"DISCOVERY_URL = {settings.discovery_url!r} is for COORDINATOR_DISCOVERY = kubernetes "
            f"(its DNS); for {settings.discovery} write http:// or https://"
        )
    return ""
