"""What handlers and clients write down about a run, apart from the swarm.

Each process appends to a file of its own, one JSON line per fact, one ``write`` per line:
a process that is killed leaves whole lines behind.  The lines survive a kill of the
process, not a power cut (nothing is synced).

All times are the wall clock of the one machine that the run is on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from swarm.errors import BadInput

Line = TypeVar("Line", bound=Struct)

_encode = msgspec.json.Encoder().encode

EXECUTIONS = "executions-*.jsonl"
ACKS = "acks-*.jsonl"
#: A file whose last line has no end is looked at so often: after that it is a broken one.
LOOKS = 10
LOOK_S = 0.01


class Execution(Struct, frozen=True):
    """One run of a handler.  `end` is None when its process died in the middle of it."""

    work_item_id: str
    token: str
    session: str
    pid: int
    start: float
    end: float | None = None


class Acks(Struct):
    """What clients were told: work item id -> when they knew it."""

    submitted: dict[str, float]
    completed: dict[str, float]


class _ExecutionLine(Struct, omit_defaults=True):
    #: Counts the executions of the process; ties the end line to the start line.
    execution: int
    work_item_id: str
    token: str
    session: str
    pid: int
    start: float
    end: float | None = None


class _AckLine(Struct, omit_defaults=True):
    at: float
    submitted: list[str] = []
    completed: list[str] = []


_execution_decoder = msgspec.json.Decoder(_ExecutionLine)
_ack_decoder = msgspec.json.Decoder(_AckLine)


class LineFile:
    """A file in `directory` of this process only, made with the first line."""

    def __init__(self, directory: Path, stem: str) -> None:
        self._directory = directory
        self._stem = stem
        self._lock = threading.Lock()
        self._file = -1
        self._pid = 0

    def append(self, line: Struct) -> None:
        """Write one line in one piece; OSError when it cannot be written."""
        data = _encode(line) + b"\n"
        with self._lock:
            written = os.write(self._open(), data)
        if written != len(data):
            raise OSError(f"only {written} of {len(data)} bytes were written: is the disk full?")

    def close(self) -> None:
        """Safe to call twice."""
        with self._lock:
            file, self._file = self._file, -1
            if file >= 0:
                os.close(file)

    def _open(self) -> int:
        # A forked child must not go on with its parent's file.
        if self._file < 0 or self._pid != os.getpid():
            self._pid = os.getpid()
            # Process ids come round again; a file must not.
            name = f"{self._stem}-{self._pid}-{time.monotonic_ns()}.jsonl"
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._directory.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._directory / name, flags, 0o644)
        return self._file


class ExecutionLog:
    """Records every execution of this process, from whatever thread it runs in."""

    def __init__(self, directory: Path, wall: Callable[[], float] = time.time) -> None:
        self._lines = LineFile(directory, "executions")
        self._wall = wall
        self._numbers = itertools.count(1)

    @contextlib.contextmanager
    def execution(self, work_item_id: str, token: str) -> Iterator[None]:
        """Around all that a handler does for the item.

        The clock is read before the work begins and after it has ended, so that the
        interval covers the work, and both within the handler, so that the hold covers
        the interval.
        """
        session = token.rpartition(".")[2]
        line = _ExecutionLine(
            next(self._numbers), work_item_id, token, session, os.getpid(), self._wall()
        )
        self._lines.append(line)
        try:
            yield
        finally:
            line.end = self._wall()
            self._lines.append(line)

    def close(self) -> None:
        """Safe to call twice."""
        self._lines.close()


class AckLog:
    """Records what a client was told by the swarm, the moment it was told."""

    def __init__(self, directory: Path, wall: Callable[[], float] = time.time) -> None:
        self._lines = LineFile(directory, "acks")
        self._wall = wall

    def submitted(self, work_item_ids: Iterable[str]) -> None:
        """These submissions were acknowledged."""
        self._lines.append(_AckLine(self._wall(), submitted=list(work_item_ids)))

    def completed(self, work_item_ids: Iterable[str]) -> None:
        """The swarm said that these items are completed."""
        self._lines.append(_AckLine(self._wall(), completed=list(work_item_ids)))

    def close(self) -> None:
        """Safe to call twice."""
        self._lines.close()


def read_executions(directory: Path) -> list[Execution]:
    """All executions recorded in `directory`; `BadInput` names a line that is none."""
    executions = []
    for path in sorted(directory.glob(EXECUTIONS)):
        lines: dict[int, _ExecutionLine] = {}
        for line in _read(path, _execution_decoder):
            # The end line repeats the start line and adds the end.
            lines[line.execution] = line
        executions += [
            Execution(line.work_item_id, line.token, line.session, line.pid, line.start, line.end)
            for line in lines.values()
        ]
    return executions


def read_acks(directory: Path) -> Acks:
    """All acknowledgements recorded in `directory`; `BadInput` names a line that is none."""
    acks = Acks({}, {})
    for path in sorted(directory.glob(ACKS)):
        for line in _read(path, _ack_decoder):
            for work_item_id in line.submitted:
                acks.submitted.setdefault(work_item_id, line.at)
            for work_item_id in line.completed:
                acks.completed.setdefault(work_item_id, line.at)
    return acks


def _at_rest(path: Path) -> bytes:
    """What is in the file; a line that is being written just now is waited for."""
    data = path.read_bytes()
    for _ in range(LOOKS):
        if not data or data.endswith(b"\n"):
            break
        time.sleep(LOOK_S)
        data = path.read_bytes()
    return data


def _read(path: Path, decoder: msgspec.json.Decoder[Line]) -> Iterator[Line]:
    for number, text in enumerate(_at_rest(path).splitlines(), start=1):
        try:
            yield decoder.decode(text)
        except msgspec.MsgspecError as error:
            raise BadInput(f"{path}, line {number} is no record of a run: {error}") from error
