"""Small builders for tests of the core: ids, items, a shard with its log, its whole state."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pytest
from msgspec import Raw, Struct

from swarm.core import decide
from swarm.core.decide import Batch
from swarm.core.envelope import FORMAT, Link, LogPosition, decode_entry, encode_entry
from swarm.core.ids import uuid7
from swarm.core.lanes import Lanes
from swarm.core.shard import Shard, ShardRules
from swarm.errors import Refusal
from swarm.messages import (
    Ack,
    Assignment,
    Beat,
    Claim,
    Complete,
    Event,
    Fail,
    ItemCommand,
    LogEntry,
    NewItem,
    Opened,
    Progress,
    Release,
    ShardMap,
    ShardSubmit,
    SubmitReply,
)

T = TypeVar("T")

#: The wall clock of tests begins here: seconds since the epoch.
NOW = 1_800_000_000.0
#: Number of the shard in tests.
SHARD = 3
LOG = "swarmlog.3"


def command_id(number: int, at_s: float = NOW) -> str:
    """A command id made at `at_s`; different numbers give different ids."""
    return uuid7(int(at_s * 1000), number)


def new_item(work_type: str = "feature", **fields: Any) -> Raw:
    """An encoded `NewItem`; `payload` is given as a Python value."""
    if "payload" in fields:
        fields["payload"] = Raw(msgspec.json.encode(fields["payload"]))
    return Raw(msgspec.json.encode(NewItem(work_type, **fields)))


def shard_map(shard_count: int = 16, shard_key: str = "hash", version: int = 1) -> ShardMap:
    """A map with this many shards."""
    return ShardMap(version, shard_count, shard_key, "consistent_hash", ["c1", "c2"])


def beat(name: str, **fields: Any) -> Beat:
    """A coordinator's beat."""
    return Beat(
        name, fields.pop("instance", f"{name}-i1"), FORMAT, fields.pop("number", 1), **fields
    )


def refusal_of(action: Callable[[], object]) -> Refusal:
    """The refusal that `action` ends with; fails when it does not."""
    with pytest.raises(Refusal) as caught:
        action()
    return caught.value


