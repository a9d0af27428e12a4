"""Dialling a NATS server: which, as whom, and why it did not work."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from math import ceil
from urllib.parse import urlsplit

import nats.errors
import structlog

from swarm.bus.nats_client import NatsClient
from swarm.bus.nats_transport import DirectTransport
from swarm.errors import BadInput, BusUnavailable

log = structlog.get_logger()

#: A connection without a sign of life is given up after three of these.
PING_INTERVAL_S = 3
#: Batched direct reads, which logs are read with, exist from this version on.
VERSION_MIN = (2, 11)
#: How addresses begin to which nats-py has another transport.
WEBSOCKET = ("ws://", "wss://")


@dataclass(slots=True, kw_only=True)
class Target:
    """Whom to connect to (one of `urls`, all of one scheme, credentials inside), as whom."""

    urls: list[str]
    sender: str
    #: Shown in NATS's monitoring; default: the sender.
    name: str = ""

    async def dial(self, timeout_s: float) -> NatsClient:
        """Connect to one of the servers, each tried at most twice.

        Raises `BusUnavailable` if none can be reached, lets us in and is of use; `BadInput`
        for an address that is none.
        """
        client = NatsClient()
        try:
            async with asyncio.timeout(timeout_s):
                await self._connect(client, timeout_s)
            client.watch_tasks()
            _check_version(client)
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await client.abandon()
            raise _dial_error(self.urls, client.problem or error) from error
        except BaseException:
            await client.abandon()
            raise
        return client

    async def _connect(self, client: NatsClient, timeout_s: float) -> None:
        if client._transport is None and not self.urls[0].startswith(WEBSOCKET):
            client._transport = DirectTransport()
        await client.connect(
            self.urls,
            name=self.name or self.sender,
            inbox_prefix=f"_INBOX.{self.sender}",
            error_cb=client.note_problem,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            # Of several servers one that swallows everything must not use up the time.
            connect_timeout=min(ceil(timeout_s), 2),
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=2,
            # No limits, so that nothing is ever waited for (see the top).
            pending_size=0,
            flusher_queue_size=0,
        )
        client.take_over()


def _dial_error(urls: list[str], error: Exception) -> BusUnavailable | BadInput:
    where = " or ".join(without_secrets(url) for url in urls)
    text = str(error) or type(error).__name__
    if "invalid" in text and "connect url" in text:
        return BadInput(f"{where} is no NATS address; one looks like nats://127.0.0.1:4222")
    if isinstance(error, TimeoutError):
        text = "no answer in time"
    return BusUnavailable(f"no connection to NATS at {where}: {text}")


def _check_version(client: NatsClient) -> None:
    version = client.connected_server_version
    try:
        found = (version.major, version.minor)
    except ValueError:
        # Somebody's own build; what it lacks will show.
        log.warning("nats_version_unknown", version=str(version))
        return
    if found < VERSION_MIN:
        need = ".".join(map(str, VERSION_MIN))
        raise BusUnavailable(f"the NATS server is {version}, need {need} or newer")


def without_secrets(url: str) -> str:
    """`url` without user name, password or token, for people to read."""
    if "@" not in url:
        return url
    scheme, _, rest = url.rpartition("://")
    return f"{scheme or 'nats'}://{rest.rpartition('@')[2]}"


def with_credentials(address: str, like: str) -> str:
    """`address` (host:port) as a URL with the scheme and credentials of the URL `like`."""
    parts = urlsplit(like if "://" in like else f"nats://{like}")
    credentials, at, _ = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{credentials}{at}{address}"
