"""What is published while there is no connection."""

from __future__ import annotations

from collections import deque
from typing import Final

from swarm.bus.memory_routes import check_subject
from swarm.errors import BusUnavailable, PayloadTooLarge

#: Bytes that are kept unsent, connected or not.
BUFFER_MAX: Final = 2 * 1024 * 1024
#: Subject and reply share a line of 4096 bytes, and a longer one ends the connection.
LINE_MAX: Final = 4000

#: Subject, data, reply, headers as they travel.
Unsent = tuple[str, bytes, str, bytes]


class Buffer:
    """Messages in the order in which they were published, at most `BUFFER_MAX` bytes."""

    def __init__(self) -> None:
        self._messages: deque[Unsent] = deque()
        self._size = 0

    def add(self, subject: str, data: bytes, reply: str, head: bytes) -> None:
        """Keep a message; `BusUnavailable` when there is no room, ValueError if it is none."""
        check_subject(subject)
        if reply:
            check_subject(reply)
        size = len(subject) + len(reply) + len(data) + len(head)
        if self._size + size > BUFFER_MAX:
            raise BusUnavailable(
                f"not connected, and the buffer of {BUFFER_MAX} bytes is full; "
                "try again once there is a connection"
            )
        self._size += size
        self._messages.append((subject, data, reply, head))

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
