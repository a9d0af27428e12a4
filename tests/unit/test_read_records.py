"""Reading records goes on until somebody answers who has come far enough."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from swarm.bus.jetstream_api import Reply, StreamState
from swarm.bus.jetstream_calls import JetStreamLink
from swarm.bus.jetstream_records import Records
from swarm.bus.nats_link import CALL_TIMEOUT_S
from swarm.errors import BusTimeout
from swarm.testing.loop import run


class Link:
    """Servers that know so many records, one after the other; none has the wanted key."""

    def __init__(self, *last: int) -> None:
        self.last = list(last)
        self.asked = 0

    async def api(self, what: str, request: str, body: Any) -> Reply:
        assert (request, body) == ("STREAM.INFO.done_0", {"subjects_filter": "done.0.k"})
        known = self.last[min(self.asked, len(self.last) - 1)]
        self.asked += 1
        return Reply(state=StreamState(last_seq=known))


def read(link: Link, as_of: int) -> list[bytes]:
    async def scenario() -> list[bytes]:
        records = Records(cast(JetStreamLink, link), 3)
        return await records.get("done.0", "k", as_of)

    return run(scenario, 1)


@pytest.mark.parametrize(("as_of", "asked"), [(0, 1), (3, 1), (4, 3), (7, 3)])
def test_a_leader_of_old_is_not_believed(as_of: int, asked: int) -> None:
    link = Link(3, 3, 7)
    assert read(link, as_of) == []
    assert link.asked == asked


def test_if_nobody_comes_that_far_it_is_said() -> None:
    began: list[float] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        began.append(loop.time())
        with pytest.raises(BusTimeout, match=r"knows 3 of at least 9 in all"):
            await Records(cast(JetStreamLink, Link(3)), 3).get("done.0", "k", 9)
        began.append(loop.time())

    run(scenario, 1)
    assert CALL_TIMEOUT_S - 0.2 <= began[1] - began[0] <= CALL_TIMEOUT_S
