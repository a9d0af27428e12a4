"""The disk that a nats-server on this machine writes to.

A server that runs into its own limit refuses appends, says so, and goes on when there is
room again.  A disk that is full before that is worse (nats-server 2.15.1, tried on a full
file system): the stream whose append met it never answers again and refuses purges, even
after space was freed, until the server is started anew; nothing that was acknowledged is
lost.  So the embedded server gets a limit below what its disk holds, and is started anew
when other programs have filled the disk all the same.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger()

MIB: Final = 1024 * 1024
#: Of what is free or its own already, a server may use this part unless told otherwise.
SHARE: Final = 0.75
#: Of that, a server may never be told to use more.
SHARE_MAX: Final = 0.95
#: With less than this, a message of the usual size limit may not have found room.
FULL_BYTES: Final = 2 * MIB
#: Room enough to go on: this much, or a twentieth of a small disk.
ROOM_BYTES: Final = 64 * MIB
LOOK_S: Final = 0.5


def free_bytes(directory: Path) -> int:
    """What can still be written to the disk that `directory` is on; raises OSError."""
    return shutil.disk_usage(directory).free


def stored_bytes(directory: Path) -> int:
    """What the files below `directory` take; 0 when there is none."""
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue  # deleted meanwhile
    return total


def storage_limit(directory: Path, wanted: int) -> int:
    """The limit for a server that stores in `directory`; `wanted`: 0 for the usual share.

    Raises OSError.
    """
    ours = stored_bytes(directory) + free_bytes(existing(directory))
    limit = min(wanted, int(ours * SHARE_MAX)) if wanted else int(ours * SHARE)
    if limit < wanted:
        log.warning(
            "the disk is smaller than the storage limit", wanted=wanted, limit=limit, disk=ours
        )
    return max(limit, MIB)


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    while not path.exists():
        path = path.parent
    return path


async def until_mended(directory: Path) -> None:
    """Return once the disk has been full, and has room again."""
    room = max(2 * FULL_BYTES, min(ROOM_BYTES, shutil.disk_usage(directory).total // 20))
    await _until_free(directory, lambda free: free < FULL_BYTES)
    log.error(
        "the disk is full: streams may not be writable until it has room again",
        directory=str(directory),
        needed=room,
    )
    await _until_free(directory, lambda free: free >= room)


async def _until_free(directory: Path, holds: Callable[[int], bool]) -> None:
    # The system tells nobody when a disk fills up.
    while True:
        if holds(free_bytes(directory)):
            return
        await asyncio.sleep(LOOK_S)
