"""Cancelling: what was cancelled is not worked on any more, and its holder is told.

An item that nobody holds is cancelled at once.  The holder of another is asked to stop; it
may finish in its grace time, and not a moment later.
"""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import Any, ClassVar

from msgspec import Struct

from swarm.errors import SwarmError
from swarm.messages import (
    ENDED,
    Archived,
    Asked,
    Cancelled,
    Completed,
    Copied,
    Died,
    Prioritized,
    Progressed,
    Replayed,
    Resolved,
    Told,
    Watched,
)
from swarm.sdk.client import Swarm
from swarm.sdk.context import Context
from swarm.subjects import item_id
from swarm.testing.sim.client import Client
from swarm.testing.sim.mechanism import Execution, Mechanism, Said
from swarm.testing.sim.overdue import Overdue
from swarm.testing.sim.processes import Role
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded, numbers_of

#: One of so many items takes long at its first attempt, unless its handler is stopped; there
#: are not more of them than two slots can do while everything must come to its end.
LONG_ONE_OF = 8
LONG_MAX = 5
LONG_S = (4.0, 7.0)
GRACES_S = (0.0, 0.3, 0.3, 1.0, 4.0)
#: A handler that is asked to stop may take so much of its grace time.
MORE_THAN_GRACE = 1.5
#: Who cancels a little before a coordinator is struck, so that others must know of it.
CANCELLER = "x1"
BEFORE_S = 0.4
#: When nothing goes wrong any more, a holder hears of it with one of its next heartbeats,
#: though perhaps of a coordinator that had to open the shard first.
TOLD_S = 4.0

#: What may be said of an item that was cancelled, and of one whose holder was asked to stop
#: (whether it may be `Resolved` is looked at by `Depending`).
AFTER_CANCELLED = (Archived, Copied, Watched, Told)
AFTER_ASKED = (
    Asked,
    Cancelled,
    Completed,
    Copied,
    Died,
    Prioritized,
    Progressed,
    Replayed,
    Resolved,
    Watched,
)


class _Wish(Struct):
    work_item_id: str
    grace_s: float


