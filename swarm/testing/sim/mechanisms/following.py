"""Following: whoever reads a log, however slowly, ends with what the log says [3]."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from functools import partial

from swarm.actors.opening import ShardReader
from swarm.bus.log_reader import LogReader
from swarm.core.shard import Shard
from swarm.errors import BusError
from swarm.testing.sim.mechanism import Mechanism
from swarm.testing.sim.plan import FOLLOWER
from swarm.testing.sim.processes import Role
from swarm.testing.sim.scene import Scene


class Following(Mechanism):
    """A process that reads all logs, sometimes much more slowly than they are written."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: How far it has come, by shard.
        self._at: dict[int, int] = {}

    def roles(self) -> dict[str, Role]:
        """The reader."""
        return {FOLLOWER: self._follow}

    async def _follow(self, name: str, _leave: asyncio.Event) -> None:
        scene = self.scene
        rng, bus = scene.new_rng(), scene.world.connect(name)
        readers: dict[int, ShardReader] = {}
        while True:
            # Shards may be added.
            for number in sorted(scene.truth.shards.keys() - readers.keys()):
                begin = partial(Shard, number, scene.rules)
                readers[number] = LogReader(bus, scene.subjects.log(number), begin)
            for number, reader in readers.items():
                with contextlib.suppress(BusError):  # the next round reads on
                    await reader.catch_up()
                self._check(number, reader)
            await asyncio.sleep(0.7 if scene.calm else rng.choice((0.1, 0.7, 3.0)))

    def _check(self, number: int, reader: ShardReader) -> None:
        truth, at = self.scene.truth, reader.position.at
        if at != self._at.get(number) and at == truth.last_seqs().get(number, 0):
            self._same(truth.shard(number), reader.state)
        self._at[number] = at

    def _same(self, true: Shard, read: Shard) -> None:
        if not read.complete:
            return  # it waits for what a lagging replica does not show yet
        if (true.next_number, true.submitted) != (read.next_number, read.submitted):
            self.scene.verdict.broken(f"[3] a reader of {true.number} counts {read.submitted}")
        if sorted(true.items) != sorted(read.items):
            self.scene.verdict.broken(
                f"[3] a reader has {sorted(read.items)}: {sorted(true.items)}"
            )
        for number, own in true.items.items():
            if own != read.items[number]:
                theirs = read.items[number]
                self.scene.verdict.broken(f"[3] a reader has {theirs}, the log says {own}")

    def unfinished(self) -> Iterable[str]:
        """The reader must arrive."""
        for number, seq in self.scene.truth.last_seqs().items():
            # An owner with nothing to do goes on to write empty entries.
            if self._at.get(number, 0) < seq - 1:
                yield f"the reader of log {number} is at {self._at.get(number, 0)} of {seq}"
