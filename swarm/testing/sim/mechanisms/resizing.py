"""Resizing: the number of shards changes while items are submitted again and again [1, 7].

That nothing is lost or doubled is what `Submitting` sees to; here is what only changes of
the map can break.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import ClassVar

from swarm.core.cluster import EARLIER_MAX
from swarm.core.sharding import accepting
from swarm.errors import BusError, NoAnswer, Refusal
from swarm.messages import ClusterEvent, MapChanged, ShardMap, Submitted
from swarm.testing.sim.client import Client
from swarm.testing.sim.mechanism import Mechanism
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded

#: Part of the swarms that are resized, and the most shards that they get.
PART = 0.4
MOST = 9


class Resizing(Mechanism):
    """A client asks for more shards, or for fewer."""

    expects = ("resized to more", "resized to fewer", "submitted in parts")
    weight: ClassVar[int] = 2

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._wanted = scene.new_rng().random() < PART
        self._maps: dict[int, ShardMap] = {1: scene.map}
        #: The map under which each shard's latest entry was written.
        self._adopted: dict[int, int] = {}
        #: Commands of which a shard has accepted something.
        self._commands: dict[tuple[int, str], None] = {}

    async def act(self, client: Client) -> None:
        """Ask for another number of shards, and go on meanwhile."""
        if self._wanted and len(self._maps) < EARLIER_MAX:
            client.meanwhile(self._resize(client, client.rng.randint(1, MOST)))

    async def _resize(self, client: Client, shards: int) -> None:
        # Under faults nobody may be there to be asked, or to answer in time.
        with contextlib.suppress(NoAnswer, BusError):
            try:
                reply = await client.swarm.resize(shards, timeout_s=8.0)
            except Refusal as refusal:
                if not refusal.retry and not self.scene.clocks.may_be_refused(client.name, refusal):
                    self.scene.verdict.broken(f"[7] {shards} shards were refused: {refusal}")
                return
            if reply.map_version not in self._maps:
                self.scene.verdict.broken(f"[2] {reply} was answered, it is not in the log")

    # --- what must hold --------------------------------------------------------------

    def on_cluster(self, event: ClusterEvent, node: str) -> None:
        """Maps follow one another, and remember those before."""
        if not isinstance(event, MapChanged) or event.map.version == 1:
            return
        new = event.map
        old = self._maps.get(new.version - 1, new)
        if old is new or new.version in self._maps:
            self.scene.verdict.broken(f"[3] map {new.version} follows {list(self._maps)}")
        self._maps[new.version] = new
        more = accepting(new) > accepting(old)
        self.scene.verdict.saw("resized to more" if more else "resized to fewer")
        if new.shard_count < old.shard_count:
            self.scene.verdict.broken(f"[1] shards are gone: {old} {new}")
        if [one.version for one in new.earlier] != list(range(1, new.version)):
            self.scene.verdict.broken(f"[7] map {new.version} forgets those before: {new}")

    def on_event(self, folded: Folded) -> None:
        """A shard never goes back to an earlier map, and accepts by the one it has adopted."""
        shard, version = folded.shard, folded.entry.map_version
        verdict = self.scene.verdict
        if version < self._adopted.get(shard, 0):
            verdict.broken(f"[7] shard {shard} goes back to map {version}")
        self._adopted[shard] = version
        if version not in self._maps:
            verdict.broken(f"[7] shard {shard} adopts map {version}, which there is not")
        elif isinstance(folded.event, Submitted):
            if shard >= accepting(self._maps[version]):
                verdict.broken(f"[7] shard {shard} accepts, by {self._maps[version]}")
            key = (shard, folded.event.command_id)
            if key in self._commands:
                verdict.saw("submitted in parts")
            self._commands[key] = None

    def unfinished(self) -> Iterable[str]:
        """In the end every shard that there is has an owner."""
        latest = self._maps[max(self._maps)]
        for shard in range(latest.shard_count if self.scene.calm else 0):
            if shard not in self.scene.truth.shards:
                yield f"shard {shard} was never opened"
