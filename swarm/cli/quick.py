"""Starting fast: nats-py and structlog without the libraries that we do not use them with."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import cast

#: What is imported, and what it would import on the way if it were installed: aiohttp is
#: for NATS over websockets, rich for tracebacks.  They cost a third of a second.
_LEAN = {"nats.aio.client": "aiohttp", "structlog": "rich"}


def import_lean(url: str = "") -> None:
    """Import them now, before anything else does; with aiohttp for a websocket `url`."""
    websocket = any(part.strip().startswith("ws") for part in url.split(","))
    for name, unused in _LEAN.items():
        if unused in sys.modules or (websocket and unused == "aiohttp"):
            continue
        # None makes `import` raise ImportError, which both are prepared for.
        sys.modules[unused] = cast(ModuleType, None)
        try:
            importlib.import_module(name)
        finally:
            del sys.modules[unused]
