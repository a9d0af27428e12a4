"""The agents of the demo: one handler for each of the three audits.

    swarm agent --type suspicious --handler swarm.demo.audit:suspicious

The payload names the file; the result is an `Audit`.  A file that cannot be read or
parsed gives a result that says so: the audit is done, there is nothing to try again.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import io
import os
import threading
import tokenize
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import msgspec

from swarm.demo import findings
from swarm.demo.findings import Audit
from swarm.testing.records import ExecutionLog

#: Names the directory where the agents record what they ran.
RECORDS_ENV = "SWARM_DEMO_RECORDS"

Look = Callable[[str, ast.Module], Audit]

#: By work type.
AUDITS: dict[str, Look] = {
    "suspicious": findings.suspicious,
    "undocumented": findings.undocumented,
    "complexity": findings.complexity,
}

#: Python's warning filters belong to the whole process, and handlers run in threads.
_parsing = threading.Lock()


class Task(Protocol):
    """What of a `swarm.sdk.context.Context` a handler uses."""

    @property
    def work_item_id(self) -> str:
        """The item's id."""
        ...

    @property
    def token(self) -> str:
        """What the item is held with."""
        ...

    @property
    def payload(self) -> Any:
        """``{"file": path for people, "uri": where it is}``."""
        ...


def suspicious(task: Task) -> Any:
    """Handler of the work type ``suspicious``."""
    return _handle(task, findings.suspicious)


def undocumented(task: Task) -> Any:
    """Handler of the work type ``undocumented``."""
    return _handle(task, findings.undocumented)


def complexity(task: Task) -> Any:
    """Handler of the work type ``complexity``."""
    return _handle(task, findings.complexity)


def audit(file: str, path: Path, look: Look) -> Audit:
    """Audit one file; `file` is how it is called in the result."""
    try:
        return look(file, parse(read_source(path.read_bytes()), file))
    except OSError as error:
        return Audit(file, unreadable=f"cannot be read: {error.strerror}")
    except (SyntaxError, ValueError, LookupError) as error:
        # ValueError: a zero byte, or bytes that are no text.  LookupError: unknown encoding.
        return Audit(file, unreadable=f"cannot be parsed: {error}")
    except (RecursionError, MemoryError):
        # The latter is what Python 3.11's parser calls it.
        return Audit(file, unreadable="cannot be parsed: nested too deeply")


def read_source(data: bytes) -> str:
    """The text of a source file, by its byte order mark or coding line."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return io.TextIOWrapper(io.BytesIO(data), encoding).read()


def parse(text: str, file: str) -> ast.Module:
    """The syntax tree, without the warnings that the compiler has about other people's code."""
    with _parsing, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text, file)


def _handle(task: Task, look: Look) -> Any:
    with _records().execution(task.work_item_id, task.token):
        payload = task.payload
        with _garbage_kept():
            return msgspec.to_builtins(audit(payload["file"], path_of(payload["uri"]), look))


@contextlib.contextmanager
def _garbage_kept() -> Iterator[None]:
    """A syntax tree has no cycles; looking for some while it grows costs a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def path_of(uri: str) -> Path:
    """The file of a ``file://`` URI: not every file name is text, so paths travel like this."""
    return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))


@cache
def _records() -> ExecutionLog:
    """One file of records for the whole process."""
    return ExecutionLog(Path(os.environ[RECORDS_ENV]))
