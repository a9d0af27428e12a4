"""The HTTP API: what can be said over NATS, for those who cannot speak NATS (docs/http.md).

A handler reads the request, sends the same command as a client of the SDK would, in the
sender's name, and answers with the same JSON.  Every POST carries an id of its command, so
that whoever stands between may send it again to another node.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from aiohttp import web
from msgspec import Raw, Struct

from swarm.actors.requests import decode_body
from swarm.bus.base import Bus
from swarm.discovery.base import MemberSet
from swarm.errors import BusError, NoAnswer, Refusal
from swarm.messages import (
    Ack,
    Answer,
    Cancel,
    Claim,
    Complete,
    Fail,
    Get,
    ItemPage,
    List,
    Prioritize,
    Progress,
    Release,
    Renew,
    Retry,
    Wait,
    WorkItem,
)
from swarm.runtime import Runtime
from swarm.sdk.calls import ATTEMPT_S, Calls
from swarm.sdk.results import shard_subject
from swarm.web import claims, submits
from swarm.web.bodies import body_of, command_of, key_of, known_in, number_in, sender_of
from swarm.web.statuses import (
    INTERNAL,
    NOT_FOUND,
    WRONG_METHOD,
    error_response,
    json_response,
    response_of,
    status_of,
)
from swarm.web.voices import Voices, describe, now

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: How long a request may wait for an answer of the swarm, unless it says otherwise.
TIMEOUT_S = 10.0
TIMEOUT_LONGEST_S = 60.0
#: Longest long poll: shorter than what proxies wait for an answer.
WAIT_LONGEST_S = 30.0
#: Bytes of a command besides the result, note or checkpoint in it.
COMMAND_BYTES = 1024
#: A page of a listing ends after so many bytes, or so many items.
PAGE_BYTES = 1 << 20
PAGE_ITEMS_MAX = 1000

#: What is said about one item: POST /v1/<verb>.
COMMANDS: dict[str, type[Struct]] = {
    "complete": Complete,
    "fail": Fail,
    "release": Release,
    "progress": Progress,
    "wait": Wait,
    "cancel": Cancel,
    "prioritize": Prioritize,
    "retry": Retry,
    "answer": Answer,
}

_decoders: dict[str, msgspec.json.Decoder[Any]] = {
    verb: msgspec.json.Decoder(kind) for verb, kind in COMMANDS.items()
}
_claim = msgspec.json.Decoder(Claim)
_renew = msgspec.json.Decoder(Renew)
_ack = msgspec.json.Decoder(Ack)
_work_item = msgspec.json.Decoder(WorkItem)
_page = msgspec.json.Decoder(ItemPage)


class Api:
    """The paths below ``/v1`` and ``/members``, on the bus of the node."""

    def __init__(
        self, prefix: str, members: Callable[[], MemberSet], runtime: Runtime | None = None
    ) -> None:
        self._runtime = runtime or Runtime()
        self._voices = Voices(prefix, self._runtime)
        self._members = members
        self._bytes_max = 0

    def connected(self, bus: Bus) -> None:
        """From now on requests can be carried out; before, they are `unavailable`."""
        self._bytes_max = bus.max_payload
        self._voices.connected(bus)

    @property
    def asking(self) -> int:
        """Senders whose requests are under way."""
        return self._voices.asking

    async def close(self) -> None:
        """Carry out nothing more; safe to call twice."""
        await self._voices.close()

    def add_to(self, app: web.Application) -> None:
        """Answer under these paths."""
        post, get = app.router.add_post, app.router.add_get
        post("/v1/submit", self._submit)
        post("/v1/claim", self._claim)
        post("/v1/renew", self._renew)
        for verb in COMMANDS:
            post(f"/v1/{verb}", self._command(verb))
        get("/v1/id", self._id)
        get("/v1/describe", self._describe)
        get("/v1/items", self._list)
        get("/v1/items/{id}", self._get)
        get("/members", self._show_members)

    # --- commands --------------------------------------------------------------------------

    async def _submit(self, request: web.Request) -> web.Response:
        known_in(request, "timeout_s")
        calls = await self._voices.of(sender_of(request))
        key = key_of(request)
        body = await body_of(request, self._bytes_max // 2)
        command = submits.read(body, key, calls)
        reply = await submits.submit(calls, command, now() + _timeout_s(request))
        errors = [result.error for result in reply.results if result.error is not None]
        if len(errors) < len(reply.results):
            return json_response(reply)
        # Nothing was stored, so this is no success; why may differ from item to item.
        retry = any(error.retry for error in errors)
        first = next(error for error in errors if error.retry == retry)
        return json_response(reply, status_of(first.code, first.retry), retry)

    async def _claim(self, request: web.Request) -> web.Response:
        known_in(request, "timeout_s", "wait_s")
        calls = await self._voices.of(sender_of(request))
        wait_s = number_in(request, "wait_s", 0.0, WAIT_LONGEST_S)
        body = await body_of(request, self._command_bytes())
        command = command_of(body, _claim, key_of(request))
        if not command.work_types:
            raise Refusal("bad_request", "work_types is empty; name at least one")
        return json_response(await claims.claim(calls, command, wait_s, _timeout_s(request)))

    def _command(self, verb: str) -> Handler:
        decoder = _decoders[verb]

        async def handle(request: web.Request) -> web.Response:
            known_in(request, "timeout_s")
            calls = await self._voices.of(sender_of(request))
            body = await body_of(request, self._command_bytes())
            command = command_of(body, decoder, key_of(request))
            return json_response(await _ask(calls, verb, command, _timeout_s(request)))

        return handle

    async def _renew(self, request: web.Request) -> web.Response:
        known_in(request, "timeout_s")
        calls = await self._voices.of(sender_of(request))
        # No key: it does the same however often it comes.
        body = await body_of(request, self._command_bytes())
        renew = decode_body(_renew, body or b"{}")
        return json_response(await _ask(calls, "renew", renew, _timeout_s(request)))

    def _command_bytes(self) -> int:
        return self._bytes_max // 4 + COMMAND_BYTES

    # --- looking ---------------------------------------------------------------------------

    async def _id(self, request: web.Request) -> web.Response:
        known_in(request)
        return json_response({"id": self._runtime.new_id()})

    async def _describe(self, request: web.Request) -> web.Response:
        known_in(request, "timeout_s")
        calls = await self._voices.of(sender_of(request))
        return json_response(await describe(calls, now() + _timeout_s(request)))

    async def _get(self, request: web.Request) -> web.Response:
        known_in(request, "timeout_s", "wait_s", "version")
        calls = await self._voices.of(sender_of(request))
        wait_s = number_in(request, "wait_s", 0.0, WAIT_LONGEST_S)
        get = Get(request.match_info["id"], wait_s, request.query.get("version", ""))
        subject = shard_subject(calls, get.work_item_id, "get")
        deadline = now() + wait_s + _timeout_s(request)
        attempt_s = wait_s + ATTEMPT_S
        item = await calls.ask(subject, get, _work_item, deadline, attempt_s=attempt_s)
        return json_response(item)

    async def _list(self, request: web.Request) -> web.Response:
        known_in(request, "timeout_s", "status", "work_type", "limit", "after")
        calls = await self._voices.of(sender_of(request))
        left = int(number_in(request, "limit", 100, PAGE_ITEMS_MAX))
        if not left:
            raise Refusal("bad_request", f"limit is 0; allowed: 1 to {PAGE_ITEMS_MAX}")
        deadline = now() + _timeout_s(request)
        shard, number = _after(request.query.get("after", ""))
        count = (await describe(calls, deadline)).map.shard_count
        query = List(request.query.get("status", ""), request.query.get("work_type", ""))
        items: list[Raw] = []
        size = 0
        while shard < count and left > 0 and size < PAGE_BYTES:
            query.limit, query.after = left, number
            subject = calls.subjects.shard(shard, "list", calls.sender)
            page = await calls.ask(subject, query, _page, deadline)
            encoded = [Raw(msgspec.json.encode(item)) for item in page.items]
            items += encoded
            size += sum(len(memoryview(item)) for item in encoded)
            left -= len(encoded)
            number = page.after
            shard += not number
        after = f"{shard}-{number}" if shard < count else ""
        return json_response({"items": items, "after": after})

    async def _show_members(self, request: web.Request) -> web.Response:
        known_in(request)
        return json_response(self._members())


async def _ask(calls: Calls, verb: str, command: Any, timeout_s: float) -> Ack:
    """Send a command about an item to its shard."""
    subject = shard_subject(calls, command.work_item_id, verb)
    return await calls.ask(subject, command, _ack, now() + timeout_s)


def _timeout_s(request: web.Request) -> float:
    return number_in(request, "timeout_s", TIMEOUT_S, TIMEOUT_LONGEST_S)


def _after(text: str) -> tuple[int, int]:
    """(shard, item number) to go on from; `Refusal` for what no page has named."""
    if not text:
        return 0, 0
    shard, sign, number = text.partition("-")
    digits = shard + number
    if not (sign and shard and number and digits.isascii() and digits.isdigit()):
        raise Refusal("bad_request", f"after is {text!r}; pass on what the page before has named")
    if len(text) > 30:
        raise Refusal("bad_request", "after is too long; pass on what the page before has named")
    return int(shard), int(number)


# --- errors ----------------------------------------------------------------------------------


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error is JSON of one form; never a traceback, never a page."""
    try:
        return await handler(request)
    except (Refusal, NoAnswer, BusError) as error:
        return response_of(error)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{request.path} takes {allowed}, not {request.method}"
        response = error_response(WRONG_METHOD, message)
        response.headers["Allow"] = allowed
        return response
    except web.HTTPNotFound:
        return error_response(NOT_FOUND, f"there is no {request.path[:200]}; see docs/http.md")
    except web.HTTPException as error:
        message = error.reason or "this request cannot be read"
        body = {"error": {"code": "bad_request", "message": message, "retry": False}}
        return json_response(body, error.status)
    except (ConnectionError, web.PayloadAccessError):
        raise  # whoever asked has gone: there is nobody to answer
    except Exception as error:
        log.exception("an HTTP request failed", method=request.method, path=request.path)
        message = f"{type(error).__name__}, see this node's log; whether it was done is not known"
        return error_response(INTERNAL, message)
