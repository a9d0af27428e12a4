"""What is published while there is no connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from swarm.bus.base import headers_size
from swarm.bus.memory_routes import check_subject
from swarm.errors import BusUnavailable, PayloadTooLarge

#: Bytes that are kept unsent, connected or not.
BUFFER_MAX: Final = 2 * 1024 * 1024
#: Subject and reply share a line of 4096 bytes, and a longer one ends the connection.
LINE_MAX: Final = 4000

#: Subject, data, reply, headers.
Unsent = tuple[str, bytes, str, dict[str, str] | None]


class Buffer:
    """Messages in the order in which they were published, at most `BUFFER_MAX` bytes."""

    def __init__(self) -> None:
        self._messages: deque[Unsent] = deque()
        self._size = 0

    def add(self, subject: str, data: bytes, reply: str, headers: Mapping[str, str] | None) -> None:
        """Keep a message; `BusUnavailable` when there is no room, ValueError if it is none."""
        check_subject(subject)
        if reply:
            check_subject(reply)
        encode_headers(headers or {})
        size = len(subject) + len(reply) + len(data) + headers_size(headers)
        if self._size + size > BUFFER_MAX:
            raise BusUnavailable(
                f"not connected, and the buffer of {BUFFER_MAX} bytes is full; "
                "try again once there is a connection"
            )
        self._size += size
        # A copy: the caller may go on to change its own.
        self._messages.append((subject, data, reply, dict(headers) if headers else None))

    def take(self) -> Unsent | None:
        """The first message, which is not kept any more; None when there is none."""
        if not self._messages:
            self._size = 0
            return None
        return self._messages.popleft()


def check_line(subject: str, reply: str) -> None:
    """Raise `PayloadTooLarge` if subject and reply are too long for one line."""
    size = len(subject.encode()) + len(reply.encode())
    if size > LINE_MAX:
        raise PayloadTooLarge(
            f"subject and reply subject have {size} bytes, the limit is {LINE_MAX}; "
            f"the subject begins with {subject[:60]!r}"
        )


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Headers as they travel; ValueError for what would break them."""
    lines = [f"{key}: {value}\r\n" for key, value in headers.items()]
    text = "".join(lines)
    if text.count("\n") != len(lines) or text.count("\r") != len(lines):
        raise ValueError(f"a header has a line break in it: {dict(headers)!r}")
    return f"NATS/1.0\r\n{text}\r\n".encode()
