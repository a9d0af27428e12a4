"""`swarm agent`: an agent whose work is a Python function or any program."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.cli import common, settings
from swarm.cli.main import DONE
from swarm.cli.quick import import_lean
from swarm.errors import BadInput

if TYPE_CHECKING:
    from swarm.sdk.agent import Agent
    from swarm.sdk.host import AgentHost

#: An agent whose parent has ended hands everything back and has this long for it.
ORPHAN_S = 5.0


def add_parser(subparsers: Any) -> None:
    """`swarm agent`."""
    parser = subparsers.add_parser(
        "agent",
        help="run an agent: a Python handler or any program",
        description="Take work items of some types and do them until SIGTERM.  A program gets "
        "the item as JSON on stdin and its fields in SWARM_* variables; exit code 0 means done, "
        "its last line that is JSON is the result, and the end of its stderr says why not.  Lines "
        "of its stdout that mean something: `progress 40 text`, `checkpoint JSON`, `wait [TIME] "
        "JSON` (then exit 0: the item waits for an answer), `retry TIME` and `give-up` (then exit "
        "with another code).  SIGTERM means that it is to stop.  See docs/agents.md.",
    )
    parser.add_argument(
        "--type",
        dest="types",
        type=common.tokens,
        action="extend",
        required=True,
        metavar="TYPE",
        help="one, several with commas, or repeated",
    )
    work = parser.add_mutually_exclusive_group(required=True)
    work.add_argument("--handler", metavar="MODULE:NAME", help="a Python function of one context")
    work.add_argument("--exec", dest="program", metavar="CMD", help="a shell command")
    parser.add_argument(
        "--id", type=common.token, metavar="NAME", help="who it is (default: a random name)"
    )
    parser.add_argument(
        "--concurrency",
        type=common.whole(1, 100_000),
        default=1,
        metavar="N",
        help="items worked on at once (default: 1)",
    )
    parser.add_argument(
        "--agents",
        type=common.whole(1, 100_000),
        default=1,
        metavar="N",
        help="run so many agents in this process, named NAME-1 to NAME-N, over at most "
        "CONNECTION_POOL_SIZE connections (default: 1)",
    )
    parser.add_argument(
        "--takeover", action="store_true", help="replace a live agent of the same id"
    )
    parser.add_argument(
        "--drain",
        dest="drain_s",
        type=common.duration,
        default=30.0,
        metavar="TIME",
        help="how long work may go on after SIGTERM before it is handed back (default: 30s)",
    )
    settings.add_config(parser)
    common.add_address(parser)
    # For `swarm up`: the agent ends when its parent does, however that ended.
    parser.add_argument("--with-stdin", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run until told to stop."""
    handler = load_handler(args.handler) if args.handler else None
    url, prefix = common.locate(args)
    import_lean(url)
    # Imported only once the arguments are known to be good.
    from swarm.hosting.logs import configure_logs
    from swarm.hosting.process import run as run_loop
    from swarm.runtime import Runtime
    from swarm.sdk.host import AgentHost

    agent_id = args.id or Runtime().new_name("agent-")
    configure_logs(agent=agent_id)
    if args.agents == 1:
        run_loop(_work(_agent(args, agent_id, prefix, handler), url, args.with_stdin))
        return DONE
    pool, _ = settings.read_settings(args)
    ids = [common.token(f"{agent_id}-{number}") for number in range(1, args.agents + 1)]
    agents = [_agent(args, name, prefix, handler) for name in ids]
    run_loop(_work(AgentHost(agents, pool.connection_pool_size), url, args.with_stdin))
    return DONE


def _agent(args: argparse.Namespace, agent_id: str, prefix: str, handler: Any) -> Agent:
    from swarm.sdk.agent import Agent
    from swarm.sdk.programs import Program

    agent = Agent(
        list(dict.fromkeys(args.types)),
        args.concurrency,
        agent_id,
        prefix=prefix,
        takeover=args.takeover,
        drain_s=args.drain_s,
    )
    handle = handler if handler is not None else Program(args.program, agent_id).handle
    agent.handles(*dict.fromkeys(args.types))(handle)
    return agent


async def _work(agent: Agent | AgentHost, url: str, with_stdin: bool) -> None:
    if with_stdin:
        from swarm.hosting.process import stop_with_stdin

        def stop() -> None:
            # The second call hands back what still runs: there is nobody to wait for.
            agent.stop()
            agent.stop()

        stop_with_stdin(stop, ORPHAN_S)
    await agent.run_until_signal(url)


def load_handler(spec: str) -> Any:
    """The function that ``module:name`` means; `BadInput` if there is none."""
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        raise BadInput(f"--handler {spec!r}: write MODULE:NAME, like mypackage.work:handle")
    # As with `python -m`: what lies in the current directory can be named.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            raise BadInput(
                f"--handler {spec!r}: there is no module {error.name!r} here or installed"
            ) from error
        raise BadInput(f"--handler {spec!r}: importing {module_name} failed: {error}") from error
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise BadInput(f"--handler {spec!r}: importing {module_name} failed: {what}") from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise BadInput(f"--handler {spec!r}: {module_name} has no function {name!r}")
    return found
