"""A claim over HTTP, safe to send again: the item of the first try is handed out again.

Ready work may be in any shard, and a claim is remembered by the shard that granted it only.  So
before any shard is asked, every coordinator is: does the sender hold something by this claim?
Only when all shards have been spoken for, and nobody knows it, is it made.
"""

from __future__ import annotations

import asyncio

import msgspec

from swarm.errors import NoAnswer, Refusal
from swarm.messages import Assignment, Beat, Claim, Description, Recall, Recalled
from swarm.sdk.calls import Calls
from swarm.sdk.claiming import Claimer
from swarm.web.voices import describe, now

#: A coordinator that does not answer within this time is asked again.
ASK_S = 1.0
#: Between two looks while shards have no owner.
PAUSE_S = 0.1

_recalled = msgspec.json.Decoder(Recalled)
_assignment = msgspec.json.Decoder(Assignment)


async def claim(calls: Calls, command: Claim, wait_s: float, timeout_s: float) -> Assignment:
    """The item that was claimed by `command`, or is now; waits for work at most `wait_s`.

    Raises `Refusal` (``no_work``), `NoAnswer` (send it again).
    """
    deadline = now() + timeout_s + wait_s
    granted = await _granted_before(calls, command, now() + timeout_s)
    if granted is not None:
        return granted

    async def described() -> Description:
        return await describe(calls, deadline)

    claimer = Claimer(calls, command.work_types, command.lease_s, command.command_id)
    try:
        wait_s = min(wait_s, max(0.0, deadline - now()))
        granted = await claimer.claim(described, wait_s, max(0.0, deadline - now() - wait_s))
    except NoAnswer as error:
        raise NoAnswer(
            "not every shard has answered in time; send the claim again, with the same key"
        ) from error
    if granted is not None:
        return granted
    types = ", ".join(command.work_types)
    raise Refusal("no_work", f"nothing is ready of: {types}", retry=True)


async def _granted_before(calls: Calls, command: Claim, deadline: float) -> Assignment | None:
    """What the sender holds by this claim already."""
    spoken_for: set[int] = set()
    while True:
        described = await describe(calls, deadline)
        owners = [beat for beat in described.coordinators if not spoken_for.issuperset(beat.owns)]
        asked = await asyncio.gather(*(_ask(calls, beat, command) for beat in owners))
        for recalled in filter(None, asked):
            spoken_for.update(recalled.shards)
            for shard in recalled.held:
                granted = await _again(calls, shard, command, deadline)
                if granted is not None:
                    return granted
        missing = set(range(described.map.shard_count)) - spoken_for
        if not missing:
            return None
        if now() >= deadline:
            listed = ", ".join(map(str, sorted(missing)))
            raise Refusal(
                "unavailable",
                f"shards without an owner that answers: {listed}; one of them may have granted "
                "this claim before",
                retry=True,
            )
        await asyncio.sleep(PAUSE_S)


async def _ask(calls: Calls, beat: Beat, command: Claim) -> Recalled | None:
    """What a coordinator knows of the claim; None if it does not answer."""
    subject = calls.subjects.coordinator(beat.coordinator, "recall", calls.sender)
    try:
        return await calls.ask(subject, Recall(command.command_id), _recalled, now() + ASK_S)
    except (NoAnswer, Refusal):
        return None  # it may be dead, and others open its shards: looked at again


async def _again(calls: Calls, shard: int, command: Claim, deadline: float) -> Assignment | None:
    """The answer of the shard that has granted the claim; None if it is held no more."""
    subject = calls.subjects.shard(shard, "claim", calls.sender)
    try:
        return await calls.ask(subject, command, _assignment, deadline, final=_any)
    except Refusal as refusal:
        if refusal.code in ("no_work", "stale_token"):
            return None
        raise


def _any(refusal: Refusal) -> bool:
    return refusal.code == "no_work" or not refusal.retry
