"""A submission over HTTP, safe to send again to any node.

A key that is a UUIDv7 is the command's id, as over NATS.  Any other text becomes the
idempotency key of each item that has none of its own: ``key`` for a single item, ``key.0``,
``key.1``, … in a batch.  Either way what was stored by the first try is found by the next.
"""

from __future__ import annotations

import contextlib

import msgspec
from msgspec import Raw

from swarm.actors.requests import decode_body
from swarm.core.admission import check_item
from swarm.core.headers import Common
from swarm.core.ids import is_uuid7
from swarm.errors import Refusal, SwarmError
from swarm.messages import ErrorBody, NewItem, Submit, SubmitReply, SubmitResult
from swarm.sdk.calls import ATTEMPT_S, Calls
from swarm.sdk.submitting import SubmitBatch
from swarm.subjects import MIXED
from swarm.web.bodies import HOW, KEY, differ, set_retry
from swarm.web.statuses import NO_ANSWER

#: What a batch takes besides its items.
BATCH_BYTES = 200

_submit = msgspec.json.Decoder(Submit)


def read(body: bytes, key: str, calls: Calls) -> Submit:
    """The command in `body` under `key`; `Refusal` for what is wrong with it as a whole."""
    if not key:
        raise Refusal(
            "bad_request",
            f"the header {KEY} is missing: without it a submission that is sent again would be "
            f"stored twice; choose a text of your own for each submission, or {HOW}",
        )
    command: Submit = decode_body(_submit, body or b"{}")
    if command.command_id and command.command_id != key:
        raise Refusal("bad_request", differ(key))
    if not command.items:
        raise Refusal("bad_request", "items is empty; submit at least one work item")
    if is_uuid7(key):
        command.command_id = key
        set_retry(command)
    else:
        # Its own each time: what is known again is known by the items' keys.
        command.command_id, command.retry = calls.runtime.new_id(), 0
        command.items = [
            _with_key(raw, f"{key}.{index}" if len(command.items) > 1 else key)
            for index, raw in enumerate(command.items)
        ]
    size = sum(len(memoryview(raw)) + 1 for raw in command.items) + BATCH_BYTES
    limit = calls.bus.max_payload // 2
    if size > limit:
        raise Refusal(
            "too_large",
            f"the batch has {size} bytes, at most {limit} are allowed; submit fewer items at once",
        )
    return command


async def submit(calls: Calls, command: Submit, deadline: float) -> SubmitReply:
    """What became of each item, in order."""
    exchange = SubmitBatch(command)
    work_type, headers = _routed_by(_checked(command.items))
    subject = calls.subjects.submit(work_type, calls.sender)
    await calls.run(subject, exchange, deadline, attempt_s=ATTEMPT_S, headers=headers)
    results = []
    for index in range(len(command.items)):
        outcome = exchange.outcome(index, subject)
        if isinstance(outcome, str):
            results.append(SubmitResult(index, outcome))
        else:
            results.append(SubmitResult(index, error=_error(outcome)))
    return SubmitReply(results, command.command_id)


def _with_key(raw: Raw, key: str) -> Raw:
    """The item with `key`, if it has none of its own; as it is if it is none."""
    try:
        item, _ = check_item(raw, len(memoryview(raw)) + 1024)
    except Refusal:
        return raw  # the coordinator says what is wrong, for this item alone
    if item.idempotency_key:
        return raw
    item.idempotency_key = key
    return Raw(msgspec.json.encode(item))


def _routed_by(items: list[NewItem]) -> tuple[str, dict[str, str] | None]:
    """What routers look at, as they decode no items: work type and headers."""
    if not items:
        return MIXED, None
    common = Common(items[0])
    for item in items[1:]:
        common.add(item)
    types = {item.work_type for item in items}
    return types.pop() if len(types) == 1 else MIXED, common.headers()


def _checked(items: list[Raw]) -> list[NewItem]:
    """Those that are items; the others will be refused by a coordinator, one by one."""
    found = []
    for raw in items:
        # A coordinator will say what is wrong with it.
        with contextlib.suppress(Refusal):
            found.append(check_item(raw, len(memoryview(raw)))[0])
    return found


def _error(error: SwarmError) -> ErrorBody:
    if isinstance(error, Refusal):
        return ErrorBody(error.code, error.message, error.retry)
    return ErrorBody(NO_ANSWER, str(error), True)
