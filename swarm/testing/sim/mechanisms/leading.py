"""Leading: what operators ask of the leader is carried out once, and lasts [1, 2, 3, 7]."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import ClassVar

import msgspec
from msgspec import Struct

from swarm.core.cluster import COMMANDS_MAX
from swarm.errors import BusError, NoAnswer, Refusal
from swarm.messages import (
    Beat,
    ClusterEvent,
    Conflict,
    ConflictNoted,
    Controlled,
    MapChanged,
    Opened,
    RoutingRules,
    RulesSet,
)
from swarm.sdk.client import Swarm
from swarm.testing.sim.client import Client
from swarm.testing.sim.mechanism import Mechanism, Said
from swarm.testing.sim.processes import Processes, Role
from swarm.testing.sim.scene import Scene

#: Somebody who sends every new leader once more what was asked last, in the name of who asked
#: (as a message that comes late); so often, as it may not listen yet.
OPERATOR = "o1"
TIMES = 3
PAUSE_S = 0.1

#: Once all is healthy, routers and coordinators know of the latest rules within this time.
KNOWN_S = 10.0


class _Asked(Struct):
    """A question, and what the cluster log had when it was asked."""

    verb: str
    data: bytes
    sequence: int


class Leading(Mechanism):
    """Clients set routing rules, and look at what the cluster log says."""

    expects = (
        "cluster Opened",
        "cluster MapChanged",
        "cluster RulesSet",
        "rules set",
        "cluster looked at",
    )
    weight: ClassVar[int] = 1

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._asked: dict[str, _Asked] = {}
        #: Rules by the id of the command that set them, and all versions there were.
        self._carried_out: dict[str, str] = {}
        self._versions: list[RoutingRules] = []
        self._leaders: list[str] = []
        #: The rules that were asked for last, as they were sent; set: there is a new leader.
        self._last = ("", b"")
        self._opened = asyncio.Event()

    # --- what is done ----------------------------------------------------------------

    async def act(self, client: Client) -> None:
        """Set rules, or look; go on while it is under way."""
        client.meanwhile(self._set(client) if client.rng.random() < 0.6 else self._look(client))

    async def _set(self, client: Client) -> None:
        rng, names = client.rng, self.scene.plan.coordinators
        text = f"build -> {rng.choice(names)}\n# {rng.random()}"
        based_on = self._versions[-1].version if self._versions and rng.random() < 0.3 else 0
        # Under faults nobody may be there to be asked, or to answer in time.
        with contextlib.suppress(NoAnswer, BusError):
            try:
                reply = await client.swarm.set_rules(text, based_on=based_on, timeout_s=8.0)
            except Refusal as refusal:
                late = refusal.code == "conflict" or refusal.retry
                if not late and not self.scene.clocks.may_be_refused(client.name, refusal):
                    self.scene.verdict.broken(f"[7] rules were refused: {refusal}")
                return
            self.scene.verdict.saw("rules set")
            if self._carried_out.get(reply.command_id) != text:
                self.scene.verdict.broken(f"[2] {reply} was answered, it is not in the log")
            if self._versions[reply.rules_version - 1].text != text:
                self.scene.verdict.broken(f"[2] {reply} names the wrong version")

    async def _look(self, client: Client) -> None:
        # As above, nobody may be there.
        with contextlib.suppress(NoAnswer, Refusal, BusError):
            await client.swarm.cluster(timeout_s=5.0)
            self.scene.verdict.saw("cluster looked at")

    def roles(self) -> dict[str, Role]:
        """One through whom commands come late, after the leader that carried them out has gone."""
        return {OPERATOR: self._operator}

    async def _operator(self, name: str, _leave: asyncio.Event) -> None:
        scene, tries = self.scene, 0
        bus = scene.world.connect(name)
        while not scene.calm:
            # Looked at now and then, as the end of the faults wakes nobody.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._opened.wait()
            sender, again = self._last
            for _ in range(TIMES if again and self._opened.is_set() else 0):
                tries += 1
                # Under faults it may not be sent; nobody waits for the answer.
                with contextlib.suppress(BusError):
                    subject = scene.subjects.control("rules", sender)
                    await bus.publish(subject, again, f"_INBOX.{sender}.{name}.{tries}")
                await asyncio.sleep(PAUSE_S)
            self._opened.clear()
        await bus.close()

    # --- what must hold --------------------------------------------------------------

    def on_cluster(self, event: ClusterEvent, node: str) -> None:
        """Everything is in the log once."""
        verdict = self.scene.verdict
        match event:
            case Opened():
                self._leaders.append(node)
                self._opened.set()
                if event.coordinator != node:
                    verdict.broken(f"[3] {node} opened the cluster log for {event.coordinator}")
            case RulesSet():
                self._versions.append(event.rules)
                if event.rules.version != len(self._versions):
                    verdict.broken(f"[7] rules {event.rules.version} after {len(self._versions)}")
            case Controlled() if event.verb == "rules":
                if event.command_id in self._carried_out:
                    verdict.broken(f"[7] {event.command_id} was carried out twice")
                if len(self._carried_out) < COMMANDS_MAX:
                    self._carried_out[event.command_id] = self._versions[-1].text
            case ConflictNoted() if event.conflict.kind == "rules":
                self._on_conflict(event.conflict)
            case MapChanged() if event.map.version == 1:
                if event.map.shard_count != self.scene.settings.shard_count:
                    verdict.broken(f"[3] the leader took over another map: {event.map}")

    def _on_conflict(self, conflict: Conflict) -> None:
        """The side that was kept holds, and the one that was dropped never did."""
        self.scene.verdict.saw("edits in conflict")
        kept, dropped = (side.partition(": ")[2] for side in (conflict.kept, conflict.dropped))
        texts = [rules.text for rules in self._versions]
        if kept != texts[-1] or dropped in texts:
            self.scene.verdict.broken(f"[1] {conflict} does not go with the rules {texts[-1]!r}")

    def on_other(self, said: Said) -> None:
        """Somebody asks the leader."""
        if said.reply and said.tokens[1:2] == ["control"] and said.reply not in self._asked:
            sequence = self.scene.truth.cluster_at.last
            if said.tokens[2] == "rules":
                self._last = (said.tokens[-1], said.data)
            self._asked[said.reply] = _Asked(said.tokens[2], said.data, sequence)

    def on_coordinator(self, said: Said) -> None:
        """Nothing is answered that is not durable, or that was true before the question only."""
        self.on_other(said)
        asked = self._asked.get(said.subject)
        if asked is None or "error" in said.body:
            return
        truth, verdict, body = self.scene.truth, self.scene.verdict, said.body
        if asked.verb == "look":
            if not asked.sequence <= body["as_of"] <= truth.cluster_at.last:
                verdict.broken(f"[5] {said.node} answers as of {body['as_of']}, asked at {asked}")
            known = body["rules"].get("version", 0)
            if known > len(self._versions):
                verdict.broken(f"[2] {said.node} shows rules {known}, which are not in the log")
        elif asked.verb == "rules" and body["command_id"] not in self._carried_out:
            verdict.broken(f"[2] {said.node} answers {body}, which is not in the log")

    # --- the end ---------------------------------------------------------------------

    def unfinished(self) -> Iterable[str]:
        """Somebody must lead, and the copies must be there."""
        scene = self.scene
        if not scene.calm:
            return
        if not self._leaders:
            yield "nobody leads"
        stored = scene.world.state("rules")
        have = msgspec.json.decode(stored, type=RoutingRules).version if stored else 0
        if have != len(self._versions):
            yield f"the copy of the rules has version {have} of {len(self._versions)}"

    async def probe(self, processes: Processes) -> None:
        """A healthy swarm sets rules; beats tell everybody of them."""
        scene = self.scene
        name = scene.plan.coordinators[0]
        bus = scene.world.connect("filler", node="filler")
        shown: dict[str, int] = {}
        await bus.subscribe(scene.subjects.beat("*"), lambda message: _note(shown, message.data))
        swarm = Swarm(bus, scene.runtime("filler"))
        reply = await swarm.set_rules(f"test -> {name}", timeout_s=KNOWN_S)
        deadline = scene.clock() + KNOWN_S
        while any(shown.get(one, 0) < reply.rules_version for one in scene.plan.coordinators):
            if scene.clock() > deadline:
                scene.verdict.broken(f"[liveness] rules {reply.rules_version}: known are {shown}")
            await asyncio.sleep(0.25)
        await swarm.close()
        await bus.close()


def _note(shown: dict[str, int], data: bytes) -> None:
    beat = msgspec.json.decode(data, type=Beat)
    shown[beat.coordinator] = beat.rules_version
