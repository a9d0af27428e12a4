"""What all sections use: servers, and session after session, one at a time."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import nats
from msgspec import Struct
from nats.aio.client import Client

from bench import machine
from bench.plan import PLAIN, SYNC, Job, Measured, System, Workload
from bench.results import Session
from bench.servers import Server, for_others, started
from bench.session import run_session

#: Of a session's items, this part is done before the clock starts.
WARM = 0.1


class Options(Struct, frozen=True):
    """How a run was asked for."""

    quick: bool = False
    rounds: int = 5
    #: How long a measured session is to work, at the rate of the trial round.
    work_s: float = 1.5

    @property
    def few_rounds(self) -> int:
        """Of sections whose sessions take long."""
        return min(self.rounds, 3)


class Env:
    """The servers of a run, and what was started on them."""

    def __init__(
        self,
        options: Options,
        servers: dict[str, Server],
        clients: dict[str, Client],
        directory: Path,
    ) -> None:
        self.options = options
        self.servers = servers
        self.clients = clients
        self.directory = directory
        self._number = 0

    def new_prefix(self) -> str:
        """Each session has subjects and streams of its own."""
        self._number += 1
        return f"bench{self._number}"

    async def session(
        self,
        number: int,
        system: System,
        workload: Workload,
        items: int,
        server: str = SYNC,
        *,
        load: str = "",
        job: Job | None = None,
        name: str = "",
    ) -> Session:
        """One session; `number` 0 is a trial.  `load`: of another module.

        `job`: what else the load is told.  `name`: of the workload in the results.
        """
        at = for_others(server) if system == PLAIN else server
        job = msgspec.structs.replace(
            job or Job("", "", 0, 0, 0, 0, 0),
            url=self.servers[at].url,
            prefix=self.new_prefix(),
            shards=system.shards,
            agents=workload.agents,
            slots=workload.slots,
            items=items,
            warm=int(items * WARM),
        )
        probe_ms = machine.probe_ms()
        measured = await run_session(system, job, self.servers[at].pid, self.directory, load)
        await self.forget(at, job.prefix)
        session = session_of(
            number, system.name, name or workload.name, items, measured, probe_ms, server
        )
        tell(session, f"{name or workload.title}: {system.title}")
        return session

    async def forget(self, server: str, prefix: str) -> None:
        """Delete a session's streams, so that the server has the same to do in each."""
        js = self.clients[server].jetstream()
        for name in [info.config.name for info in await js.streams_info()]:
            # Of a name like bench1log_0, or KV_bench1-state, or bench1_plain.
            if name is not None and name.removeprefix("KV_").startswith(prefix):
                await js.delete_stream(name)


def session_of(
    number: int,
    system: str,
    workload: str,
    items: int,
    measured: Measured,
    probe_ms: float,
    server: str,
) -> Session:
    """What is kept of a session."""
    return Session(
        number,
        system,
        workload,
        items,
        measured.items,
        measured.seconds,
        measured.rate,
        measured.cpu_s,
        measured.checked,
        measured.noted,
        probe_ms,
        server,
        measured.figures,
    )


def tell(session: Session, what: str) -> None:
    """One line for whoever waits."""
    which = f"round {session.round}" if session.round else "trial"
    shown = [f"{session.rate:,.0f} items/s"] if session.rate else []
    shown += [f"{name} {value:g}" for name, value in session.figures.items()]
    print(f"{which}: {session.server}: {what}: {', '.join(shown)}", file=sys.stderr, flush=True)


@asynccontextmanager
async def environment(options: Options, directory: Path) -> AsyncIterator[Env]:
    """Servers, and a client of each."""
    async with started(directory) as servers:
        clients = {name: await nats.connect(server.url) for name, server in servers.items()}
        try:
            yield Env(options, servers, clients, directory)
        finally:
            for client in clients.values():
                await client.close()
