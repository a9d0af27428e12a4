"""HTTP for discovery backends: JSON, and what goes wrong as `DiscoveryFailed`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import aiohttp
import msgspec

from swarm.errors import DiscoveryFailed

Body = TypeVar("Body")

#: An answer that is not waited for on purpose comes within this time.
ANSWER_S = 5.0
#: Longest line of a stream of events.
LINE_BYTES_MAX = 1 << 20


def session(headers: dict[str, str] | None = None) -> aiohttp.ClientSession:
    """For one conversation with a backend; to be closed."""
    return aiohttp.ClientSession(
        headers=headers, read_bufsize=LINE_BYTES_MAX, timeout=within(ANSWER_S)
    )


def within(total_s: float) -> aiohttp.ClientTimeout:
    """A limit for connecting and for the whole answer."""
    return aiohttp.ClientTimeout(total=total_s, sock_connect=ANSWER_S)


def as_long_as_it_speaks(quiet_s: float) -> aiohttp.ClientTimeout:
    """A limit for the silence between two pieces of a stream."""
    return aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_S, sock_read=quiet_s)


@contextmanager
def failing(whom: str) -> Iterator[None]:
    """Turns whatever goes wrong with asking `whom` into `DiscoveryFailed`."""
    try:
        yield
    except TimeoutError as error:
        raise DiscoveryFailed(f"{whom} does not answer in time") from error
    except (aiohttp.ClientError, OSError, ValueError, msgspec.MsgspecError) as error:
        raise DiscoveryFailed(f"{whom}: {said_of(error)}") from error


def said_of(error: Exception) -> str:
    """What went wrong with asking somebody, for people."""
    tls = isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientConnectorCertificateError)
    if isinstance(error, aiohttp.ClientConnectorError) and not tls:
        return f"cannot connect to {error.host}:{error.port}"
    return str(error) or type(error).__name__


async def read(response: aiohttp.ClientResponse, decoder: msgspec.json.Decoder[Body]) -> Body:
    """The body of a good answer; else `DiscoveryFailed` with what it says."""
    await expect_ok(response)
    return decoder.decode(await response.read())


async def expect_ok(response: aiohttp.ClientResponse) -> None:
    """Raise `DiscoveryFailed` for a status that is not 200."""
    if response.status == 200:
        return
    said = (await response.content.read(300)).decode("utf-8", "replace").strip()
    where = f"{response.url.host}:{response.url.port}{response.url.path}"
    raise DiscoveryFailed(f"{where} answers {response.status}: {said or response.reason}")
