"""What actors log as errors: in a simulation, an actor that failed is a failure.

Actors are supervised, so one that breaks down goes on, and nothing else might show it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import structlog

#: Called with the event and its values: what the running simulation wants to know.
Listener = Callable[[str, dict[str, Any]], None]

_listeners: list[Listener] = []


def listen(listener: Listener | None) -> None:
    """Tell `listener` (and nobody else) of errors from now on; None: nobody."""
    _listeners[:] = [] if listener is None else [listener]


def quiet() -> None:
    """Print nothing: the trace says it better, and a run logs thousands of lines."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR), processors=[_pass_on]
    )


def _pass_on(_logger: object, _method: str, event: structlog.typing.EventDict) -> NoReturn:
    values = dict(event)
    if values.pop("exc_info", False):
        values["exception"] = repr(sys.exc_info()[1])
    for listener in _listeners:
        listener(str(values.pop("event", "")), values)
    raise structlog.DropEvent
