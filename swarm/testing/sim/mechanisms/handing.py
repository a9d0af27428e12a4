"""Handing over: a coordinator that leaves in good order leaves nobody waiting.

Its shards go to others, with all that was asked of it meanwhile; from then on it writes to
their logs no more.  Its agents are told to attach elsewhere before it says good-bye.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
from msgspec import Struct

from swarm.actors.handoff import PAUSE_S
from swarm.errors import SwarmError
from swarm.sdk.client import Swarm
from swarm.subjects import item_id
from swarm.testing.sim.mechanism import Mechanism, Said
from swarm.testing.sim.processes import Role
from swarm.testing.sim.scene import Scene

#: Who asks.
KNOCKER = "k1"
#: An answer that comes so close to the end of the pause may have come too late.
MARGIN_S = 0.02


class _Handoff(Struct):
    """From the moment that an owner decides nothing more."""

    owner: str
    shard: int
    asked_at_s: float
    #: When it was told that the shard has another owner; 0: it has not been.
    given_at_s: float = 0.0
    #: What has come in meanwhile, as (subject, data), and has not been passed on yet.
    waiting: dict[tuple[str, bytes], None] = {}


class _Leaving(Struct):
    """A coordinator that has begun to leave."""

    began_at_s: float
    #: Sessions that it served then, and has not told yet.
    sessions: dict[str, None]
    #: Whether it has found somebody to hand over to.
    others: bool = False


class Handing(Mechanism):
    """Coordinators are told to leave (SIGTERM) while everything goes on."""

    expects = ("handed over", "sent away", "passed on")

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: By the subject that the receiver answers to; and the latest one of each owner's shard.
        self._asked: dict[str, _Handoff] = {}
        self._latest: dict[tuple[str, str], _Handoff] = {}
        self._leaving: dict[str, _Leaving] = {}
        #: The coordinator that serves a session, and when it last heard a heartbeat of it.
        self._serves: dict[str, str] = {}
        self._heard: dict[str, float] = {}
        self._knock = asyncio.Event()
        #: Shards that are being handed over at this moment.
        self._doors: list[int] = []

    # --- what is done ----------------------------------------------------------------

    def roles(self) -> dict[str, Role]:
        """Somebody who always asks at the worst moment."""
        return {KNOCKER: self._ask}

    async def _ask(self, name: str, _leave: asyncio.Event) -> None:
        swarm = Swarm(self.scene.world.connect(name), self.scene.runtime(name))
        while True:
            await self._knock.wait()
            self._knock.clear()
            doors, self._doors = self._doors, []
            await asyncio.gather(*(self._get(swarm, item_id(shard, 1)) for shard in doors))

    async def _get(self, swarm: Swarm, work_item_id: str) -> None:
        if work_item_id in self.scene.truth.items:
            # Whether it is answered is not looked at: that somebody passes it on is.
            with contextlib.suppress(SwarmError):
                await swarm.get(work_item_id, timeout_s=2.0)

    # --- messages --------------------------------------------------------------------

    def on_coordinator(self, said: Said) -> None:
        """What it says while it leaves."""
        tokens, node = said.tokens, said.node
        if tokens[0] == "_INBOX":
            self._on_reply(said)
        elif tokens[1] == "beat":
            if b'"draining":true' in said.data:
                self._on_draining_beat(said)
        elif tokens[1] == "coordinator" and tokens[3] == "handoff":
            if node in self._leaving:
                self._leaving[node].others = True
            if said.body.get("now"):
                handoff = _Handoff(node, said.body["shard"], self.scene.clock(), waiting={})
                self._asked[said.reply] = self._latest[node, str(handoff.shard)] = handoff
                self._doors.append(handoff.shard)
                self._knock.set()
        elif tokens[1] == "shard":
            handing = self._latest.get((node, tokens[2]))
            if handing is not None and (said.subject, said.data) in handing.waiting:
                del handing.waiting[said.subject, said.data]
                self.scene.verdict.saw("passed on")
        elif tokens[1] == "agent" and tokens[-1] == "control":
            self._on_control(said)

    def _on_reply(self, said: Said) -> None:
        body = said.body
        if "heartbeat_s" in body:
            self._serves[body["session"]] = body["coordinator"]
            self._heard.pop(body["session"], None)

    def _on_control(self, said: Said) -> None:
        session, kind = said.tokens[3], said.body["kind"]
        if kind == "superseded":
            self._serves.pop(session, None)
        leaving = self._leaving.get(said.node)
        if kind == "reattach" and leaving is not None and session in leaving.sessions:
            del leaving.sessions[session]
            self.scene.verdict.saw("sent away")

    def _on_draining_beat(self, said: Said) -> None:
        node = said.node
        leaving = self._leaving.get(node)
        if leaving is None:
            served = [
                session
                for session, name in self._serves.items()
                if name == node and self._heard_lately(session)
            ]
            self._leaving[node] = _Leaving(self.scene.clock(), dict.fromkeys(served))
        elif said.body.get("leaving") and leaving.others:
            self._check_left(node, leaving)

    def _heard_lately(self, session: str) -> bool:
        lately_s = self.scene.clock() - self.scene.settings.lease_s / 2
        return self._heard.get(session, 0.0) > lately_s

    def _check_left(self, node: str, leaving: _Leaving) -> None:
        """Good-bye: whoever was served, or waits for an answer, has been cared for."""
        verdict = self.scene.verdict
        # Of whom nothing has been heard meanwhile, as when this node stood still, is forgotten.
        left = [
            session
            for session in leaving.sessions
            if self._serves.get(session) == node and self._heard_lately(session)
        ]
        if left:
            verdict.broken(f"[9] {node} has left and not told its sessions {left}")
        if self.scene.clock() - leaving.began_at_s > self.scene.settings.drain_s - MARGIN_S:
            return  # its time was over before it had passed on all
        for (owner, _), handoff in self._latest.items():
            if owner == node and handoff.given_at_s and handoff.waiting:
                verdict.broken(f"[9] {node} has left and not passed on {handoff.waiting}")

    def on_deliver(self, node: str, subject: str, data: bytes) -> None:
        """A request, the receiver's answer, or a heartbeat, has reached a process."""
        tokens = subject.split(".")
        if tokens[0] == "_INBOX":
            handoff = self._asked.pop(subject, None)
            if handoff is not None and b'"epoch":' in data:
                self._on_given(handoff)
        elif tokens[1] == "shard":
            handing = self._latest.get((node, tokens[2]))
            if handing is not None and not handing.given_at_s:
                handing.waiting[subject, data] = None
        elif tokens[1] == "heartbeat" and node in self.scene.plan.coordinators:
            self._on_heartbeat(node, data)

    def _on_heartbeat(self, node: str, data: bytes) -> None:
        heartbeat = msgspec.json.decode(data)
        session = heartbeat["session"]
        if heartbeat.get("leaving"):
            self._serves.pop(session, None)
        elif heartbeat["coordinator"] == node == self._serves.get(session):
            self._heard[session] = self.scene.clock()

    def _on_given(self, handoff: _Handoff) -> None:
        paused_s = self.scene.clock() - handoff.asked_at_s
        if paused_s < PAUSE_S - MARGIN_S:
            handoff.given_at_s = self.scene.clock()
            self.scene.verdict.saw("handed over")
        else:
            self._forget(handoff.owner, handoff)

    def _forget(self, node: str, handoff: _Handoff) -> None:
        if self._latest.get((node, str(handoff.shard))) is handoff:
            del self._latest[node, str(handoff.shard)]

    # --- the log, and processes --------------------------------------------------------

    def on_append(self, log: str, node: str) -> None:
        """A process begins to append: an owner that has handed over does not."""
        handing = self._latest.get((node, log.rsplit(".", 1)[1]))
        if handing is None:
            return
        if handing.given_at_s:
            self.scene.verdict.broken(f"[5] {node} writes to {log}, which it has handed over")
        # Without an answer it goes on.
        self._forget(node, handing)

    def on_boot(self, node: str) -> None:
        """A new process owes nothing of what the one before did."""
        self._leaving.pop(node, None)
        for handoff in [one for (owner, _), one in self._latest.items() if owner == node]:
            self._forget(node, handoff)
