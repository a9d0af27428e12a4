"""What the clients of a chaos run write down: everything that the swarm has told them.

Times are the wall clock of the one machine: `asked` is read before a question is sent,
`at` after its answer has come.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from swarm.errors import BadInput
from swarm.testing.records import LineFile


class Sent(Struct, tag=True):
    """The client is about to submit its items with these numbers."""

    client: str
    numbers: list[int]
    asked: float


class Accepted(Struct, tag=True):
    """The client was told that its item is in the queue."""

    client: str
    number: int
    item: str
    asked: float
    at: float


class Unanswered(Struct, tag=True):
    """A submission was given up or refused; it may be in the queue or not."""

    client: str
    number: int
    why: str
    asked: float
    at: float


class Finished(Struct, tag=True):
    """The client was told how its item ended."""

    client: str
    number: int
    item: str
    status: str
    #: Whether result or error are what they must be.
    right: bool
    at: float


class Seen(Struct, tag=True):
    """The client asked what has become of an item."""

    item: str
    status: str
    as_of: int
    asked: float
    at: float


class Counted(Struct, tag=True):
    """The client asked for the counts of a shard."""

    shard: int
    as_of: int
    conservation: int
    foreign: int
    asked: float
    at: float


class Taken(Struct, tag=True):
    """An item was given to a client that works by hand."""

    item: str
    token: str
    asked: float
    at: float


class Acknowledged(Struct, tag=True):
    """A client that works by hand was told that this ended its claim."""

    item: str
    token: str
    #: As the swarm has named it: completed, dead, queued.
    status: str
    asked: float
    at: float


class Unwanted(Struct, tag=True):
    """The client was told that its wish to cancel is in the log; `status` of the item then."""

    item: str
    status: str
    at: float


Line = Sent | Accepted | Unanswered | Finished | Seen | Counted | Taken | Acknowledged | Unwanted

_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


class Notebook(LineFile):
    """The lines of one client process."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "client")


class Told(Struct):
    """The lines of all clients, by kind."""

    sent: list[Sent] = []
    accepted: list[Accepted] = []
    unanswered: list[Unanswered] = []
    finished: list[Finished] = []
    seen: list[Seen] = []
    counted: list[Counted] = []
    taken: list[Taken] = []
    acknowledged: list[Acknowledged] = []
    unwanted: list[Unwanted] = []


def read_told(directory: Path) -> Told:
    """All that was written down in `directory`; `BadInput` names a line that is none."""
    testimony = Told()
    for path in sorted(directory.glob("client-*.jsonl")):
        for number, text in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                line = _decoder.decode(text)
            except msgspec.MsgspecError as error:
                raise BadInput(f"{path}, line {number} is no testimony: {error}") from error
            _sort(line, testimony)
    return testimony


def by_kind(lines: Iterable[Line]) -> Told:
    """These lines, by kind."""
    testimony = Told()
    for line in lines:
        _sort(line, testimony)
    return testimony


def _sort(line: Line, into: Told) -> None:
    kind = type(line).__name__.lower()
    getattr(into, kind).append(line)
