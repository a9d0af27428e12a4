"""Reading: no answer is older than the question [5], or says what the log does not [2]."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from swarm.errors import BusUnavailable, NoAnswer, Refusal, WorkCancelled, WorkFailed
from swarm.messages import Archived, Opened
from swarm.sdk.client import Swarm
from swarm.subjects import item_id
from swarm.testing.sim.client import Client
from swarm.testing.sim.mechanism import Mechanism, Said
from swarm.testing.sim.processes import Role
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded

#: A process that asks every new owner for what it can know least of: what was archived last.
ASKER = "q1"
#: So many items.
LATEST = 8


class _Asked(Struct):
    tokens: list[str]
    data: bytes
    #: Last sequence of each log when the question was asked.
    logs: dict[int, int]


class Reading(Mechanism):
    """Clients look at items, at lists and at counts, and wait for results."""

    expects = ("read get", "read list", "read stats", "read result")
    weight: ClassVar[int] = 6

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: Requests by their reply subject.
        self._asked: dict[str, _Asked] = {}
        #: What was archived last, by shard; and what the asker has still to ask for.
        self._archived: dict[int, list[str]] = {}
        self._wanted: list[str] = []
        self._opened = asyncio.Event()

    # --- what is done ----------------------------------------------------------------

    async def act(self, client: Client) -> None:
        """Ask something, and go on while it is under way."""
        rng = client.rng
        if not client.ids:
            return
        work_item_id = rng.choice(client.ids)
        kind = rng.choice(("get", "get", "get", "list", "stats", "result"))
        client.meanwhile(self._ask(client.swarm, kind, work_item_id))

    def roles(self) -> dict[str, Role]:
        """One that asks whoever has just opened a shard."""
        return {ASKER: self._asker}

    async def _asker(self, name: str, _leave: asyncio.Event) -> None:
        scene = self.scene
        bus = scene.world.connect(name)
        swarm = Swarm(bus, scene.runtime(name))
        while not scene.calm:
            # Looked at now and then, as the end of the faults wakes nobody.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._opened.wait()
            self._opened.clear()
            wanted, self._wanted = self._wanted, []
            await asyncio.gather(*(self._ask(swarm, "get", item) for item in wanted))
        await swarm.close()
        await bus.close()

    async def _ask(self, swarm: Swarm, kind: str, work_item_id: str) -> None:
        # Under faults a read may find nobody in time: that is no lie.
        with contextlib.suppress(NoAnswer, TimeoutError, BusUnavailable):
            try:
                if kind == "get":
                    seen = await swarm.get(work_item_id, timeout_s=5.0)
                    assert seen.payload is not None, "an item keeps its payload"
                elif kind == "list":
                    async for _ in swarm.list(work_type="build", timeout_s=5.0):
                        pass
                elif kind == "stats":
                    await swarm.stats(timeout_s=5.0)
                else:
                    await self._await_result(swarm, work_item_id)
            except Refusal as refusal:
                if not refusal.retry:
                    self.scene.verdict.broken(f"[2] {kind} of {work_item_id}: {refusal}")
                return
            self.scene.verdict.saw(f"read {kind}")

    async def _await_result(self, swarm: Swarm, work_item_id: str) -> None:
        status, token = "completed", ""
        try:
            token = (await swarm.result(work_item_id, timeout=8.0))["token"]
        except WorkFailed as failed:
            status = "cancelled" if isinstance(failed, WorkCancelled) else "dead"
        known = self.scene.truth.items[work_item_id]
        ended_by = known.ended_by.token if known.ended_by else None
        # One that was dead may have been brought back since.
        if not known.was(status) or token not in (ended_by, ""):
            self.scene.verdict.broken(f"[2] {work_item_id} is {known}, not {status} by {token}")

    # --- what must hold --------------------------------------------------------------

    def on_event(self, folded: Folded) -> None:
        """A shard has a new owner: it is asked."""
        event, archived = folded.event, self._archived.setdefault(folded.shard, [])
        if isinstance(event, Archived):
            archived += [item_id(folded.shard, number) for number in event.n]
            del archived[:-LATEST]
        elif isinstance(event, Opened) and archived:
            self._wanted += archived
            self._opened.set()

    def on_other(self, said: Said) -> None:
        """Somebody asks."""
        if said.reply and said.reply not in self._asked:
            logs = self.scene.truth.last_seqs()
            self._asked[said.reply] = _Asked(said.tokens, said.data, logs)

    def on_coordinator(self, said: Said) -> None:
        """Whatever is answered is in the log, and as new as the question."""
        if said.tokens[0] != "_INBOX":
            self.on_other(said)
            return
        body, verdict = said.body, self.scene.verdict
        if "as_of" not in body and body.get("error", {}).get("code") != "unknown_item":
            return
        asked = self._asked.get(said.subject)
        if asked is None:
            verdict.broken(f"[6] {said.subject} got an answer that nobody asked for")
        if asked.tokens[1] == "control":
            return  # the leader's readings are looked at by `Leading`
        shard = int(asked.tokens[2])
        if "as_of" in body:
            self._check_reading(shard, asked, body)
            return
        item = msgspec.json.decode(asked.data).get("work_item_id", "")
        known = self.scene.truth.items.get(item)
        if known is not None and known.history[0][0] <= asked.logs.get(shard, 0):
            verdict.broken(f"[1] {said.node} does not know {item}, which was durable when asked")

    def _check_reading(self, shard: int, asked: _Asked, body: dict[str, Any]) -> None:
        truth, verdict = self.scene.truth, self.scene.verdict
        as_of, end = body["as_of"], truth.positions[shard].at
        if as_of < asked.logs.get(shard, 0):
            verdict.broken(f"[5] a stale answer as of {as_of}: {body} to {asked}")
        if as_of > end:
            verdict.broken(f"[2] an answer as of {as_of}, the log ends at {end}")
        for item in [body] if "work_item_id" in body else body.get("items", ()):
            known = truth.items.get(item["work_item_id"])
            if known is None or known.status_at(as_of) != item["status"]:
                verdict.broken(f"[2] as of {as_of} the log has {known}, and {item} was answered")
        if body.get("conservation"):
            verdict.broken(f"[8] {body}")
