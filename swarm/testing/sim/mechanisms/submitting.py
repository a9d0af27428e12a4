"""Submitting: nothing acknowledged is lost [1], nothing is submitted twice [7]."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable
from typing import Any, ClassVar

from swarm.errors import BusUnavailable, Refusal, SwarmError
from swarm.messages import Submitted
from swarm.subjects import item_id
from swarm.testing.sim.client import Client
from swarm.testing.sim.mechanism import Mechanism
from swarm.testing.sim.plan import WORK_TYPES
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded

PRIORITIES = ("critical", "high", "medium", "low")


class Submitting(Mechanism):
    """Clients submit batches, some under idempotency keys and more than once."""

    expects = ("Submitted", "refused for its clock")
    weight: ClassVar[int] = 4

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: Item id by the name that its client gave it.
        self._ids: dict[str, str] = {}
        #: Names of which a client has been told that they are stored.
        self._acked: dict[str, None] = {}
        self._batches: dict[str, int] = {}
        #: Batches with idempotency keys that a client has submitted, by its name.
        self._keyed: dict[str, list[list[dict[str, Any]]]] = {}

    # --- what is done ----------------------------------------------------------------

    async def act(self, client: Client) -> None:
        """Submit a batch."""
        rng = client.rng
        count = min(client.left, rng.randint(1, 5))
        client.left -= count
        batch = self._batches[client.name] = self._batches.get(client.name, 0) + 1
        keyed = rng.random() < 0.3
        items = [
            self._describe(client, f"{client.name}-{batch}-{index}", keyed)
            for index in range(count)
        ]
        client.hooks.arrange(items, client)
        await self._submit_all(client, items)
        # Again with the same keys, as a client does that was restarted: no item is doubled,
        # however far it is by then.
        earlier = self._keyed.setdefault(client.name, [])
        if keyed:
            earlier.append(items)
        if earlier and rng.random() < 0.3:
            await self._submit_all(client, rng.choice(earlier))

    async def _submit_all(self, client: Client, items: list[dict[str, Any]]) -> None:
        left = items
        while left:
            left = await self._submit(client, left)

    def _describe(self, client: Client, logical: str, keyed: bool) -> dict[str, Any]:
        item = {
            "work_type": client.rng.choice(WORK_TYPES),
            "priority": client.rng.choice(PRIORITIES),
            "payload": {"logical": logical},
            "idempotency_key": logical if keyed else "",
        }
        client.hooks.describe(item, client)
        return item

    async def _submit(self, client: Client, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Submit all; those that were refused and are to be sent once more."""
        again: dict[int, dict[str, Any]] = {}
        ids: dict[int, str] = {}
        try:
            outcomes = await client.swarm.submit_many(items, timeout_s=10_000.0)
        except BusUnavailable:  # it could not even begin to listen for answers
            await asyncio.sleep(1.0)
            return items
        for position, (item, outcome) in enumerate(zip(items, outcomes, strict=True)):
            logical = item["payload"]["logical"]
            if isinstance(outcome, SwarmError):
                if not self._depends_on(item, again):
                    self._refused(client, logical, outcome)
                again[position] = item
            else:
                self._told(logical, outcome.work_item_id)
                if outcome.work_item_id not in client.ids:
                    client.ids.append(outcome.work_item_id)
                ids[position] = outcome.work_item_id
        if again:
            await asyncio.sleep(1.0)
        return _renumbered(again, ids)

    def _depends_on(self, item: dict[str, Any], refused: Container[int]) -> bool:
        """Whether it depends on an item of its batch that was refused."""
        return any(one in refused for one in item.get("depends_on", ()))

    # --- what must hold --------------------------------------------------------------

    def on_event(self, folded: Folded) -> None:
        """No name comes twice."""
        event = folded.event
        if not isinstance(event, Submitted):
            return
        for offset in range(len(event.items)):
            known = self.scene.truth.items[item_id(folded.shard, event.first + offset)]
            other = self._ids.setdefault(known.logical, known.work_item_id)
            if other != known.work_item_id:
                self.scene.verdict.broken(f"[7] {known.logical} was submitted twice")

    def _told(self, logical: str, work_item_id: str) -> None:
        """A client was told the id of its item."""
        verdict = self.scene.verdict
        if self.scene.truth.item_of(work_item_id) is None:
            verdict.broken(f"[1] {work_item_id} was acknowledged and is not in the log")
        if self._ids.get(logical) != work_item_id:
            verdict.broken(f"[7] {logical} is {self._ids.get(logical)}, not {work_item_id}")
        self._acked[logical] = None

    def _refused(self, client: Client, logical: str, error: SwarmError) -> None:
        verdict = self.scene.verdict
        clocks = self.scene.clocks
        if not isinstance(error, Refusal) or not clocks.may_be_refused(client.name, error):
            verdict.broken(f"[1] {logical} was not accepted: {error}")
        if logical in self._ids and logical not in self._acked:
            verdict.broken(f"[1] {logical} is in the log, and was refused: {error}")
        verdict.saw("refused for its clock")

    def unfinished(self) -> Iterable[str]:
        """Whatever was submitted must end."""
        return self.scene.truth.unfinished()


def _renumbered(left: dict[int, dict[str, Any]], ids: dict[int, str]) -> list[dict[str, Any]]:
    """Items of a batch that are to be sent once more, by position, when others have got ids."""
    places = {position: place for place, position in enumerate(left)}
    return [
        item | {"depends_on": [ids.get(one, places.get(one, one)) for one in item["depends_on"]]}
        if "depends_on" in item
        else item
        for item in left.values()
    ]
