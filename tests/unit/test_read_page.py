"""Reading a page of a log goes round a server that hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from swarm.bus.base import Handler, Message
from swarm.bus.jetstream_calls import JetStreamLink
from swarm.bus.jetstream_read import PATIENCE_GROWTH, PATIENCE_S, read_page
from swarm.errors import BusTimeout
from swarm.testing.loop import run

DEADLINE_S = 5.0


class Link:
    """A link on which the first `hung` questions meet a server that hangs."""

    def __init__(self, hung: int, entries_first: int = 0) -> None:
        self.connected = True
        self._hung = hung
        self._entries_first = entries_first
        #: How long each question was waited for.
        self.waited_s: list[float] = []

    async def ask(
        self,
        subject: str,
        data: bytes,
        timeout_s: float,
        headers: Mapping[str, str] | None,
        receive: Handler,
        done: asyncio.Future[Any],
        *,
        fragile: bool,
    ) -> None:
        self.waited_s.append(timeout_s)
        if len(self.waited_s) > self._hung:
            receive(entry(1))
            receive(Message("inbox", b"", headers={"Status": "204"}))
            await done
            return
        if self._entries_first:
            receive(entry(1))
        await asyncio.sleep(timeout_s)  # virtual time
        raise BusTimeout("no answer")


def entry(seq: int) -> Message:
    headers = {
        "Nats-Sequence": str(seq),
        "Nats-Last-Sequence": str(seq - 1),
        "Nats-Time-Stamp": "2026-01-01T00:00:00Z",
    }
    return Message("inbox", b"x", headers=headers)


async def read(link: Link) -> list[int]:
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    found = await read_page(cast(JetStreamLink, link), "log", "stream", b"", deadline)
    return [one.seq for one in found]


def test_a_question_without_an_answer_is_asked_anew() -> None:
    link = Link(hung=2)
    assert run(lambda: read(link), 1) == [1]
    # Longer each time: the server may be slow and not hang.
    assert link.waited_s == pytest.approx(
        [PATIENCE_S * PATIENCE_GROWTH**number for number in range(3)]
    )


def test_where_all_hang_it_is_said_at_the_deadline() -> None:
    link = Link(hung=99)
    with pytest.raises(BusTimeout):
        run(lambda: read(link), 1)
    assert sum(link.waited_s) == pytest.approx(DEADLINE_S)


def test_what_has_arrived_is_not_thrown_away() -> None:
    link = Link(hung=1, entries_first=1)
    assert run(lambda: read(link), 1) == [1]
    assert len(link.waited_s) == 1


def test_without_a_connection_nobody_is_asked_anew() -> None:
    link = Link(hung=99)
    link.connected = False
    with pytest.raises(BusTimeout):
        run(lambda: read(link), 1)
    assert link.waited_s == [DEADLINE_S]
