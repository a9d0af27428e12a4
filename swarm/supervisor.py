"""A whole swarm on this machine: what `swarm up` and the demo run.

Hosted here: an embedded nats-server (unless an address is given), a router, HTTP.  As
child processes: the coordinators, and agents if wanted.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from swarm.bus.embedded import EmbeddedServer
from swarm.children import Child
from swarm.config import SETTINGS, Settings, to_toml
from swarm.errors import BadConfig, BadInput, BusError, SwarmError
from swarm.messages import ShardStats, Stats
from swarm.node import Node, NodePlan
from swarm.runfile import Announcement, RunFile
from swarm.runtime import Runtime
from swarm.subjects import Subjects

log = structlog.get_logger()

#: How long agents may take to hand back or finish what they hold.
AGENT_GRACE_S = 15.0
COORDINATOR_GRACE_S = 5.0
#: A swarm that is not ready after this time will not be.
READY_S = 30.0
#: Between two looks at whether it is.
LOOK_S = 0.05
#: Between two looks at whether the embedded server lives.
PULSE_S = 0.5
#: Clients that do not ask otherwise find NATS here.
NATS_PORT = 4222

_stats = msgspec.json.Decoder(ShardStats)
_stats_request = msgspec.json.encode(Stats())


@dataclass(frozen=True, kw_only=True)
class UpPlan:
    """What to run."""

    data_dir: Path
    settings: Settings
    #: An existing NATS; None: an embedded one.
    nats_url: str | None = None
    #: Of the embedded one; 0: any free; None: as last time, else 4222, else any free.
    nats_port: int | None = None
    http_host: str = "127.0.0.1"
    #: Arguments of `swarm agent` for each agent process, without its id.
    agents: tuple[tuple[str, ...], ...] = ()
    ready_s: float = READY_S


class Supervisor:
    """Starts all parts, keeps them running, stops them in order."""

    def __init__(self, plan: UpPlan, env: Mapping[str, str] | None = None) -> None:
        names, workers = plan.settings.coordinator_names, plan.settings.parallel_workers
        if len(names) < workers:
            raise BadConfig(
                f"PARALLEL_WORKERS = {workers} does not go with COORDINATORS, which names only "
                f"{len(names)}: name at least as many, or leave COORDINATORS out"
            )
        self.plan = plan
        self._env = dict(os.environ if env is None else env)
        self._names = names[:workers]
        self._announcement: Announcement | None = None
        self._server: EmbeddedServer | None = None
        self._node: Node | None = None
        self._pulse: asyncio.Task[None] | None = None
        self.coordinators: list[Child] = []
        self.agents: list[Child] = []
        #: Set when something ended that cannot be started again; `failure` says what.
        self.failed = asyncio.Event()
        self.failure = ""

    # --- life ------------------------------------------------------------------------

    async def start(self) -> RunFile:
        """Start everything; returns when a submit would succeed.

        Raises `BadInput`, `BadConfig`, or another `SwarmError` that says what did not come
        up.  `stop` must be called in any case.
        """
        plan = self.plan
        make_data_dir(plan.data_dir)
        self._announcement = Announcement(plan.data_dir, self._env)
        url = plan.nats_url or await self._start_server()
        settings_path = plan.data_dir / "settings.toml"
        settings_path.write_text(to_toml(plan.settings), "utf-8")
        for name in self._names:
            arguments = ("node", "--role", "coordinator", "--id", name, "--no-http")
            child = self._child(name, arguments, url)
            self.coordinators.append(child)
            await child.start()
        self._node = Node(
            NodePlan(
                node_id=Runtime().new_name("router-"),
                roles=("router",),
                nats_url=url,
                settings=plan.settings,
                http_host=plan.http_host,
                http_port=plan.settings.http_port,
                connect_s=plan.ready_s,
            )
        )
        await self._node.start()
        await self._until_ready()
        await self._start_agents(url)
        run = RunFile(
            url, self._node.http.url, os.getpid(), str(plan.data_dir), plan.settings.prefix
        )
        self._announcement.publish(run)
        return run

    async def stop(self) -> None:
        """Stop everything, agents first, NATS last; safe to call twice."""
        if self._announcement is not None:
            self._announcement.withdraw()
        pulse, self._pulse = self._pulse, None
        if pulse is not None:
            pulse.cancel()
            await asyncio.gather(pulse, return_exceptions=True)
        await asyncio.gather(*(agent.stop(AGENT_GRACE_S) for agent in self.agents))
        await asyncio.gather(*(child.stop(COORDINATOR_GRACE_S) for child in self.coordinators))
        if self._node is not None:
            await self._node.stop()
        if self._server is not None:
            await self._server.stop()

    # --- parts --------------------------------------------------------------------------

    async def _start_server(self) -> str:
        plan = self.plan
        remembered = plan.data_dir / "nats-port"
        wanted = plan.nats_port
        server = self._server = EmbeddedServer()
        if wanted is not None:
            await server.start(plan.data_dir, port=wanted)
        else:
            await self._start_on_usual_port(server, _read_port(remembered))
        remembered.write_text(server.url.rpartition(":")[2], "utf-8")
        return server.url

    def _child(self, name: str, arguments: Sequence[str], url: str) -> Child:
        plan = self.plan
        settings = ("--config", str(plan.data_dir / "settings.toml"), "--with-stdin")
        known = {setting.env for setting in SETTINGS}
        env = {key: value for key, value in self._env.items() if key not in known}
        env["NATS_URL"] = url
        logs = plan.data_dir / "logs"
        logs.mkdir(exist_ok=True)
        return Child(name, [*arguments, *settings], logs / f"{name}.log", env, self._fail)

    def _fail(self, why: str) -> None:
        self.failure = self.failure or why
        self.failed.set()
