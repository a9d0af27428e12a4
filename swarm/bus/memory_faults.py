"""What may go wrong in a memory world, how likely, and what did: faults and the trace."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from swarm.bus.memory_process import Freezer
from swarm.errors import BadConfig

#: A range (least, most); the value is drawn evenly from it.
Range = tuple[float, float]

#: Bytes of a payload that the printed trace shows.
SHOWN_BYTES = 160


@dataclass(slots=True, kw_only=True)
class Faults:
    """How likely each thing goes wrong.  Probabilities are from 0 to 1, drawn independently.

    Fields may be changed while the world runs and hold from then on.  The defaults are a
    network and a server without faults, with small delays.
    """

    # Messages: drawn for each receiver of each message, answers to requests included.

    #: From a publish to the call of the handler.
    latency_s: Range = (0.0001, 0.0005)
    #: Never arrives.
    loss: float = 0.0
    #: Arrives once more, after a further `delay_s`.
    duplicate: float = 0.0
    #: Arrives `delay_s` later, overtaken by others.
    delay: float = 0.0
    delay_s: Range = (0.001, 1.0)

    # Logs: appends, and in the same way purges and records.

    #: From an append to its answer; the entry is stored somewhere in between.
    append_latency_s: Range = (0.0005, 0.002)
    #: Never stored, no answer.
    append_lost: float = 0.0
    #: Reaches the log (and its fence) only `late_s` after the caller's time-out.
    append_late: float = 0.0
    late_s: Range = (0.0, 3.0)
    #: Stored (or refused) in time, but the answer is lost.
    ack_lost: float = 0.0

    # Logs: reading.

    #: A read misses up to `lag_max` of the newest entries.
    read_lag: float = 0.0
    lag_max: int = 5
    #: A read loses up to `gap_max` entries in a row.
    gap: float = 0.0
    gap_max: int = 2

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise `BadConfig` that names a field out of its range."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                if not 0 <= value[0] <= value[1]:
                    raise BadConfig(f"{field.name} is {value}; it must be 0 <= least <= most")
            elif field.name.endswith("_max"):
                if value < 1:
                    raise BadConfig(f"{field.name} is {value}; it must be at least 1")
            elif not 0 <= value <= 1:
                raise BadConfig(f"{field.name} is {value}; a probability is from 0 to 1")

    @classmethod
    def none(cls) -> Faults:
        """Nothing goes wrong."""
        return cls()


#: Keeps what one connection sends in order: two times on the clock that differ for sure.
TICK_S = 1e-6

#: (seconds on the loop's clock, what happened, node, subject or log, more: the bytes of a
#: payload, or anything with a str())
Happening = tuple[float, str, str, str, object]


class Trace:
    """The latest happenings, oldest first; `str()` is one line each."""

    def __init__(self, length_max: int | None) -> None:
        #: Entries as recorded; formatting them waits until somebody asks.
        self.happenings: deque[Happening] = deque(maxlen=length_max)
        #: Happenings ever, those that have dropped out included.
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        return map(_line, self.happenings)

    def __len__(self) -> int:
        return len(self.happenings)

    def __str__(self) -> str:
        return "\n".join(self)


def _line(happening: Happening) -> str:
    now_s, kind, node, subject, more = happening
    if isinstance(more, bytes):
        cut = "" if len(more) <= SHOWN_BYTES else f" … {len(more)} bytes"
        more = more[:SHOWN_BYTES].decode(errors="backslashreplace") + cut
    return f"{now_s:12.6f} {kind:<12} {node:<12} {subject} {more}".rstrip()


class Wire:
    """What all parts of one world share: its loop, faults, chance and trace.

    Every callback of the world is set through here, in a context of the world's own: the
    one of whoever happened to publish must not leak into a receiver.
    """

    def __init__(self, rng: Random, faults: Faults, trace: Trace) -> None:
        self.loop = asyncio.get_running_loop()
        self.rng = rng
        self.faults = faults
        self.trace = trace
        self._context = contextvars.Context()
        #: The loop, if it can stop the processes that run on it.
        self.freezer = self.loop if isinstance(self.loop, Freezer) else None

    def at(self, when_s: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call back at a time of the loop's clock."""
        return self.loop.call_at(when_s, callback, *args, context=self._context)

    def later(
        self, delay_s: float, callback: Callable[..., object], *args: Any
    ) -> asyncio.TimerHandle:
        """Call back after a delay."""
        return self.loop.call_at(self.loop.time() + delay_s, callback, *args, context=self._context)

    def soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call back in the loop's next round."""
        self.loop.call_soon(callback, *args, context=self._context)

    def between(self, values: Range) -> float:
        """A value drawn evenly from a range."""
        return values[0] + (values[1] - values[0]) * self.rng.random()

    def chance(self, probability: float) -> bool:
        """Whether something of this probability happens; draws nothing for 0."""
        return probability > 0 and self.rng.random() < probability

    def note(self, kind: str, node: str, subject: str, more: object = "") -> None:
        """Record a happening now."""
        trace = self.trace
        trace.count += 1
        trace.happenings.append((self.loop.time(), kind, node, subject, more))

    def guard(self, callback: Callable[..., object], *args: Any) -> None:
        """Call a handler or hook; what it raises is nobody's business on the stack here."""
        try:
            callback(*args)
        except Exception as error:  # noqa: BLE001 - reported, to the one place that can act
            # A `SimLoop` ends its run with it.
            what = f"in {getattr(callback, '__qualname__', callback)}"
            self.loop.call_exception_handler({"message": what, "exception": error})
