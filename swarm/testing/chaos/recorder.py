"""``python -m swarm.testing.chaos.recorder``: copies every log entry into files as it appears.

It asks each NATS server through a connection of its own, so that what one server cannot
tell any more, or not now, comes from another; whoever has the next entry first hands it on.
A server whose connection is lost or that is too slow is dialled anew, by itself: a
connection that wanders to another server would leave the first one unwatched.  What was
purged before it could be read is taken from the appends as they were heard (`hearing`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path

import structlog

from swarm.bus.base import Entry, Message
from swarm.bus.jetstream import JetStreamBus, connect
from swarm.errors import BusError, LogMissing
from swarm.hosting.logs import configure_logs
from swarm.hosting.process import stop_on_signals, unless
from swarm.subjects import Subjects
from swarm.testing.chaos.hearing import Heard
from swarm.testing.recorded import EntryLog

log = structlog.get_logger()

PAGE = 256
#: Between two looks at a log through the same server.
LOOK_S = 0.2
#: A server that takes longer is asked anew, over another connection.
ANSWER_S = 1.5
DIAL_S = 1.0
#: A hole is believed when it has been seen through any server for this long.
HOLE_S = 3.0


class Copy:
    """What is on record of one log."""

    def __init__(self, directory: Path, shard: int, name: str) -> None:
        self.name = name
        self._files = EntryLog(directory, shard)
        self.heard = Heard(name)
        #: Since when there seems to be a hole behind the last entry (loop time).
        self._hole_since: float | None = None

    @property
    def next_seq(self) -> int:
        """The entry that is wanted next."""
        return self._files.last + 1

    def hear(self, message: Message) -> None:
        """An append is on its way to the log."""
        self.heard.note(message.data)

    def take(self, entries: list[Entry]) -> None:
        """Put on record what is new among these."""
        for entry in entries:
            if entry.seq > self.next_seq:
                last, last_time = self._files.last, self._files.last_time
                for purged in self.heard.between(last, last_time, entry):
                    self._files.take(purged)
            if entry.seq > self.next_seq and not self._is_hole(entry.seq):
                return
            if entry.seq == self.next_seq:
                self._files.take(entry)
                self._hole_since = None

    def _is_hole(self, seq: int) -> bool:
        """Whether what is missing before `seq` is gone: no server had it for a while."""
        now = asyncio.get_running_loop().time()
        if self._hole_since is None:
            self._hole_since = now
        if now - self._hole_since < HOLE_S:
            return False
        log.error("too late for some entries", log=self.name, wanted=self.next_seq, found=seq)
        self._files.missed(seq)
        self._hole_since = None
        return True


async def watch(url: str, copies: list[Copy]) -> None:
    """Copy through this server, for ever."""
    while True:
        try:
            bus = await connect(url, "recorder", name="chaos recorder", connect_timeout_s=DIAL_S)
        except BusError as error:
            log.debug("not connected", server=url, error=str(error))
            await asyncio.sleep(LOOK_S)
            continue
        try:
            for copy in copies:
                await bus.subscribe(copy.name, copy.hear)
            await _copy(bus, copies)
        except (BusError, TimeoutError) as error:
            log.info("dialled anew", server=url, error=str(error))
        finally:
            # What its server still has to say is of no interest.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await bus.close()


async def _copy(bus: JetStreamBus, copies: list[Copy]) -> None:
    """Until the connection is lost or too slow."""
    while bus.connected and not bus.reconnects:
        for copy in copies:
            while True:
                try:
                    async with asyncio.timeout(ANSWER_S):
                        entries = await bus.read(copy.name, copy.next_seq, PAGE)
                except LogMissing:
                    break  # nobody has opened the shard yet
                wanted = copy.next_seq
                copy.take(entries)
                if len(entries) < PAGE or copy.next_seq == wanted:
                    break
        await asyncio.sleep(LOOK_S)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(prog="chaos recorder", description=__doc__)
    parser.add_argument("--servers", required=True, help="NATS URLs, with commas")
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--shards", type=int, required=True)
    parser.add_argument("--records", type=Path, required=True)
    args = parser.parse_args()
    configure_logs(node="recorder")
    subjects = Subjects(args.prefix)
    copies = [Copy(args.records, shard, subjects.log(shard)) for shard in range(args.shards)]

    async def run() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)

        async def watch_all() -> None:
            await asyncio.gather(*(watch(url, copies) for url in args.servers.split(",")))

        await unless(stop, watch_all())

    asyncio.run(run())


if __name__ == "__main__":
    main()
