"""Answering: an item that waits holds nothing; the first answer wins, and is handed on."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import msgspec
from msgspec import Struct

from swarm.errors import BusError, NoAnswer, Refusal
from swarm.messages import Answered, Cancelled, Claimed, Died, Due, Replayed, Waited
from swarm.sdk.client import Swarm
from swarm.sdk.context import Context
from swarm.subjects import item_id
from swarm.testing.sim.client import Client
from swarm.testing.sim.mechanism import Mechanism, Said
from swarm.testing.sim.overdue import Overdue
from swarm.testing.sim.processes import Role
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded

#: Who answers.
HUMAN = "h1"
#: One of so many items waits for an answer, once or twice.
ASKS_ONE_OF = 10
EXPIRES_S = (0.5, 2.0, 4.0)
#: When nothing goes wrong any more, a process is told of the end of its claim within this time.
LET_GO_S = 8.0


class _Wait(Struct):
    """One time that an item waits, as the log has it."""

    number: int
    until: float
    on_expiry: str
    over: bool = False
    answer: Any = None
    by: str = ""


class Answering(Mechanism):
    """Handlers wait for answers; somebody gives them, twice at once, or not at all."""

    expects = (
        "Waited",
        "Answered",
        "answered too late",
        "wait expired: dead",
        "wait expired: resumed",
        "went on with an answer",
        "went on without an answer",
    )

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: The latest time of waiting, by item id.
        self._waits: dict[str, _Wait] = {}
        #: What was accepted, by (item id, number of the wait).
        self._accepted: dict[tuple[str, int], Any] = {}
        #: What the next handler is to see, by (item id, token): waits, answer, who gave it.
        self._given: dict[tuple[str, str], tuple[int, Any, str]] = {}
        self._overdue = Overdue()
        self._answering: dict[asyncio.Task[None], None] = {}

    # --- what is done ----------------------------------------------------------------

    def describe(self, item: dict[str, Any], client: Client) -> None:
        """Some ask for something."""
        if client.rng.randrange(ASKS_ONE_OF) == 0:
            item["payload"]["asks"] = client.rng.randint(1, 2)

    async def work(self, context: Context, rng: Random) -> None:
        """Look at what was given, then ask for more."""
        asks = context.payload.get("asks", 0)
        if asks or context.waits:
            self._check_given(context)
        if context.waits < asks:
            context.wait_for(
                {"question": context.waits + 1},
                expires_s=rng.choice(EXPIRES_S),
                on_expiry=rng.choice(("dead", "resume", "resume")),
                checkpoint=rng.choice((None, {"asked": context.waits + 1})),
            )

    def _check_given(self, context: Context) -> None:
        seen = (context.waits, context.answer, context.answered_by)
        given = self._given[context.work_item_id, context.token]
        if seen != given:
            self.scene.verdict.broken(f"[1] {context.work_item_id} goes on with {seen}: {given}")
        if context.waits:
            how = "with" if context.answered_by else "without"
            self.scene.verdict.saw(f"went on {how} an answer")

    def roles(self) -> dict[str, Role]:
        """Somebody who answers."""
        return {HUMAN: self._human}

    async def _human(self, name: str, _leave: asyncio.Event) -> None:
        scene, rng = self.scene, self.scene.new_rng()
        swarm = Swarm(scene.world.connect(name), scene.runtime(name))
        seen: dict[tuple[str, int], None] = {}
        while True:
            for work_item_id, wait in list(self._waits.items()):
                key = (work_item_id, wait.number)
                if wait.over or key in seen:
                    continue
                seen[key] = None
                for count in range(rng.choice((0, 1, 2, 2))):
                    work = self._answer(swarm, key, f"{count} to {wait.number}")
                    task = asyncio.create_task(work, name=f"{name} answers")
                    self._answering[task] = None
                    task.add_done_callback(lambda done: self._answering.pop(done, None))
            await asyncio.sleep(0.1 + rng.random() * 0.5)

    async def _answer(self, swarm: Swarm, key: tuple[str, int], answer: str) -> None:
        work_item_id, number = key
        verdict = self.scene.verdict
        try:
            await swarm.answer(work_item_id, answer, wait=number, timeout_s=10.0)
        except Refusal as refusal:
            if refusal.code == "already_answered":
                verdict.saw("answered too late")
            elif refusal.code != "already_finished" and not refusal.retry:
                verdict.broken(f"[2] {answer!r} to {key}: {refusal}")
            wait = self._waits[work_item_id]
            if not refusal.retry and wait.number == number and not wait.over:
                verdict.broken(f"[2] {answer!r} to {key}, which waits: {refusal}")
            return
        except (NoAnswer, BusError):
            return  # it knows nothing
        if self._accepted.get(key) != answer:
            other = self._accepted.get(key)
            verdict.broken(f"[7] {answer!r} to {key} was accepted; the log has {other!r}")

    # --- the log ---------------------------------------------------------------------

    def on_event(self, folded: Folded) -> None:
        """A wait ends once: by its first answer, or when its time is over, or with its item."""
        for late in self._overdue.missed(folded):
            self.scene.verdict.broken(f"[9] waiting: {late}")
        match folded.event:
            case Waited():
                self._on_waited(folded, folded.event)
            case Answered():
                self._on_answered(folded, folded.event)
            case Due():
                for number in folded.event.n:
                    self._on_due(folded, item_id(folded.shard, number))
            case Died():
                self._on_died(folded, folded.event)
            case Cancelled() | Replayed():
                if folded.item is not None:
                    self._end(folded, folded.item.work_item_id)
            case Claimed():
                self._on_claimed(folded, folded.event)
            case _:
                pass

    def _open(self, work_item_id: str) -> _Wait | None:
        wait = self._waits.get(work_item_id)
        return None if wait is None or wait.over else wait

    def _end(self, folded: Folded, work_item_id: str) -> None:
        wait = self._open(work_item_id)
        if wait is not None:
            wait.over = True
            self._overdue.happened(folded, work_item_id)

    def _on_waited(self, folded: Folded, event: Waited) -> None:
        if folded.item is None or folded.ended is None:
            self.scene.verdict.broken(f"[6] {event} ended no claim")
        name = folded.item.work_item_id
        before = self._waits.get(name)
        number = 1 if before is None else before.number + 1
        self._waits[name] = _Wait(number, event.until, event.on_expiry)
        self._overdue.expect(folded, name, event.until)

    def _on_answered(self, folded: Folded, event: Answered) -> None:
        assert folded.item is not None, "it is about one item"
        name = folded.item.work_item_id
        wait = self._open(name)
        if wait is None:
            self.scene.verdict.broken(f"[7] {name} got an answer and did not wait: {event}")
        self._end(folded, name)
        wait.answer, wait.by = msgspec.json.decode(event.answer), event.by
        self._accepted[name, wait.number] = wait.answer

    def _on_due(self, folded: Folded, name: str) -> None:
        wait = self._open(name)
        if wait is not None:
            self._check_expired(folded, name, wait, "resume")
            self.scene.verdict.saw("wait expired: resumed")

    def _on_died(self, folded: Folded, event: Died) -> None:
        assert folded.item is not None, "it is about one item"
        wait = self._open(folded.item.work_item_id)
        if event.cause == "expired":
            if wait is None:
                self.scene.verdict.broken(f"[1] {folded.item} did not wait: {event}")
            self._check_expired(folded, folded.item.work_item_id, wait, "dead")
            self.scene.verdict.saw("wait expired: dead")
        self._end(folded, folded.item.work_item_id)

    def _check_expired(self, folded: Folded, name: str, wait: _Wait, how: str) -> None:
        if wait.on_expiry != how or wait.until > folded.entry.now:
            self.scene.verdict.broken(f"[1] {name}: {wait} ended at {folded.entry.now} by {how}")
        self._end(folded, name)

    def _on_claimed(self, folded: Folded, event: Claimed) -> None:
        assert folded.item is not None, "it is about one item"
        name = folded.item.work_item_id
        wait = self._waits.get(name)
        if wait is not None and not wait.over:
            self.scene.verdict.broken(f"[6] {name} waits, and was claimed: {event}")
        hold = self.scene.truth.shard(folded.shard).items[event.n].hold
        assert hold is not None, "just claimed"
        given = (0, None, "") if wait is None else (wait.number, wait.answer, wait.by)
        self._given[name, hold.token] = given

    # --- messages --------------------------------------------------------------------

    def on_other(self, said: Said) -> None:
        """An agent does not go on to list what it has given back."""
        if said.tokens[1] != "heartbeat":
            return
        for work_item_id, token in said.body.get("held", ()):
            claim = self.scene.truth.claims.get((work_item_id, token))
            ended_at_s = claim.ended_at_s if claim is not None else None
            if ended_at_s is None:
                continue
            listed_s = self.scene.clock() - max(ended_at_s, self.scene.calm_at_s)
            if listed_s > LET_GO_S:
                self.scene.verdict.broken(f"[6] {said.node} lists {claim}, over for {listed_s} s")
