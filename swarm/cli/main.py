"""The `swarm` command: finds the sub-command, runs it, turns errors into exit codes.

A sub-command's module is imported only when it is the one to run, so that `swarm claim`
in a shell loop starts fast.  Exit codes: 0 done, 1 failed or partly done, 2 wrong use.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from swarm.errors import BadConfig, BadInput, Refusal, SwarmError

DONE, FAILED, WRONG_USE = 0, 1, 2
#: What a shell reports for a program that SIGINT ended.
INTERRUPTED = 130

#: What may be used of argparse's result of `add_subparsers`, whose class is private.
Subparsers = Any


class _Command(Protocol):
    """What a command's module has."""

    def add_parser(self, subparsers: Subparsers) -> object:
        """Add its parser, or those of all commands that share the module."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the exit code."""
        ...


#: Module and help of each command, in the order of `swarm --help`.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("swarm.cli.up", "run a whole swarm on this machine"),
    "node": ("swarm.cli.node", "run coordinators or routers against an existing NATS"),
    "agent": ("swarm.cli.agent", "run an agent: a Python handler or any program"),
    "submit": ("swarm.cli.submit", "submit work items"),
    "work": ("swarm.cli.work", "look at work items, and manage them"),
    "dead": ("swarm.cli.dead", "dead items: list them, bring them back"),
    "status": ("swarm.cli.status", "how the swarm is: coordinators, shards, counts"),
    "shards": ("swarm.cli.shards", "where items are, how evenly; change it"),
    "routes": ("swarm.cli.routes", "routing rules, and what routers have chosen"),
    "conflicts": ("swarm.cli.conflicts", "who has disagreed with whom, and what was kept"),
    "health": ("swarm.cli.health", "whether every coordinator is alive and ready"),
    "doctor": ("swarm.cli.doctor", "verify the swarm's logs (read-only)"),
    "log": ("swarm.cli.log", "save a shard's log into a file, or restore it from one"),
    "claim": ("swarm.cli.shell", "take one work item (for shell agents)"),
    "heartbeat": ("swarm.cli.shell", "keep a claimed item"),
    "progress": ("swarm.cli.shell", "report progress on a claimed item"),
    "complete": ("swarm.cli.shell", "finish a claimed item with its result"),
    "fail": ("swarm.cli.shell", "an attempt at a claimed item has failed"),
    "release": ("swarm.cli.shell", "hand a claimed item back unworked"),
    "wait": ("swarm.cli.shell", "a claimed item waits for an answer from outside"),
    "demo": ("swarm.demo.cli", "audit a source tree with a swarm of its own"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `swarm` with these arguments; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = bool(os.environ.get("SWARM_DEBUG"))
    try:
        name = chosen(arguments)
        command = _load(name) if name else None
        args = _parse(arguments, command)
        if command is None:
            return WRONG_USE
        code = command.run(args)
        sys.stdout.flush()
        return code
    except SystemExit as asked:
        # argparse ends the program itself: after --help, or with its own message.
        return asked.code if isinstance(asked.code, int) else WRONG_USE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has what it wants (`swarm work list | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # noqa: BLE001 - users get a sentence, never a traceback
        if debug:
            traceback.print_exc()
        complain(explain(error))
        return code_of(error)


def code_of(error: BaseException) -> int:
    """The exit code for an error: the user's mistake, or a failure."""
    if isinstance(error, BadInput | BadConfig):
        return WRONG_USE
    if isinstance(error, Refusal) and error.code in ("bad_request", "unsupported", "too_large"):
        return WRONG_USE
    return FAILED


def explain(error: BaseException) -> str:
    """One line for people."""
    if isinstance(error, SwarmError | TimeoutError):
        text = str(error) or "it took too long"
        return " ".join(text.split("\n"))
    what = f"{type(error).__name__}: {error}".replace("\n", " ")
    return f"{what} (set SWARM_DEBUG=1 to see where this comes from)"


def complain(line: str) -> None:
    """An error message for people."""
    print(f"swarm: {line}", file=sys.stderr)


def chosen(arguments: Sequence[str]) -> str:
    """The sub-command among the arguments; "" when there is none (known to us)."""
    first = next((word for word in arguments if not word.startswith("-")), "")
    return first if first in COMMANDS else ""


def _load(name: str) -> _Command:
    module: Any = importlib.import_module(COMMANDS[name][0])
    command: _Command = module
    return command


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and how to get help, instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USE, f"swarm: {message}; see `{self.prog} --help`\n")


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"swarm {version('swarm')}")
        parser.exit(DONE)


def _parse(arguments: list[str], command: _Command | None) -> argparse.Namespace:
    parser = _Parser(prog="swarm", description="A durable work queue for swarms of agents.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Parser
    )
    if command is not None:
        command.add_parser(subparsers)
    for other, (_, text) in COMMANDS.items():
        if other not in subparsers.choices:
            subparsers.add_parser(other, help=text)
    return parser.parse_args(arguments)
