"""How processes log: lines for people on a terminal, JSON everywhere else."""

from __future__ import annotations

import logging
import os
import sys
from random import Random
from typing import TextIO

import structlog

from swarm.errors import BadConfig

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


#: What may be left out: whatever wants a look is said always.
SAMPLED = ("debug", "info")


class Sampling:
    """Lets a part of the events through, and tells in each of these which part.

    A structlog processor.
    """

    def __init__(self, part: float, rng: Random) -> None:
        assert 0.0 <= part <= 1.0, "a part of the whole"
        self._part = part
        self._rng = rng

    def __call__(
        self, logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """The event, or `DropEvent`."""
        if method not in SAMPLED:
            return event
        if self._rng.random() >= self._part:
            raise structlog.DropEvent
        event["sample_rate"] = self._part
        return event


def configure_logs(
    stream: TextIO | None = None, level: str = "info", sample_rate: float = 1.0, **fixed: str
) -> None:
    """Send structlog's events to `stream`, by default stderr.

    `level`: unless SWARM_LOG_LEVEL says otherwise.  `sample_rate`: the part of the events below
    a warning that is kept.  `fixed`: added to every event.  Raises `BadConfig` for an unknown
    level.
    """
    name = (os.environ.get("SWARM_LOG_LEVEL") or level).lower()
    people = (stream or sys.stderr).isatty()
    # First: what is left out costs no more.
    sampling = [Sampling(sample_rate, Random())] if sample_rate < 1.0 else []
    structlog.configure(
        processors=[*sampling, *_processors(people)],
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


def _processors(people: bool) -> list[structlog.typing.Processor]:
    """What makes a line of an event, for people or for programs."""
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if people else "iso", utc=not people),
    ]
    if people:
        return [*processors, structlog.dev.ConsoleRenderer(colors=True, pad_event_to=28)]
    return [
        *processors,
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]


def _number(name: str) -> int:
    if name not in LEVELS:
        raise BadConfig(f"SWARM_LOG_LEVEL = {name!r} cannot be used; allowed: {', '.join(LEVELS)}")
    return LEVELS[name]