class Desk:
    """A shard under its owner: decides commands, and keeps the log that they make."""

    def __init__(self, rules: ShardRules | None = None, number: int = SHARD) -> None:
        self.rules = rules or ShardRules()
        self.shard = Shard(number, self.rules)
        self.now = NOW
        self.log: list[bytes] = []
        self.nonce = ""
        self._position = LogPosition(LOG)
        self._ids = itertools.count(1)
        self.open("c1")

    # --- the log -------------------------------------------------------------------

    def open(self, coordinator: str) -> None:
        """A new owner: an `Opened` entry under the next epoch."""
        self.nonce = f"nonce{self._position.epoch + 1}"
        opened = Opened(coordinator)
        self.shard.apply(opened, self.now, self.nonce)
        self.append([opened])

    def append(self, events: list[Event]) -> None:
        """One entry of the log, with events that are applied already."""
        position = self._position
        opens = bool(events) and isinstance(events[0], Opened)
        entry = LogEntry(
            swarm=FORMAT,
            incarnation="i1",
            epoch=position.epoch + 1 if opens else position.epoch,
            owner=self.nonce,
            batch=0 if opens else position.batch + 1,
            previous=position.last,
            map_version=1,
            now=self.now,
            events=events,
        )
        self.log.append(encode_entry(entry))
        link = position.advance(len(self.log), entry)
        assert link is Link.OURS, link

    def decide(self, work: Callable[[Batch], T]) -> T:
        """Decide in a batch of its own and append it, empty after a refusal."""
        batch = Batch(self.shard, self.nonce, self.now)
        try:
            return work(batch)
        finally:
            self.append(batch.events)

    def refold(self) -> Shard:
        """The shard as anybody makes it from the stored bytes of the log."""
        shard, position = Shard(self.shard.number, self.rules), LogPosition(LOG)
        for seq, data in enumerate(self.log, start=1):
            entry = decode_entry(LOG, seq, data)
            assert entry is not None, "ours"
            link = position.advance(seq, entry)
            assert link is Link.OURS, link
            for event in entry.events:
                shard.apply(event, entry.now, entry.owner)
        return shard

    # --- commands ------------------------------------------------------------------

    def new_id(self) -> str:
        """A fresh command id, made now."""
        return command_id(next(self._ids), self.now)

    def submit(
        self, *items: Raw, id_: str = "", retry: int = 0, indexes: list[int] | None = None
    ) -> SubmitReply:
        """Submit these items."""
        order = list(range(len(items))) if indexes is None else indexes
        command = ShardSubmit(id_ or self.new_id(), list(items), order, 1, retry)
        return self.decide(lambda batch: decide.submit(self.shard, command, batch))

    def submit_ids(self, *items: Raw) -> list[str]:
        """Submit these items, each of which must be accepted; their ids in order."""
        results = sorted(self.submit(*items).results, key=lambda result: result.index)
        assert [result.error for result in results] == [None] * len(items)
        return [result.work_item_id for result in results]

    def claim(
        self, agent: str, *work_types: str, id_: str = "", retry: int = 0, lease_s: float = 0.0
    ) -> Assignment:
        """Claim by name."""
        types = list(work_types) or ["feature"]
        command = Claim(id_ or self.new_id(), types, lease_s, retry)
        return self.decide(lambda batch: decide.claim(self.shard, command, agent, batch))

    def take(self, agent: str, session: str = "s1", work_type: str = "feature") -> Assignment:
        """Serve a free slot of an agent session."""
        number = self.shard.lanes.best([work_type])
        assert number is not None, "nothing is ready"
        return self.decide(lambda batch: decide.take(self.shard, number, agent, session, batch))

    def tell(self, command: ItemCommand, sender: str) -> Ack:
        """A command about a held item."""
        return self.decide(lambda batch: decide.item_command(self.shard, command, sender, batch))

    def complete(self, held: Assignment, sender: str, result: object = None) -> Ack:
        """Complete what is held; `result` is a Python value."""
        raw = Raw(msgspec.json.encode(result))
        return self.tell(Complete(self.new_id(), held.work_item_id, held.token, raw), sender)

    def fail(self, held: Assignment, sender: str, error: str = "boom") -> Ack:
        """Fail what is held."""
        return self.tell(Fail(self.new_id(), held.work_item_id, held.token, error), sender)

    def release(self, held: Assignment, sender: str, id_: str = "", retry: int = 0) -> Ack:
        """Hand back what is held."""
        id_ = id_ or self.new_id()
        return self.tell(Release(id_, held.work_item_id, held.token, "why", retry), sender)

    def progress(
        self,
        held: Assignment,
        sender: str,
        percent: float = 40.0,
        note: str = "half way",
        id_: str = "",
        retry: int = 0,
    ) -> Ack:
        """Report progress of what is held."""
        id_ = id_ or self.new_id()
        command = Progress(id_, held.work_item_id, held.token, percent, note, retry)
        return self.tell(command, sender)

    def lapse(self, held: Assignment) -> None:
        """The holder fell silent."""
        number = number_of(held.work_item_id)
        self.decide(lambda batch: decide.give_up(self.shard, number, "lapsed", "silent", batch))


def number_of(work_item_id: str) -> int:
    """The item's number."""
    return int(work_item_id.partition("-")[2])


# --- states ------------------------------------------------------------------------------


def plain(value: object) -> Any:
    """`value` as dicts, lists and bytes, to be compared deeply."""
    match value:
        case Raw():
            return bytes(value)
        case Struct():
            fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
            return {"is": type(value).__name__, **fields}
        case dict():
            return {key: plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case _:
            return value


def claim_order(lanes: Lanes) -> dict[str, list[list[int]]]:
    """Numbers in the order in which each lane gives them, by work type and priority."""
    order: dict[str, list[list[int]]] = {}
    for work_type, of_type in lanes._lanes.items():
        order[work_type] = [sorted(lane) for lane in of_type]
        assert [lane.head for lane in of_type] == [next(iter(sorted(lane)), 0) for lane in of_type]
    return order


def state_of(shard: Shard) -> dict[str, Any]:
    """All that a shard knows, dict orders included where they decide anything."""
    return {
        "number": shard.number,
        "coordinator": shard.coordinator,
        "items": plain(shard.items),
        "lanes": claim_order(shard.lanes),
        "scores": [[lane.score for lane in of] for of in shard.lanes._lanes.values()],
        "ready": list(shard.lanes.ready.items()),
        "commands": plain(shard.commands._answers),
        "commands_queue": plain(list(shard.commands._queue)),
        "horizon": shard.commands.horizon,
        "keys": list(shard.keys._answers.items()),
        "keys_queue": plain(list(shard.keys._queue)),
        "held": [(holder, list(numbers)) for holder, numbers in shard.held.items()],
        "next": shard.next_number,
        "submitted": shard.submitted,
        "ended": dict(shard.ended),
    }
