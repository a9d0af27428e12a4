"""Timing: nothing is claimed before its time or after it, and what has no time left ends soon."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from random import Random
from typing import Any

import msgspec
from msgspec import Raw, Struct

from swarm.core.work import make_token
from swarm.errors import LeaseLost
from swarm.messages import (
    ENDED,
    Asked,
    Claimed,
    Died,
    NewItem,
    Progressed,
    Released,
    Replayed,
    Submitted,
)
from swarm.sdk.context import Context
from swarm.subjects import item_id, parse_item_id
from swarm.testing.sim.client import Client
from swarm.testing.sim.mechanism import Mechanism
from swarm.testing.sim.mechanisms.timekeeping import LOG_OFF_MAX_S
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Claim, Folded

#: So many items each have a time before which, or after which, they are not to be claimed,
#: and so many must show progress.
DELAYED = 0.1
LIMITED = 0.1
PACED = 0.1
#: In health owners act so soon after a time has come: they look four times a second …
ACTS_S = 1.0
#: … once all shards are open and all leases have begun anew.
SETTLES_S = 8.0
#: Steps of one instant may come in any order.
MARGIN_S = 0.002
#: How the end of a claim reads whose agent lives and makes no progress.
NO_PROGRESS = "its agent made no progress"


class _Times(Struct):
    """An item's times by the log's clock; 0: none."""

    not_before: float
    deadline: float
    progress_s: float
    dead: bool = False
    #: When its holder has to be done, once it was asked to.
    asked_until: float = 0.0


class _Held(Struct):
    """A claim whose work must be seen to advance: when it was seen, in virtual time."""

    claim: Claim
    seen_s: float


class Timing(Mechanism):
    """Delays, deadlines (of queued and of running items), and limits for progress."""

    expects = (
        "delayed",
        "Asked",
        "deadline of an item that nobody held",
        "deadline of a held item",
        "stalled",
        "kept its pace",
    )

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._times: dict[str, _Times] = {}
        #: By item id: claims that need progress.
        self._held: dict[str, _Held] = {}
        #: What each log's time is ahead of the server's.
        self._off_s: dict[int, float] = {}

    # --- what is done ----------------------------------------------------------------

    def describe(self, item: dict[str, Any], client: Client) -> None:
        """Some items have times of their own."""
        rng, now = client.rng, self.scene.world.time()
        if rng.random() < DELAYED:
            item["not_before"] = round(now + 3.0 * rng.random(), 3)
        if rng.random() < LIMITED:
            item["deadline"] = round(now + rng.choice((1.0, 3.0, 8.0)) * (0.2 + rng.random()), 3)
        if rng.random() < PACED:
            item["progress_s"] = rng.choice((0.5, 1.5))
            item["payload"]["pace"] = rng.choice(("steady", "stuck"))

    async def work(self, context: Context, rng: Random) -> None:
        """Some handlers report as they must, some get stuck while their agents live."""
        pace, progress_s = context.payload.get("pace"), context.item.progress_s
        if pace == "stuck" and rng.random() < 0.7:
            await asyncio.sleep(progress_s * 3)
        elif pace == "steady":
            try:
                for step in range(1, 6):
                    await asyncio.sleep(progress_s * 0.4)
                    await context.progress(10 * step)
            except LeaseLost:
                return  # under faults reports get lost
            self.scene.verdict.saw("kept its pace")

    # --- what the logs say -----------------------------------------------------------

    def on_event(self, folded: Folded) -> None:
        """No sooner than the item's times, by the log's clock and by the true one."""
        event, now = folded.event, folded.entry.now
        self._off_s[folded.shard] = now - self._true(folded)
        if isinstance(event, Submitted):
            for offset, raw in enumerate(event.items):
                self._submitted(item_id(folded.shard, event.first + offset), raw)
            return
        if folded.item is None:
            return
        name = folded.item.work_item_id
        times = self._times[name]
        if folded.ended is not None:
            times.asked_until = 0.0
            self._let_go(name, folded)
        match event:
            case Claimed():
                self._claimed(name, times, event, folded)
            case Progressed() if name in self._held:
                self._held[name].seen_s = folded.decided_at_s
            case Asked(status="dead") | Died(cause="deadline"):
                self._too_late(name, times, folded)
            case Asked():
                times.asked_until = event.until
            case Replayed():
                self._replayed(times, now)
            case _:
                pass
        if isinstance(event, Died):
            times.dead = True

    def _submitted(self, name: str, raw: Raw) -> None:
        item = msgspec.json.decode(raw, type=NewItem)
        self._times[name] = _Times(item.not_before, item.deadline, item.progress_s)

    def _claimed(self, name: str, times: _Times, event: Claimed, folded: Folded) -> None:
        now, true_now = folded.entry.now, self._true(folded)
        if now < times.not_before or true_now < times.not_before - LOG_OFF_MAX_S:
            self._broken(f"{name} was claimed at {now:.3f} ({true_now:.3f}), before {times}")
        if times.deadline and now >= times.deadline:
            self._broken(f"{name} was claimed at {now:.3f}, after {times}")
        if times.not_before:
            self.scene.verdict.saw("delayed")
        if times.progress_s:
            token = make_token(event.fence, folded.entry.owner, event.session)
            claim = self.scene.truth.claims[name, token]
            self._held[name] = _Held(claim, folded.decided_at_s)

    def _too_late(self, name: str, times: _Times, folded: Folded) -> None:
        """It ends, or is to end, because its deadline has passed."""
        now, event = folded.entry.now, folded.event
        early = now < times.deadline or self._true(folded) < times.deadline - LOG_OFF_MAX_S
        if early or not times.deadline:
            self._broken(f"{name} had no time left at {now:.3f}, and {times}")
        if isinstance(event, Asked):
            times.asked_until = event.until
        else:
            held = folded.ended is not None
            what = "a held item" if held else "an item that nobody held"
            self.scene.verdict.saw(f"deadline of {what}")

    def _replayed(self, times: _Times, now: float) -> None:
        """Somebody wants it at once; if it was dead, whatever its deadline was."""
        times.not_before = 0.0
        if times.dead:
            times.dead = False
            if times.deadline <= now:
                times.deadline = 0.0

    def _let_go(self, name: str, folded: Folded) -> None:
        held = self._held.pop(name, None)
        if not is_stall(folded):
            return
        self.scene.verdict.saw("stalled")
        progress_s = self._times[name].progress_s
        since_s = folded.decided_at_s - held.seen_s if held is not None else 0.0
        if held is None or since_s < progress_s - MARGIN_S:
            self._broken(f"{name} stalled after {since_s:.3f} s of {progress_s} s")

    def _true(self, folded: Folded) -> float:
        """The server's time when it was decided."""
        return self.scene.world.time() - self.scene.clock() + folded.decided_at_s

    # --- in health -------------------------------------------------------------------

    def unfinished(self) -> Iterable[str]:
        """Nothing: others see to it that all ends.  But it must not take long."""
        scene = self.scene
        healthy_s = scene.clock() - scene.calm_at_s - SETTLES_S
        if healthy_s <= 0:
            return ()
        now = scene.world.time()
        for name, times in self._times.items():
            ended = scene.truth.items[name].status in ENDED
            due = times.asked_until or times.deadline
            log_now = now + self._off_s[parse_item_id(name)[0]]
            late_s = min(log_now - due, healthy_s)
            if not ended and due and late_s > ACTS_S:
                self._broken(f"{name} should have ended {late_s:.1f} s ago: {times}")
        for name, held in self._held.items():
            limit_s = self._times[name].progress_s
            late_s = min(scene.clock() - held.seen_s - limit_s, healthy_s)
            if late_s > ACTS_S:
                self._broken(f"{name} is held without progress, {late_s:.1f} s late: {held}")
        return ()

    def _broken(self, what: str) -> None:
        self.scene.verdict.broken(f"[times] {what}")


def is_stall(folded: Folded) -> bool:
    """Whether a claim ended because its agent lived, and made no progress."""
    event = folded.event
    if isinstance(event, Released):
        return event.cause == "stalled"
    return isinstance(event, Died) and event.error.endswith(NO_PROGRESS)
