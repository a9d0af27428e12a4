"""A page of a log or of one key's records, as a batched direct read answers it.

The server (of a cluster: any replica) sends the messages to one inbox and then an empty
one with status 204; 404 when there is none.  Each message names the one sent before it, so
that a message lost on the way ends the page instead of leaving a hole in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from swarm.bus.base import Entry, Message
from swarm.bus.jetstream_api import API, jetstream_missing
from swarm.bus.jetstream_calls import TRY_AGAIN_S, JetStreamLink
from swarm.errors import BusError, BusTimeout, BusUnavailable, LogMissing, NoResponders

#: The server ends a page early at this size; the first message always comes, however large.
PAGE_BYTES_MAX: Final = 4 * 1024 * 1024
#: How long one server is waited for at first …
PATIENCE_S: Final = 0.2
#: … and by how much longer each time: some seven questions in three seconds, so that a third
#: of the servers hanging costs one read in two thousand.
PATIENCE_GROWTH: Final = 1.2


class Page:
    """What has arrived of a page; `done` tells when it is at its end."""

    __slots__ = ("_sent_seq", "done", "entries")

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done
        self.entries: list[Entry] = []
        #: What the server has sent last.
        self._sent_seq = 0

    @staticmethod
    def request(from_seq: int, limit: int, subject: str = "") -> bytes:
        """The request's body; `subject`: of the messages wanted, default: all."""
        body = {"seq": max(from_seq, 1), "batch": limit, "max_bytes": PAGE_BYTES_MAX}
        return msgspec.json.encode(body | {"next_by_subj": subject} if subject else body)

    def receive(self, message: Message) -> None:
        """Take one message of the answer."""
        if self.done.done():
            return
        headers = message.headers or {}
        # A stored message can have any headers, a status among them; the server's own come
        # after these and win.
        if "Nats-Sequence" not in headers:
            self._end(headers)
            return
        if self.entries and int(headers["Nats-Last-Sequence"]) != self._sent_seq:
            self.done.set_result(None)
            return
        self._sent_seq = int(headers["Nats-Sequence"])
        time = datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp()
        self.entries.append(Entry(self._sent_seq, message.data, time))

    def _end(self, headers: Mapping[str, str]) -> None:
        status = headers.get("Status", "")
        if status in {"204", "404"}:
            self.done.set_result(None)
            return
        error: BusError = NoResponders("nobody answers direct reads of this log")
        if status != "503":
            error = BusUnavailable(
                f"the server refused to read: {status} {headers.get('Description', '')}"
            )
        self.done.set_exception(error)


async def read_page(
    link: JetStreamLink, log: str, stream: str, request: bytes, deadline: float
) -> list[Entry]:
    """Ask until some server answers; `deadline`: on the loop's clock.

    In a cluster, any server that keeps the log may be asked, one that hangs among them, for
    as long as the others believe in it.  So a question without an answer is asked anew, and
    another server may get it.  Raises `LogMissing`, `BusTimeout`, `BusUnavailable`.
    """
    loop = asyncio.get_running_loop()
    subject = f"{API}.DIRECT.GET.{stream}"
    patience_s = PATIENCE_S
    while True:
        page = Page(loop.create_future())
        left_s = deadline - loop.time()
        # Without a connection the question waits for one: no server is slow then.
        try_s = min(left_s, patience_s) if link.connected else left_s
        try:
            await link.ask(subject, request, try_s, None, page.receive, page.done, fragile=True)
        except BusTimeout:
            if not page.entries:
                if try_s == left_s or not link.connected:
                    raise
                patience_s *= PATIENCE_GROWTH
                continue
        except NoResponders:
            if not await link.exists(log, stream, left_s):
                raise LogMissing(f"{log}: no such log") from None
            if loop.time() + TRY_AGAIN_S >= deadline:
                raise jetstream_missing(f"reading {log}") from None
            await asyncio.sleep(TRY_AGAIN_S)
            continue
        return page.entries
