"""Prioritizing: the most urgent item is claimed first, by what the log says of urgency.

Waiting raises an item: a step of priority is worth `ageing_s` seconds of waiting.  Within a shard
that holds for every claim; among the shards of a coordinator, which share its agents' free slots,
in a healthy swarm and to within `slack_s`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from swarm.core.urgency import slack_s
from swarm.errors import SwarmError
from swarm.messages import ENDED, Claimed, Opened, Prioritized, Submitted
from swarm.subjects import item_id, parse_item_id
from swarm.testing.sim.client import Client
from swarm.testing.sim.mechanism import Mechanism, Said
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded, numbers_of

#: A shard that has been open for so long, with an item ready, must have looked for a slot for it.
SETTLED_S = 2.0
PRIORITIES = ("critical", "high", "medium", "low")


@dataclass(slots=True)
class _PassedOver:
    """An item that waited, as it seems, while something less urgent was claimed."""

    name: str
    shard: int
    #: When that was decided, and for what.
    at_s: float
    claimed: str
    #: Whether the owner of its shard has decided something since: it was there.
    served: bool = False


class Prioritizing(Mechanism):
    """Clients find items more, or less, urgent than before."""

    expects = (
        "Prioritized",
        "raised before its claim",
        "lowered before its claim",
        "a slot used beside other shards",
    )
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
        #: When a shard was opened, and since when an item has been queued (virtual time).
        self._opened_at_s: dict[int, float] = {}
        self._queued_at_s: dict[str, float] = {}
        self._passed_over: list[_PassedOver] = []

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
        self._follow(folded)
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
            self._on_claimed(folded, event)

    def _on_claimed(self, folded: Folded, event: Claimed) -> None:
        """All agents do all types of work, so all that is queued was to be had."""
        number = event.n
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

        if not event.command_id:
            self._look_elsewhere(folded, name)

    def _follow(self, folded: Folded) -> None:
        """Note what has been queued since when, and what has been open."""
        event, now_s = folded.event, self.scene.clock()
        numbers = numbers_of(event)
        if isinstance(event, Submitted):
            numbers = list(range(event.first, event.first + len(event.items)))
        elif isinstance(event, Opened):
            self._opened_at_s[folded.shard] = now_s
        items = self.scene.truth.shard(folded.shard).items
        for number in numbers:
            name, item = item_id(folded.shard, number), items.get(number)
            if item is not None and item.status == "queued":
                self._queued_at_s.setdefault(name, now_s)
            else:
                self._queued_at_s.pop(name, None)
            # Decided before, and stored later, as that is another log.
            self._passed_over = [
                passed
                for passed in self._passed_over
                if passed.name != name or passed.at_s < folded.decided_at_s
            ]
        self._note_served(folded)

    def _note_served(self, folded: Folded) -> None:
        """An owner that decides nothing more, until there is another one, had fallen silent."""
        opened = isinstance(folded.event, Opened)
        kept: list[_PassedOver] = []
        for passed in self._passed_over:
            since = passed.shard == folded.shard and passed.at_s < folded.decided_at_s
            if since and opened and not passed.served:
                continue
            passed.served = passed.served or (since and not opened)
            kept.append(passed)
        self._passed_over = kept

    def on_boot(self, node: str) -> None:
        """What the process before had opened, this one has not."""
        for shard in list(self._opened_at_s):
            if self.scene.truth.shard(shard).coordinator == node:
                del self._opened_at_s[shard]

    def _look_elsewhere(self, folded: Folded, claimed: str) -> None:
        """A free slot was used here: other shards of the owner have nothing far more urgent."""
        truth, now_s = self.scene.truth, self.scene.clock()
        since_s = now_s - SETTLED_S
        if folded.decided_at_s < self.scene.calm_at_s + SETTLED_S:
            return
        limit = self._score(folded.shard, int(claimed.split("-")[1]))[0] - slack_s(
            self.scene.rules.ageing_s
        )
        for name, queued_at_s in self._queued_at_s.items():
            shard, number = parse_item_id(name)
            if queued_at_s > since_s or self._opened_at_s.get(shard, now_s) > since_s:
                continue
            together = truth.shard(shard).coordinator == truth.shard(folded.shard).coordinator
            if together and self._score(shard, number)[0] < limit:
                passed = _PassedOver(name, shard, folded.decided_at_s, claimed)
                self._passed_over.append(passed)
        self.scene.verdict.saw("a slot used beside other shards")

    def at_end(self) -> None:
        """Who was passed over was not about to be moved: that takes a moment in which it waits."""
        for passed in self._passed_over:
            at_s = passed.at_s
            opened_at_s = self._opened_at_s.get(passed.shard, at_s)
            if not at_s < opened_at_s < at_s + SETTLED_S:
                self.scene.verdict.broken(
                    f"[6] {passed.claimed} was claimed at {at_s:.3f} s; more urgent, in another "
                    f"shard of the same coordinator: {passed.name}"
                )

    def _score(self, shard: int, number: int) -> tuple[float, int]:
        submitted_at, rank = self._urgency[item_id(shard, number)]
        return submitted_at + rank * self.scene.rules.ageing_s, number
