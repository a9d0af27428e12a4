"""Waiting for what becomes of a work item."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from swarm.errors import BadInput, NoAnswer, Refusal, WorkFailed
from swarm.messages import Get, WorkItem
from swarm.sdk.calls import ATTEMPT_S, Calls
from swarm.sdk.items import from_json
from swarm.subjects import parse_item_id

#: An owner is asked to answer within this time when it is to wait for an item's end.
POLL_S = 15.0
#: How long a last look at an unfinished item may take.
LAST_LOOK_S = 0.5

_work_item = msgspec.json.Decoder(WorkItem)


def shard_subject(calls: Calls, work_item_id: str, verb: str) -> str:
    """Where to send a request about this item; `Refusal` if the id is none."""
    try:
        shard, _ = parse_item_id(work_item_id)
    except BadInput as error:
        raise Refusal("bad_request", str(error)) from error
    return calls.subjects.shard(shard, verb, calls.sender)


async def await_result(calls: Calls, work_item_id: str, timeout: float | None) -> Any:
    """The item's result, decoded, within `timeout` seconds (None: for ever).

    The owner answers when the item has ended; it is asked again every `POLL_S` and
    whenever a coordinator falls.  Raises `WorkFailed`, `TimeoutError`, `Refusal`.
    """
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    while True:
        left_s = POLL_S if deadline is None else max(0.0, deadline - loop.time())
        seen = await _look(calls, work_item_id, min(POLL_S, left_s), deadline)
        late = deadline is not None and loop.time() >= deadline
        if seen is None:
            # To tell what it waits for; it may even have ended just now.
            seen = await _look(calls, work_item_id, 0.0, loop.time() + LAST_LOOK_S)
        if seen is not None and seen.status == "completed":
            return from_json(seen.result)
        if seen is not None and seen.finished_at:
            why = seen.error or "no reason was given"
            raise WorkFailed(f"work item {work_item_id} is {seen.status}: {why}")
        if late:
            raise TimeoutError(_not_ended(work_item_id, timeout, seen))


async def _look(
    calls: Calls, work_item_id: str, wait_s: float, deadline: float | None
) -> WorkItem | None:
    """The item when it has ended or after `wait_s`; None if there was no answer in time."""
    subject = shard_subject(calls, work_item_id, "get")
    get = Get(work_item_id, wait_s)
    try:
        return await calls.ask(subject, get, _work_item, deadline, attempt_s=wait_s + ATTEMPT_S)
    except NoAnswer:
        return None
    except Refusal as refusal:
        if refusal.retry:
            return None
        raise


def _not_ended(work_item_id: str, timeout: float | None, seen: WorkItem | None) -> str:
    text = f"work item {work_item_id} has not ended within {timeout} s"
    if seen is None:
        return f"{text}; its shard did not answer: is the swarm running?"
    if seen.status == "claimed":
        note = f" {seen.note!r}" if seen.note else ""
        return f"{text}; {seen.agent_id} works on it ({seen.progress:.0f} %{note})"
    return f"{text}; it is {seen.status}: is there an agent for {seen.work_type!r}?"
