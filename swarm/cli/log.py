"""`swarm log …`: save a shard's log into a file, and restore it from one."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.cli import common, settings
from swarm.cli.main import DONE

if TYPE_CHECKING:
    from swarm.bus.jetstream import JetStreamBus

#: Whose doings these are, in NATS's permissions and monitoring.
SENDER = "operator"


def add_parser(subparsers: Any) -> None:
    """`swarm log` and its verbs."""
    parser = subparsers.add_parser(
        "log", help="save a shard's log into a file, or restore it from one"
    )
    verbs = parser.add_subparsers(dest="verb", metavar="save|restore", required=True)
    save = verbs.add_parser(
        "save",
        help="write every entry of a shard's log into a file",
        description="Write every entry of a shard's log, as NATS has it, into a file of JSON "
        "lines.  The swarm may run meanwhile; a shard that is closed can be saved, too, as nothing "
        "is decoded.",
    )
    restore = verbs.add_parser(
        "restore",
        help="bring a shard's log back from a file",
        description="Replace the log of a shard that nobody owns by the entries of a file.  "
        "Without --yes only say what would be done.  With it, what is in the log now is saved "
        "beside the file first.  The shard stays closed until all is there, and is then opened by "
        "the coordinators that run; interrupted, run it again.",
    )
    for verb in (save, restore):
        verb.add_argument("shard", type=common.whole(0), metavar="SHARD")
        verb.add_argument("file", type=Path, metavar="FILE")
    restore.add_argument(
        "--before",
        type=common.whole(1),
        default=0,
        metavar="SEQ",
        help="leave out this entry and all behind it",
    )
    restore.add_argument("--yes", action="store_true", help="do it")
    for verb in (save, restore):
        settings.add_config(verb)
        common.add_connection(verb, timeout_s=10.0)


def run(args: argparse.Namespace) -> int:
    """Do what was chosen."""
    return common.run_async(_save(args) if args.verb == "save" else _restore(args))


async def _connect(args: argparse.Namespace) -> tuple[JetStreamBus, str]:
    from swarm.bus.jetstream import connect

    url, prefix = common.locate(args)
    bus = await connect(
        url, SENDER, prefix=prefix, name="swarm log", connect_timeout_s=args.timeout
    )
    return bus, prefix


async def _save(args: argparse.Namespace) -> int:
    from swarm.recovery import save_log

    bus, prefix = await _connect(args)
    try:
        header = await save_log(bus, prefix, args.shard, args.file, time.time())
    finally:
        await bus.close()
    if args.json:
        common.print_json(header)
    else:
        print(f"{header.log}: entries {header.first_seq} to {header.last_seq} are in {args.file}")
    return DONE


async def _restore(args: argparse.Namespace) -> int:
    from swarm.recovery import SavedLog, Wanted, make_plan, restore_log
    from swarm.recovery.plan import lines

    # A file that cannot be used is told before anything else.
    saved = SavedLog(args.file)
    bus, prefix = await _connect(args)
    try:
        found = settings.of_swarm(args, prefix)
        wanted = Wanted(settings=found, shard=args.shard, saved=saved, before=args.before)
        plan = await make_plan(bus, wanted)
        if not args.json:
            for line in lines(plan):
                print(line)
            common.flush()
        replaced = await restore_log(bus, wanted, plan, time.time()) if args.yes else None
    finally:
        await bus.close()
    if args.json:
        kept = None if replaced is None else str(replaced)
        common.print_json({"restored": args.yes, "replaced": kept, "plan": plan})
    elif args.yes:
        if replaced is not None:
            print(f"what was in the log before is in {replaced}")
        print(f"restored; coordinators open shard {args.shard} by themselves, within half a minute")
    else:
        print("nothing was changed; with --yes it is done")
    return DONE
