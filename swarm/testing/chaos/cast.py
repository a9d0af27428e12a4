"""Who takes part in a run: their names, commands and settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import swarm
from swarm.bus.embedded import find_binary
from swarm.config import SETTINGS
from swarm.testing.chaos.members import Member
from swarm.testing.chaos.net import INSIDE, Network
from swarm.testing.chaos.plan import Cast
from swarm.testing.chaos.work import RECORDS_ENV, WORK_TYPE

PREFIX = "chaos"
CLIENT_PORT, ROUTE_PORT, MONITOR_PORT = 4222, 6222, 8222
#: Items that an agent works on at once.
CONCURRENCY = 8
#: Items a second, by each client.
RATE = 6.0
RECORDER = "recorder"

CAST = Cast(
    servers=["server-1", "server-2", "server-3"],
    coordinators=["coordinator-1", "coordinator-2", "coordinator-3"],
    routers=["router-1", "router-2"],
    agents=["agent-1", "agent-2", "agent-3"],
    clients=["client-1", "client-2"],
    shards=6,
)

#: Of the nodes: the defaults, but for leases that lapse within a run.  An owner gives up without
#: an append for a lease, so they must outlast an election of the servers, which takes 4 to 9 s.
NODE_SETTINGS = {
    "SWARM_PREFIX": PREFIX,
    "SHARD_COUNT": str(CAST.shards),
    "COORDINATORS": " ".join(CAST.coordinators),
    "LOG_REPLICAS": "3",
    "LEASE_S": "12",
    "HEARTBEAT_S": "1",
    # Logs are compacted and purged about once a minute, ended items archived after some seconds.
    "LOG_FLOOR_BYTES": "100000",
    "CACHE_MAX_SIZE": "50",
    "DEAD_RETENTION_S": "20",
    "DEDUPE_WINDOW": "300",
    # Agents die all the time here: that is to cost no item its life.
    "MAX_ATTEMPTS": "1000",
    "QUARANTINE_DEATHS": "1000",
    "RETRY_BACKOFF_S": "0.5",
}

#: As configs/nats/cluster.conf, which is not installed with the package (a test compares).
SERVER_CONFIG = """\
server_name: $NATS_NAME
listen: $NATS_LISTEN
http: $NATS_MONITOR
ping_interval: "5s"
ping_max: 2

jetstream {
  store_dir: $NATS_STORE
  sync_interval: always
}

cluster {
  name: swarm
  listen: $NATS_CLUSTER
  routes: $NATS_ROUTES
  ping_interval: "2s"
  ping_max: 2
}
"""


class Company:
    """All members of a run, not started yet."""

    def __init__(
        self, directory: Path, network: Network, seed: int, on_surprise: Callable[[str], None]
    ) -> None:
        self.directory = directory
        self.records = directory / "records"
        self._network = network
        self._seed = seed
        self._on_surprise = on_surprise
        self._logs = directory / "logs"
        for made in (self.records, self._logs):
            made.mkdir(parents=True, exist_ok=True)
        self.members: dict[str, Member] = {}
        self._add_servers()
        self._add_swarm()
        self._add_clients()

    def url(self, server: str) -> str:
        """Where clients reach this server."""
        return f"nats://{self._at(server, CLIENT_PORT)}"

    @property
    def urls(self) -> str:
        """All servers, with commas."""
        return ",".join(map(self.url, CAST.servers))

    def monitor(self, server: str) -> str:
        """Where this server answers HTTP."""
        return f"http://{self._at(server, MONITOR_PORT)}"

    def _at(self, name: str, port: int) -> str:
        return f"{self._network.host(name)}:{self._network.port(name, port)}"

    def _add_servers(self) -> None:
        config = self.directory / "server.conf"
        config.write_text(SERVER_CONFIG, "utf-8")
        routes = [f"nats://{self._at(name, ROUTE_PORT)}" for name in CAST.servers]
        for name in CAST.servers:
            env = {
                "NATS_NAME": name,
                "NATS_LISTEN": self._at(name, CLIENT_PORT),
                "NATS_CLUSTER": self._at(name, ROUTE_PORT),
                "NATS_ROUTES": "[" + ", ".join(f'"{route}"' for route in routes) + "]",
                "NATS_MONITOR": self._at(name, MONITOR_PORT),
                "NATS_STORE": str(self.directory / name),
            }
            self._add(name, [find_binary(), "--config", str(config)], env)

    def _add_swarm(self) -> None:
        for name in [*CAST.coordinators, *CAST.routers]:
            role = "coordinator" if name in CAST.coordinators else "router"
            node = ["node", "--role", role, "--id", name, "--no-http", "--connect-timeout", "2m"]
            self._add(name, _swarm(*node), NODE_SETTINGS | {"NATS_URL": self.urls})
        for name in CAST.agents:
            handler = ["--type", WORK_TYPE, "--handler", "swarm.testing.chaos.work:handle"]
            # Started again, it replaces its own earlier self.
            identity = ["--id", name, "--takeover", "--concurrency", str(CONCURRENCY)]
            command = _swarm("agent", *handler, *identity, "--drain", "2s")
            self._add(name, command, {"NATS_URL": self.urls, "SWARM_PREFIX": PREFIX})

    def _add_clients(self) -> None:
        about = ["--servers", self.urls, "--prefix", PREFIX]
        for name in CAST.clients:
            rate = ["--name", name, "--rate", str(RATE), "--seed", str(self._seed)]
            self._add(name, _part("client", *about, *rate), {})
        # It has no fault, and is in the run's own network.
        what = ["--shards", str(CAST.shards), "--records", str(self.records)]
        self._add(RECORDER, _part("recorder", *about, *what), {}, at_hub=True)

    def _add(
        self, name: str, command: list[str], env: dict[str, str], *, at_hub: bool = False
    ) -> None:
        known = {setting.env for setting in SETTINGS} | {"NATS_URL", INSIDE}
        hidden = ("SWARM_", "XDG_")
        kept = {
            key: value
            for key, value in os.environ.items()
            if key not in known and not key.startswith(hidden)
        }
        # Whatever else is installed: everybody runs the code that this process runs.
        path = [str(Path(swarm.__file__).parents[1]), *kept.get("PYTHONPATH", "").split(os.pathsep)]
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, dict.fromkeys(path)))
        env = {**kept, "HOME": str(self.directory), RECORDS_ENV: str(self.records), **env}
        wrapped = command if at_hub else self._network.wrap(name, command)
        self.members[name] = Member(name, wrapped, env, self._logs, self._on_surprise)


def _swarm(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "swarm", *arguments]


def _part(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"swarm.testing.chaos.{name}", *arguments]
