"""`swarm node`: coordinators and routers against an existing NATS."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from swarm.cli import common, settings
from swarm.cli.main import DONE
from swarm.cli.quick import import_lean
from swarm.discovery.base import SEEDS
from swarm.errors import BadInput

HTTP_HOST = "0.0.0.0"


def add_parser(subparsers: Any) -> None:
    """`swarm node`."""
    parser = subparsers.add_parser(
        "node",
        help="run coordinators or routers against an existing NATS",
        description="Run some roles of a swarm in this process until SIGTERM.  Settings come "
        "from the environment and a TOML file (docs/settings.md).",
    )
    parser.add_argument(
        "--role",
        action="append",
        required=True,
        metavar="ROLE",
        help="coordinator, router, or both with a comma",
    )
    parser.add_argument(
        "--id", required=True, type=common.token, metavar="NAME", help="for a coordinator: its name"
    )
    parser.add_argument(
        "--nats-url",
        metavar="URL",
        help="default: NATS_URL; discovery:SERVICE asks COORDINATOR_DISCOVERY where it is",
    )
    parser.add_argument(
        "--http-host",
        default=HTTP_HOST,
        metavar="ADDRESS",
        help=f"where HTTP is answered (default: {HTTP_HOST})",
    )
    parser.add_argument(
        "--http-port",
        type=common.whole(0, 65_535),
        metavar="PORT",
        help="default: HTTP_PORT, else 4000; 0: any free one",
    )
    parser.add_argument("--no-http", action="store_true", help="answer no HTTP")
    parser.add_argument(
        "--connect-timeout",
        type=common.duration,
        default=30.0,
        metavar="TIME",
        help="how long to try to reach NATS at the start (default: 30s)",
    )
    settings.add_config(parser)
    # For `swarm up`: the node ends when its parent does, however that ended.
    parser.add_argument("--with-stdin", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run until told to stop."""
    url = args.nats_url or os.environ.get("NATS_URL", "").strip()
    if not url:
        raise BadInput("which NATS server? name it with --nats-url or NATS_URL")
    if not url.startswith(SEEDS):
        common.check_url(url)
    port = None if args.http_port is None else str(args.http_port)
    read, path = settings.read_settings(args, HTTP_PORT=port)
    import_lean(url)
    # Imported only once the arguments are known to be good.
    from swarm.hosting.logs import configure_logs

    configure_logs(sample_rate=read.log_sample_rate, node=args.id)
    from swarm.hosting import node
    from swarm.hosting.process import run as run_loop

    store_dir = os.environ.get("SWARM_STORE_DIR", "").strip()
    plan = node.NodePlan(
        node_id=args.id,
        roles=tuple(role for text in args.role for role in text.split(",")),
        nats_url=url,
        settings=read,
        http_host=None if args.no_http else args.http_host,
        http_port=read.http_port,
        http_address=os.environ.get("SWARM_HTTP_ADDRESS", "").strip(),
        connect_s=args.connect_timeout,
        store_dir=Path(store_dir) if store_dir else None,
    )
    node.log.info("settings", file=str(path) if path else "none, only the environment")
    run_loop(node.serve(node.Node(plan), with_stdin=args.with_stdin))
    return DONE
