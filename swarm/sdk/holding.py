"""Working without a session: claim an item by name, and say how it goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from swarm.errors import Refusal
from swarm.messages import (
    NULL,
    Ack,
    Complete,
    Description,
    Fail,
    ItemCommand,
    Progress,
    Release,
    Renew,
    Wait,
)
from swarm.sdk.asking import TIMEOUT_S, Asking
from swarm.sdk.claiming import Claimer
from swarm.sdk.endings import waiting
from swarm.sdk.items import ClaimedItem, check_name, check_percent, to_json


class Holding(Asking):
    """What an agent without a session says, with the token that its claim got.

    The claim holds for its lease, which `renew` and `progress` start anew.
    """

    async def claim(
        self,
        work_types: Sequence[str],
        *,
        lease_s: float = 0.0,
        wait_s: float = 0.0,
        timeout_s: float = TIMEOUT_S,
    ) -> ClaimedItem | None:
        """Take an item of one of these types, as the agent named like this connection.

        None if there is none within `wait_s`.  The claim holds for `lease_s` (0 = the item's
        or the swarm's default); end it with `complete`, `fail`, `release` or `wait`.
        Answers are waited for `timeout_s` longer.  Raises `NoAnswer` if one did not come: then
        something may be held until its lease has run out; `Refusal`.
        """
        if isinstance(work_types, str) or not work_types:
            raise Refusal("bad_request", "work_types is a list of one or more work types")
        for work_type in work_types:
            check_name("work type", work_type)

        async def describe() -> Description:
            return await self.describe(timeout_s=timeout_s)

        claimer = Claimer(self._calls, work_types, lease_s)
        assignment = await claimer.claim(describe, wait_s, timeout_s)
        return None if assignment is None else ClaimedItem.of(assignment)

    async def complete(
        self, work_item_id: str, token: str, result: Any = None, *, timeout_s: float = TIMEOUT_S
    ) -> Ack:
        """The work is done; `result` is any JSON."""
        command = Complete(self._new_id(), work_item_id, token, to_json("the result", result))
        return await self._end("complete", command, timeout_s)

    async def fail(
        self,
        work_item_id: str,
        token: str,
        error: str,
        *,
        retry_after_s: float | None = None,
        final: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> Ack:
        """The attempt failed; `error` says how.

        It is tried again while attempts are left, after `retry_after_s` seconds (None: after
        the item's backoff); or never, if `final`.  The answer's `status` says which.
        """
        if retry_after_s is not None and final:
            raise Refusal("bad_request", "retry_after_s and final exclude each other")
        command = Fail(
            self._new_id(), work_item_id, token, error, retry_after=retry_after_s, final=final
        )
        return await self._end("fail", command, timeout_s)

    async def release(
        self,
        work_item_id: str,
        token: str,
        reason: str = "",
        *,
        checkpoint: Any = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Ack:
        """Hand the item back unworked: it is queued again, no attempt is charged.

        `checkpoint`: any JSON for whoever works on it next (None: the one that there is stays).
        """
        kept = to_json("the checkpoint", checkpoint)
        command = Release(self._new_id(), work_item_id, token, reason, checkpoint=kept)
        return await self._end("release", command, timeout_s)

    async def wait(
        self,
        work_item_id: str,
        token: str,
        what: Any,
        *,
        expires_s: float = 0.0,
        on_expiry: Literal["dead", "resume"] = "dead",
        checkpoint: Any = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Ack:
        """Hand the item to somebody outside until `Swarm.answer`; see `Context.wait_for`."""
        asked = waiting(what, expires_s, on_expiry, checkpoint)
        command = Wait(
            self._new_id(),
            work_item_id,
            token,
            asked.waits_for,
            asked.expires_s,
            asked.on_expiry,
            asked.checkpoint,
        )
        return await self._end("wait", command, timeout_s)

    async def progress(
        self,
        work_item_id: str,
        token: str,
        percent: float,
        note: str = "",
        *,
        checkpoint: Any = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Ack:
        """The work advances: 0 to 100 percent and a note for people; renews the lease.

        `checkpoint`: any JSON for whoever works on it next, should this claim not complete it
        (None: the one that there is stays).
        """
        kept = NULL if checkpoint is None else to_json("the checkpoint", checkpoint)
        command = Progress(
            self._new_id(), work_item_id, token, check_percent(percent), note, checkpoint=kept
        )
        return await self._end("progress", command, timeout_s)

    async def renew(self, work_item_id: str, token: str, *, timeout_s: float = TIMEOUT_S) -> Ack:
        """A heartbeat: the claim's lease starts anew."""
        return await self._say("renew", work_item_id, Renew(work_item_id, token), timeout_s)

    async def _end(self, verb: str, command: ItemCommand, timeout_s: float) -> Ack:
        size = len(msgspec.json.encode(command))
        limit = self._calls.item_bytes_max
        if size > limit + 1024:
            raise Refusal(
                "too_large",
                f"this {verb} has {size} bytes; an item with result and notes has at most "
                f"{limit}: store the data elsewhere and pass a reference",
            )
        return await self._say(verb, command.work_item_id, command, timeout_s)
