"""A whole swarm on this machine: what `swarm up` and the demo run.

Hosted here: an embedded nats-server (unless an address is given), a router, HTTP.  As
child processes: the coordinators, and agents if wanted.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from swarm.bus.embedded import EmbeddedServer
from swarm.config import SETTINGS, Settings, to_toml
from swarm.errors import BadConfig, BadInput, SwarmError
from swarm.hosting.children import RESTART_FIRST_S, RESTART_LONGEST_S, Child, describe_code
from swarm.hosting.runfile import Announcement, RunFile
from swarm.runtime import Runtime

if TYPE_CHECKING:
    from swarm.hosting.node import Node

log = structlog.get_logger()

#: How long agents may take to hand back or finish what they hold.
AGENT_GRACE_S = 15.0
#: How long coordinators may take besides handing over to those that are not ours.
COORDINATOR_GRACE_S = 5.0
#: A swarm that is not ready after this time will not be.
READY_S = 30.0
#: How long to try to reach NATS: whoever runs us is looking on.
CONNECT_S = 5.0
#: Between two looks at whether it is.
LOOK_S = 0.05
#: How long to wait for the port of the last time.
LAST_PORT_S = 2.0
#: Clients that do not ask otherwise find NATS here.
NATS_PORT = 4222


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
        #: The plan's, with what turned out about the storage.
        self._settings = plan.settings
        #: Where the embedded server stores.
        self._store_dir: Path | None = None
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
        url = plan.nats_url or await self._start_server()
        make_logs_dir(plan.data_dir)
        self._announcement = Announcement(plan.data_dir, self._env)
        settings_path = plan.data_dir / "settings.toml"
        settings_path.write_text(to_toml(self._settings), "utf-8")
        for name in self._names:
            arguments = ("node", "--role", "coordinator", "--id", name, "--no-http")
            child = self._child(name, arguments, url)
            self.coordinators.append(child)
            await child.start()
        node = await self._start_node(url)
        await self._until_ready(node)
        await self._start_agents(url)
        run = RunFile(url, node.http_url, os.getpid(), str(plan.data_dir), plan.settings.prefix)
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
        grace_s = self.plan.settings.drain_s + COORDINATOR_GRACE_S
        await asyncio.gather(*(child.stop(grace_s) for child in self.coordinators))
        if self._node is not None:
            await self._node.stop()
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    # --- parts --------------------------------------------------------------------------

    async def _start_server(self) -> str:
        plan = self.plan
        port = plan.nats_port
        if port is None:
            port = await usual_port(read_port(plan.data_dir))
        server = self._server = EmbeddedServer()
        await server.start(plan.data_dir, port=port, storage_max=plan.settings.storage_max_bytes)
        url = server.url
        self._store_dir = server.store_dir
        # What was wanted, or what the disk allows.
        self._settings = msgspec.structs.replace(
            plan.settings, storage_max_bytes=server.storage_max
        )
        # Agents that outlive us come back to the address that they know.
        write_port(plan.data_dir, url)
        self._pulse = asyncio.create_task(self._keep_server(url), name="nats-server")
        return url

    async def _keep_server(self, url: str) -> None:
        """Start the embedded server again, at the same address, whenever it ends."""
        port = int(url.rpartition(":")[2])
        pause_s = RESTART_FIRST_S
        while True:
            server = self._server
            assert server is not None, "started before"
            code = await server.wait()
            how = describe_code(code)
            log.warning("nats-server ended; it is started again", how=how, pause_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RESTART_LONGEST_S)
            # Lets go of the data directory.
            await server.stop()
            self._server = EmbeddedServer()
            try:
                await self._server.start(
                    self.plan.data_dir, port=port, storage_max=self._settings.storage_max_bytes
                )
            except BadInput as error:
                self._fail(f"nats-server ended ({how}) and could not be started again: {error}")
                return
            log.info("nats-server runs again", nats=url)

    async def _start_node(self, url: str) -> Node:
        # Imported while the coordinators, already started, do the same.
        from swarm.hosting.node import Node, NodePlan  # noqa: PLC0415

        plan = self.plan
        node = self._node = Node(
            NodePlan(
                node_id=Runtime().new_name("router-"),
                roles=("router",),
                nats_url=url,
                settings=self._settings,
                http_host=plan.http_host,
                http_port=plan.settings.http_port,
                connect_s=CONNECT_S,
                store_dir=self._store_dir,
                for_all=True,
            )
        )
        await node.start()
        return node

    async def _until_ready(self, node: Node) -> None:
        """Return when every shard has an owner that answers."""
        from swarm.messages import ShardStats  # noqa: PLC0415
        from swarm.sdk.client import Swarm  # noqa: PLC0415 - as in `_start_node`

        clock = asyncio.get_running_loop().time
        give_up_at = clock() + self.plan.ready_s
        while True:
            ready, state = node.ready()
            if ready:
                break
            self._check_time(clock() > give_up_at, state["why"])
            await asyncio.sleep(LOOK_S)
        # Beats say who owns a shard; an answer shows that it serves.
        swarm = Swarm(node.bus, prefix=self.plan.settings.prefix)
        try:
            answers = await swarm.stats(timeout_s=max(1.0, give_up_at - clock()))
        finally:
            await swarm.close()
        for number, answer in answers.items():
            late = not isinstance(answer, ShardStats)
            self._check_time(late, [f"shard {number} does not answer: {answer}"])

    def _check_time(self, late: bool, why: list[str]) -> None:
        if self.failed.is_set():
            raise SwarmError(self.failure)
        if late:
            raise SwarmError(
                f"the swarm is not ready after {self.plan.ready_s:g} s: {'; '.join(why)}; "
                f"see the logs in {self.plan.data_dir / 'logs'}"
            )

    async def _start_agents(self, url: str) -> None:
        runtime = Runtime()
        for number, arguments in enumerate(self.plan.agents, start=1):
            name = f"agent-{number}"
            # Started again, it replaces its own earlier self, which is known to be dead.
            identity = ("--id", runtime.new_name(f"{name}-"), "--takeover")
            child = self._child(name, ("agent", *identity, *arguments), url)
            self.agents.append(child)
            await child.start()

    def _child(self, name: str, arguments: Sequence[str], url: str) -> Child:
        logs = self.plan.data_dir / "logs"
        known = {setting.env for setting in SETTINGS}
        # Every part acts on the same settings, wherever they came from.
        env = {key: value for key, value in self._env.items() if key not in known}
        env["NATS_URL"] = url
        env["SWARM_PREFIX"] = self.plan.settings.prefix
        if self._store_dir is not None:
            env["SWARM_STORE_DIR"] = str(self._store_dir)
        env["SWARM_CONFIG"] = str(self.plan.data_dir / "settings.toml")
        arguments = [*arguments, "--with-stdin"]
        return Child(name, arguments, logs / f"{name}.log", env, self._fail)

    def _fail(self, why: str) -> None:
        self.failure = self.failure or why
        self.failed.set()


def make_logs_dir(data_dir: Path) -> None:
    """Make it, and what it is in; `BadInput` when that is not possible."""
    try:
        (data_dir / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"the data directory {data_dir} cannot be used: {error.strerror}; choose one that "
            "you may write to with --data"
        ) from error


def read_port(data_dir: Path) -> int:
    """The port of the last time; 0 when there was none."""
    try:
        return int((data_dir / "nats-port").read_text("utf-8"))
    except (OSError, ValueError):
        return 0


def write_port(data_dir: Path, url: str) -> None:
    """Remember the port for the next time."""
    (data_dir / "nats-port").write_text(url.rpartition(":")[2], "utf-8")


async def usual_port(last: int) -> int:
    """The port of the last time if it is to be had, else 4222, else 0 for any free one."""
    # A server that was killed with its parent may take a moment to be gone.
    give_up_at = asyncio.get_running_loop().time() + LAST_PORT_S
    while last and asyncio.get_running_loop().time() < give_up_at:
        if is_free(last):
            return last
        await asyncio.sleep(LOOK_S)
    return NATS_PORT if is_free(NATS_PORT) else 0


def is_free(port: int) -> bool:
    """Whether one can listen on this port of the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
