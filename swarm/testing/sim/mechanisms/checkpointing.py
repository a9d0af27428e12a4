"""Checkpointing: what a holder has left durably is there for the next one [1].

Agents leave checkpoints while they work, and with what they hand back; somebody at a shell
claims items by name, and releases them, which charges no attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import Any

import msgspec
from msgspec import Raw

from swarm.errors import SwarmError
from swarm.messages import (
    NULL,
    Claimed,
    Completed,
    Progressed,
    Released,
    Replayed,
    Waited,
)
from swarm.sdk.client import Swarm
from swarm.sdk.context import Context
from swarm.sdk.items import ClaimedItem
from swarm.testing.sim.client import Client
from swarm.testing.sim.mechanism import Mechanism, Said
from swarm.testing.sim.plan import WORK_TYPES
from swarm.testing.sim.processes import Role
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded

#: Who claims by name.
SHELL = "s1"
#: One of so many items is done in steps.
STEPS_ONE_OF = 12
#: Verbs of commands that may bring a checkpoint along.
KEEPING = ("progress", "release", "wait")


class Checkpointing(Mechanism):
    """Handlers work in steps, each with a checkpoint; a shell takes items and hands them back."""

    expects = (
        "checkpoint kept",
        "went on from a checkpoint",
        "released by name",
        "released with a checkpoint",
    )

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: What the log has, and the attempts that it has charged, by item id.
        self._kept: dict[str, Any] = {}
        self._charged: dict[str, int] = {}
        #: What a holder is to see: checkpoint and attempt, by (item id, token).
        self._given: dict[tuple[str, str], tuple[Any, int]] = {}
        #: The newest checkpoint of a handler, by (item id, token).
        self._made: dict[tuple[str, str], Any] = {}
        #: What came along with commands, by command id.
        self._sent: dict[str, Any] = {}

    # --- handlers --------------------------------------------------------------------

    def describe(self, item: dict[str, Any], client: Client) -> None:
        """Some are done in steps."""
        if client.rng.randrange(STEPS_ONE_OF) == 0:
            item["payload"]["steps"] = client.rng.randint(2, 4)

    async def work(self, context: Context, rng: Random) -> None:
        """Go on from the last checkpoint."""
        found = context.last_checkpoint
        self._check_given(context.work_item_id, context.token, found, context.attempt)
        first = 1 if found is None else found.get("step", 0) + 1
        for step in range(first, context.payload.get("steps", 0) + 1):
            value = {"step": step, "by": context.token}
            if rng.random() < 0.5:
                context.checkpoint_soon(value)
                self._made[context.work_item_id, context.token] = value
            else:
                await self._keep(context, value)
            await asyncio.sleep(rng.random() * 0.4)

    async def _keep(self, context: Context, value: dict[str, Any]) -> None:
        key = (context.work_item_id, context.token)
        keeping = context.checkpoint(value)
        self._made[key] = value
        await keeping
        if context.cancel_reason or self.scene.truth.claims[key].ended_at_s is not None:
            return  # told to stop, it does not wait; and with the claim another may have begun
        self.scene.verdict.saw("checkpoint kept")
        if self._kept.get(context.work_item_id) != value:
            kept = self._kept.get(context.work_item_id)
            self.scene.verdict.broken(f"[2] {key}: {value} is said to be durable: {kept}")

    def _check_given(self, work_item_id: str, token: str, checkpoint: Any, attempt: int) -> None:
        given = self._given[work_item_id, token]
        if (checkpoint, attempt) != given:
            self.scene.verdict.broken(
                f"[1] {work_item_id}: attempt {attempt} got {checkpoint}, the log says {given}"
            )
        if checkpoint is not None:
            self.scene.verdict.saw("went on from a checkpoint")

    # --- the shell -------------------------------------------------------------------

    def roles(self) -> dict[str, Role]:
        """Somebody at a shell."""
        return {SHELL: self._shell}

    async def _shell(self, name: str, _leave: asyncio.Event) -> None:
        scene, rng = self.scene, self.scene.new_rng()
        bus = scene.world.connect(name)
        swarm = Swarm(bus, scene.runtime(name))
        while not scene.calm:
            await asyncio.sleep(1.0 + rng.random() * 3.0)
            # Under faults it may reach nobody; then what it holds lapses.
            with contextlib.suppress(SwarmError):
                claimed = await swarm.claim(WORK_TYPES, timeout_s=2.0)
                if claimed is not None:
                    await self._hold(swarm, claimed, rng)
        await swarm.close()
        await bus.close()

    async def _hold(self, swarm: Swarm, claimed: ClaimedItem, rng: Random) -> None:
        name, token = claimed.work_item_id, claimed.token
        found = None if claimed.checkpoint == NULL else msgspec.json.decode(claimed.checkpoint)
        self._check_given(name, token, found, claimed.attempt)
        if rng.random() < 0.3:
            reported = {"step": 0, "by": token, "reported": True}
            await swarm.progress(name, token, 10, checkpoint=reported, timeout_s=3.0)
        left = {"step": 0, "by": token} if rng.random() < 0.5 else None
        await swarm.release(name, token, "later", checkpoint=left, timeout_s=5.0)
        self.scene.verdict.saw("released by name")

    # --- messages --------------------------------------------------------------------

    def on_other(self, said: Said) -> None:
        """Commands that bring a checkpoint along."""
        tokens = said.tokens
        if tokens[-2] == "next":
            for command in said.body.get("done", ()):
                if "checkpoint" in command:
                    self._sent[command["command_id"]] = command["checkpoint"]
        elif tokens[1] == "shard" and tokens[-2] in KEEPING and "checkpoint" in said.body:
            self._sent[said.body["command_id"]] = said.body["checkpoint"]

    # --- the log ---------------------------------------------------------------------

    def on_event(self, folded: Folded) -> None:
        """What was sent is what the log has; the newest is the one that counts."""
        event = folded.event
        if folded.item is None:
            return
        name = folded.item.work_item_id
        if isinstance(event, Claimed):
            self._charged[name] = self._charged.get(name, 0) + 1
            hold = self.scene.truth.shard(folded.shard).items[event.n].hold
            assert hold is not None, "just claimed"
            self._given[name, hold.token] = (self._kept.get(name), self._charged[name])
        elif isinstance(event, Progressed):
            self._keep_sent(name, event.command_id, event.checkpoint)
        elif isinstance(event, Released | Waited):
            self._keep_sent(name, event.command_id, event.checkpoint)
            if isinstance(event, Waited) or event.cause not in ("lapsed", "stalled"):
                self._charged[name] -= 1
            self._check_newest(folded, event)
        elif isinstance(event, Replayed):
            if len(folded.item.history) > 1 and folded.item.history[-2][1] == "dead":
                self._charged[name] = 0
        elif isinstance(event, Completed):
            self._kept.pop(name, None)

    def _keep_sent(self, name: str, command_id: str, checkpoint: Raw) -> None:
        value = None if checkpoint == NULL else msgspec.json.decode(checkpoint)
        sent = self._sent.get(command_id)
        if value != sent:
            self.scene.verdict.broken(f"[1] {name}: {sent} was sent, {value} is in the log")
        if value is not None:
            self._kept[name] = value

    def _check_newest(self, folded: Folded, event: Released | Waited) -> None:
        """Who hands an item back hands back all that it has left."""
        assert folded.item is not None, "it is about one item"
        assert folded.ended is not None, "it ends a claim"
        if isinstance(event, Released):
            if event.cause != "agent":
                return
            if event.checkpoint != NULL:
                self.scene.verdict.saw("released with a checkpoint")
        elif event.checkpoint != NULL:
            return  # the wait brings one of its own
        name = folded.item.work_item_id
        made = self._made.get((name, folded.ended.token))
        if made is not None and self._kept.get(name) != made:
            self.scene.verdict.broken(
                f"[1] {name} was handed back with {self._kept.get(name)}, its holder left {made}"
            )
