"""etcd: the keys ``/<service>/<name>``, by its v3 JSON gateway, with a watch.

A value is ``host:port``, or an object with `host` and `port`.  The watch begins with the
revision after the one that the keys were read at, so no change is missed; one that is quiet
for long is made anew, as a server that hangs is quiet, too.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator
from contextlib import aclosing

import aiohttp
import msgspec
import structlog
from msgspec import Struct

from swarm.discovery.base import Member, in_order, member_of
from swarm.discovery.fetching import (
    ANSWER_S,
    LINE_BYTES_MAX,
    as_long_as_it_speaks,
    expect_ok,
    failing,
    read,
    session,
    within,
)

log = structlog.get_logger()

URL = "http://127.0.0.1:2379"
#: A watch that was quiet for so long is made anew.
QUIET_S = 30.0


class _Header(Struct):
    #: The gateway writes 64-bit numbers as texts.
    revision: str = "0"


class _KeyValue(Struct):
    key: str
    value: str = ""


class _Range(Struct):
    header: _Header
    kvs: list[_KeyValue] = []


class _Event(Struct):
    kv: _KeyValue
    #: Left out for PUT.
    type: str = "PUT"


class _Watched(Struct):
    events: list[_Event] = []
    canceled: bool = False
    cancel_reason: str = ""
    compact_revision: str = "0"


class _Line(Struct):
    result: _Watched | None = None
    error: msgspec.Raw | None = None


class _Place(Struct):
    host: str
    port: int


_range = msgspec.json.Decoder(_Range)
_line = msgspec.json.Decoder(_Line)
_place = msgspec.json.Decoder(_Place)


class Etcd:
    """The members under ``/<service>/``."""

    source = "etcd"

    def __init__(
        self, urls: str, service: str, quiet_s: float = QUIET_S, answer_s: float = ANSWER_S
    ) -> None:
        self._urls = [url.strip().rstrip("/") for url in (urls or URL).split(",")]
        self._turn = 0
        self._prefix = prefix(service)
        self._quiet_s = quiet_s
        self._answer_s = answer_s

    async def watch(self) -> AsyncGenerator[list[Member], None]:
        """See `Backend`."""
        # The next one, should this one fail.
        url = self._urls[self._turn % len(self._urls)]
        self._turn += 1
        with failing(f"etcd at {url}"):
            async with session() as http:
                while True:
                    found, revision = await self._read(http, url)
                    yield _members(found)
                    async with aclosing(self._watch(http, url, found, revision)) as watched:
                        async for members in watched:
                            yield members

    async def _read(self, http: aiohttp.ClientSession, url: str) -> tuple[dict[str, str], int]:
        """The keys with their values, and as of which revision."""
        asked = {"key": _encode(self._prefix), "range_end": _encode(_after(self._prefix))}
        limit = within(self._answer_s)
        async with http.post(f"{url}/v3/kv/range", json=asked, timeout=limit) as response:
            answer = await read(response, _range)
        return {kv.key: kv.value for kv in answer.kvs}, int(answer.header.revision)

    async def _watch(
        self, http: aiohttp.ClientSession, url: str, found: dict[str, str], revision: int
    ) -> AsyncGenerator[list[Member], None]:
        """The members after each change; ends when they are to be read anew."""
        asked = {
            "create_request": {
                "key": _encode(self._prefix),
                "range_end": _encode(_after(self._prefix)),
                "start_revision": str(revision + 1),
            }
        }
        limit = as_long_as_it_speaks(self._quiet_s)
        async with http.post(f"{url}/v3/watch", json=asked, timeout=limit) as response:
            await expect_ok(response)
            while True:
                try:
                    line = await response.content.readline()
                except aiohttp.SocketTimeoutError:
                    return
                if not line:
                    return
                assert len(line) <= 2 * LINE_BYTES_MAX, "readline has a limit of its own"
                if not _apply(_line.decode(line), found):
                    return
                yield _members(found)


def prefix(service: str) -> str:
    """Before the names of the members of `service`."""
    return f"/{service.strip('/')}/"


def _apply(line: _Line, found: dict[str, str]) -> bool:
    """Put a line's changes into `found`; False when the watch has ended."""
    if line.error is not None:
        raise ValueError(bytes(line.error).decode())
    watched = line.result
    if watched is None or watched.canceled or int(watched.compact_revision):
        return False
    for event in watched.events:
        if event.type == "DELETE":
            found.pop(event.kv.key, None)
        else:
            found[event.kv.key] = event.kv.value
    return True


def _members(found: dict[str, str]) -> list[Member]:
    members = []
    for key, value in found.items():
        name = b64decode(key).decode("utf-8", "replace").rsplit("/", 1)[1]
        text = b64decode(value)
        try:
            members.append(_member(name, text))
        except ValueError as error:
            # One that somebody misspelt must not hide the others.
            log.warning("an etcd key cannot be used", key=name, why=str(error))
    return in_order(members)


def _member(name: str, text: bytes) -> Member:
    if text.lstrip().startswith(b"{"):
        try:
            place = _place.decode(text)
        except msgspec.MsgspecError as error:
            raise ValueError(str(error)) from error
        return member_of(name, place.host, place.port)
    return member_of(name, text.decode("utf-8", "replace").strip())


def _encode(text: str) -> str:
    return b64encode(text.encode()).decode()


def _after(text: str) -> str:
    """The first key that does not begin with `text`: etcd's way to name a prefix."""
    return text[:-1] + chr(ord(text[-1]) + 1)
