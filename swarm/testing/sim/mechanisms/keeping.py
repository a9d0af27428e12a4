"""Keeping: compaction states again what is so, archives what is stored, and purges no more
than nobody needs [1]."""

from __future__ import annotations

import msgspec

from swarm.actors.finished import block_of
from swarm.errors import LogMissing
from swarm.messages import Archived, Copied, Finished, Item, Marked, Submitted
from swarm.subjects import item_id
from swarm.testing.sim.mechanism import Mechanism
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded


class Keeping(Mechanism):
    """Logs and caches are so small that every schedule compacts, archives and purges."""

    expects = ("Copied", "Archived", "Marked", "copied while held")

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: The entry that last stated an item whole, by shard and number, of those that are
        #: part of the state.
        self._stated: dict[int, dict[int, int]] = {}

    def on_event(self, folded: Folded) -> None:
        """Keep book of what is stated where."""
        event = folded.event
        stated = self._stated.setdefault(folded.shard, {})
        if isinstance(event, Submitted):
            for offset in range(len(event.items)):
                stated[event.first + offset] = folded.seq
        elif isinstance(event, Copied):
            for number, raw in zip(event.n, event.items, strict=True):
                stated[number] = folded.seq
                self._check_copy(folded, number, msgspec.json.decode(raw, type=Item))
        elif isinstance(event, Archived):
            for number in event.n:
                del stated[number]
                self._check_record(folded, number)
        elif isinstance(event, Marked):
            oldest = min(stated.values(), default=folded.seq)
            if event.needs > oldest:
                self.scene.verdict.broken(
                    f"[1] log {folded.shard} is to be purged below {event.needs}, and entry "
                    f"{oldest} alone states what still lives"
                )

    def _check_copy(self, folded: Folded, number: int, copy: Item) -> None:
        true = self.scene.truth.shard(folded.shard).items[number]
        if true.hold is not None:
            self.scene.verdict.saw("copied while held")
        # Where it was stated before is of no use to readers, who may know of other places.
        copy.seq = true.seq
        if copy != true:
            self.scene.verdict.broken(f"[1] stated again as {copy}; it is {true}")

    def _check_record(self, folded: Folded, number: int) -> None:
        """It is in the records, as it ended."""
        name = item_id(folded.shard, number)
        store = self.scene.subjects.records(folded.shard)
        try:
            records = self.scene.world.records(store).get(block_of(number), [])
        except LogMissing:
            records = []
        kept = [
            item.status
            for data in records
            for item in msgspec.json.decode(data, type=Finished).items
            if item.number == number
        ]
        status = self.scene.truth.items[name].status
        if kept[-1:] != [status]:
            self.scene.verdict.broken(f"[1] {name} is archived as {status}; the records: {kept}")
