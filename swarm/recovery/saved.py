"""The file of a saved log: JSON lines, a header first, then every entry as it is stored.

Entries are kept raw, as base64: what cannot be decoded is saved, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from swarm.bus.base import Entry
from swarm.errors import BadInput

FORMAT: Final = "swarm-log-1"


class Header(Struct, frozen=True):
    """The first line."""

    format: str
    prefix: str
    shard: int
    log: str
    #: Of the log's first entry that can be read; empty: of none.
    incarnation: str
    first_seq: int
    last_seq: int
    #: Seconds since the epoch.
    saved_at: float


_decode_header = msgspec.json.Decoder(Header).decode
_decode_entry = msgspec.json.Decoder(Entry).decode
_encode = msgspec.json.Encoder().encode


class NewFile:
    """A file that is there whole, and on the disk, or not at all.

    Raises `BadInput` where it cannot be made, or is there already.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        if path.exists():
            raise BadInput(f"{path} is there already; name a file that is not")
        try:
            self._file: BinaryIO = self._partial.open("wb")
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error.strerror}") from error

    def begin(self, header: Header) -> None:
        """Forget what was written and write the header."""
        self._file.seek(0)
        self._file.truncate()
        self._write(_encode(header))

    def add(self, entry: Entry) -> None:
        """Write one entry."""
        self._write(_encode(entry))

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line + b"\n")
        except OSError as error:
            raise BadInput(f"{self._path} cannot be written: {error.strerror}") from error

    def keep(self) -> None:
        """All is written: give the file its name."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            # Unlike a rename, a link never replaces what somebody else has made meanwhile.
            os.link(self._partial, self._path)
            self._partial.unlink()
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise BadInput(f"{self._path} cannot be written: {error.strerror}") from error

    def drop(self) -> None:
        """Leave nothing behind, unless it was kept."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


class SavedLog:
    """A file that `swarm log save` has written; raises `BadInput` for what is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                line = file.readline()
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}") from error
        try:
            header = _decode_header(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadInput(
                f"{path} is no saved log: its first line is no header ({error}); such files are "
                "written by `swarm log save`"
            ) from error
        if header.format != FORMAT:
            raise BadInput(
                f"{path} has the format {header.format!r}, this version reads {FORMAT!r}; use the "
                "version that wrote it"
            )
        if not 1 <= header.first_seq <= header.last_seq:
            raise BadInput(
                f"{path} says that it has entries {header.first_seq} to {header.last_seq}: there "
                "are none in it"
            )
        self.header = header

    def entries(self, last_seq: int = 0) -> Iterator[Entry]:
        """All entries in order, up to `last_seq` (0: all).

        Raises `BadInput` where one is missing, or a line cannot be read.
        """
        wanted, last = self.header.first_seq, last_seq or self.header.last_seq
        try:
            with self.path.open("rb") as file:
                file.readline()
                for number, line in enumerate(file, start=2):
                    if wanted > last:
                        break
                    entry = self._read(number, line)
                    if entry.seq != wanted:
                        raise BadInput(
                            f"{self.path} has a hole: line {number} is entry {entry.seq}, not "
                            f"{wanted}; a log with a hole cannot be restored, use another file, "
                            f"or only what is before it (--before {wanted})"
                        )
                    wanted += 1
                    yield entry
        except OSError as error:
            raise BadInput(f"{self.path} cannot be read: {error.strerror}") from error
        if wanted <= last:
            raise BadInput(
                f"{self.path} was cut short: entries {wanted} to {last} are missing at its end; "
                f"use another file, or only what is there (--before {wanted})"
            )

    def _read(self, number: int, line: bytes) -> Entry:
        try:
            return _decode_entry(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadInput(f"{self.path}: line {number} is no entry ({error})") from error
