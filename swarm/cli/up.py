"""`swarm up`: a whole swarm on this machine."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.cli import common, settings
from swarm.cli.main import DONE
from swarm.cli.quick import import_lean
from swarm.errors import BadInput, SwarmError

if TYPE_CHECKING:
    from swarm.hosting.runfile import RunFile
    from swarm.hosting.supervisor import UpPlan


def add_parser(subparsers: Any) -> None:
    """`swarm up`."""
    parser = subparsers.add_parser(
        "up",
        help="run a whole swarm on this machine",
        description="Run NATS, a router, PARALLEL_WORKERS coordinators, and agents if wanted, "
        "until SIGTERM.  Prints one line `ready NATS-URL HTTP-URL` once a submit would succeed.",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="where everything is kept (default: $XDG_DATA_HOME/swarm, else ~/.local/share/swarm)",
    )
    parser.add_argument(
        "--nats-url",
        metavar="URL",
        help="use this NATS instead of an embedded one (default: NATS_URL if set)",
    )
    parser.add_argument(
        "--port",
        type=common.whole(0, 65_535),
        metavar="PORT",
        help="of the embedded NATS; 0: any free one (default: as last time, else 4222 if free)",
    )
    parser.add_argument(
        "--http-port",
        type=common.whole(0, 65_535),
        metavar="PORT",
        help="of /health and /ready; 0: any free one (default: HTTP_PORT, else 4000)",
    )
    parser.add_argument(
        "--http-host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1"
    )
    agents = parser.add_argument_group("agents")
    agents.add_argument(
        "--agents", type=common.whole(0, 1000), metavar="N", help="agent processes to run"
    )
    agents.add_argument("--type", dest="types", action="append", metavar="TYPE")
    agents.add_argument("--handler", metavar="MODULE:NAME")
    agents.add_argument("--exec", dest="program", metavar="CMD")
    agents.add_argument(
        "--concurrency", type=common.whole(1, 100_000), default=1, metavar="N", help="of each"
    )
    settings.add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Run until told to stop."""
    agents = _agents(args)
    url = args.nats_url or os.environ.get("NATS_URL", "").strip() or None
    if url is not None:
        common.check_url(url)
        if args.port is not None:
            raise BadInput(
                f"--port is for the embedded NATS, but {url} is to be used; leave one of them out"
            )
    port = None if args.http_port is None else str(args.http_port)
    read, path = settings.read_settings(args, HTTP_PORT=port)
    import_lean(url or "")
    # Imported only once the arguments are known to be good.
    from swarm.hosting.logs import configure_logs

    configure_logs(sample_rate=read.log_sample_rate)
    from swarm.hosting import supervisor
    from swarm.hosting.process import run as run_loop

    plan = supervisor.UpPlan(
        data_dir=(args.data or default_data_dir()).expanduser().absolute(),
        settings=read,
        nats_url=url,
        nats_port=args.port,
        http_host=args.http_host,
        agents=agents,
    )
    supervisor.log.info(
        "starting",
        data=str(plan.data_dir),
        settings=str(path) if path else "environment and defaults",
    )
    run_loop(_up(plan))
    return DONE


def default_data_dir() -> Path:
    """By the XDG base directory specification."""
    base = os.environ.get("XDG_DATA_HOME", "")
    if base.startswith("/"):
        return Path(base) / "swarm"
    try:
        return Path.home() / ".local" / "share" / "swarm"
    except RuntimeError as error:
        raise BadInput("there is no home directory; say with --data where to keep data") from error


def _agents(args: argparse.Namespace) -> tuple[tuple[str, ...], ...]:
    """The arguments of each agent process."""
    given = args.types or args.handler or args.program
    count = args.agents if args.agents is not None else int(bool(given))
    if count == 0:
        return ()
    if not args.types or bool(args.handler) == bool(args.program):
        raise BadInput("agents need --type TYPE and either --handler MODULE:NAME or --exec CMD")
    for text in args.types:
        try:
            common.tokens(text)
        except argparse.ArgumentTypeError as error:
            raise BadInput(f"--type: {error}") from error
    work = ("--handler", args.handler) if args.handler else ("--exec", args.program)
    types = [word for text in args.types for word in ("--type", text)]
    return ((*types, *work, "--concurrency", str(args.concurrency)),) * count


async def _up(plan: UpPlan) -> None:
    from swarm.hosting.process import stop_on_signals, unless
    from swarm.hosting.supervisor import Supervisor

    stop = asyncio.Event()
    stop_on_signals(stop)
    supervisor = Supervisor(plan)

    async def start() -> None:
        _announce(await supervisor.start())

    try:
        # Either somebody stops us, or a part fails for good.
        started = await unless(stop, start())
        if started and await unless(stop, supervisor.failed.wait()):
            raise SwarmError(supervisor.failure)
    finally:
        await supervisor.stop()


def _announce(run: RunFile) -> None:
    print(f"ready {run.nats_url} {run.http_url}", flush=True)
