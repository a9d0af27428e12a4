"""Waiting for what becomes of a work item."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from swarm.errors import BadInput, NoAnswer, Refusal, WorkCancelled, WorkFailed
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
    whenever a coordinator falls.  Raises `WorkFailed` (`WorkCancelled`), `TimeoutError`,
    `Refusal`.
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
            raise failure(seen)
        if late:
            raise TimeoutError(_not_ended(work_item_id, timeout, seen))


async def watch_item(
    calls: Calls, work_item_id: str, timeout: float | None
) -> AsyncIterator[WorkItem]:
    """The item as it is, and again whenever it is different, until it has ended.

    What changes while nobody asks is seen together.  Ends after `timeout` seconds, too (None:
    never), with `NoAnswer` if its shard has not answered at all.  Raises `Refusal`.
    """
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    version, wait_s = "", 0.0
    while True:
        seen = await _look(calls, work_item_id, wait_s, deadline, version)
        if seen is not None and seen.version != version:
            yield seen
            if seen.finished_at:
                return
            version = seen.version
        left_s = POLL_S if deadline is None else deadline - loop.time()
        if left_s <= 0:
            if not version:
                raise NoAnswer(f"no answer about work item {work_item_id}: is the swarm running?")
            return
        wait_s = min(POLL_S, left_s) if version else 0.0


def failure(seen: WorkItem) -> WorkFailed:
    """What to raise for an item that has ended without a result: with all that led to it."""
    text = f"work item {seen.work_item_id} is {seen.status}"
    if seen.cause not in ("", "failed"):
        text += f" ({seen.cause})"
    text += f": {seen.error or 'no reason was given'}"
    earlier = [one for one in seen.history if one.error != seen.error]
    if earlier:
        ends = (f"{one.agent} {one.how}: {one.error or 'no reason'}" for one in earlier)
        text += f" (before that: {'; '.join(ends)})"
    return (WorkCancelled if seen.status == "cancelled" else WorkFailed)(text, seen)


async def _look(
    calls: Calls, work_item_id: str, wait_s: float, deadline: float | None, version: str = ""
) -> WorkItem | None:
    """The item when it has ended (or is not of this version any more), or after `wait_s`; None
    if there was no answer in time."""
    subject = shard_subject(calls, work_item_id, "get")
    get = Get(work_item_id, wait_s, version)
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
    if seen.status in ("blocked", "scheduled", "waiting"):
        return f"{text}; it is {seen.status}{_until(seen)}"
    return f"{text}; it is {seen.status}: is there an agent for {seen.work_type!r}?"


def _until(seen: WorkItem) -> str:
    """What a paused item waits for."""
    if seen.status == "waiting":
        return f": it waits for {bytes(seen.waits_for).decode()}; answer it"
    if seen.status == "blocked":
        open_ = [name for name, known in seen.depends.items() if known.status != "completed"]
        return f" by its dependencies: {', '.join(open_)}"
    failed = f" after {len(seen.history)} failed attempts" if seen.history else ""
    return f"{failed}, not before {seen.until:.0f} (seconds since 1970)"
