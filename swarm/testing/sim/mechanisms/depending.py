"""Depending: what depends on others is claimed when they have ended as it demands; no outcome
is lost on its way between shards, whoever dies between two steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any, ClassVar

import msgspec
from msgspec import Raw, Struct

from swarm.errors import NoAnswer, Refusal
from swarm.messages import (
    ENDED,
    NULL,
    Cancelled,
    Claimed,
    Completed,
    Died,
    NewItem,
    Replayed,
    Resolved,
    Submitted,
    Told,
    Watched,
)
from swarm.sdk.context import Context
from swarm.subjects import item_id, shard_of_id
from swarm.testing.sim.client import Client
from swarm.testing.sim.mechanism import Mechanism, Said
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.traps import struck_after
from swarm.testing.sim.truth import Folded, Known

#: How an outcome gets from one shard to another.  After each the one who did it may die.
STEPS = (
    "blocked logged",
    "watch said",
    "edge logged",
    "watching said",
    "outcome logged",
    "outcome said",
    "resolved logged",
    "heard said",
    "told logged",
)
#: Of items: so many depend on others.
DEPENDENT = 0.3
#: An item that nobody has ever submitted.
NOBODY = 99_999


class _Dependent(Struct):
    """An item that depends on others, as its own log has it."""

    on: list[str]
    policy: str
    #: How those ended, as far as the log says so.
    resolved: dict[str, str] = {}
    #: An operator has let it run all the same.
    freed: bool = False

    @property
    def may_run(self) -> bool:
        """Whether its log says that it may be claimed."""
        ends = [self.resolved.get(one, "") for one in self.on]
        wanted = all(ends) if self.policy == "run" else set(ends) == {"completed"}
        return wanted or self.freed

    def may_learn_at_work(self, on: str) -> bool:
        """Whether that one may still end, or end otherwise, when this item is held already."""
        brought_back = self.policy == "run" and self.resolved.get(on) == "dead"
        return self.freed or brought_back


class Depending(Mechanism):
    """Items depend on earlier ones of their batch, on others, of any shard, and on none."""

    expects = (
        *(struck_after(step) for step in STEPS),
        "dependency dead",
        "dependency cancelled",
        "dependency missing",
        "dependent stays blocked",
        "results handed on",
    )
    weight: ClassVar[int] = 1

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._dependents: dict[str, _Dependent] = {}
        #: (dependency, dependent) of edges in the dependency's log.
        self._edges: dict[tuple[str, str], None] = {}
        #: Items that others depend on by their log.
        self._watched: dict[str, None] = {}
        self._results: dict[str, Raw] = {}
        scene.traps.name(STEPS)

    # --- what is done ----------------------------------------------------------------

    def arrange(self, items: Sequence[dict[str, Any]], client: Client) -> None:
        """Let some depend on others."""
        rng = client.rng
        for position, item in enumerate(items):
            if rng.random() >= DEPENDENT:
                continue
            # One under a key must come with the same content again, in the same order.
            most = 1 if item["idempotency_key"] else 2
            earlier = list(range(position))
            item["depends_on"] = rng.sample(earlier, min(position, rng.randint(0, most)))
            item["dependencies"] = list(dict.fromkeys(self._others(client)))
            item["on_dependency_failure"] = rng.choice(("block", "cancel", "run"))

    def _others(self, client: Client) -> list[str]:
        rng = client.rng
        there = list(self.scene.truth.items)
        found = [rng.choice(there) for _ in range(rng.choice((0, 1, 1, 2))) if there]
        if rng.random() < 0.05:
            found.append(item_id(rng.randrange(self.scene.settings.shard_count), NOBODY))
        return found

    async def act(self, client: Client) -> None:
        """Cancel something: others may depend on it."""
        if client.ids and client.rng.random() < 0.5:
            client.meanwhile(self._cancel(client, client.rng.choice(client.ids)))

    async def _cancel(self, client: Client, work_item_id: str) -> None:
        grace_s = client.rng.choice((0.0, 0.5))
        with contextlib.suppress(NoAnswer):  # whatever became of it, the logs say so
            try:
                await client.swarm.cancel(work_item_id, "not wanted", grace_s=grace_s)
            except Refusal as refusal:
                late = refusal.code == "already_finished" or refusal.retry
                if not late and not self.scene.clocks.may_be_refused(client.name, refusal):
                    raise

    async def work(self, context: Context, rng: Random) -> None:
        """A handler has the results of what its item depends on."""
        known = self._dependents.get(context.work_item_id)
        if set(context.depends) != set(known.on if known else ()):
            self._broken(f"a handler of {context.work_item_id} sees {context.depends}: {known}")
        for on, end in context.depends.items():
            result = msgspec.json.decode(self._results.get(on, NULL))
            if end.status == "completed" and not end.omitted and end.result != result:
                self._broken(f"a handler got {end} of {on}, the log has {result}")
            if end.result is not None:
                self.scene.verdict.saw("results handed on")

    # --- what the logs say -----------------------------------------------------------

    def on_event(self, folded: Folded) -> None:
        """Each step follows from what the logs say."""
        match folded.event:
            case Submitted() as event:
                for offset, raw in enumerate(event.items):
                    self._submitted(item_id(folded.shard, event.first + offset), raw, folded)
            case Watched(dependent=dependent):
                name = self._name(folded)
                self._edges[name, dependent] = None
                self._watched[name] = None
                self.scene.traps.logged("edge logged", folded.node)
            case Resolved() as event:
                self._resolved(self._name(folded), event, folded)
            case Told(dependent=dependent, status=status):
                self._check_heard(self._name(folded), dependent, status)
                self.scene.traps.logged("told logged", folded.node)
            case Completed() | Died() | Cancelled() as event:
                self._ended(self._name(folded), event, folded)
            case Claimed():
                dependent_ = self._dependents.get(self._name(folded))
                if dependent_ is not None and not dependent_.may_run:
                    self._broken(f"{self._name(folded)} was claimed, and {dependent_}")
            case Replayed():
                dependent_ = self._dependents.get(self._name(folded))
                if dependent_ is not None:
                    dependent_.freed = True
            case _:
                pass

    def _name(self, folded: Folded) -> str:
        assert folded.item is not None, "it is about one item"
        return folded.item.work_item_id

    def _submitted(self, name: str, raw: Raw, folded: Folded) -> None:
        item = msgspec.json.decode(raw, type=NewItem)
        if item.dependencies:
            known = _Dependent(item.dependencies, item.on_dependency_failure, {})
            self._dependents[name] = known
            self.scene.traps.logged("blocked logged", folded.node)

    def _resolved(self, name: str, event: Resolved, folded: Folded) -> None:
        self._check_outcome(event.on, event.status, event.result, omitted=event.omitted)
        known = self._dependents[name]
        assert folded.item is not None, "it is about one item"
        if folded.item.status == "claimed" and not known.may_learn_at_work(event.on):
            self._broken(f"{name} is claimed, and learns how {event.on} ended: {known}")
        known.resolved[event.on] = event.status
        self.scene.traps.logged("resolved logged", folded.node)
        if event.status != "completed":
            there = self.scene.truth.items.get(event.on)
            self.scene.verdict.saw(f"dependency {event.status if there else 'missing'}")

    def _ended(self, name: str, event: Completed | Died | Cancelled, folded: Folded) -> None:
        if isinstance(event, Completed):
            self._results[name] = event.result
        if name in self._watched:
            self.scene.traps.logged("outcome logged", folded.node)
        known = self._dependents.get(name)
        assert folded.item is not None, "it is about one item"
        if known is None or not folded.item.ended_blocked:
            return
        ends = set(known.resolved.values())
        by_policy = isinstance(event, Cancelled) and not event.by
        if by_policy and not (known.policy == "cancel" and ends & {"dead", "cancelled"}):
            self._broken(f"{name} was cancelled for its dependencies, and {known}")
        missing = any(one not in self.scene.truth.items for one in known.resolved)
        if isinstance(event, Died) and event.cause == "failed" and not missing:
            self._broken(f"{name} is dead, of dependencies: {event}, {known}")

    # --- what owners say to each other -----------------------------------------------

    def on_coordinator(self, said: Said) -> None:
        """Whatever is said is durable, and said to the right shard."""
        if said.tokens[1] != "shard" or said.tokens[3] != "edge":
            return
        about, on, dependent = (said.body[key] for key in ("about", "on", "dependent"))
        to_dependency = about in ("watch", "heard")
        if int(said.tokens[2]) != shard_of_id(on if to_dependency else dependent):
            self._broken(f"said to the wrong shard: {said.subject} {said.body}")
        if on not in self._on(dependent):
            self._broken(f"said of what is not in the log: {said.body}")
        if about == "heard":
            self._check_heard(on, dependent, said.body["status"])
        elif about == "outcome":
            result = Raw(msgspec.json.encode(said.body.get("result")))
            self._check_outcome(on, said.body["status"], result, omitted=False)
        elif about == "watching" and (on, dependent) not in self._edges:
            self._broken(f"answered, and there is no edge: {said.body}")
        self.scene.traps.said(f"{about} said", said.node)

    def _on(self, dependent: str) -> list[str]:
        known = self._dependents.get(dependent)
        return known.on if known is not None else []

    def _check_outcome(self, on: str, status: str, result: Raw, *, omitted: bool) -> None:
        """The outcome of `on` is one that its log has."""
        there = self.scene.truth.items.get(on)
        if there is None and status != "dead":
            self._broken(f"{on}, which does not exist, is told to be {status}")
        if there is not None and not there.was(status):
            self._broken(f"{on} is told to be {status}, and was never: {there}")
        true = self._results.get(on, NULL) if status == "completed" else NULL
        if not omitted and msgspec.json.decode(result) != msgspec.json.decode(true):
            self._broken(f"{on} is told to have {result!r}, and has {true!r}")

    def _check_heard(self, on: str, dependent: str, status: str) -> None:
        """The log of the dependent has the outcome, or needs it no more."""
        there, known = self.scene.truth.items[dependent], self._dependents[dependent]
        if there.status in ENDED or known.freed:
            return
        if known.resolved.get(on) in (status, "completed", "cancelled"):
            return
        self._broken(f"{dependent} is said to know that {on} is {status}, and knows {known}")

    # --- the end ---------------------------------------------------------------------

    def unfinished(self) -> Iterable[str]:
        """A dependent is blocked only if something it depends on did not complete, and its log
        says how."""
        items = self.scene.truth.items
        for name, known in self._dependents.items():
            if items[name].status == "blocked" and not self._rightly_blocked(known):
                ends = {one: items[one].status for one in known.on if one in items}
                yield f"{name} blocked: {known}, and they are {ends}"

    def _rightly_blocked(self, known: _Dependent) -> bool:
        open_ = False
        for one in known.on:
            there = self.scene.truth.items.get(one)
            status = there.status if there is not None else "dead"
            if known.resolved.get(one, "") != (status if status in ENDED else ""):
                # The outcome is on its way; or it was dead, and is brought back.
                return False
            if status not in ENDED:
                open_ = True
                if not self._stays_blocked(there):
                    return False
        failed = any(end != "completed" for end in known.resolved.values())
        if open_:
            return known.policy != "cancel" or not failed
        return known.policy == "block" and failed

    def _stays_blocked(self, known: Known | None) -> bool:
        if known is None or known.status != "blocked":
            return False
        return self._rightly_blocked(self._dependents[known.work_item_id])

    def at_end(self) -> None:
        """How many are blocked for good?"""
        for name in self._dependents:
            if self.scene.truth.items[name].status == "blocked":
                self.scene.verdict.saw("dependent stays blocked")

    def _broken(self, what: str) -> None:
        self.scene.verdict.broken(f"[dependencies] {what}")
