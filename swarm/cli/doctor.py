"""`swarm doctor`: verify a swarm's logs, change nothing."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from swarm.cli import common, settings
from swarm.cli.main import DONE, FAILED

if TYPE_CHECKING:
    from swarm.doctor import Report

#: Whose reads these are, in NATS's permissions and monitoring.
SENDER = "doctor"


def add_parser(subparsers: Any) -> None:
    """`swarm doctor`."""
    parser = subparsers.add_parser(
        "doctor",
        help="verify the swarm's logs (read-only)",
        description="Read every log of the swarm from the oldest entry kept, hold it against "
        "rules of its own and against the swarm's own fold, and say what was checked.  Changes "
        "nothing; the swarm may run meanwhile, or be down while NATS is up.  Needs about 2 KB of "
        "memory for each item of the largest shard.  Exit 0: nothing was found; 1: findings; 2: "
        "wrong use.",
    )
    parser.add_argument(
        "--shard",
        type=common.whole(0),
        action="append",
        metavar="N",
        help="only this one (may be given several times; default: all)",
    )
    parser.add_argument(
        "--records",
        action="store_true",
        help="look up the finished record of every archived item (default: of some)",
    )
    settings.add_config(parser)
    common.add_connection(parser, timeout_s=10.0)


def run(args: argparse.Namespace) -> int:
    """Examine, and print."""
    return common.run_async(_doctor(args))


async def _doctor(args: argparse.Namespace) -> int:
    from swarm.bus.jetstream import connect
    from swarm.doctor import Examination, examine

    url, prefix = common.locate(args)
    bus = await connect(
        url, SENDER, prefix=prefix, name="swarm doctor", connect_timeout_s=args.timeout
    )
    try:
        report = await examine(
            bus,
            Examination(
                settings=settings.of_swarm(args, prefix),
                now=time.time(),
                shards=args.shard,
                all_records=args.records,
            ),
        )
    finally:
        await bus.close()
    _print(report, args.json)
    return DONE if report.clean else FAILED


def _print(report: Report, as_json: bool) -> None:
    from swarm.doctor.report import lines

    if as_json:
        common.print_json({"clean": report.clean, "report": report})
        return
    for line in lines(report):
        print(line)
    if not report.clean:
        common.note("swarm: what to do about findings is in docs/operations.md")
