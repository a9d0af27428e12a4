"""A change that lasts on its way to the server of a memory world and back.

Appends, purges and records alike can be lost, come late, or go without an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from swarm.bus.memory_faults import TICK_S, Wire
from swarm.bus.memory_node import Node, settle
from swarm.errors import BusError


class Write:
    """One change under way."""

    __slots__ = (
        "_answer",
        "_expires_s",
        "_kind",
        "_label",
        "_last_arrival_s",
        "_node",
        "_order",
        "_perform",
        "_wire",
    )

    def __init__(
        self,
        wire: Wire,
        node: Node,
        last_arrival_s: dict[str, float],
        kind: str,
        order: str,
        label: str,
        perform: Callable[[], Any],
        timeout_s: float,
        answer: asyncio.Future[Any],
    ) -> None:
        """`kind`, `label`: for the trace.  `perform`: what the server does."""
        self._wire = wire
        self._node = node
        #: Of the same connection: what it sends under one `order` arrives in that order.
        self._last_arrival_s = last_arrival_s
        self._order = order
        self._kind = kind
        self._label = label
        self._perform = perform
        self._expires_s = wire.loop.time() + timeout_s
        self._answer = answer

    def set_out(self) -> None:
        """It has left its node: decide its fate."""
        wire, faults, link = self._wire, self._wire.faults, self._node.link
        if wire.chance(faults.append_lost):
            self._note(f"{self._kind} lost")
            return
        now_s = wire.loop.time()
        if wire.chance(faults.append_late):
            late_s = max(self._expires_s, now_s) + wire.between(faults.late_s) + TICK_S
            self._note(f"{self._kind} late", f"until {late_s:.6f}")
            wire.at(late_s, self._arrive_late)
            return
        took_s = wire.between(faults.append_latency_s)
        arrival_s = max(
            now_s + took_s * wire.rng.random(),
            self._last_arrival_s.get(self._order, 0.0) + TICK_S,
        )
        self._last_arrival_s[self._order] = arrival_s
        wire.at(arrival_s, self._arrive, link, max(now_s + took_s, arrival_s))

    def _arrive(self, link: int, answer_s: float) -> None:
        if not self._node.reaches(link, log=True):
            self._note(f"{self._kind} lost", "on a cut connection")
            return
        outcome = self._outcome()
        if self._wire.chance(self._wire.faults.ack_lost):
            self._note("ack lost", outcome)
            return
        self._wire.at(answer_s, self._return, link, outcome)

    def _arrive_late(self) -> None:
        # It was waiting somewhere in the network or server, so it comes from nobody's
        # connection any more and nobody gets the answer.
        self._note(f"{self._kind} lands", self._outcome())

    def _outcome(self) -> object:
        try:
            return self._perform()
        except BusError as error:
            return error

    def _return(self, link: int, outcome: object) -> None:
        if not self._node.reaches(link, log=True):
            self._note("ack lost", "on a cut connection")
            return
        self._node.enter(settle, self._answer, outcome)

    def _note(self, kind: str, more: object = "") -> None:
        self._wire.note(kind, self._node.name, self._label, more)
