"""Claiming for agents without a session: a shell, a script, a hand-written message.

Ready work may be in any shard.  The coordinators' beats tell who has some, of which
types; their shards are asked first, then the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from swarm.core.syncing import UNTOLD
from swarm.errors import NoAnswer, Refusal
from swarm.messages import Assignment, Beat, Claim, Description
from swarm.sdk.calls import Calls

#: Between two rounds over the shards: the first pause, doubled up to the longest.
PAUSE_FIRST_S = 0.1
PAUSE_LONGEST_S = 1.0
#: A shard that does not answer within this time is asked again in the next round.
SHARD_S = 2.0

_assignment_decoder = msgspec.json.Decoder(Assignment)


class Claimer:
    """One wish for work of some types, until it is granted or given up."""

    def __init__(
        self, calls: Calls, work_types: Sequence[str], lease_s: float, command_id: str = ""
    ) -> None:
        """`command_id`: under which every shard is asked, as one may have been before; empty:
        each gets a fresh one."""
        self._calls = calls
        self._command_id = command_id
        self._work_types = list(work_types)
        self._lease_s = lease_s
        #: Claims that were not answered: asked again as they are, since such a claim may
        #: have been carried out, and then this is how we get to know of it.
        self._unanswered: dict[int, Claim] = {}

    async def claim(
        self, describe: Callable[[], Awaitable[Description]], wait_s: float
    ) -> Assignment | None:
        """The most urgent item of the first shard that has one; None after `wait_s` without.

        Raises `NoAnswer` when a shard did not answer in the end, `Refusal`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        pause_s, first = PAUSE_FIRST_S, True
        while True:
            last = loop.time() >= deadline
            beats = (await describe()).coordinators
            if last and not any(beat.owns for beat in beats):
                raise Refusal("unavailable", "no shard has an owner at the moment", retry=True)
            for shard in self._order(beats, everywhere=first or last):
                found = await self._ask(shard)
                if found is not None:
                    return found
            if last:
                break
            first = False
            pause_s = min(PAUSE_LONGEST_S, 2 * pause_s)
            jitter = 0.5 + 0.5 * self._calls.runtime.rng.random()
            await asyncio.sleep(min(pause_s * jitter, max(0.0, deadline - loop.time())))
        if self._unanswered:
            shards = ", ".join(map(str, self._unanswered))
            raise NoAnswer(
                f"no answer from shard {shards}: something may have been claimed there, which "
                "is queued again when its lease has run out"
            )
        return None

    def _order(self, beats: list[Beat], *, everywhere: bool) -> list[int]:
        """Shards to ask: with ready work first; within a coordinator in random order."""
        first, rest = list(self._unanswered), []
        for beat in beats:
            owned = list(beat.owns)
            self._calls.runtime.rng.shuffle(owned)
            # Of who does not tell there may be some.
            if beat.told == UNTOLD or any(map(beat.ready.get, self._work_types)):
                first += owned
            elif everywhere:
                rest += owned
        return list(dict.fromkeys([*first, *rest]))

    async def _ask(self, shard: int) -> Assignment | None:
        calls = self._calls
        command = self._unanswered.pop(shard, None)
        if command is None:
            command = self._new_claim()
        subject = calls.subjects.shard(shard, "claim", calls.sender)
        deadline = asyncio.get_running_loop().time() + SHARD_S
        try:
            return await calls.ask(
                subject, command, _assignment_decoder, deadline, final=_ends_a_claim
            )
        except NoAnswer:
            command.retry += 1
            self._unanswered[shard] = command
            return None
        except Refusal as refusal:
            if refusal.code == "no_work" or refusal.retry:
                return None
            raise

    def _new_claim(self) -> Claim:
        if self._command_id:
            return Claim(self._command_id, self._work_types, self._lease_s, retry=1)
        return Claim(self._calls.runtime.new_id(), self._work_types, self._lease_s)


def _ends_a_claim(refusal: Refusal) -> bool:
    # There may be work later, but that is a new claim, and perhaps another shard's.
    return refusal.code == "no_work" or not refusal.retry
