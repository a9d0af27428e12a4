"""What the lines mean that a program prints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from swarm.errors import LeaseLost
from swarm.sdk.durations import parse_duration

#: Longest line that is looked at; the rest of a longer one is dropped.
LINE_BYTES_MAX = 1024 * 1024


class WaitLine(Struct, frozen=True):
    """``wait [TIME] [resume] JSON``: what for, and for how long (0: the swarm's default)."""

    what: Raw
    expires_s: float = 0.0
    on_expiry: Literal["dead", "resume"] = "dead"


def parse_progress(line: str) -> tuple[float, str] | None:
    """(percent, note) of a line ``progress 40 half way``; None for any other."""
    word, _, rest = line.partition(" ")
    if word != "progress":
        return None
    number, _, text = rest.strip().partition(" ")
    try:
        percent = float(number.removesuffix("%"))
    except ValueError:
        return None
    return (percent, text.strip()) if 0 <= percent <= 100 else None


def parse_checkpoint(line: bytes) -> Raw | None:
    """The JSON of a line ``checkpoint {"page": 3}``; None for any other, and for null."""
    word, _, rest = line.partition(b" ")
    value = rest.strip()
    if word != b"checkpoint" or not value or value == b"null" or not is_json(value):
        return None
    return Raw(value)


def parse_wait(line: bytes) -> WaitLine | None:
    """A line ``wait {"approve": 7}`` or ``wait 2h resume "a text"``; None for any other.

    Only objects, arrays and texts: ``wait 5`` may be anything that a program prints.
    """
    word, _, rest = line.partition(b" ")
    rest = rest.strip()
    if word != b"wait":
        return None
    expires_s, on_expiry = 0.0, "dead"
    first, _, after = rest.partition(b" ")
    duration_s = parse_duration(first.decode(errors="replace"))
    if duration_s is not None:
        expires_s, rest = duration_s, after.strip()
        first, _, after = rest.partition(b" ")
    if first in (b"resume", b"dead"):
        on_expiry, rest = first.decode(), after.strip()
    if not rest or rest[0] not in b'{["' or not is_json(rest):
        return None
    return WaitLine(Raw(rest), expires_s, "resume" if on_expiry == "resume" else "dead")


def parse_retry(line: str) -> float | None:
    """Seconds of a line ``retry 10m``; None for any other."""
    words = line.split()
    return parse_duration(words[1]) if len(words) == 2 and words[0] == "retry" else None


def is_json(line: bytes) -> bool:
    """Whether the line is one JSON value."""
    # The first byte settles it for most lines that are none.
    if line[0] not in b'{["-0123456789tfn':
        return False
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


class Output:
    """Takes a program's stdout apart into lines.

    `report(percent, note)` and `leave(checkpoint)` pass on what is said at once.  `LeaseLost`
    from them is ignored: the program is being stopped then, and what it says meanwhile may
    still be of use.  Whatever else they raise ends the reading.
    """

    def __init__(self, report: Callable[[float, str], None], leave: Callable[[Any], None]) -> None:
        self._report = report
        self._leave = leave
        self._line = bytearray()
        #: The last line that is JSON.
        self.result: Raw | None = None
        #: The last line of each kind.
        self.wait: WaitLine | None = None
        self.retry_after_s: float | None = None
        self.gives_up = False

    @property
    def has_said(self) -> bool:
        """Whether it has printed a result, or what it waits for."""
        return self.result is not None or self.wait is not None

    def feed(self, data: bytes) -> None:
        """More output has come."""
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._add(part)
            self.end()
        self._add(rest)

    def end(self) -> None:
        """The line ends here."""
        line, self._line = bytes(self._line).strip(), bytearray()
        if line and not self._obey(line) and is_json(line):
            self.result = Raw(line)

    def _obey(self, line: bytes) -> bool:
        """Do what the line says, if it is one that says something."""
        text = line.decode(errors="replace")
        progress = parse_progress(text)
        checkpoint = parse_checkpoint(line)
        if progress is not None or checkpoint is not None:
            with contextlib.suppress(LeaseLost):  # see the class
                if progress is not None:
                    self._report(*progress)
                else:
                    self._leave(checkpoint)
            return True
        wait, retry_after_s = parse_wait(line), parse_retry(text)
        self.wait = wait or self.wait
        self.retry_after_s = self.retry_after_s if retry_after_s is None else retry_after_s
        self.gives_up = self.gives_up or text == "give-up"
        return wait is not None or retry_after_s is not None or text == "give-up"

    def _add(self, part: bytes) -> None:
        room = LINE_BYTES_MAX - len(self._line)
        self._line += part[: max(room, 0)]
