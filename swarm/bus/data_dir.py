"""The directory that an embedded server keeps everything in.

``swarm.json`` names the format of what is in it, ``swarm.lock`` is locked while somebody
uses it: by the process that opened it and, as the lock is passed on, by the server that it
started.  The system drops the lock of whoever dies, so a lock never has to be removed.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from swarm.errors import BadInput

FORMAT: Final = 1
MARKER: Final = "swarm.json"
LOCK: Final = "swarm.lock"
#: nats-server's own directory in ours.
STORE: Final = "jetstream"

#: How long a server may take to follow its killed starter.
ORPHAN_GONE_S: Final = 5.0
#: How long a live holder may take to finish: it may just be stopping.
HOLDER_GONE_S: Final = 1.0
POLL_S: Final = 0.02

HOW_TO = "choose another directory with --data"


class Marker(msgspec.Struct):
    """What ``swarm.json`` says."""

    format: int
    created_by: str = ""


class DataDir:
    """A data directory in use; made by `open_data_dir`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        #: The locked file's descriptor; whoever inherits it holds the lock, too.
        self.lock = lock

    def close(self) -> None:
        """Let others use it; safe to call twice."""
        lock, self.lock = self.lock, -1
        if lock >= 0:
            os.close(lock)


async def open_data_dir(path: Path | str) -> DataDir:
    """Make the directory if need be, and take it.

    Raises `BadInput` if it is none, cannot be written, is in use, or holds something else
    than data of this format.
    """
    directory, lock = _open_lock(path)
    try:
        await _hold(directory, lock)
        _check_marker(directory)
    except BaseException:
        os.close(lock)
        raise
    return DataDir(directory, lock)


def _open_lock(path: Path | str) -> tuple[Path, int]:
    directory = Path(path).expanduser().absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return directory, os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except (FileExistsError, NotADirectoryError):
        raise BadInput(f"the data directory {directory} is not a directory; {HOW_TO}") from None
    except OSError as error:
        raise _unwritable(directory, error) from error


def _unwritable(directory: Path, error: OSError) -> BadInput:
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return BadInput(
            f"no permission to write in the data directory {directory}; "
            f"change its owner or mode, or {HOW_TO}"
        )
    return BadInput(f"the data directory {directory} cannot be used: {error.strerror}; {HOW_TO}")


async def _hold(directory: Path, lock: int) -> None:
    """Lock it, or say who has."""
    clock = asyncio.get_running_loop().time
    began = clock()
    while not _try_lock(lock):
        holder = _holder(lock)
        waited_s = clock() - began
        if waited_s > (HOLDER_GONE_S if _is_alive(holder) else ORPHAN_GONE_S):
            raise BadInput(
                f"the data directory {directory} is in use by another swarm (pid {holder}); "
                f"stop that one, or {HOW_TO}"
            )
        await asyncio.sleep(POLL_S)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock: int) -> int:
    """Process id of who has locked it; 0 if it has not written it yet."""
    text = os.pread(lock, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _is_alive(pid: int) -> bool:
    if pid == 0:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's, but alive
    return True


def _check_marker(directory: Path) -> None:
    """Check what is in the directory, or mark it as ours if it is new."""
    marker = directory / MARKER
    try:
        found = msgspec.json.decode(marker.read_bytes(), type=Marker)
    except FileNotFoundError:
        _mark(directory)
        return
    except OSError as error:
        raise _unwritable(directory, error) from error
    except msgspec.MsgspecError as error:
        raise BadInput(
            f"{marker} is damaged ({error}); restore it from a backup: "
            f'{{"format": {FORMAT}}} for data of this version, or {HOW_TO}'
        ) from error
    if found.format != FORMAT:
        written_by = f", written by swarm {found.created_by}" if found.created_by else ""
        raise BadInput(
            f"the data directory {directory} has format {found.format}{written_by}; this is "
            f"swarm {version('swarm')}, which reads format {FORMAT}: "
            f"use the version that wrote it, or {HOW_TO}"
        )


def _mark(directory: Path) -> None:
    if (directory / STORE).exists():
        raise BadInput(
            f"{directory} holds a {STORE} store but no {MARKER}: it belongs to another NATS "
            f"server; {HOW_TO}"
        )
    marker = Marker(format=FORMAT, created_by=version("swarm"))
    unfinished = directory / f"{MARKER}.new"
    try:
        unfinished.write_bytes(msgspec.json.encode(marker) + b"\n")
        unfinished.replace(directory / MARKER)
    except OSError as error:
        raise _unwritable(directory, error) from error
