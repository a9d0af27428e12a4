"""A durable, sharded work queue for swarms of agents, on NATS.

    from swarm import Agent, Swarm

The names below are the public ones; what they raise is in `swarm.errors`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.agent import Agent
    from swarm.client import Handle, Swarm
    from swarm.context import Context
    from swarm.errors import LeaseLost, NoAnswer, Refusal, SwarmError, WorkFailed
    from swarm.items import ClaimedItem
    from swarm.messages import NewItem, WorkItem
    from swarm.runners import InlineRunner, ThreadRunner

    __version__: str

__all__ = [
    "Agent",
    "ClaimedItem",
    "Context",
    "Handle",
    "InlineRunner",
    "LeaseLost",
    "NewItem",
    "NoAnswer",
    "Refusal",
    "Swarm",
    "SwarmError",
    "ThreadRunner",
    "WorkFailed",
    "WorkItem",
    "__version__",
]

_MODULES = {
    "Agent": "swarm.agent",
    "ClaimedItem": "swarm.items",
    "Context": "swarm.context",
    "Handle": "swarm.client",
    "InlineRunner": "swarm.runners",
    "LeaseLost": "swarm.errors",
    "NewItem": "swarm.messages",
    "NoAnswer": "swarm.errors",
    "Refusal": "swarm.errors",
    "Swarm": "swarm.client",
    "SwarmError": "swarm.errors",
    "ThreadRunner": "swarm.runners",
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
