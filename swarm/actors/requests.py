"""Requests to a shard as they wait in its mailbox, and how each verb is decoded."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from swarm.errors import Refusal
from swarm.messages import (
    Answer,
    Cancel,
    Claim,
    Complete,
    Edge,
    Fail,
    Get,
    List,
    NewItem,
    Prioritize,
    Progress,
    Release,
    Renew,
    Retry,
    ShardSubmit,
    Stats,
    Wait,
)

_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "submit": msgspec.json.Decoder(ShardSubmit),
    "known": msgspec.json.Decoder(ShardSubmit),
    "claim": msgspec.json.Decoder(Claim),
    "complete": msgspec.json.Decoder(Complete),
    "fail": msgspec.json.Decoder(Fail),
    "release": msgspec.json.Decoder(Release),
    "progress": msgspec.json.Decoder(Progress),
    "wait": msgspec.json.Decoder(Wait),
    "cancel": msgspec.json.Decoder(Cancel),
    "prioritize": msgspec.json.Decoder(Prioritize),
    "retry": msgspec.json.Decoder(Retry),
    "answer": msgspec.json.Decoder(Answer),
    "edge": msgspec.json.Decoder(Edge),
    "renew": msgspec.json.Decoder(Renew),
    "get": msgspec.json.Decoder(Get),
    "list": msgspec.json.Decoder(List),
    "stats": msgspec.json.Decoder(Stats),
}

SHARD_VERBS: tuple[str, ...] = tuple(_DECODERS)


class Request(Struct, gc=False):
    """One request to a shard."""

    verb: str
    #: Pinned by the subject: who asks.
    sender: str
    #: As it arrived, or already decoded by the coordinator that hosts the shard.
    body: Any
    #: Inbox for the answer; empty when none is wanted.
    reply: str = ""
    #: Of the agent whose `Next` brought the command: its answers go to its work subject.
    session: str = ""
    #: Bytes that the request may add to the log entry.
    size: int = 0
    #: Of the item that a command is about, where the coordinator has read its id.
    number: int = 0
    #: Of a submission that the coordinator that hosts the shard has admitted: its items.
    specs: list[NewItem] | None = None


def decode(request: Request) -> object:
    """The body, as it arrived, by the request's verb; remembered in the request."""
    body = request.body
    assert isinstance(body, bytes), "decoded once"
    request.size = len(body)
    decoder = _DECODERS.get(request.verb)
    if decoder is None:
        verbs = ", ".join(SHARD_VERBS)
        raise Refusal("bad_request", f"unknown verb {request.verb!r}; a shard knows {verbs}")
    request.body = decode_body(decoder, body or b"{}")
    return request.body


def decode_body(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    """Decode, or refuse with what is wrong."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise Refusal("bad_request", f"{error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal("bad_request", f"the message is no valid JSON: {error}") from error
    except RecursionError as error:
        raise Refusal("bad_request", "the message's arrays or objects nest too deep") from error
