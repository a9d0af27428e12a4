"""Failing: attempts that fail are charged once and tried again in time, and only an agent that
has truly fallen silent is charged for it [9]."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import Any, ClassVar

import msgspec
from msgspec import Raw, Struct

from swarm.bus.memory_process import PROCESS
from swarm.core.work import make_token
from swarm.errors import NoAnswer, Refusal
from swarm.messages import (
    HISTORY_MAX,
    Claimed,
    Died,
    NewItem,
    Released,
    Replayed,
    Retried,
    Submitted,
)
from swarm.sdk.context import Context
from swarm.sdk.endings import GiveUp, RetryLater
from swarm.subjects import item_id
from swarm.testing.sim.client import Client
from swarm.testing.sim.mechanism import Mechanism, Said
from swarm.testing.sim.mechanisms.silence import Silence
from swarm.testing.sim.mechanisms.timing import is_stall
from swarm.testing.sim.mishaps import Mishap
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded

#: What handlers do with an item whose payload says so, and with how many of all items.
TROUBLES = ("fails", "fails", "later", "gives up", "kills", "kills")
TROUBLED = 0.2
#: Three heartbeats of the plan.
SHORT_LEASE_S = 2.4
#: Times in messages are rounded on their way.
ROUNDED_S = 1e-5


class _Life(Struct):
    """An item's attempts, counted from the events of its log."""

    max_attempts: int
    backoff_s: float
    #: Charged since it was submitted, or brought back from the dead.
    attempts: int = 0
    deaths: int = 0
    replays: int = 0
    dead: bool = False
    #: Not to be claimed before this time of the log.
    until: float = 0.0
    #: (fence, how) of every attempt that did not complete it.
    history: list[tuple[int, str]] = []
    #: Sequence of the last event that changed any of this.
    seq: int = 0


