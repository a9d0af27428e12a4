"""What commands share: how to reach the swarm, durations, JSON, how to print."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from swarm.cli.quick import import_lean
from swarm.errors import BadInput, NoAnswer, Refusal
from swarm.hosting.runfile import find_run
from swarm.messages import NULL, TOKEN_PATTERN
from swarm.sdk.durations import parse_duration

if TYPE_CHECKING:
    from rich.console import Console

    from swarm.sdk.client import Swarm

#: How long a command goes on trying to get an answer, unless told otherwise.
TIMEOUT_S = 30.0


# --- types of arguments (argparse turns ArgumentTypeError into exit code 2) --------------


def duration(text: str) -> float:
    """Seconds from ``30``, ``30s``, ``500ms``, ``5m``, ``1.5h`` or ``1d``."""
    duration_s = parse_duration(text)
    if duration_s is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 30s, 5m, 1h or 1d")
    return duration_s


def moment(text: str) -> float:
    """Seconds since 1970 from ``2h`` (from now) or ``2030-01-31T12:00`` (here, without an
    offset)."""
    duration_s = parse_duration(text)
    if duration_s is not None:
        return time.time() + duration_s
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time; write 2030-01-31T12:00 (or with +01:00), or 2h for in two hours"
        ) from None


def token(text: str) -> str:
    """A name that can be part of a subject."""
    if re.match(TOKEN_PATTERN, text):
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r} cannot be used: 1 to 64 letters, digits, '_' or '-', "
        "beginning with a letter or digit (no blanks, dots or wildcards)"
    )


def tokens(text: str) -> list[str]:
    """Names separated by commas."""
    return [token(word) for word in text.split(",") if word] or [token(text)]


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """A whole number within bounds."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            above = f" to {high}" if high is not None else " or more"
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low}{above}")
        return value

    return read


def part(text: str) -> float:
    """A part of something, 0 to 10."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text!r} is no part; write one from 0 to 10, like 0.1")
    return value


def label(text: str) -> tuple[str, str]:
    """``name=value``."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is no label; write NAME=VALUE")
    return name, value


# --- reaching the swarm -------------------------------------------------------------------


def add_address(parser: argparse.ArgumentParser) -> Any:
    """The options that say which swarm; their group."""
    group = parser.add_argument_group("which swarm")
    group.add_argument(
        "--nats-url",
        metavar="URL",
        help="NATS server (default: NATS_URL, else the `swarm up` that runs here)",
    )
    group.add_argument(
        "--prefix",
        type=token,
        help="first token of the swarm's subjects (default: SWARM_PREFIX, else swarm)",
    )
    return group


def add_connection(parser: argparse.ArgumentParser, timeout_s: float = TIMEOUT_S) -> None:
    """The options of every command that asks a swarm and prints its answer."""
    add_address(parser).add_argument(
        "--timeout",
        type=duration,
        default=timeout_s,
        metavar="TIME",
        help=f"how long to try to get an answer (default: {timeout_s:g}s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def locate(args: argparse.Namespace) -> tuple[str, str]:
    """(NATS URL, prefix) by option, environment, or the running `swarm up`."""
    env = os.environ
    url = args.nats_url or env.get("NATS_URL", "").strip()
    prefix = args.prefix or env.get("SWARM_PREFIX", "").strip()
    if url:
        return check_url(url), prefix or "swarm"
    run = find_run(env)
    return run.nats_url, prefix or run.prefix


def check_url(url: str) -> str:
    """`url`, one or several separated by commas, if they can name NATS servers."""
    for part in url.split(","):
        scheme, colons, rest = part.strip().partition("://")
        if colons and scheme not in ("nats", "tls", "ws", "wss"):
            raise BadInput(f"{part!r} is no NATS URL; write nats://host:4222")
        host_port = (rest if colons else scheme).rpartition("@")[2]
        host, colon, port = host_port.rpartition(":")
        if not host_port or (colon and not (host and port.isdigit() and int(port) <= 65_535)):
            raise BadInput(f"{part!r} is no NATS URL; write nats://host:4222")
    return url


def connect(
    args: argparse.Namespace, name: str | None = None
) -> AbstractAsyncContextManager[Swarm]:
    """A connection as the swarm's client; `name` is who speaks (an agent's id)."""
    url, prefix = locate(args)
    import_lean(url)
    from swarm.sdk.client import Swarm

    return Swarm.connect(url, name=name, prefix=prefix)


def run_async(main: Coroutine[Any, Any, int]) -> int:
    """Run a command's coroutine to its exit code; stdout is for its data alone."""
    import_lean(os.environ.get("NATS_URL", ""))
    from swarm.hosting.logs import configure_logs

    configure_logs(level="warning")
    return asyncio.run(main)


# --- input and output -----------------------------------------------------------------------


def read_json(text: str, what: str) -> msgspec.Raw:
    """`text` as it is, or the contents of FILE for ``@FILE``, if that is JSON."""
    if text.startswith("@"):
        path = Path(text[1:])
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{what}: {path} cannot be read: {error.strerror}") from error
    else:
        data = text.encode()
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{what} is no JSON: {error}; a text needs quotes of its own, like '\"text\"'"
        ) from error
    return msgspec.Raw(data.strip()) if data.strip() else NULL


def console() -> Console:
    """For tables; wide where there is no terminal whose width would matter."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 160
    return Console(width=width, markup=False, highlight=False)


def print_json(value: object) -> None:
    """One JSON value on one line of stdout."""
    sys.stdout.write(msgspec.json.encode(value).decode())
    sys.stdout.write("\n")


def flush() -> None:
    """What was printed goes out now, to a pipe, too."""
    sys.stdout.flush()


def note(line: str) -> None:
    """Something for people, apart from the data on stdout."""
    print(line, file=sys.stderr)


def describe_error(error: Refusal | NoAnswer) -> dict[str, object]:
    """An error as it travels; `code` is ``no_answer`` where nothing is known."""
    if isinstance(error, NoAnswer):
        return {"code": "no_answer", "message": str(error), "retry": True}
    return {"code": error.code, "message": error.message, "retry": error.retry}
