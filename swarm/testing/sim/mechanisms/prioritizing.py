"""Prioritizing: the most urgent item is claimed first, by what the log says of urgency.

Waiting raises an item: a step of priority is worth `ageing_s` seconds of waiting.
"""

from __future__ import annotations

import contextlib
from typing import ClassVar

import msgspec

from swarm.errors import SwarmError
from swarm.messages import ENDED, Claimed, Prioritized, Submitted
from swarm.subjects import item_id
from swarm.testing.sim.client import Client
from swarm.testing.sim.mechanism import Mechanism, Said
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded

PRIORITIES = ("critical", "high", "medium", "low")


class Prioritizing(Mechanism):
    """Clients find items more, or less, urgent than before."""

    expects = ("Prioritized", "raised before its claim", "lowered before its claim")
    weight: ClassVar[int] = 1

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: When an item was submitted, by its log's clock, and its rank: 0 is the most urgent.
        self._urgency: dict[str, tuple[float, int]] = {}
        self._submitted_as: dict[str, int] = {}
        #: Items and priorities that clients have wished for, by command id; and which are in
        #: the log.
        self._wishes: dict[str, tuple[str, str]] = {}
        self._done: dict[str, None] = {}

    # --- what is done ----------------------------------------------------------------

    async def act(self, client: Client) -> None:
        """Change one's mind about an item that nobody has ended yet."""
        items = self.scene.truth.items
        open_ = [name for name in client.ids if items[name].status not in ENDED]
        if open_:
            client.meanwhile(self._prioritize(client, client.rng.choice(open_)))

    async def _prioritize(self, client: Client, work_item_id: str) -> None:
        priority = client.rng.choice(PRIORITIES)
        # Refusals are checked as they leave; whoever gets no answer knows nothing.
        with contextlib.suppress(SwarmError):
            await client.swarm.prioritize(work_item_id, priority, timeout_s=15.0)  # type: ignore[arg-type]

    # --- answers ---------------------------------------------------------------------

    def on_other(self, said: Said) -> None:
        """A client changes its mind."""
        if said.tokens[-2] == "prioritize" and said.tokens[1] == "shard":
            body = said.body
            self._wishes[body["command_id"]] = (body["work_item_id"], body["priority"])

    def on_coordinator(self, said: Said) -> None:
        """What is acknowledged is in the log."""
        if said.tokens[0] != "_INBOX" or "status" not in said.body:
            return
        command_id = said.body.get("command_id", "")
        if command_id in self._wishes and command_id not in self._done:
            wish = self._wishes[command_id]
            self.scene.verdict.broken(f"[2] {said.body} to {wish}, which the log does not have")

    # --- the log ---------------------------------------------------------------------

    def on_event(self, folded: Folded) -> None:
        """Whatever is claimed, nothing more urgent is left."""
        event = folded.event
        if isinstance(event, Submitted):
            for offset, raw in enumerate(event.items):
                name = item_id(folded.shard, event.first + offset)
                rank = PRIORITIES.index(msgspec.json.decode(raw).get("priority", "medium"))
                self._urgency[name] = (folded.entry.now, rank)
                self._submitted_as[name] = rank
        elif isinstance(event, Prioritized):
            name = item_id(folded.shard, event.n)
            if self._wishes.get(event.command_id) != (name, event.priority):
                self.scene.verdict.broken(f"[7] {event}: nobody has asked for that")
            self._done[event.command_id] = None
            self._urgency[name] = (self._urgency[name][0], PRIORITIES.index(event.priority))
        elif isinstance(event, Claimed):
            self._on_claimed(folded, event.n)

    def _on_claimed(self, folded: Folded, number: int) -> None:
        """All agents do all types of work, so all that is queued was to be had."""
        claimed = self._score(folded.shard, number)
        for other, item in self.scene.truth.shard(folded.shard).items.items():
            if item.status == "queued" and self._score(folded.shard, other) < claimed:
                self.scene.verdict.broken(
                    f"[6] {item_id(folded.shard, number)} was claimed; more urgent: "
                    f"{item_id(folded.shard, other)}"
                )
        name = item_id(folded.shard, number)
        rank, before = self._urgency[name][1], self._submitted_as[name]
        if rank != before:
            how = "raised" if rank < before else "lowered"
            self.scene.verdict.saw(f"{how} before its claim")

    def _score(self, shard: int, number: int) -> tuple[float, int]:
        submitted_at, rank = self._urgency[item_id(shard, number)]
        return submitted_at + rank * self.scene.rules.ageing_s, number
