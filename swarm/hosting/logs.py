"""How processes log: lines for people on a terminal, JSON everywhere else."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

import structlog

from swarm.errors import BadConfig

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logs(stream: TextIO | None = None, level: str = "info", **fixed: str) -> None:
    """Send structlog's events to `stream`, by default stderr.

    `level`: unless SWARM_LOG_LEVEL says otherwise.  `fixed`: added to every event.  Raises
    `BadConfig` for an unknown level.
    """
    name = (os.environ.get("SWARM_LOG_LEVEL") or level).lower()
    people = (stream or sys.stderr).isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=True, pad_event_to=28)
        if people
        else structlog.processors.JSONRenderer()
    )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if people else "iso", utc=not people),
    ]
    if not people:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_number(name)),
        # Looked up anew each time: whoever redirects stderr gets the events, too.
        logger_factory=lambda *_: structlog.PrintLogger(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**fixed)
    # Libraries (nats-py, aiohttp) use the standard logging: only what matters, same place.
    logging.basicConfig(
        stream=stream, level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s"
    )


def _number(name: str) -> int:
    if name not in LEVELS:
        raise BadConfig(f"SWARM_LOG_LEVEL = {name!r} cannot be used; allowed: {', '.join(LEVELS)}")
    return LEVELS[name]
