"""What a request to the HTTP API brings: its key, its sender, its body, its query."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import Raw

from swarm.actors.requests import decode_body
from swarm.core.checks import check_json
from swarm.core.ids import is_uuid7
from swarm.errors import Refusal
from swarm.sdk.items import check_name

Command = TypeVar("Command")

KEY = "Idempotency-Key"
SENDER = "Swarm-Sender"
#: Who speaks where the request does not say.
ANYBODY = "http"
#: Longest key.
KEY_LENGTH_MAX = 200
#: A body that does not come within this time is not waited for.
BODY_S = 15.0

_fields = msgspec.json.Decoder(dict[str, Raw])

HOW = "take a fresh one from GET /v1/id, and send the same one again with every retry"


def sender_of(request: web.Request) -> str:
    """Who asks: the header `Swarm-Sender`; `Refusal` if that cannot be part of a subject."""
    return check_name(f"the header {SENDER}", request.headers.get(SENDER, ANYBODY))


def key_of(request: web.Request) -> str:
    """The header `Idempotency-Key`, "" without one; `Refusal` if it is no key."""
    if len(request.headers.getall(KEY, [])) > 1:
        raise Refusal("bad_request", f"the header {KEY} is there twice; send one")
    key = request.headers.get(KEY, "").strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]  # as RFC 8941 writes a text
    if len(key) > KEY_LENGTH_MAX or not (key.isascii() and key.isprintable()):
        raise Refusal(
            "bad_request",
            f"the header {KEY} has 1 to {KEY_LENGTH_MAX} printable ASCII characters; {HOW}",
        )
    if is_uuid7(key.lower()):
        return key.lower()
    return key


async def body_of(request: web.Request, bytes_max: int) -> bytes:
    """The body; `Refusal` if it is larger, or no JSON by its first looks, or does not come."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        message = f"Content-Encoding {encoding[:40]!r} is not understood; send the body as it is"
        raise Refusal("bad_request", message)
    if (request.content_length or 0) > bytes_max:
        raise _too_large(f"{request.content_length} bytes", bytes_max)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > bytes_max:
                    raise _too_large(f"more than {bytes_max} bytes", bytes_max)
                chunks.append(chunk)
    except TimeoutError as error:
        message = f"the body did not arrive within {BODY_S:g} s"
        raise Refusal("bad_request", message, retry=True) from error
    body = b"".join(chunks)
    check_json(body, "the body")
    return body


def command_of(body: bytes, decoder: msgspec.json.Decoder[Command], key: str) -> Command:
    """The command in `body`, under `key`; `Refusal` for what is wrong with it.

    The header is asked for even where the body names its `command_id`: a page of another site
    can make a browser send any body here, but no such header.
    """
    if not key:
        raise Refusal("bad_request", f"the header {KEY} is missing; {HOW}")
    if not is_uuid7(key):
        raise Refusal("bad_request", f"the {KEY} {key!r} of this request is no UUIDv7; {HOW}")
    fields: dict[str, Raw] = decode_body(_fields, body or b"{}")
    own = Raw(msgspec.json.encode(key))
    if fields.setdefault("command_id", own) != own:
        raise Refusal("bad_request", differ(key))
    command: Command = decode_body(decoder, msgspec.json.encode(fields))
    set_retry(command)
    return command


def differ(key: str) -> str:
    """Why a body with another command id is refused."""
    return f"the {KEY} {key!r} and the body's command_id differ; send the header alone"


def set_retry(command: Any) -> None:
    """Whether this is a retry cannot be known behind a proxy; so it is taken for one.

    It is refused as too old if its id is older than what is remembered, and never carried
    out twice.
    """
    command.retry = max(1, command.retry)


def number_in(request: web.Request, name: str, default: float, most: float) -> float:
    """A number of the query, from 0 to `most`; else `Refusal`."""
    text = request.query.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise Refusal("bad_request", f"{name} is {text!r}; allowed: a number from 0 to {most:g}")
    return value


def known_in(request: web.Request, *names: str) -> None:
    """`Refusal` if the query has other names: they are misspelt, or of a later version."""
    unknown = [name for name in request.query if name not in names]
    if unknown:
        allowed = ", ".join(names) or "none"
        raise Refusal("bad_request", f"unknown query {', '.join(unknown)}; allowed: {allowed}")


def _too_large(size: str, bytes_max: int) -> Refusal:
    return Refusal(
        "too_large",
        f"the body has {size}, at most {bytes_max} are allowed here: store the data elsewhere and "
        "pass a reference, or send less at once",
    )
