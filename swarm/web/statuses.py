"""What an error is over HTTP: one table for all paths (docs/http.md shows it)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web

from swarm.errors import BusError, NoAnswer, Refusal, RefusalCode

#: The status of each error of the protocol.
STATUS: Mapping[RefusalCode, int] = {
    "bad_request": 400,
    "not_holder": 403,
    "unknown_item": 404,
    "unknown_session": 404,
    "no_work": 404,
    "stale_token": 409,
    "not_claimed": 409,
    "already_finished": 409,
    "not_waiting": 409,
    "already_answered": 409,
    "agent_id_in_use": 409,
    "conflict": 409,
    "too_old": 410,
    "too_large": 413,
    "idempotency_conflict": 422,
    "overloaded": 429,
    "unsupported": 501,
    "unavailable": 503,
    "stale_map": 503,
    "storage_full": 507,
}

#: Errors that only HTTP knows.
NO_ANSWER, NOT_FOUND, WRONG_METHOD, INTERNAL = (
    "no_answer",
    "not_found",
    "method_not_allowed",
    "internal",
)
HTTP_ONLY: dict[str, int] = {NOT_FOUND: 404, WRONG_METHOD: 405, INTERNAL: 500, NO_ANSWER: 504}

_ALL = {**{str(code): status for code, status in STATUS.items()}, **HTTP_ONLY}

#: Seconds after which to try again what was refused for now.
RETRY_AFTER_S = 1


def status_of(code: str, retry: bool) -> int:
    """The status of an error; of a code of a later version, by whether to retry."""
    return _ALL.get(code, 503 if retry else 400)


def json_response(body: object, status: int = 200, retry: bool = False) -> web.Response:
    """`body` as JSON; `retry`: it says that the same may succeed later."""
    headers = {"Cache-Control": "no-store"}
    if retry:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    data = msgspec.json.encode(body)
    return web.Response(body=data, status=status, content_type="application/json", headers=headers)


def error_response(code: str, message: str, retry: bool = False) -> web.Response:
    """An error in the form that it has everywhere."""
    body = {"error": {"code": code, "message": message, "retry": retry}}
    return json_response(body, status_of(code, retry), retry)


def response_of(error: Refusal | NoAnswer | BusError) -> web.Response:
    """The response to whoever asked for what ended in `error`."""
    if isinstance(error, Refusal):
        return error_response(error.code, error.message, error.retry)
    if isinstance(error, NoAnswer):
        return error_response(NO_ANSWER, str(error), retry=True)
    return error_response("unavailable", f"NATS cannot be used now: {error}", retry=True)
