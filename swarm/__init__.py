"""A durable, sharded work queue for swarms of agents, on NATS.

    from swarm import Agent, Swarm

The names below are the public ones; what they raise is in `swarm.errors`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.errors import (
        LeaseLost,
        NoAnswer,
        Refusal,
        SwarmError,
        WorkCancelled,
        WorkFailed,
    )
    from swarm.messages import NewItem, WorkItem
    from swarm.sdk.agent import Agent
    from swarm.sdk.client import Handle, Swarm
    from swarm.sdk.context import Context
    from swarm.sdk.endings import GiveUp, RetryLater
    from swarm.sdk.host import AgentHost
    from swarm.sdk.items import ClaimedItem
    from swarm.sdk.runners import InlineRunner, ThreadRunner

    __version__: str

__all__ = [
    "Agent",
    "AgentHost",
    "ClaimedItem",
    "Context",
    "GiveUp",
    "Handle",
    "InlineRunner",
    "LeaseLost",
    "NewItem",
    "NoAnswer",
    "Refusal",
    "RetryLater",
    "Swarm",
    "SwarmError",
    "ThreadRunner",
    "WorkCancelled",
    "WorkFailed",
    "WorkItem",
    "__version__",
]

_MODULES = {
    "Agent": "swarm.sdk.agent",
    "AgentHost": "swarm.sdk.host",
    "ClaimedItem": "swarm.sdk.items",
    "Context": "swarm.sdk.context",
    "GiveUp": "swarm.sdk.endings",
    "Handle": "swarm.sdk.client",
    "InlineRunner": "swarm.sdk.runners",
    "LeaseLost": "swarm.errors",
    "NewItem": "swarm.messages",
    "NoAnswer": "swarm.errors",
    "Refusal": "swarm.errors",
    "RetryLater": "swarm.sdk.endings",
    "Swarm": "swarm.sdk.client",
    "SwarmError": "swarm.errors",
    "ThreadRunner": "swarm.sdk.runners",
    "WorkCancelled": "swarm.errors",
    "WorkFailed": "swarm.errors",
    "WorkItem": "swarm.messages",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: a command line starts without the rest."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - slow, and rarely asked for

        return version("swarm")
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'swarm' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)
