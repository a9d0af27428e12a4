"""Claiming for agents without a session: a shell, a script, a hand-written message.

Ready work may be in any shard.  The coordinators' beats tell who has some, of which
types, and in which shard the most urgent is; that is asked first, then the other shards of
those that have some, then the rest.
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
#: A shard that only refuses for this long, without saying that it has no work, is passed over
#: in this round.
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

    async def claim(
        self, describe: Callable[[], Awaitable[Description]], wait_s: float, timeout_s: float
    ) -> Assignment | None:
        """The most urgent item, as far as beats have told; None after `wait_s` without any.

        `timeout_s`: how long answers are waited for, besides that.  Raises `NoAnswer` when
        a shard that was asked did not answer in the end, `Refusal`.
        """
        loop = asyncio.get_running_loop()
        work_by = loop.time() + wait_s
        answered_by = work_by + timeout_s
        pause_s, first = PAUSE_FIRST_S, True
        while True:
            last = loop.time() >= work_by
            beats = (await describe()).coordinators
            if last and not any(beat.owns for beat in beats):
                raise Refusal("unavailable", "no shard has an owner at the moment", retry=True)
            for shard in self._order(beats, everywhere=first or last):
                found = await self._ask(shard, answered_by)
                if found is not None:
                    return found
            if last:
                return None
            first = False
            pause_s = min(PAUSE_LONGEST_S, 2 * pause_s)
            jitter = 0.5 + 0.5 * self._calls.runtime.rng.random()
            await asyncio.sleep(min(pause_s * jitter, max(0.0, work_by - loop.time())))

    def _order(self, beats: list[Beat], *, everywhere: bool) -> list[int]:
        """Shards to ask: with the most urgent work first, then with ready work, by chance."""
        urgent, first, rest = list[tuple[float, int]](), list[int](), list[int]()
        for beat in beats:
            known = (beat.urgent[name] for name in self._work_types if name in beat.urgent)
            urgent += [(score, shard) for shard, score in known]
            # Of who does not tell there may be some.
            if beat.told == UNTOLD or any(map(beat.ready.get, self._work_types)):
                first += beat.owns
            elif everywhere:
                rest += beat.owns
        # Not one coordinator after the other: the last one's work would starve.
        for shards in (first, rest):
            self._calls.runtime.rng.shuffle(shards)
        return list(dict.fromkeys([*(shard for _, shard in sorted(urgent)), *first, *rest]))

    async def _ask(self, shard: int, deadline: float) -> Assignment | None:
        """What this shard grants; None if it has nothing, or refuses for `SHARD_S`.

        A claim without an answer may have been carried out.  No other shard is asked before
        that is known: what was granted here would be held for a lease, and nobody at work on it.
        """
        calls = self._calls
        loop = asyncio.get_running_loop()
        if loop.time() >= deadline:
            raise Refusal("unavailable", "not every shard could be asked in time", retry=True)
        command = self._new_claim()
        subject = calls.subjects.shard(shard, "claim", calls.sender)
        perhaps_granted = False
        while True:
            until = min(loop.time() + SHARD_S, deadline)
            try:
                return await calls.ask(
                    subject, command, _assignment_decoder, until, final=_ends_a_claim
                )
            except NoAnswer:
                perhaps_granted = True
            except Refusal as refusal:
                if refusal.code == "no_work":
                    return None
                if not refusal.retry:
                    raise
                if not perhaps_granted:
                    return None
            if loop.time() >= deadline:
                raise NoAnswer(
                    f"no answer from shard {shard}: something may have been claimed there, which "
                    "is queued again when its lease has run out"
                )
            command.retry += 1

    def _new_claim(self) -> Claim:
        if self._command_id:
            return Claim(self._command_id, self._work_types, self._lease_s, retry=1)
        return Claim(self._calls.runtime.new_id(), self._work_types, self._lease_s)


def _ends_a_claim(refusal: Refusal) -> bool:
    # There may be work later, but that is a new claim, and perhaps another shard's.
    return refusal.code == "no_work" or not refusal.retry