class Cancelling(Mechanism):
    """Clients cancel items, wherever they are, with and without a grace time, and twice."""

    expects = (
        "Asked",
        "Cancelled",
        "cancelled queued",
        "cancelled waiting",
        "cancelled claimed",
        "finished in its grace time",
        "told to stop",
    )
    weight: ClassVar[int] = 1

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: Names, given by clients, of items that take long.
        self._long: dict[str, None] = {}
        #: By command id.
        self._wishes: dict[str, _Wish] = {}
        #: Items that are cancelled, by id.
        self._cancelled: dict[str, None] = {}
        #: The time until which its holder may finish an item, by id; and all that ever had one.
        self._asked: dict[str, float] = {}
        self._ever_asked: dict[str, None] = {}
        self._overdue = Overdue()
        #: When a handler's claim ended, or its grace time was over: by (item id, token).
        self._stop_at_s: dict[tuple[str, str], float] = {}

    # --- what is done ----------------------------------------------------------------

    def describe(self, item: dict[str, Any], client: Client) -> None:
        """Some take long."""
        if client.rng.randrange(LONG_ONE_OF) == 0 and len(self._long) < LONG_MAX:
            item["payload"]["long"] = True
            self._long[item["payload"]["logical"]] = None

    async def work(self, context: Context, rng: Random) -> None:
        """One that takes long; told to stop, it may finish quickly instead."""
        if not context.payload.get("long") or context.attempt > 1:
            return
        try:
            await asyncio.sleep(rng.uniform(*LONG_S))
        except asyncio.CancelledError:
            if context.grace_s == 0 or rng.random() < 0.4:
                raise
            await asyncio.sleep(MORE_THAN_GRACE * context.grace_s * rng.random())

    async def act(self, client: Client) -> None:
        """Cancel something, and go on while that is under way."""
        rng, items = client.rng, self.scene.truth.items
        open_ = [name for name in client.ids if items[name].status not in ENDED]
        held = [name for name in open_ if items[name].status == "claimed"]
        scheduled = [name for name in open_ if items[name].status == "scheduled"]
        paused = scheduled or [name for name in open_ if items[name].status == "waiting"]
        # Most wishes come in time, and many to somebody who is at work.
        names = rng.choice((held, held, paused, open_, client.ids)) or open_ or client.ids
        if not names:
            return
        work_item_id = rng.choice(names)
        for _ in range(rng.choice((1, 1, 2))):
            grace_s, after_s = rng.choice(GRACES_S), rng.random() * 0.5
            client.meanwhile(self._cancel(client.swarm, work_item_id, grace_s, after_s))

    async def _cancel(self, swarm: Swarm, name: str, grace_s: float, after_s: float) -> None:
        await asyncio.sleep(after_s)
        # Refusals are checked as they leave; whoever gets no answer knows nothing.
        with contextlib.suppress(SwarmError):
            await swarm.cancel(name, "not wanted", grace_s=grace_s, timeout_s=15.0)

    def roles(self) -> dict[str, Role]:
        """Somebody who cancels at the worst moment."""
        return {CANCELLER: self._cancel_before_mishaps}

    async def _cancel_before_mishaps(self, name: str, _leave: asyncio.Event) -> None:
        scene, rng = self.scene, self.scene.new_rng()
        began_s, bus = scene.clock(), scene.world.connect(name)
        swarm = Swarm(bus, scene.runtime(name))
        for mishap in scene.plan.mishaps:
            at_s = began_s + mishap.at_s - BEFORE_S * rng.random()
            if mishap.node not in scene.plan.coordinators or at_s < scene.clock():
                continue
            await asyncio.sleep(at_s - scene.clock())
            held = [
                known.work_item_id
                for known in scene.truth.items.values()
                if known.status == "claimed" and known.logical in self._long
            ]
            if held:
                await self._cancel(swarm, rng.choice(held), GRACES_S[-1], 0.0)
        await swarm.close()
        await bus.close()

    # --- answers ---------------------------------------------------------------------

    def on_other(self, said: Said) -> None:
        """A client cancels."""
        if said.tokens[-2] == "cancel" and said.tokens[1] == "shard":
            body = said.body
            self._wishes[body["command_id"]] = _Wish(
                body["work_item_id"], body.get("grace_s", 10.0)
            )

    def on_coordinator(self, said: Said) -> None:
        """What is answered is so in the log; a holder is told."""
        if said.tokens[-1] == "control" and said.body["kind"] == "cancel":
            self.scene.verdict.saw("told to stop")
        if said.tokens[0] != "_INBOX" or "status" not in said.body:
            return
        wish = self._wishes.get(said.body.get("command_id", ""))
        if wish is None:
            return
        name, status = wish.work_item_id, said.body["status"]
        known = self.scene.truth.items[name]
        # Told is where the item is after the wish, or where a repeated one found it.
        true = any(status == was for _, was in known.history)
        if not true or (status == "claimed" and name not in self._ever_asked):
            self.scene.verdict.broken(f"[2] {said.body} to {wish}; the log has {known}")

    # --- the log ---------------------------------------------------------------------

    def on_event(self, folded: Folded) -> None:
        """Nothing happens to a cancelled item, and only what may to one that is to be stopped."""
        for late in self._overdue.missed(folded):
            self.scene.verdict.broken(f"[9] asked to stop: {late}")
        event = folded.event
        for number in numbers_of(event):
            name = item_id(folded.shard, number)
            if name in self._cancelled and not isinstance(event, AFTER_CANCELLED):
                self.scene.verdict.broken(f"[6] {name} was cancelled, then {event}")
            if name in self._asked and not isinstance(event, AFTER_ASKED):
                self.scene.verdict.broken(f"[6] the holder of {name} was to stop, then {event}")
        if isinstance(event, Asked):
            self._on_asked(folded, event)
        elif isinstance(event, Completed):
            self._on_completed(folded)
        elif isinstance(event, Cancelled | Died):
            self._on_ended(folded)

    def _on_asked(self, folded: Folded, event: Asked) -> None:
        assert folded.item is not None, "it is about one item"
        name = folded.item.work_item_id
        until = self._asked.setdefault(name, event.until)
        if event.until > until:
            self.scene.verdict.broken(f"[6] {name}: a second wish gives more time: {event}")
        self._asked[name], self._ever_asked[name] = event.until, None
        self._overdue.expect(folded, name, event.until)
        hold = self.scene.truth.shard(folded.shard).items[event.n].hold
        assert hold is not None, "only a holder can be asked"
        # It may take all of its grace time, and a little more.
        grace_s = MORE_THAN_GRACE * max(0.0, event.until - folded.entry.now)
        self._stop_at_s.setdefault((name, hold.token), self.scene.clock() + grace_s)

    def _on_completed(self, folded: Folded) -> None:
        assert folded.item is not None, "it is about one item"
        name = folded.item.work_item_id
        until = self._asked.pop(name, None)
        if until is None:
            return
        self._overdue.happened(folded, name)
        self.scene.verdict.saw("finished in its grace time")
        if folded.entry.now > until:
            late_s = folded.entry.now - until
            self.scene.verdict.broken(f"[6] {name} was completed {late_s} s after its grace time")

    def _on_ended(self, folded: Folded) -> None:
        assert folded.item is not None, "it is about one item"
        name = folded.item.work_item_id
        self._asked.pop(name, None)
        self._overdue.happened(folded, name)
        if isinstance(folded.event, Cancelled):
            self._cancelled[name] = None
            _, before = folded.item.history[-2]
            self.scene.verdict.saw(f"cancelled {before}")
        if folded.ended is not None:
            self._stop_at_s.setdefault((name, folded.ended.token), self.scene.clock())

    # --- handlers --------------------------------------------------------------------

    def on_start(self, execution: Execution) -> None:
        """Nobody begins with what is known not to be wanted, once all is calm."""
        self._check_told(execution, self.scene.clock())

    def on_finish(self, execution: Execution) -> None:
        """A holder that was to stop has been told so, once all is calm."""
        assert execution.ended_at_s is not None, "it has ended"
        self._check_told(execution, execution.ended_at_s)

    def _check_told(self, execution: Execution, at_s: float) -> None:
        claim = execution.claim
        stop_at_s = self._stop_at_s.get((claim.work_item_id, claim.token))
        if stop_at_s is None:
            return
        untold_s = at_s - max(stop_at_s, self.scene.calm_at_s)
        if untold_s > TOLD_S:
            self.scene.verdict.broken(f"[9] {execution} was not told to stop in {untold_s} s")
