"""Many agents in one process: what they share, and what ends with one of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from swarm.bus.base import Bus
from swarm.bus.memory import MemoryWorld
from swarm.core.handling import Done, Outcome, Stopped
from swarm.errors import BadInput
from swarm.messages import NULL
from swarm.sdk import host as hosting
from swarm.sdk.agent import Agent
from swarm.sdk.host import AgentHost, SharedRunner
from tests.unit.sims import sim


def agents(*names: str | None) -> list[Agent]:
    made = [Agent(["t"], agent_id=name) for name in names]
    for agent in made:
        agent.handles("t")(lambda context: None)
    return made


@pytest.mark.parametrize(
    ("names", "connections", "why"),
    [
        ([], 1, "at least one agent"),
        (["a"], 0, "connections is 0"),
        (["a", "a"], 1, "two have the same"),
        (["a", None], 1, "1 have none"),
    ],
)
def test_what_a_host_cannot_be_made_of(names: list[str | None], connections: int, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        AgentHost(agents(*names), connections)


@pytest.mark.parametrize(("connections", "made"), [(1, 1), (2, 2), (9, 3)])
def test_connections_are_shared_and_closed(
    connections: int, made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(world: MemoryWorld) -> None:
        buses: list[Bus] = []

        async def connect(url: str | None, sender: str, prefix: str) -> Bus:
            assert (url, prefix) == ("nats://x", "swarm")
            buses.append(world.connect(sender))
            return buses[-1]

        monkeypatch.setattr(hosting, "connect_bus", connect)
        host = AgentHost(agents("a", "b", "c"), connections)
        host.stop()
        await host.run("nats://x")
        assert len({bus.sender for bus in buses}) == len(buses) == made
        assert not any(bus.connected for bus in buses)

    sim(scenario)


# --- the runner --------------------------------------------------------------------------


class Handler:
    """A handler that notes its thread, and ends when it is told to, or is cancelled."""

    stopping = False

    def __init__(self, *, is_async: bool = True) -> None:
        self.is_async = is_async
        self.thread = 0
        self.begun = threading.Event()
        self.end = threading.Event()

    async def run_async(self) -> Outcome:
        self.thread = threading.get_ident()
        self.begun.set()
        try:
            while not self.end.is_set():  # noqa: ASYNC110 - set by another thread
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            return Stopped()
        return Done(NULL)

    def run_sync(self) -> Outcome:
        self.thread = threading.get_ident()
        self.begun.set()
        self.end.wait(10.0)
        return Done(NULL)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not condition():  # noqa: ASYNC110 - made true by other threads
            await asyncio.sleep(0)


async def test_all_parts_share_one_thread_for_async_handlers() -> None:
    shared = SharedRunner(4)
    parts = [shared.part() for _ in range(3)]
    handlers = [Handler() for _ in parts]
    ended: list[Outcome] = []
    for part, handler in zip(parts, handlers, strict=True):
        await part.start()
        part.run(handler, ended.append)
    await until(lambda: all(handler.begun.is_set() for handler in handlers))
    assert len({handler.thread for handler in handlers}) == 1
    assert handlers[0].thread != threading.get_ident()
    for handler in handlers:
        handler.end.set()
    await until(lambda: len(ended) == 3)
    assert ended == [Done(NULL)] * 3
    for part in parts:
        await part.close()


async def test_a_part_ends_what_it_runs_and_nothing_else() -> None:
    shared = SharedRunner(4)
    one, two = shared.part(), shared.part()
    mine, others, blocking = Handler(), Handler(), Handler(is_async=False)
    ended: list[str] = []
    for part in (one, two):
        await part.start()
    one.run(mine, lambda _: ended.append("mine"))
    one.run(blocking, lambda _: ended.append("blocking"))
    two.run(others, lambda _: ended.append("others"))
    await until(lambda: all(one.begun.is_set() for one in (mine, others, blocking)))

    await one.close()
    await one.close()
    await until(lambda: mine.stopping)
    assert not others.stopping
    blocking.end.set()
    others.end.set()
    await until(lambda: ended == ["others"])
    await two.close()
    assert ended == ["others"], "of a closed part nothing is reported"


async def test_the_last_part_ends_the_threads_and_a_new_one_begins_anew() -> None:
    shared = SharedRunner(1)
    for _ in range(2):
        part, handler = shared.part(), Handler()
        ended: list[Outcome] = []
        await part.start()
        handler.end.set()
        part.run(handler, ended.append)
        await until(lambda ended=ended: bool(ended))  # type: ignore[misc]
        await part.close()
    names = [thread.name for thread in threading.enumerate()]
    assert "swarm-handlers" not in names
