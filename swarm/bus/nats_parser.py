"""What the server sends, taken apart into messages and other lines.

nats-py matches a regular expression against a buffer twice a message and awaits two
coroutines for it.  Messages are nearly all that ever comes, and the server writes their
lines in one way only, so here a line is found and split, and its receiver is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from nats.errors import ProtocolError
from nats.protocol.parser import Parser


class Receiver(Protocol):
    """What the parser needs of its client."""

    def receive(
        self,
        sid: int,
        subject: bytes,
        reply: bytes,
        data: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take a message; never raises."""
        ...

    def receive_with_headers(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        """Take a message that has headers; never raises."""
        ...

    def control(self, line: bytes) -> None:
        """Take a line that is no message; raises `ProtocolError` for what is none at all."""
        ...


class MessageParser(Parser):
    """Feeds `client` with what `parse` is given, in pieces of any size."""

    def __init__(self, client: Receiver) -> None:
        super().__init__(client)
        self._client = client

    def reset(self) -> None:
        """Forget what came in part."""
        super().reset()
        #: What came in part, how much that is, and how much is needed before it is worth a look.
        self._pieces: list[bytes] = []
        self._size = self._needed = 0

    async def parse(self, data: bytes = b"") -> None:
        """As `feed`, for nats-py."""
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """Take apart what was left before and `data`; raises `ProtocolError`."""
        if self._pieces:
            # A large message comes in many pieces: they are put together once.
            self._pieces.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return
            data = b"".join(self._pieces)
            self._pieces.clear()
        try:
            taken, needed = self._take(data)
        except (ValueError, IndexError) as error:
            raise ProtocolError from error
        if needed:
            self._pieces.append(data[taken:])
            self._size, self._needed = len(data) - taken, needed

    def _take(self, data: bytes) -> tuple[int, int]:
        """(bytes taken, bytes that the rest needs in order to be whole, at least)."""
        at, size = 0, len(data)
        receive = self._client.receive
        while at < size:
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                return at, size + 1 - at
            start = line_end + 2
            if data.startswith(b"MSG ", at):
                # MSG <subject> <subscription> [<reply>] <size>
                words = data[at + 4 : line_end].split()
                end = start + int(words[-1])
                if end + 2 > size:
                    return at, end + 2 - at
                reply = words[2] if len(words) > 3 else b""
                receive(int(words[1]), words[0], reply, data[start:end])
                at = end + 2
            elif data.startswith(b"HMSG ", at):
                # HMSG <subject> <subscription> [<reply>] <size of headers> <size of all>
                words = data[at + 5 : line_end].split()
                end = start + int(words[-1])
                if end + 2 > size:
                    return at, end + 2 - at
                body = start + int(words[-2])
                reply = words[2] if len(words) > 4 else b""
                self._client.receive_with_headers(
                    int(words[1]), words[0], reply, data[body:end], data[start:body]
                )
                at = end + 2
            else:
                self._client.control(data[at:start])
                at = start
        return at, 0
