"""One process of the swarm: a bus, some roles, HTTP, and an orderly end.

`swarm node` runs one; `swarm up` runs a coordinator in each of several and hosts router
and HTTP in its own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from swarm.actors import shard_map
from swarm.actors.coordinator import Coordinator
from swarm.actors.router import Router
from swarm.bus.base import Bus
from swarm.bus.jetstream import connect
from swarm.config import Settings
from swarm.discovery.base import SEEDS, in_url
from swarm.errors import BadConfig, BadInput, BusError, DiscoveryFailed, StateMissing
from swarm.hosting.process import STOP_S, stop_on_signals, stop_with_stdin, unless
from swarm.messages import Beat, ShardMap
from swarm.runtime import Runtime
from swarm.subjects import check_token

if TYPE_CHECKING:
    from swarm.discovery.following import Discovery
    from swarm.web.api import Api
    from swarm.web.http import HttpServer

log = structlog.get_logger()

ROLES = ("coordinator", "router")
#: Pause between two attempts to reach NATS at the start.
RETRY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class NodePlan:
    """What a process is to run."""

    node_id: str
    roles: tuple[str, ...]
    nats_url: str
    settings: Settings
    #: Where to answer HTTP; None: nowhere.
    http_host: str | None = None
    http_port: int = 0
    #: Where others reach that, as ``host:port``; empty: found out.
    http_address: str = ""
    #: How long to try to reach NATS at the start.
    connect_s: float = 30.0
    #: Where NATS stores, if that is on this machine.
    store_dir: Path | None = None
    #: Whether `/metrics` tells of all shards, not of those owned here.
    for_all: bool = False


class Node:
    """The roles of one process on one connection."""

    def __init__(self, plan: NodePlan, runtime: Runtime | None = None) -> None:
        check_token("node id", plan.node_id)
        unknown = [role for role in plan.roles if role not in ROLES]
        if unknown or not plan.roles:
            named = f"role {unknown[0]!r} is none" if unknown else "no role was given"
            raise BadInput(f"{named}; allowed: {', '.join(ROLES)}")
        names = plan.settings.coordinator_names
        if "coordinator" in plan.roles and plan.node_id not in names:
            raise BadConfig(
                f"coordinator {plan.node_id!r} is not among the swarm's coordinators "
                f"({', '.join(names)}), so it would never own a shard; use one of these as --id, "
                "or add it to COORDINATORS everywhere"
            )
        self.plan = plan
        self._runtime = runtime or Runtime()
        self._started_at = self._runtime.wall()
        self._bus: Bus | None = None
        self._map: ShardMap | None = None
        self.coordinator: Coordinator | None = None
        self.router: Router | None = None
        self._http: HttpServer | None = None
        self._api: Api | None = None
        self._discovery: Discovery | None = None

    # --- life ------------------------------------------------------------------------

    async def start(self) -> None:
        """Answer HTTP, reach NATS, agree on the map, start the roles.

        Raises `BadInput`, `BadConfig`, or `BusError` when NATS stays out of reach.
        """
        plan = self.plan
        if plan.http_host is not None:
            await self._answer_http(plan.http_host, plan.http_port)
        await self._reach_nats()
        bus, map_ = self._bus, self._map
        assert bus is not None, "reached, or raised"
        assert map_ is not None, "agreed, or raised"
        if self._api is not None:
            self._api.connected(bus)
        if "router" in plan.roles:
            self.router = Router(bus, plan.settings, map_, self._runtime)
            await self.router.start()
        if "coordinator" in plan.roles:
            self.coordinator = Coordinator(bus, plan.settings, plan.node_id, map_, self._runtime)
            self.coordinator.http = self.http_address
            await self.coordinator.start()
        log.info("started", roles=list(plan.roles), nats=plan.nats_url, http=self.http_url)

    async def drain(self) -> None:
        """Hand over what others can take over, for as long as the settings allow."""
        if self.coordinator is not None:
            await self.coordinator.drain(self.plan.settings.drain_s)

    async def stop(self) -> None:
        """Stop the roles, say so, disconnect; safe to call twice."""
        http, self._http = self._http, None
        if http is not None:
            await http.stop()
        discovery, self._discovery = self._discovery, None
        if discovery is not None:
            await discovery.stop()
        for actor in (self.router, self.coordinator):
            if actor is not None:
                await actor.stop()
        bus, self._bus = self._bus, None
        if bus is not None:
            await bus.close()
            log.info("stopped", roles=list(self.plan.roles))

    async def _answer_http(self, host: str, port: int) -> None:
        from swarm.web.http import HttpServer  # noqa: PLC0415 - slow, and not always wanted

        settings = self.plan.settings
        discovery = self._discovery = self._discover()
        if settings.http_api:
            from swarm.web.api import Api  # noqa: PLC0415 - as above

            self._api = Api(settings.prefix, lambda: discovery.current, self._runtime)
        probes = {"/health": self.health, "/ready": self.ready}
        self._http = HttpServer(probes, {"/metrics": self.metrics}, self._api)
        await self._http.start(host, port)
        await discovery.start()

    async def _reach_nats(self) -> None:
        """Connect and agree on the map.  A cluster that is still electing is waited for."""
        plan, settings = self.plan, self.plan.settings
        give_up_at = time.monotonic() + plan.connect_s
        while True:
            try:
                if self._bus is None:
                    self._bus = await connect(
                        await self._nats_url(give_up_at),
                        plan.node_id,
                        prefix=settings.prefix,
                        name=f"swarm {plan.node_id}",
                        connect_timeout_s=max(0.1, give_up_at - time.monotonic()),
                        replicas=settings.replicas,
                        storage_max=settings.storage_max_bytes,
                        store_dir=plan.store_dir,
                    )
                await self._bus.open_state()
                self._map = await shard_map.agree(self._bus, settings)
                return
            except StateMissing:
                raise  # waiting brings nothing back
            except (BusError, DiscoveryFailed) as error:
                if time.monotonic() >= give_up_at:
                    raise
                log.warning("NATS cannot be used yet", nats=plan.nats_url, why=str(error))
            await asyncio.sleep(RETRY_S)

    async def _nats_url(self, give_up_at: float) -> str:
        url = self.plan.nats_url
        if not url.startswith(SEEDS):
            return url
        from swarm.discovery.choosing import nats_servers  # noqa: PLC0415 - seldom wanted

        found = await nats_servers(url, self.plan.settings, max(0.1, give_up_at - time.monotonic()))
        log.info("NATS was found", by=url, nats=found)
        return found

    # --- what HTTP shows -------------------------------------------------------------------

    @property
    def bus(self) -> Bus:
        """Its connection, once started."""
        assert self._bus is not None, "started before"
        return self._bus

    @property
    def shard_count(self) -> int:
        """How many shards there are, as far as is known here; 0: not known yet."""
        for actor in (self.router, self.coordinator):
            if actor is not None:
                return actor.cluster.map.shard_count
        return self._map.shard_count if self._map is not None else 0

    @property
    def http_url(self) -> str:
        """Where HTTP is answered; "" where it is not."""
        return self._http.url if self._http is not None else ""

    @property
    def http_address(self) -> str:
        """``host:port`` where others reach its HTTP; "" where it answers none."""
        if self._http is None:
            return ""
        host, port = self.plan.http_host, self._http.url.rpartition(":")[2]
        if not host or host in ("0.0.0.0", "::"):
            host = socket.gethostname()
        return self.plan.http_address or f"{in_url(host)}:{port}"

    def _discover(self) -> Discovery:
        """Who follows the coordinators for whoever asks over HTTP."""
        from swarm.discovery.beats import Beats  # noqa: PLC0415 - with HTTP only
        from swarm.discovery.choosing import choose  # noqa: PLC0415
        from swarm.discovery.following import Discovery  # noqa: PLC0415

        settings = self.plan.settings
        if settings.discovery != "nats":
            return Discovery(choose(settings), self._runtime)
        beats = Beats(lambda: self.live, lambda: self.connected, settings.missed_s)
        return Discovery(beats, self._runtime)

    @property
    def connected(self) -> bool:
        """Whether it reaches NATS."""
        return self._bus is not None and self._bus.connected

    @property
    def live(self) -> dict[str, Beat]:
        """The latest beat of each live coordinator, by name."""
        for actor in (self.router, self.coordinator):
            if actor is not None:
                return {beat.coordinator: beat for beat in actor.live()}
        return {}

    def health(self) -> tuple[bool, dict[str, Any]]:
        """The process runs and its loop turns: that this is answered at all shows it."""
        body = {
            "status": "alive",
            "id": self.plan.node_id,
            "roles": list(self.plan.roles),
            "pid": os.getpid(),
            "uptime_s": round(self._runtime.wall() - self._started_at, 3),
        }
        return True, body

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether this process does its work now, and if not, why."""
        live = self.live
        owned = {shard for beat in live.values() for shard in beat.owns}
        count = self.shard_count
        unowned = [shard for shard in range(count) if shard not in owned]
        connected = self.connected
        why = [] if connected else ["not connected to NATS"]
        body: dict[str, Any] = {
            "id": self.plan.node_id,
            "roles": list(self.plan.roles),
            "connected": connected,
            "coordinators": list(live),
            "shard_count": count,
            "shards_without_owner": unowned,
        }
        if "coordinator" in self.plan.roles:
            why += self._coordinator_lacks(body, unowned)
        if "router" in self.plan.roles:
            why += self._router_lacks(live, unowned)
        why = list(dict.fromkeys(why))  # two roles may say the same
        body = {"ready": not why, "why": why, **body}
        return not why, body

    async def metrics(self) -> tuple[bytes, str]:
        """Figures for Prometheus, and their content type."""
        from swarm.hosting import figures  # noqa: PLC0415 - as for HTTP
        from swarm.web.metrics import CONTENT_TYPE, render  # noqa: PLC0415

        count = self.shard_count
        shown = figures.of_swarm(self.live, count)
        shown.found = self._discovery.current if self._discovery is not None else None
        if self.coordinator is not None:
            figures.add_own(shown, self.coordinator)
        elif self.plan.for_all and self._bus is not None:
            settings = self.plan.settings
            soft = settings.storage_soft_limit
            await figures.ask_all(shown, self._bus, settings.prefix, soft)
        if self.router is not None:
            shown.routing = self.router.report()
        return render(shown), CONTENT_TYPE

    def _coordinator_lacks(self, body: dict[str, Any], unowned: list[int]) -> list[str]:
        coordinator = self.coordinator
        if coordinator is None:
            return ["the coordinator has not started yet"]
        beating, owned, closed = coordinator.beating, coordinator.owned, coordinator.closed
        body["beating"], body["owned"] = beating, owned
        body["closed"] = {str(shard): why for shard, why in closed.items()}
        why = [] if beating else ["its own beats do not come back"]
        why += [f"shard {shard} cannot be opened: {reason}" for shard, reason in closed.items()]
        why += coordinator.alarms
        if coordinator.draining:
            # So that a balancer takes it out before it stops.
            why.append("it is about to leave")
        # Owning none is fine where others own all: a takeover is not undone.
        if not owned and unowned:
            why.append("it owns no shard yet, and some have no owner")
        return why

    def _router_lacks(self, live: dict[str, Beat], unowned: list[int]) -> list[str]:
        if self.router is None or not self.router.running:
            return ["the router does not run"]
        if not live:
            return ["no coordinator is alive"]
        alarms = sorted({alarm for beat in live.values() for alarm in beat.alarms})
        if not unowned:
            return alarms
        return [
            *alarms,
            f"shards without an owner: {', '.join(map(str, unowned))}",
            *(
                f"{beat.coordinator} cannot open shard {shard}: {reason}"
                for beat in live.values()
                for shard, reason in beat.closed.items()
                if int(shard) in unowned
            ),
        ]


# --- running one ---------------------------------------------------------------------------


async def serve(node: Node, with_stdin: bool = False) -> None:
    """Run `node` until SIGTERM or SIGINT, or with `with_stdin` until stdin ends.

    After a signal it hands over what it has.  When stdin ends it does not: whoever started
    it is gone, and NATS may be, too.
    """
    stop, orphaned = asyncio.Event(), asyncio.Event()
    stop_on_signals(stop)

    def orphan() -> None:
        orphaned.set()
        stop.set()

    if with_stdin:
        stop_with_stdin(orphan)
    try:
        if await unless(stop, node.start()):
            await stop.wait()
            await unless(orphaned, node.drain())
    finally:
        async with asyncio.timeout(STOP_S):
            await node.stop()
