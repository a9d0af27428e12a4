"""The guarantees of the design as invariants, checked after every step of a simulation.

The checker trusts nothing that an actor says.  It folds what is truly in the logs into
reference shards of its own, and holds every message that leaves a coordinator, every
start of a handler and every acknowledgement that a client has seen against them.

Numbers in brackets are those of the guarantees in docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec
from msgspec import Struct

from swarm.bus.base import Entry
from swarm.core.envelope import Link, LogPosition, decode_entry
from swarm.core.shard import Shard, ShardRules
from swarm.messages import (
    Archived,
    Cancelled,
    Claimed,
    Completed,
    Died,
    Event,
    Item,
    LogEntry,
    Released,
    Retried,
    Submitted,
    Waited,
)
from swarm.subjects import item_id, parse_item_id

#: Steps of one instant may come in any order.
MARGIN_S = 0.002


class Violation(AssertionError):
    """A guarantee was broken."""


class Issued(Struct):
    """A claim as the log has it."""

    agent: str
    session: str
    #: Virtual time of its end in the log, None while it holds.
    ended_at: float | None = None


class Execution(Struct):
    """A handler run."""

    work_item_id: str
    token: str
    process: str
    started_at: float
    ended_at: float | None = None


class _Asked(Struct):
    subject: str
    #: Last sequence of each log when the question was asked.
    logs: dict[int, int]


def _fence(token: str) -> int:
    return int(token.partition(".")[0])


class Checker:
    """See the module's docstring.  `clock` is the loop's."""

    def __init__(self, rules: ShardRules, clock: Callable[[], float], epoch_s: float) -> None:
        self._rules = rules
        self._clock = clock
        self._lease_s = rules.lease_s
        #: Added to `clock`, gives the time of day of entries.
        self._epoch_s = epoch_s
        self.shards: dict[int, Shard] = {}
        self._positions: dict[int, LogPosition] = {}
        #: Items as they were archived, by id.
        self.archived: dict[str, Item] = {}
        #: By (item id, token).
        self.issued: dict[tuple[str, str], Issued] = {}
        self.executions: list[Execution] = []
        self._running: dict[str, list[Execution]] = {}
        #: Logical item by item id, and the other way round.
        self.logical: dict[str, str] = {}
        #: Item ids that a client has been told of.
        self.acked: dict[str, str] = {}
        self._asked: dict[str, _Asked] = {}
        #: Token and agent of every command about an item, by command id.
        self._commands: dict[str, tuple[str, str, str]] = {}
        #: When heartbeats with (item id, token) reached a node.
        self._listed: dict[tuple[str, str, str], list[float]] = {}
        self.coordinators: dict[str, str] = {}
        #: The first violation: whoever it was raised to may have taken it for its own error.
        self.violation = ""
        #: How often each thing happened that a simulation should have seen.
        self.seen: dict[str, int] = {}

    # --- the logs --------------------------------------------------------------------

    def on_append(self, log: str, entry: Entry, node: str) -> None:
        """An entry was stored."""
        number = int(log.rsplit(".", 1)[1])
        shard = self.shards.setdefault(number, Shard(number, self._rules))
        position = self._positions.setdefault(number, LogPosition(log))
        decoded = decode_entry(log, entry.seq, entry.data)
        link = position.advance(entry.seq, decoded)
        if decoded is None:
            return
        if link is not Link.OURS:
            self.broken(f"[3] entry {entry.seq} of {log}, by {node}, got past the fence")
        shard.seq = entry.seq
        for event in decoded.events:
            self._note(number, event, decoded, node)
            shard.apply(event, decoded.now, decoded.owner)
        shard.validate()

    def _note(self, shard: int, event: Event, entry: LogEntry, node: str) -> None:
        self.saw(type(event).__name__)
        now = self._clock()
        decided_at = entry.now - self._epoch_s
        match event:
            case Submitted():
                for offset, raw in enumerate(event.items):
                    logical = msgspec.json.decode(raw)["payload"]["logical"]
                    if logical in self.logical:
                        self.broken(f"[7] {logical} was submitted twice")
                    self.logical[logical] = item_id(shard, event.first + offset)
            case Claimed():
                token = f"{event.fence}.{entry.owner}.{event.session}"
                key = (item_id(shard, event.n), token)
                self.issued[key] = Issued(event.agent, event.session)
            case Completed() | Died() | Released() | Retried() | Cancelled() | Waited():
                hold = self.shards[shard].items[event.n].hold
                if hold is None and isinstance(event, Died | Cancelled):
                    return
                if hold is None or hold.fence != event.fence:
                    self.broken(f"[6] {event} for an item that is not so held")
                key = (item_id(shard, event.n), hold.token)
                self.issued[key].ended_at = now
                if isinstance(event, Released):
                    self.saw(f"Released {event.cause}")
                    if event.cause == "lapsed":
                        self._check_lapse(key, node, decided_at)
            case Archived():
                for gone in event.n:
                    self.archived[item_id(shard, gone)] = self.shards[shard].items[gone]
            case _:
                pass

    def _check_lapse(self, key: tuple[str, str], node: str, decided_at: float) -> None:
        for listed_at in self._listed.get((*key, node), ()):
            ago_s = decided_at - listed_at
            if MARGIN_S < ago_s < self._lease_s - MARGIN_S:
                self.broken(f"[9] {key} lapsed {ago_s:.2f} s after it was listed to {node}")

    # --- messages ----------------------------------------------------------------------

    def on_publish(
        self,
        node: str,
        subject: str,
        data: bytes,
        reply: str,
        headers: Mapping[str, str] | None,
    ) -> None:
        """A message leaves a process."""
        if reply and node not in self.coordinators:
            logs = {number: position.at for number, position in self._positions.items()}
            self._asked.setdefault(reply, _Asked(subject, logs))
        if node in self.coordinators:
            self._check_coordinator_says(node, subject, data)
        else:
            self._remember_commands(subject, data)

    def _remember_commands(self, subject: str, data: bytes) -> None:
        if ".next." not in subject and ".shard." not in subject:
            return
        body = msgspec.json.decode(data) if data else {}
        agent = subject.rsplit(".", 1)[1]
        for command in body.get("done", [body]):
            if "token" in command and "command_id" in command:
                told = (command["work_item_id"], command["token"], agent)
                self._commands[command["command_id"]] = told

    def _check_coordinator_says(self, node: str, subject: str, data: bytes) -> None:
        tokens = subject.split(".")
        if tokens[0] == "_INBOX":
            self._check_reply(subject, msgspec.json.decode(data))
        elif tokens[0].endswith("log"):
            self.broken(f"[3] {node} published to the log subject {subject}")
        elif tokens[1] == "agent" and tokens[-1] == "work":
            body = msgspec.json.decode(data)
            for assignment in body.get("items", []):
                self._check_assignment(assignment, tokens[2], tokens[3])
            for ack in body.get("acks", []):
                self._check_ack(ack)

    def _check_reply(self, subject: str, body: dict[str, Any]) -> None:
        for result in body.get("results", []):
            if "work_item_id" in result and self._item(result["work_item_id"]) is None:
                self.broken(f"[2] {result} was answered before it was durable")
        if "token" in body and "item" in body:
            self._check_assignment(body, *self._holder(body))
        elif "as_of" in body:
            self._check_reading(subject, body)
        elif "command_id" in body and "status" in body:
            self._check_ack(body)

    def _holder(self, assignment: dict[str, Any]) -> tuple[str, str]:
        issued = self.issued.get((assignment["work_item_id"], assignment["token"]))
        if issued is None:
            self.broken(f"[2] {assignment['work_item_id']} was assigned before it was durable")
        return issued.agent, issued.session

    def _check_assignment(self, assignment: dict[str, Any], agent: str, session: str) -> None:
        holder = self._holder(assignment)
        if holder != (agent, session):
            self.broken(f"[6] {assignment['work_item_id']}, held by {holder}, went to {session}")

    def _check_ack(self, ack: dict[str, Any]) -> None:
        told = self._commands.get(ack.get("command_id", ""))
        if told is None:
            return
        work_item_id, token, _ = told
        item = self._item(work_item_id)
        if "error" in ack:
            stale = ack["error"]["code"] == "stale_token"
            if stale and item is not None and item.hold is not None and item.hold.token == token:
                self.broken(f"[2] {told} was refused as stale, and is held")
            return
        if item is None:
            self.broken(f"[2] {ack} about an item that the log does not have")
        if ack["status"] in ("completed", "dead"):
            ended = item.end is not None and item.end.status == ack["status"]
            by = item.end.hold if item.end is not None else None
            if not ended or by is None or by.token != token:
                self.broken(f"[2] {ack} was answered before it was durable: {told} {item}")

    def _check_reading(self, subject: str, body: dict[str, Any]) -> None:
        asked = self._asked.get(subject)
        if asked is None:
            self.broken(f"[6] {subject} got an answer that nobody asked for")
        number = int(asked.subject.split(".")[2])
        if body["as_of"] < asked.logs.get(number, 0):
            self.broken(f"[5] a stale answer as of {body['as_of']}: {body} to {asked}")
        position = self._positions[number]
        if body["as_of"] > position.at:
            self.broken(f"[2] an answer as of {body['as_of']}, the log ends at {position.at}")
        if "work_item_id" in body and body["as_of"] == position.at:
            item = self._item(body["work_item_id"])
            if item is None or item.status != body["status"]:
                self.broken(f"[2] {body} is not what the log says")
        if body.get("conservation"):
            self.broken(f"[8] {body}")

    def _item(self, work_item_id: str) -> Item | None:
        """The item as the log has it, also when it has been archived."""
        number, item = parse_item_id(work_item_id)
        shard = self.shards.get(number)
        found = shard.items.get(item) if shard is not None else None
        return found or self.archived.get(work_item_id)

    def on_deliver(self, node: str, subject: str, data: bytes) -> None:
        """A message reaches a process."""
        if node in self.coordinators and ".heartbeat." in subject:
            for work_item_id, token in msgspec.json.decode(data).get("held", []):
                key = (work_item_id, token, node)
                self._listed.setdefault(key, []).append(self._clock())

    # --- clients and agents ------------------------------------------------------------------

    def submitted(self, logical: str, work_item_id: str) -> None:
        """A client was told the id of its item."""
        if self._item(work_item_id) is None:
            self.broken(f"[1] {work_item_id} was acknowledged and is not in the log")
        if self.logical.get(logical) != work_item_id:
            self.broken(f"[7] {logical} is {self.logical.get(logical)}, not {work_item_id}")
        self.acked[work_item_id] = logical

    def started(self, work_item_id: str, token: str, process: str) -> Execution:
        """A handler starts."""
        issued = self.issued.get((work_item_id, token))
        if issued is None:
            self.broken(f"[6] {process} runs {work_item_id} by a token that was never issued")
        running = self._running.setdefault(work_item_id, [])
        for other in running:
            # Overlap only with an earlier claim that had ended in the log.  A late start
            # under a claim that has ended is such a one, too.
            earlier = min(other.token, token, key=_fence)
            if other.token == token or self.issued[work_item_id, earlier].ended_at is None:
                self.broken(f"[6] {work_item_id} is run by {other} and by {process}, {token}")
        execution = Execution(work_item_id, token, process, self._clock())
        running.append(execution)
        self.executions.append(execution)
        return execution

    def finished(self, execution: Execution) -> None:
        """A handler ends, or its process has died."""
        if execution.ended_at is None:
            execution.ended_at = self._clock()
            self._running[execution.work_item_id].remove(execution)

    def died(self, process: str) -> None:
        """A process was killed, and all its handlers with it."""
        for executions in self._running.values():
            for execution in [one for one in executions if one.process == process]:
                execution.ended_at = self._clock()
                executions.remove(execution)

    # --- the end ---------------------------------------------------------------------------------

    def unfinished(self) -> list[str]:
        """Items in the logs that have not ended."""
        return [
            f"{item_id(number, item.number)} {item.status}"
            for number, shard in sorted(self.shards.items())
            for item in shard.items.values()
            if item.end is None
        ]

    def check_end(self) -> None:
        """After the liveness phase."""
        self.raise_violation()
        recorded = {(execution.work_item_id, execution.token) for execution in self.executions}
        items = dict(self.archived)
        for number, shard in self.shards.items():
            items |= {item_id(number, item.number): item for item in shard.items.values()}
        for name, item in items.items():
            if item.end is None or item.end.hold is None:
                continue
            if item.end.status == "cancelled" or item.end.cause != "failed":
                continue  # nobody need have begun
            if (name, item.end.hold.token) not in recorded:
                self.broken(f"[6] {name} ended without having been run")

    def same_as(self, shard: Shard, at: int) -> bool:
        """A follower's state must be the reference's; False if it is not there yet."""
        position = self._positions.get(shard.number)
        if position is not None and position.at != at:
            return False
        mine = self.shards.get(shard.number, Shard(shard.number, self._rules))
        if sorted(shard.items) != sorted(mine.items):
            self.broken(f"[3] a follower has {sorted(shard.items)}, not {sorted(mine.items)}")
        for number, own in mine.items.items():
            if shard.items[number] != own:
                self.broken(f"[3] a follower has {shard.items[number]}, the log says {own}")
        return True

    def raise_violation(self) -> None:
        """Raise the first violation, if there was one."""
        if self.violation:
            raise Violation(self.violation)

    def broken(self, what: str) -> NoReturn:
        """A guarantee is broken."""
        self.violation = self.violation or what
        raise Violation(what)

    def saw(self, what: str) -> None:
        """Count something."""
        self.seen[what] = self.seen.get(what, 0) + 1
