"""Many agents in one process, over a few connections to NATS.

host = AgentHost(agents)
host.run_forever()

Each agent is one of the swarm's: an id, a session, leases and slots of its own.  What they
share is the process: a pool of connections, one thread for all async handlers, and a pool of
threads for plain functions.  An agent that ends by itself (another process took its id over)
leaves the others at work.

A connection speaks for several agents, so NATS must let it: where an account pins each user
to one sender, give a host's user a name of its own and subjects with a wildcard for it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

import structlog

from swarm.bus.base import Bus
from swarm.core.handling import Outcome
from swarm.errors import BadInput, SwarmError
from swarm.runtime import Runtime
from swarm.sdk.agent import Agent
from swarm.sdk.connecting import connect_bus
from swarm.sdk.runners import Ended, Execution, HandlerRunner, ThreadRunner

log = structlog.get_logger()

#: Connections that a host makes, unless told otherwise (`CONNECTION_POOL_SIZE`).
CONNECTIONS = 8


class AgentHost:
    """`agents` with ids that differ; `connections`: at most so many for all of them.

    The agents must not have been given runners.  Raises `BadInput`.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        connections: int = CONNECTIONS,
        *,
        runtime: Runtime | None = None,
    ) -> None:
        if not agents:
            raise BadInput("a host needs at least one agent")
        if connections < 1:
            raise BadInput(f"connections is {connections}; allowed: 1 or more")
        names = [agent.agent_id for agent in agents]
        unnamed = names.count(None)
        if unnamed or len(set(names)) != len(names):
            what = f"{unnamed} have none" if unnamed else "two have the same"
            raise BadInput(f"the agents of a host need ids of their own: {what}")
        self._agents = list(agents)
        self._connections = min(connections, len(agents))
        self._name = (runtime or Runtime()).new_name("host-")
        self._runner = SharedRunner(sum(agent.concurrency for agent in agents))

    async def run(self, url: str | None = None) -> None:
        """Work until `stop`: on the NATS server at `url`, or where `connect` would.

        Raises what `Agent.run` does when all agents have ended, if any has ended so.
        """
        prefix = self._agents[0].prefix
        buses: list[Bus] = []
        try:
            while len(buses) < self._connections:
                name = f"{self._name}-{len(buses) + 1}"
                buses.append(await connect_bus(url, name, prefix))
            await self.run_on(buses)
        finally:
            await asyncio.gather(*(bus.close() for bus in buses))

    async def run_on(self, buses: Sequence[Bus]) -> None:
        """`run`, on connections that are there."""
        running = [
            self._run(agent, buses[number % len(buses)])
            for number, agent in enumerate(self._agents)
        ]
        ended = await asyncio.gather(*running)
        failed = [error for error in ended if error is not None]
        if failed:
            raise failed[0]

    async def _run(self, agent: Agent, bus: Bus) -> SwarmError | None:
        try:
            await agent.run(bus, runner=self._runner.part())
        except SwarmError as error:
            log.warning("an agent of this host has ended", agent=agent.agent_id, why=str(error))
            return error
        return None

    async def run_until_signal(self, url: str | None = None) -> None:
        """`run`, and `stop` on SIGTERM or SIGINT; a second signal hands everything back at once."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        try:
            await self.run(url)
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def run_forever(self, url: str | None = None) -> None:
        """`run_until_signal` in an event loop of its own."""
        asyncio.run(self.run_until_signal(url))

    def stop(self) -> None:
        """Have all agents stop; a second call hands back what still runs."""
        for agent in self._agents:
            agent.stop()


class SharedRunner:
    """One `ThreadRunner` for many agents: it lives while any of its parts does."""

    def __init__(self, workers: int) -> None:
        self._threads = ThreadRunner(workers)
        self._parts = 0

    def part(self) -> HandlerRunner:
        """A runner for one agent."""
        return _Part(self)

    async def begin(self) -> None:
        """One more part runs."""
        if not self._parts:
            await self._threads.start()
        self._parts += 1

    def run(self, execution: Execution, ended: Ended) -> Callable[[], None]:
        """See `HandlerRunner.run`."""
        assert self._parts, "begun"
        return self._threads.run(execution, ended)

    async def end(self) -> None:
        """A part runs no more."""
        assert self._parts, "begun"
        self._parts -= 1
        if not self._parts:
            await self._threads.close()


class _Part:
    """What runs for one agent: it ends without the others."""

    def __init__(self, shared: SharedRunner) -> None:
        self._shared = shared
        self._stops: dict[Execution, Callable[[], None]] = {}
        self._open = False

    async def start(self) -> None:
        """See `HandlerRunner.start`."""
        if not self._open:
            self._open = True
            await self._shared.begin()

    def run(self, execution: Execution, ended: Ended) -> Callable[[], None]:
        """See `HandlerRunner.run`."""

        def done(outcome: Outcome) -> None:
            if self._stops.pop(execution, None) is not None and self._open:
                ended(outcome)

        stop = self._stops[execution] = self._shared.run(execution, done)
        return stop

    async def close(self) -> None:
        """See `HandlerRunner.close`."""
        if not self._open:
            return
        self._open = False
        for stop in self._stops.values():
            stop()
        self._stops.clear()
        await self._shared.end()
