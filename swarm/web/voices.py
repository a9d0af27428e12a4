"""Speaking on the bus as whoever sent an HTTP request."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import msgspec

from swarm.bus.base import Bus
from swarm.errors import BusUnavailable
from swarm.messages import Describe, Description
from swarm.runtime import Runtime
from swarm.sdk.calls import Calls
from swarm.subjects import Subjects

#: Senders whose inboxes are kept open; of more, the ones that were quiet longest are closed.
VOICES_MAX = 500
#: The token after the sender in the inboxes of HTTP requests: NATS's permissions name it.
INBOX = "http"

_description = msgspec.json.Decoder(Description)


class Voices:
    """A `Calls` for each sender, all on one connection."""

    def __init__(self, prefix: str, runtime: Runtime) -> None:
        self._subjects = Subjects(prefix)
        self._runtime = runtime
        self._voices: OrderedDict[str, Calls] = OrderedDict()
        self._bus: Bus | None = None

    def connected(self, bus: Bus) -> None:
        """From now on there is a connection."""
        self._bus = bus

    async def of(self, sender: str) -> Calls:
        """The one of `sender`; `BusUnavailable` when nothing can be asked now."""
        bus = self._bus
        if bus is None or not bus.connected:
            raise BusUnavailable("this node is not connected; it goes on trying")
        calls = self._voices.get(sender)
        if calls is None:
            calls = Calls(bus, self._subjects, self._runtime, sender, INBOX)
            self._voices[sender] = calls
            await self._close_some()
        if sender in self._voices:
            self._voices.move_to_end(sender)
        return calls

    @property
    def asking(self) -> int:
        """Senders that wait for an answer at the moment."""
        return sum(not calls.idle for calls in self._voices.values())

    async def close(self) -> None:
        """Listen no more; what is under way ends as `BusUnavailable`.  Safe to call twice."""
        voices, self._voices = self._voices, OrderedDict()
        self._bus = None
        for calls in voices.values():
            await calls.close()

    async def _close_some(self) -> None:
        over = len(self._voices) - VOICES_MAX
        # Never the newest, which is about to ask.
        quiet = [name for name, calls in list(self._voices.items())[:-1] if calls.idle]
        gone = [self._voices.pop(name) for name in quiet[: max(0, over)]]
        for calls in gone:
            await calls.close()


async def describe(calls: Calls, deadline: float) -> Description:
    """The shard map and who is alive, by a router's word; `deadline` in loop time."""
    subject = calls.subjects.describe(calls.sender)
    return await calls.ask(subject, Describe(), _description, deadline)


def now() -> float:
    """The loop's time, in which deadlines are."""
    return asyncio.get_running_loop().time()
