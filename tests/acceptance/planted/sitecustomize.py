"""Bugs for `make chaos` to find: does the verdict see what it must see?

    PYTHONPATH=tests/acceptance/planted CHAOS_PLANT=answers make chaos MINUTES=3

must fail.  Python imports this module at the start of every process that has this folder in
its PYTHONPATH; only the swarm's nodes get the bug.  docs/reliability.md says what was found.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def answers_without_append() -> None:
    """`answers`: what needs no event is answered from memory, as if nobody else could own."""
    from swarm.bus.log import FencedLog

    append = FencedLog.append

    async def lazy(self: FencedLog, events: Any, now: float, format_: int = 2) -> int:
        return await append(self, events, now, format_) if events else self.position.at

    FencedLog.append = lazy  # type: ignore[method-assign]


def answers_before_append() -> None:
    """`early`: answers leave when they are encoded, while the append is under way."""
    from swarm.actors.answers import Answers
    from swarm.actors.sending import Sender

    senders: list[Sender] = []
    make, encoded = Sender.__init__, Answers.encoded

    def remember(self: Sender, *arguments: Any) -> None:
        make(self, *arguments)
        senders.append(self)

    def hasty(self: Answers, *arguments: Any) -> Any:
        for message in encoded(self, *arguments):
            senders[-1].soon(*message)
        return []

    Sender.__init__ = remember  # type: ignore[assignment, method-assign]
    Answers.encoded = hasty  # type: ignore[assignment, method-assign]


def trusts_the_refusal() -> None:
    """`trusting`: a refused owner steps over what others wrote, by the number in the refusal."""
    from swarm.bus.log import FencedLog
    from swarm.errors import AppendRefused

    async def trusting(self: FencedLog, refused: AppendRefused, data: bytes) -> int | None:
        self.position.at = refused.actual or self.position.at
        return None

    FencedLog._after_refusal = trusting  # type: ignore[method-assign]


PLANTS = {
    "answers": answers_without_append,
    "early": answers_before_append,
    "trusting": trusts_the_refusal,
}

if "CHAOS_PLANT" in os.environ and "node" in sys.orig_argv:
    PLANTS[os.environ["CHAOS_PLANT"]]()