class Failing(Mechanism):
    """Handlers fail, ask for time, give up, and die with their agents; operators bring back."""

    expects = (
        "Retried",
        "retry after",
        "given up",
        "attempts used up",
        "Died quarantined",
        "Replayed",
        "history read",
        "charged an agent",
    )
    weight: ClassVar[int] = 1

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._lives: dict[str, _Life] = {}
        #: What agents have said of attempts that failed, by command id.
        self._fails: dict[str, dict[str, Any]] = {}
        #: Number of the attempt that each claim begins, by (item id, token).
        self._numbers: dict[tuple[str, str], int] = {}
        self._brought_back: dict[str, None] = {}
        self._silence = Silence(scene)

    # --- what is done ----------------------------------------------------------------

    def describe(self, item: dict[str, Any], client: Client) -> None:
        """Some items are in for trouble."""
        rng = client.rng
        if rng.random() < TROUBLED:
            item["payload"]["trouble"] = rng.choice(TROUBLES)
            item["max_attempts"] = rng.choice((0, 1, 2, 4, 5))
            item["backoff_s"] = rng.choice((0.0, 0.05, 0.5))
            # So that some kill as many agents as it takes.
            item["lease_s"] = SHORT_LEASE_S

    async def work(self, context: Context, rng: Random) -> None:
        """A handler comes upon trouble."""
        claim = context.work_item_id, context.token
        if context.attempt != self._numbers[claim]:
            self._broken(f"{claim} is attempt {self._numbers[claim]}, not {context.attempt}")
        match context.payload.get("trouble"):
            case "fails":
                raise ValueError("as always")
            case "later":
                raise RetryLater(rng.choice((0.0, 0.3, 1.5)), "not now")
            case "gives up":
                raise GiveUp("it cannot be done")
            case "kills" if not self.scene.calm or self._lives[claim[0]].deaths:
                self._kill(rng)
                await asyncio.get_running_loop().create_future()

    def _kill(self, rng: Random) -> None:
        """The process that this runs in dies."""
        name = (PROCESS.get(None) or "").partition("#")[0]
        self._silence.killed(name)
        self.scene.kill(name, rng.random())

    async def act(self, client: Client) -> None:
        """Bring an item back from the dead, each once."""
        truth = self.scene.truth
        dead = [one for one in client.ids if truth.items[one].status == "dead"]
        dead = [one for one in dead if one not in self._brought_back]
        if dead:
            name = client.rng.choice(dead)
            self._brought_back[name] = None
            client.meanwhile(self._bring_back(client, name))

    async def _bring_back(self, client: Client, work_item_id: str) -> None:
        with contextlib.suppress(NoAnswer):  # whatever became of it, the logs say so
            try:
                await client.swarm.retry(work_item_id)
            except Refusal as refusal:
                # Cancelled meanwhile, or for the records already.
                late = refusal.code == "already_finished" or refusal.retry
                if not late and not self.scene.clocks.may_be_refused(client.name, refusal):
                    raise

    # --- what the logs say -----------------------------------------------------------

    def on_event(self, folded: Folded) -> None:
        """Count attempts, and hold each decision against the count."""
        event = folded.event
        if isinstance(event, Submitted):
            for offset, raw in enumerate(event.items):
                self._submitted(item_id(folded.shard, event.first + offset), raw)
            return
        if not isinstance(event, Claimed | Retried | Released | Died | Replayed):
            return
        assert folded.item is not None, "it is about one item"
        name = folded.item.work_item_id
        life, now = self._lives[name], folded.entry.now
        life.seq = folded.seq
        match event:
            case Claimed():
                if now < life.until:
                    self._broken(f"{name} was claimed at {now:.3f}, not before {life.until:.3f}")
                token = make_token(event.fence, folded.entry.owner, event.session)
                self._numbers[name, token] = life.attempts + 1
            case Retried():
                self._retried(name, life, event, now)
            case Released() if event.cause in ("lapsed", "stalled"):
                self._charged(name, life, event, folded)
            case Died():
                self._died(name, life, event, folded)
            case Replayed():
                _brought_back(life)
            case _:
                pass

    def _submitted(self, name: str, raw: Raw) -> None:
        item, rules = msgspec.json.decode(raw, type=NewItem), self.scene.rules
        most = item.max_attempts or rules.max_attempts
        self._lives[name] = _Life(most, item.backoff_s or rules.backoff_s, history=[])

    def _retried(self, name: str, life: _Life, event: Retried, now: float) -> None:
        pause_s = event.until - now
        asked = self._fails.get(event.command_id, {}).get("retry_after")
        if asked is not None:
            least_s = most_s = asked
            self.scene.verdict.saw("retry after")
        else:
            most_s = min(life.backoff_s * 2**life.attempts, self.scene.rules.backoff_max_s)
            least_s = most_s / 2
        known = event.command_id in self._fails
        if known and not least_s - ROUNDED_S <= pause_s <= most_s + ROUNDED_S:
            self._broken(f"{name} pauses {pause_s} s, not {least_s} to {most_s}: {life}")
        _ends(life, event.fence, "failed")
        if life.attempts >= life.max_attempts:
            self._broken(f"{name} is tried again after all its attempts: {life}")
        life.until = event.until

    def _charged(self, name: str, life: _Life, event: Released, folded: Folded) -> None:
        """An attempt is over because of its agent, and the item goes on."""
        _ends(life, event.fence, event.cause)
        if life.attempts >= life.max_attempts or life.deaths >= self.scene.rules.quarantine_deaths:
            self._broken(f"{name} goes on after {life}")
        if event.cause == "lapsed":
            self._silence.check(folded)

    def _died(self, name: str, life: _Life, event: Died, folded: Folded) -> None:
        verdict, quarantine = self.scene.verdict, self.scene.rules.quarantine_deaths
        life.dead = True
        if folded.ended is None:
            return
        how = {"lapsed": "lapsed", "quarantined": "lapsed"}.get(event.cause, "failed")
        _ends(life, event.fence, how)
        used_up = life.attempts >= life.max_attempts
        final = self._fails.get(event.command_id, {}).get("final", False)
        known = event.command_id in self._fails
        match event.cause:
            case "failed":
                right = used_up or final or not known
                verdict.saw("given up" if final else "attempts used up")
            case "lapsed":
                right = used_up and life.deaths < quarantine
            case "quarantined":
                verdict.saw("Died quarantined")
                right = life.deaths == quarantine
            case _:
                right = True
        if not right:
            self._broken(f"{name} is dead: {event}, and {life}")
        if how == "lapsed" and not is_stall(folded):
            self._silence.check(folded)

    # --- messages --------------------------------------------------------------------

    def on_other(self, said: Said) -> None:
        """Agents attach, and say what has failed."""
        if said.tokens[1] == "attach":
            self._silence.attaches(said)
        elif "next" in said.tokens:
            for command in said.body.get("done", ()):
                if command["verb"] == "fail":
                    self._fails[command["command_id"]] = command

    def on_coordinator(self, said: Said) -> None:
        """Whoever looks at an item sees all its failed attempts."""
        if said.tokens[0] != "_INBOX" or b'"as_of"' not in said.data:
            return
        body = said.body
        for item in [body] if "work_item_id" in body else body.get("items", ()):
            life = self._lives.get(item["work_item_id"])
            if life is None or life.seq > body["as_of"]:
                continue
            seen = [(one["fence"], one["how"]) for one in item.get("history", ())]
            numbers = item.get("deaths", 0), item.get("replays", 0)
            if seen != life.history[-HISTORY_MAX:] or numbers != (life.deaths, life.replays):
                self._broken(f"{said.node} says {item}, and the log {life}")
            if seen:
                self.scene.verdict.saw("history read")

    # --- who falls silent ------------------------------------------------------------

    def on_boot(self, node: str) -> None:
        """A new process: the sessions of the one before are silent."""
        self._silence.boots(node)

    def on_mishap(self, mishap: Mishap) -> None:
        """An agent may fall silent."""
        self._silence.struck(mishap)

    def _broken(self, what: str) -> None:
        self.scene.verdict.broken(f"[retries] {what}")


def _ends(life: _Life, fence: int, how: str) -> None:
    """An attempt is over, and charged."""
    life.attempts += 1
    life.deaths += how != "failed"
    life.history.append((fence, how))


def _brought_back(life: _Life) -> None:
    life.until = 0.0
    if life.dead:
        life.dead = False
        life.attempts = life.deaths = 0
        life.replays += 1
