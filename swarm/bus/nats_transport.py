"""A TCP connection for nats-py that hands on what comes at once, and joins what is written.

nats-py reads through asyncio's streams: each piece that comes is copied into a buffer, wakes a
task with the next turn of the loop, and is copied out of it again.  On a busy coordinator that
is most of what reading costs.  Here a connection is read in that way only until the handshake
is over; from then on (`hear`) the loop itself calls the parser.

And every message that was written was a buffer of its own for the system: a quarter of a busy
coordinator's CPU time went into writing a hundred small ones at once.  They are joined first.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast
from urllib.parse import ParseResult

from nats.aio.transport import Transport


class _Connection(asyncio.Protocol):
    """One connection as the loop sees it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.wire: asyncio.Transport | None = None
        #: What has come and nobody has taken yet.
        self.came = bytearray()
        self.hear: Callable[[bytes], None] | None = None
        #: Nothing more will come; by what error, if any.
        self.ended = False
        self.error: Exception | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()
        #: Who waits for more to come, and who for room to write.
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []
        self._is_full = False

    # --- what the loop calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        # Not looked at: uvloop's has no class of asyncio's.
        self.wire = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """More has come."""
        if self.hear is not None:
            self.hear(data)
            return
        self.came += data
        self._wake()

    def eof_received(self) -> None:
        """The server will say nothing more: the connection is closed."""
        self.ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.ended, self.error = True, exc
        self._wake()
        self.resume_writing()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """The system takes no more for now."""
        self._is_full = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._is_full = False
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.done():
                writer.set_result(None)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # --- what the transport needs ---

    async def more(self) -> None:
        """Wait until more has come, or nothing will; raises what has ended it."""
        if not self.ended:
            reader = self._reader = self._loop.create_future()
            await reader
        if self.error is not None:
            raise self.error

    def take(self, size: int) -> bytes:
        """The first `size` bytes of what has come, or all."""
        taken = bytes(self.came[:size])
        del self.came[:size]
        return taken

    async def room(self) -> None:
        """Wait for room to write; raises `ConnectionResetError` when there will never be any."""
        if self._is_full and not self.closed.done():
            writer: asyncio.Future[None] = self._loop.create_future()
            self._writers.append(writer)
            await writer
        if self.closed.done():
            raise ConnectionResetError("the connection was lost")


class DirectTransport(Transport):
    """See the module's docstring.  nats-py connects it anew to try its next server."""

    def __init__(self) -> None:
        self._current: _Connection | None = None

    def hear(self, hear: Callable[[bytes], None]) -> None:
        """From here on `hear` is called with all that comes; it must not raise."""
        connection = self._connection()
        connection.hear = hear
        if connection.came:
            hear(connection.take(len(connection.came)))

    def backlog(self) -> int:
        """Bytes written that the system has not taken yet."""
        return self._wire().get_write_buffer_size()

    def abort(self) -> None:
        """End the connection at once; what the system has not taken is dropped."""
        if self._current is not None:
            self._wire().abort()

    def _connection(self) -> _Connection:
        assert self._current is not None, "connected first"
        return self._current

    def _wire(self) -> asyncio.Transport:
        wire = self._connection().wire
        assert wire is not None, "connected first"
        return wire

    # --- what nats-py calls ---

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Connect; raises OSError, TimeoutError."""
        self.abort()
        self._current = None
        host, port = uri.hostname or "", uri.port or 0
        connecting = asyncio.get_running_loop().create_connection(_Connection, host, port)
        _, self._current = await asyncio.wait_for(connecting, connect_timeout)

    async def connect_tls(
        self,
        uri: ParseResult | str,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        """Go on in TLS; raises OSError, TimeoutError."""
        host, connection = uri if isinstance(uri, str) else uri.hostname, self._connection()
        loop = asyncio.get_running_loop()
        starting = loop.start_tls(self._wire(), connection, ssl_context, server_hostname=host)
        connection.wire = await asyncio.wait_for(starting, connect_timeout)

    def write(self, payload: bytes) -> None:
        """Write it."""
        self._wire().write(payload)

    def writelines(self, payload: list[bytes]) -> None:
        """Write all of it, in one piece."""
        self._wire().write(b"".join(payload))

    async def read(self, buffer_size: int) -> bytes:
        """What has come, at most so many bytes; empty at the end.  Raises what ended it."""
        connection = self._connection()
        while not connection.came:
            await connection.more()
            if connection.ended:
                break
        return connection.take(buffer_size)

    async def readline(self) -> bytes:
        """A line, with its end; what there is at the end of the connection."""
        connection = self._connection()
        while (end := connection.came.find(b"\n")) < 0:
            await connection.more()
            if connection.ended:
                break
        return connection.take(end + 1 or len(connection.came))

    async def drain(self) -> None:
        """Wait for room; raises `ConnectionResetError` when there will never be any."""
        await self._connection().room()

    async def wait_closed(self) -> None:
        """Wait until the system has forgotten it."""
        if self._current is not None:
            await asyncio.shield(self._current.closed)

    def close(self) -> None:
        """Close it, once the system has taken what was written."""
        if self._current is not None:
            self._wire().close()

    def at_eof(self) -> bool:
        """Whether nothing more will come, and nothing is left."""
        return self._current is None or (self._current.ended and not self._current.came)

    def __bool__(self) -> bool:
        # Whether there is one; nats-py makes its own where there is none.
        return True
