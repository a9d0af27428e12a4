"""Agents in Python: handlers for work types, run under leases that renew themselves.

agent = Agent(concurrency=4)

@agent.handles("feature")
async def build(ctx):
    await ctx.progress(50, "half way")
    return {"built": ctx.payload["name"]}

agent.run_forever()

A handler ends with a result, or by an exception: any one means that the attempt failed and is
tried again while attempts are left, `RetryLater` says when, `GiveUp` that it is not, and
`Context.wait_for` that the item waits for somebody outside.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from typing import TypeVar

from swarm.actors.agent import AgentActor
from swarm.bus.base import Bus
from swarm.core.agent import AgentCore
from swarm.core.handling import AgentRules
from swarm.errors import BadInput
from swarm.runtime import Runtime
from swarm.sdk.calls import Calls
from swarm.sdk.connecting import connect_bus
from swarm.sdk.launching import Handler, Launcher
from swarm.sdk.runners import HandlerRunner, ThreadRunner
from swarm.subjects import Subjects, check_token

HandlerT = TypeVar("HandlerT", bound=Handler)

#: What an item takes in a heartbeat: its id and its token.
HELD_BYTES = 128


class Agent:
    """Handlers and how to run them.

    `types`: the work types to take (default: those that handlers are declared for).
    `concurrency`: items worked on at once.  `agent_id`: who it is (default: a random name,
    or the given bus's); while one process lives under an id, a second is refused unless it
    says `takeover`.  `drain_s`: how long a stopping agent lets its handlers finish before
    their items are handed back.  `attach_timeout_s`: how long to wait for a swarm at the
    start (None: as long as it takes).  `runner`: where handlers run (default: threads of
    their own, so that a blocking handler does not stop the heartbeats).
    """

    def __init__(
        self,
        types: Sequence[str] | None = None,
        concurrency: int = 1,
        agent_id: str | None = None,
        *,
        prefix: str = "swarm",
        takeover: bool = False,
        drain_s: float = 30.0,
        attach_timeout_s: float | None = None,
        runner: HandlerRunner | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        if isinstance(types, str):
            raise BadInput(f"types is a list of work types, not a string: types=[{types!r}]")
        if concurrency < 1:
            raise BadInput(f"concurrency is {concurrency}; allowed: 1 or more")
        self._types = None if types is None else tuple(dict.fromkeys(types))
        self._concurrency = concurrency
        self.agent_id = agent_id
        self._subjects = Subjects(check_token("prefix", prefix))
        self._takeover = takeover
        self._drain_s = drain_s
        self._attach_timeout_s = attach_timeout_s
        self._runner = runner
        self._runtime = runtime or Runtime()
        self._handlers: dict[str, Handler] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._actor: AgentActor | None = None
        self._stops = 0

    def handles(self, *work_types: str) -> Callable[[HandlerT], HandlerT]:
        """Declare the decorated function, async or plain, the handler of these work types.

        It gets a `Context`.  What it returns (any JSON) is the item's result; what it raises
        makes the attempt fail with the exception's message.
        """
        if not work_types or not all(isinstance(work_type, str) for work_type in work_types):
            raise BadInput('say which work types it handles: @agent.handles("feature")')

        def declare(handler: HandlerT) -> HandlerT:
            for work_type in work_types:
                check_token("work type", work_type)
                if work_type in self._handlers:
                    raise BadInput(f"work type {work_type!r} has a handler already")
                self._handlers[work_type] = handler
            return handler

        return declare

    # --- running ----------------------------------------------------------------------

    @property
    def concurrency(self) -> int:
        """Items worked on at once."""
        return self._concurrency

    @property
    def prefix(self) -> str:
        """First token of the swarm's subjects."""
        return self._subjects.prefix

    async def run(
        self, target: str | Bus | None = None, *, runner: HandlerRunner | None = None
    ) -> None:
        """Work until `stop`: on a bus, on the NATS server at a URL, or where `connect` would.

        `runner`: where handlers run, if the agent was not given one of its own.
        Raises `BadInput` if handlers and types do not match, `Refusal` with the code
        ``agent_id_in_use`` if another process lives under this id or takes it over,
        `BusUnavailable` or `NoAnswer` if there is no swarm.
        """
        work_types = self._checked_types()
        if self._actor is not None:
            raise BadInput("this agent runs already")
        if target is not None and not isinstance(target, str):
            await self._run_on(target, work_types, runner)
            return
        agent_id = self.agent_id or self._runtime.new_name("agent-")
        bus = await connect_bus(target, agent_id, self._subjects.prefix)
        try:
            await self._run_on(bus, work_types, runner)
        finally:
            await bus.close()

    async def run_until_signal(self, target: str | Bus | None = None) -> None:
        """`run`, and `stop` on SIGTERM or SIGINT; a second signal hands everything back at once."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        try:
            await self.run(target)
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def run_forever(self, target: str | None = None) -> None:
        """`run_until_signal` in an event loop of its own."""
        asyncio.run(self.run_until_signal(target))

    def stop(self) -> None:
        """Take no more work, finish, leave; a second call hands back what still runs.

        May be called from any thread; before `run`, it makes that return at once.
        """
        self._stops += 1
        loop, actor = self._loop, self._actor
        if loop is not None and actor is not None:
            loop.call_soon_threadsafe(actor.stop)

    async def _run_on(
        self, bus: Bus, work_types: tuple[str, ...], shared: HandlerRunner | None
    ) -> None:
        agent_id = check_token("agent id", self.agent_id or bus.sender)
        self._check_concurrency(bus)
        rules = AgentRules(
            work_types=work_types,
            concurrency=self._concurrency,
            item_bytes_max=bus.max_payload // 4,
            message_bytes_max=bus.max_payload // 2,
        )
        calls = Calls(bus, self._subjects, self._runtime, agent_id)
        core = AgentCore(rules, self._runtime.new_id)
        runner = self._runner or shared or ThreadRunner(self._concurrency)
        launch = Launcher(self._handlers, runner, calls)
        actor = self._actor = AgentActor(
            calls,
            core,
            launch,
            takeover=self._takeover,
            attach_timeout_s=self._attach_timeout_s,
            drain_s=self._drain_s,
        )
        launch.actor = actor
        self._loop = asyncio.get_running_loop()
        await runner.start()
        try:
            for _ in range(self._stops):
                actor.stop()
            await actor.run()
        finally:
            self._actor, self._stops = None, 0
            await runner.close()
            await calls.close()

    def _checked_types(self) -> tuple[str, ...]:
        declared = tuple(self._handlers)
        wanted = declared if self._types is None else self._types
        if not wanted:
            raise BadInput('the agent has no handlers: declare one with @agent.handles("feature")')
        for work_type in wanted:
            check_token("work type", work_type)
            if work_type not in self._handlers:
                raise BadInput(
                    f"work type {work_type!r} has no handler; there are handlers for: "
                    f"{', '.join(declared) or 'none'}"
                )
        for work_type in declared:
            if work_type not in wanted:
                raise BadInput(
                    f"the handler for {work_type!r} would never run: types has only "
                    f"{', '.join(wanted)}; add it there, or remove the handler"
                )
        return wanted

    def _check_concurrency(self, bus: Bus) -> None:
        """All that an agent holds must fit into one heartbeat."""
        most = max(1, (bus.max_payload // HELD_BYTES - 64) // 2)
        if self._concurrency > most:
            raise BadInput(
                f"concurrency is {self._concurrency}; with messages of {bus.max_payload} bytes an "
                f"agent can hold {most} items: run several agents, or raise max_payload on the "
                "NATS server"
            )
